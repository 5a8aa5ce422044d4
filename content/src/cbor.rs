//! Reading and writing deterministic CBOR (RFC 8949 §4.2.1) on minicbor's heads.
//!
//! The decoder of minicbor takes any length of a head. So whatever is read is written again, and
//! has to be the same bytes: shortest heads, definite lengths and the order of keys in one
//! comparison.

use std::convert::Infallible;

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};

use crate::error::ContentError;
use crate::{MAX_DEPTH, MAX_LEN};

/// Integer keys of maps are exact in a double (draft-ietf-mimi-content §6.2).
const MAX_KEY: u64 = (1 << 53) - 1;
/// Unsigned and negative bignums (RFC 8949 §3.4.3).
const BIGNUMS: [u64; 2] = [2, 3];
/// Simple values in two bytes begin here; what is less has one byte or is reserved.
const FIRST_LONG_SIMPLE: u8 = 32;
const LAST_SHORT_SIMPLE: u8 = 19;

pub(crate) struct Reader<'b>(Decoder<'b>);

type Read<T> = Result<T, ContentError>;

fn fault(error: &minicbor::decode::Error) -> ContentError {
    if error.is_end_of_input() {
        ContentError::Truncated
    } else {
        ContentError::Schema
    }
}

macro_rules! reads {
    ($($name:ident: $type:ty),*) => {
        $(pub(crate) fn $name(&mut self) -> Read<$type> {
            self.0.$name().map_err(|error| fault(&error))
        })*
    };
}

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Read<Self> {
        if bytes.len() > MAX_LEN {
            return Err(ContentError::TooLong);
        }
        Ok(Self(Decoder::new(bytes)))
    }

    reads! { bool: bool, u8: u8, u16: u16, u32: u32, u64: u64, null: () }

    fn kind(&self) -> Read<Type> {
        self.0.datatype().map_err(|error| fault(&error))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.0.datatype(), Ok(Type::Null))
    }

    /// The number of items of an array. It is at most the number of bytes that are left: each
    /// takes one.
    pub(crate) fn array(&mut self) -> Read<usize> {
        let length = self.0.array().map_err(|error| fault(&error))?;
        self.counted(length, 1)
    }

    /// The number of pairs of a map.
    pub(crate) fn map(&mut self) -> Read<usize> {
        let length = self.0.map().map_err(|error| fault(&error))?;
        self.counted(length, 2)
    }

    fn counted(&self, length: Option<u64>, each: usize) -> Read<usize> {
        let length = length.ok_or(ContentError::NotDeterministic)?;
        let left = self.0.input().len().saturating_sub(self.0.position());
        usize::try_from(length)
            .ok()
            .filter(|length| length.saturating_mul(each) <= left)
            .ok_or(ContentError::Truncated)
    }

    pub(crate) fn array_of(&mut self, length: usize) -> Read<()> {
        match self.array()? == length {
            true => Ok(()),
            false => Err(ContentError::Schema),
        }
    }

    pub(crate) fn bytes(&mut self) -> Read<&'b [u8]> {
        match self.kind()? {
            Type::BytesIndef => Err(ContentError::NotDeterministic),
            _ => self.0.bytes().map_err(|error| fault(&error)),
        }
    }

    pub(crate) fn text(&mut self) -> Read<&'b str> {
        match self.kind()? {
            Type::StringIndef => Err(ContentError::NotDeterministic),
            Type::String => self.0.str().map_err(|error| match error.is_end_of_input() {
                true => ContentError::Truncated,
                // The type is right: what is left to be wrong is the text.
                false => ContentError::NotUtf8,
            }),
            _ => Err(ContentError::Schema),
        }
    }

    pub(crate) fn integer(&mut self) -> Read<i64> {
        let number = self.0.int().map_err(|error| fault(&error))?;
        i64::try_from(number)
            .ok()
            .filter(|it| it.unsigned_abs() <= MAX_KEY)
            .ok_or(ContentError::Schema)
    }

    pub(crate) fn is_text(&self) -> Read<bool> {
        Ok(matches!(self.kind()?, Type::String | Type::StringIndef))
    }

    /// One item of any kind, as its bytes. `level` is the one that it is at.
    pub(crate) fn any(&mut self, level: usize) -> Read<Vec<u8>> {
        let begin = self.0.position();
        let mut again = Writer::new();
        self.copy(&mut again, level)?;
        let read = self.0.input().get(begin..self.0.position());
        let written = again.into_bytes();
        match read == Some(written.as_slice()) {
            true => Ok(written),
            false => Err(ContentError::NotDeterministic),
        }
    }

    fn copy(&mut self, out: &mut Writer, level: usize) -> Read<()> {
        match self.kind()? {
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => {
                let number = self.0.int().map_err(|error| fault(&error))?;
                out.put(|it| it.int(number).map(|_| ()));
            }
            Type::Bytes | Type::BytesIndef => out.bytes(self.bytes()?),
            Type::String | Type::StringIndef => out.text(self.text()?),
            Type::Bool => out.bool(self.bool()?),
            Type::Null => {
                self.null()?;
                out.null();
            }
            Type::Undefined => {
                self.0.undefined().map_err(|error| fault(&error))?;
                out.put(|it| it.undefined().map(|_| ()));
            }
            Type::Simple => {
                let value = self.0.simple().map_err(|error| fault(&error))?;
                if value > LAST_SHORT_SIMPLE && value < FIRST_LONG_SIMPLE {
                    return Err(ContentError::Schema);
                }
                out.put(|it| it.simple(value).map(|_| ()));
            }
            Type::F16 | Type::F32 | Type::F64 => self.float(out)?,
            Type::Array | Type::ArrayIndef => {
                deeper(level)?;
                let length = self.array()?;
                out.array(length);
                for _ in 0..length {
                    self.copy(out, level.saturating_add(1))?;
                }
            }
            Type::Map | Type::MapIndef => {
                deeper(level)?;
                let length = self.map()?;
                out.map(length);
                let mut last: Option<Vec<u8>> = None;
                for _ in 0..length {
                    let key = self.key()?;
                    ascending(&mut last, &key)?;
                    out.raw(&key);
                    self.copy(out, level.saturating_add(1))?;
                }
            }
            Type::Tag => {
                deeper(level)?;
                let tag = self.0.tag().map_err(|error| fault(&error))?;
                out.put(|it| it.tag(tag).map(|_| ()));
                let number = Tag::as_u64(tag);
                if BIGNUMS.contains(&number) {
                    let bytes = self.bytes()?;
                    // What fits into an integer is one.
                    if bytes.len() <= 8 || bytes.first() == Some(&0) {
                        return Err(ContentError::NotDeterministic);
                    }
                    out.bytes(bytes);
                } else {
                    self.copy(out, level.saturating_add(1))?;
                }
            }
            Type::Break | Type::Unknown(_) => return Err(ContentError::Schema),
        }
        Ok(())
    }

    /// A key of a map inside an extension: an integer, a text or a byte string.
    fn key(&mut self) -> Read<Vec<u8>> {
        let mut key = Writer::new();
        match self.kind()? {
            Type::String | Type::StringIndef => key.text(self.text()?),
            Type::Bytes | Type::BytesIndef => key.bytes(self.bytes()?),
            _ => key.integer(self.integer()?),
        }
        Ok(key.into_bytes())
    }

    /// A floating-point number: its bytes, if no shorter form has the same value.
    fn float(&mut self, out: &mut Writer) -> Read<()> {
        let begin = self.0.position();
        let rest = self.0.input().get(begin..).unwrap_or_default();
        let (shortest, length) = match rest {
            [0xf9, high, low, ..] => (is_half(u16::from_be_bytes([*high, *low])), 3),
            [0xfa, a, b, c, d, ..] => (is_single(u32::from_be_bytes([*a, *b, *c, *d])), 5),
            [0xfb, bytes @ ..] => {
                let bytes = bytes.first_chunk().ok_or(ContentError::Truncated)?;
                (is_double(f64::from_be_bytes(*bytes)), 9)
            }
            _ => return Err(ContentError::Truncated),
        };
        if !shortest {
            return Err(ContentError::NotDeterministic);
        }
        out.raw(rest.get(..length).unwrap_or_default());
        self.0.set_position(begin.saturating_add(length));
        Ok(())
    }

    /// That nothing follows, and that all of it was written as it is written here.
    pub(crate) fn end(self, again: &[u8]) -> Read<()> {
        if self.0.position() < self.0.input().len() {
            return Err(ContentError::TrailingBytes);
        }
        match self.0.input() == again {
            true => Ok(()),
            false => Err(ContentError::NotDeterministic),
        }
    }
}

fn deeper(level: usize) -> Read<()> {
    match level < MAX_DEPTH {
        true => Ok(()),
        false => Err(ContentError::TooDeep),
    }
}

/// Holds keys to the order of their encodings, each there once.
pub(crate) fn ascending(last: &mut Option<Vec<u8>>, key: &[u8]) -> Read<()> {
    if last.as_deref().is_some_and(|last| last >= key) {
        return Err(ContentError::NotDeterministic);
    }
    *last = Some(key.to_vec());
    Ok(())
}

/// The only NaN is the quiet one of two bytes.
fn is_half(bits: u16) -> bool {
    let is_nan = bits & 0x7c00 == 0x7c00 && bits & 0x3ff != 0;
    !is_nan || bits == 0x7e00
}

/// Whether no half has the value of this single.
fn is_single(bits: u32) -> bool {
    let (exponent, fraction) = (bits >> 23 & 0xff, bits & 0x007f_ffff);
    match exponent {
        // Zero has a half; other subnormals are too small for one.
        0 => fraction != 0,
        // Infinity has a half; the NaN is one.
        0xff => false,
        // Normal halves have ten bits behind the point.
        113..=142 => fraction & 0x1fff != 0,
        // Subnormal ones have fewer.
        103..=112 => (fraction | 0x0080_0000).trailing_zeros() < 126_u32.saturating_sub(exponent),
        _ => true,
    }
}

/// Whether no single has the value of this double.
fn is_double(value: f64) -> bool {
    #[allow(clippy::cast_possible_truncation, reason = "that is the question")]
    let single = value as f32;
    !value.is_nan() && f64::from(single).to_bits() != value.to_bits()
}

pub(crate) struct Writer(Encoder<Vec<u8>>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(Encoder::new(Vec::new()))
    }

    fn put(
        &mut self,
        write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<Infallible>>,
    ) {
        // A vector takes everything.
        let _ = write(&mut self.0);
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.put(|it| it.array(length as u64).map(|_| ()));
    }

    pub(crate) fn map(&mut self, length: usize) {
        self.put(|it| it.map(length as u64).map(|_| ()));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.put(|it| it.bytes(bytes).map(|_| ()));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.put(|it| it.str(text).map(|_| ()));
    }

    pub(crate) fn number(&mut self, number: impl Into<u64>) {
        let number = number.into();
        self.put(|it| it.u64(number).map(|_| ()));
    }

    pub(crate) fn integer(&mut self, number: i64) {
        self.put(|it| it.i64(number).map(|_| ()));
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.put(|it| it.bool(value).map(|_| ()));
    }

    pub(crate) fn null(&mut self) {
        self.put(|it| it.null().map(|_| ()));
    }

    /// An item that is encoded already.
    pub(crate) fn raw(&mut self, item: &[u8]) {
        self.0.writer_mut().extend_from_slice(item);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.writer().len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0.into_writer()
    }
}
