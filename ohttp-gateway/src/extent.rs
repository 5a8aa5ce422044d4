//! How many fields a request in binary HTTP has, counted before anything of it is copied.
//!
//! The library reads every field into two allocations: of the shortest ones two MiB hold 700,000,
//! which were a hundred times as much memory.

use crate::binary_http::Malformed;

const KNOWN_LENGTH_REQUEST: u64 = 0;
const INDETERMINATE_LENGTH_REQUEST: u64 = 2;
/// Method, scheme, authority, path (RFC 9292 §3.4).
const CONTROL: usize = 4;

/// Fields of header and trailer. What follows is not looked at; what is missing at the end may be
/// (RFC 9292 §3.8).
///
/// # Errors
/// [`Malformed`]: it is no request, or is cut off within something.
pub(crate) fn fields(encoded: &[u8]) -> Result<usize, Malformed> {
    let mut rest = Rest(encoded);
    let is_known = match rest.integer()? {
        Some(KNOWN_LENGTH_REQUEST) => true,
        Some(INDETERMINATE_LENGTH_REQUEST) => false,
        _ => return Err(Malformed),
    };
    for _ in 0..CONTROL {
        rest.bytes()?.ok_or(Malformed)?;
    }
    let header = rest.section(is_known)?;
    if is_known {
        rest.bytes()?;
    } else {
        while rest.bytes()?.is_some_and(|chunk| !chunk.is_empty()) {}
    }
    Ok(header.saturating_add(rest.section(is_known)?))
}

/// What has not been looked at yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// A variable-length integer (RFC 9000 §16). `None`: there is nothing more.
    fn integer(&mut self) -> Result<Option<u64>, Malformed> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let more = (1usize << (first >> 6)) - 1;
        let (more, rest) = rest.split_at_checked(more).ok_or(Malformed)?;
        self.0 = rest;
        let value = u64::from(first & 0x3f);
        Ok(Some(
            more.iter()
                .fold(value, |value, byte| value << 8 | u64::from(*byte)),
        ))
    }

    /// A length, and so many bytes.
    fn bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(length) = self.integer()? else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some(bytes))
    }

    /// Field lines (RFC 9292 §3.6): how many.
    fn section(&mut self, is_known: bool) -> Result<usize, Malformed> {
        let mut known;
        let lines = if is_known {
            known = Rest(self.bytes()?.unwrap_or_default());
            &mut known
        } else {
            self
        };
        let mut count = 0usize;
        while lines.bytes()?.is_some_and(|name| !name.is_empty()) {
            lines.bytes()?.ok_or(Malformed)?;
            count = count.saturating_add(1);
        }
        Ok(count)
    }
}
