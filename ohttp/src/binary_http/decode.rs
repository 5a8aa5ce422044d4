//! Reading requests and responses in both forms (RFC 9292 §3), in whatever pieces they come.

use std::marker::PhantomData;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{RequestHead, ResponseHead};
use crate::varint;

/// How much of a message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of control data, fields and trailers together.
    pub max_head_bytes: usize,
    /// Of header and trailer section together.
    pub max_fields: usize,
    pub max_content_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_head_bytes: 16 * 1024,
            max_fields: 64,
            max_content_bytes: crate::chunked::MAX_MESSAGE_LEN,
        }
    }
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Against the format, or with a method, status or field that HTTP does not allow.
    #[error("not a binary HTTP message of this kind")]
    Syntax,
    /// A part is longer than the [`Limits`] allow.
    #[error("the binary HTTP message is too large")]
    TooLarge,
    /// It ended too early.
    #[error("the binary HTTP message is truncated")]
    Truncated,
}

/// A message without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<H> {
    pub head: H,
    pub trailers: HeaderMap,
}

/// Reads one message. Content is appended as it comes, everything else is kept.
#[derive(Debug)]
pub struct Decoder<H> {
    step: Step,
    indeterminate: bool,
    /// What was pushed and cannot be read yet: at most one item of the head, and bounded by its
    /// limit.
    held: Vec<u8>,
    head_left: usize,
    fields_left: usize,
    content_left: u64,
    control: Control,
    head: Option<H>,
    trailers: HeaderMap,
    failed: Option<Malformed>,
    kind: PhantomData<H>,
}

/// Control data and fields, as far as they came.
#[derive(Debug, Default)]
pub struct Control {
    strings: Vec<Vec<u8>>,
    status: u64,
    fields: HeaderMap,
}

/// Where the next item begins.
#[derive(Clone, Debug)]
enum Step {
    Framing,
    /// The length of a string of the control data, then the string.
    ControlLength,
    Control {
        len: usize,
    },
    Status,
    /// A section whose length is known has it here.
    Section(Section),
    Name(Section, Lines),
    NameBytes(Section, Lines, usize),
    Value(Section, Lines, HeaderName),
    ValueBytes(Section, Lines, HeaderName, usize),
    /// `begun`: a piece of content that needs an end has come.
    Content {
        begun: bool,
    },
    ContentBytes {
        left: u64,
    },
    Padding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// Of a response that another one follows (RFC 9292 §3.5.1).
    Informational,
    Header,
    Trailer,
}

/// How far a section goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    /// For so many bytes.
    Left(usize),
    UntilTerminator {
        first: bool,
    },
}

/// The two kinds of messages.
pub trait Head: sealed::Sealed + Sized {
    /// Framing indicators of the known-length and the indeterminate-length form.
    #[doc(hidden)]
    const FRAMING: [u64; 2];
    /// Strings of the control data; without any, it is a status.
    #[doc(hidden)]
    const STRINGS: usize;
    #[doc(hidden)]
    fn of(control: Control) -> Option<Self>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::RequestHead {}
    impl Sealed for super::ResponseHead {}
}

impl Head for RequestHead {
    const FRAMING: [u64; 2] = [0, 2];
    const STRINGS: usize = 4;

    fn of(control: Control) -> Option<Self> {
        let [method, scheme, authority, path]: [Vec<u8>; 4] = control.strings.try_into().ok()?;
        let (scheme, path) = (printable(scheme)?, printable(path)?);
        if scheme.is_empty() || path.is_empty() {
            return None;
        }
        Some(Self {
            method: Method::from_bytes(&method).ok()?,
            scheme,
            authority: printable(authority)?,
            path,
            fields: control.fields,
        })
    }
}

fn printable(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
}

impl Head for ResponseHead {
    const FRAMING: [u64; 2] = [1, 3];
    const STRINGS: usize = 0;

    fn of(control: Control) -> Option<Self> {
        Some(Self {
            status: final_status(control.status)?,
            fields: control.fields,
        })
    }
}

fn final_status(status: u64) -> Option<StatusCode> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
}

impl<H: Head> Decoder<H> {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            step: Step::Framing,
            indeterminate: false,
            held: Vec::new(),
            head_left: limits.max_head_bytes,
            fields_left: limits.max_fields,
            content_left: limits.max_content_bytes,
            control: Control::default(),
            head: None,
            trailers: HeaderMap::new(),
            failed: None,
            kind: PhantomData,
        }
    }

    /// Appends the content in `input` to `content`.
    ///
    /// # Errors
    /// [`Malformed`], the same for ever after the first one.
    pub fn push(&mut self, input: &[u8], content: &mut Vec<u8>) -> Result<(), Malformed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let mut held = std::mem::take(&mut self.held);
        let mut rest = if held.is_empty() {
            input
        } else {
            held.extend_from_slice(input);
            &held
        };
        let read = loop {
            match self.read_item(&mut rest, content) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.failed = read.err();
        self.held = rest.to_vec();
        read
    }

    /// The head, once it is there as a whole.
    pub fn head(&self) -> Option<&H> {
        self.head.as_ref()
    }

    /// The message has ended. Empty parts at its end may be missing (RFC 9292 §3.8).
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn finish(mut self) -> Result<Message<H>, Malformed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let at_a_border = match self.step {
            Step::Section(Section::Header | Section::Trailer)
            | Step::Content { begun: false }
            | Step::Padding => true,
            Step::Name(Section::Header | Section::Trailer, lines) => {
                lines == Lines::UntilTerminator { first: true }
            }
            _ => false,
        };
        if !at_a_border || !self.held.is_empty() {
            return Err(Malformed::Truncated);
        }
        if self.head.is_none() {
            self.complete_head()?;
        }
        Ok(Message {
            head: self.head.ok_or(Malformed::Truncated)?,
            trailers: self.trailers,
        })
    }

    /// Reads the next item off `rest`, or returns false if it has not come as a whole.
    fn read_item(&mut self, rest: &mut &[u8], content: &mut Vec<u8>) -> Result<bool, Malformed> {
        let next = match self.step.clone() {
            Step::Framing => match take_varint(rest) {
                None => return Ok(false),
                Some((framing, _)) => {
                    self.indeterminate = framing == H::FRAMING[1];
                    if !H::FRAMING.contains(&framing) {
                        return Err(Malformed::Syntax);
                    }
                    if H::STRINGS == 0 {
                        Step::Status
                    } else {
                        Step::ControlLength
                    }
                }
            },
            Step::ControlLength => match take_varint(rest) {
                None => return Ok(false),
                Some(len) => Step::Control {
                    len: self.take_head(len)?,
                },
            },
            Step::Control { len } => match take_bytes(rest, len) {
                None => return Ok(false),
                Some(string) => {
                    self.control.strings.push(string.to_vec());
                    if self.control.strings.len() < H::STRINGS {
                        Step::ControlLength
                    } else {
                        self.section(Section::Header)
                    }
                }
            },
            Step::Status => match take_varint(rest) {
                None => return Ok(false),
                Some((status, width)) => {
                    self.take_head((0, width))?;
                    self.control.status = status;
                    if (100..200).contains(&status) {
                        self.section(Section::Informational)
                    } else {
                        final_status(status).ok_or(Malformed::Syntax)?;
                        self.section(Section::Header)
                    }
                }
            },
            Step::Section(section) => match take_varint(rest) {
                None => return Ok(false),
                Some((len, width)) => {
                    self.take_head((0, width))?;
                    let len = usize::try_from(len).map_err(|_| Malformed::TooLarge)?;
                    // The lines are taken off the head as they come; this only bounds them earlier.
                    if len > self.head_left {
                        return Err(Malformed::TooLarge);
                    }
                    self.line(section, Lines::Left(len))?
                }
            },
            Step::Name(section, lines) => match take_varint(rest) {
                None => return Ok(false),
                Some((0, _)) if matches!(lines, Lines::UntilTerminator { .. }) => {
                    self.after(section)?
                }
                Some((0, _)) => return Err(Malformed::Syntax),
                Some(len) => {
                    self.fields_left =
                        self.fields_left.checked_sub(1).ok_or(Malformed::TooLarge)?;
                    let (lines, len) = (lines.take(len)?, self.take_head(len)?);
                    Step::NameBytes(section, lines, len)
                }
            },
            Step::NameBytes(section, lines, len) => match take_bytes(rest, len) {
                None => return Ok(false),
                Some(name) => {
                    let name = HeaderName::from_lowercase(name).map_err(|_| Malformed::Syntax)?;
                    Step::Value(section, lines, name)
                }
            },
            Step::Value(section, lines, name) => match take_varint(rest) {
                None => return Ok(false),
                Some(len) => {
                    let (lines, len) = (lines.take(len)?, self.take_head(len)?);
                    Step::ValueBytes(section, lines, name, len)
                }
            },
            Step::ValueBytes(section, lines, name, len) => match take_bytes(rest, len) {
                None => return Ok(false),
                Some(value) => {
                    let value = HeaderValue::from_bytes(value).map_err(|_| Malformed::Syntax)?;
                    let fields = match section {
                        Section::Informational => None,
                        Section::Header => Some(&mut self.control.fields),
                        Section::Trailer => Some(&mut self.trailers),
                    };
                    if let Some(fields) = fields {
                        fields
                            .try_append(name, value)
                            .map_err(|_| Malformed::TooLarge)?;
                    }
                    self.line(section, lines)?
                }
            },
            Step::Content { .. } => match take_varint(rest) {
                None => return Ok(false),
                Some((0, _)) => self.section(Section::Trailer),
                Some((left, _)) => {
                    self.content_left = self
                        .content_left
                        .checked_sub(left)
                        .ok_or(Malformed::TooLarge)?;
                    Step::ContentBytes { left }
                }
            },
            Step::ContentBytes { left } => {
                let some = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                if some == 0 {
                    return Ok(false);
                }
                content.extend_from_slice(take_bytes(rest, some).unwrap_or_default());
                match left - some as u64 {
                    0 if self.indeterminate => Step::Content { begun: true },
                    0 => self.section(Section::Trailer),
                    left => Step::ContentBytes { left },
                }
            }
            Step::Padding => {
                if rest.iter().any(|byte| *byte != 0) {
                    return Err(Malformed::Syntax);
                }
                *rest = &[];
                return Ok(false);
            }
        };
        self.step = next;
        Ok(true)
    }

    /// Takes an item off what the head may still have: its length and the bytes of that length.
    fn take_head(&mut self, (len, width): (u64, usize)) -> Result<usize, Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed::TooLarge)?;
        self.head_left = self
            .head_left
            .checked_sub(width)
            .and_then(|left| left.checked_sub(len))
            .ok_or(Malformed::TooLarge)?;
        Ok(len)
    }

    fn section(&self, section: Section) -> Step {
        if self.indeterminate {
            Step::Name(section, Lines::UntilTerminator { first: true })
        } else {
            Step::Section(section)
        }
    }

    /// The next line of a section, or what follows it.
    fn line(&mut self, section: Section, lines: Lines) -> Result<Step, Malformed> {
        if lines == Lines::Left(0) {
            self.after(section)
        } else {
            Ok(Step::Name(section, lines))
        }
    }

    fn after(&mut self, section: Section) -> Result<Step, Malformed> {
        Ok(match section {
            Section::Informational => Step::Status,
            Section::Header => {
                self.complete_head()?;
                Step::Content { begun: false }
            }
            Section::Trailer => Step::Padding,
        })
    }

    fn complete_head(&mut self) -> Result<(), Malformed> {
        let head = H::of(std::mem::take(&mut self.control)).ok_or(Malformed::Syntax)?;
        self.head = Some(head);
        Ok(())
    }
}

impl Lines {
    /// Takes a length and the bytes of that length off.
    fn take(self, (len, width): (u64, usize)) -> Result<Self, Malformed> {
        let Self::Left(left) = self else {
            return Ok(Self::UntilTerminator { first: false });
        };
        usize::try_from(len)
            .ok()
            .and_then(|len| left.checked_sub(width)?.checked_sub(len))
            .map(Self::Left)
            .ok_or(Malformed::Syntax)
    }
}

/// An integer and its width.
fn take_varint(rest: &mut &[u8]) -> Option<(u64, usize)> {
    let (value, width) = varint::read(rest)?;
    *rest = &rest[width..];
    Some((value, width))
}

fn take_bytes<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}
