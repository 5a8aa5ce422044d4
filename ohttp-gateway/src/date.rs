//! The `Date` of an inner request (RFC 9458 §6.5.1).

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

/// 9999-12-31T23:59:59Z: later dates have no HTTP form.
const LAST_UNIX_SECOND: u64 = 253_402_300_799;

/// Milliseconds since 1970, of an HTTP date of any of the three forms.
pub(crate) fn parse(value: &HeaderValue) -> Option<u64> {
    let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    let since = date.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// Whether `date` is at most `tolerance_ms` away from `now`, in either direction.
pub(crate) fn is_acceptable(date_unix_ms: u64, now_unix_ms: u64, tolerance_ms: u64) -> bool {
    date_unix_ms.abs_diff(now_unix_ms) <= tolerance_ms
}

pub(crate) fn header_value(unix_ms: u64) -> HeaderValue {
    let seconds = (unix_ms / 1000).min(LAST_UNIX_SECOND);
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_date_survives_the_round_trip_in_whole_seconds() {
        assert_eq!(
            parse(&header_value(1_700_000_000_999)).unwrap(),
            1_700_000_000_000
        );
        header_value(u64::MAX);
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "yesterday",
            "Fri, 31 Feb 2025 00:00:00 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
        ] {
            assert_eq!(parse(&HeaderValue::from_str(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn the_window_is_symmetric() {
        assert!(is_acceptable(1_000, 1_300, 300) && is_acceptable(1_300, 1_000, 300));
        assert!(!is_acceptable(1_000, 1_301, 300) && !is_acceptable(1_301, 1_000, 300));
    }
}
