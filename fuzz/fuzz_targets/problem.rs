//! What a relay reads of a gateway's refusals: problem documents (RFC 9457).
#![no_main]

use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use service::Problem;

fuzz_target!(|bytes: &[u8]| {
    if let Some(problem) = Problem::from_json(StatusCode::BAD_REQUEST, bytes) {
        let _ = problem.type_uri();
    }
});
