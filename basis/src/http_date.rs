//! HTTP dates (RFC 9110 §5.6.7) and milliseconds since 1970.

use std::time::{Duration, UNIX_EPOCH};

/// 9999-12-31T23:59:59Z: later dates have no HTTP form.
const LAST_UNIX_SECOND: u64 = 253_402_300_799;

/// Of an HTTP date of any of the three forms.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// In whole seconds; the last that there is for later ones.
#[must_use]
pub fn format(unix_ms: u64) -> String {
    let seconds = (unix_ms / 1000).min(LAST_UNIX_SECOND);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_survives_the_round_trip_in_whole_seconds() {
        assert_eq!(parse(&format(1_700_000_000_999)), Some(1_700_000_000_000));
        assert_eq!(parse(&format(u64::MAX)), Some(LAST_UNIX_SECOND * 1000));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "yesterday",
            "Fri, 31 Feb 2025 00:00:00 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
