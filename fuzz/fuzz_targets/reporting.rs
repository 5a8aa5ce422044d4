//! Certificates, introductions and reports, which strangers make: the first byte chooses.
#![no_main]

use crypto::reporting::{Expected, verify_introduction};
use libfuzzer_sys::fuzz_target;
use protocol::Wire;
use protocol::reporting::*;

fn decode<T: Wire>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        assert_eq!(value.encode(), bytes);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 5 {
        0 => decode::<CertificateRequest>(bytes),
        1 => decode::<ReportingCertificate>(bytes),
        2 => {
            decode::<Padded<REQUEST_SLOT>>(bytes);
            decode::<Padded<LINK_SLOT>>(bytes);
        }
        3 => {
            if let Ok(report) = AbuseReport::decode(bytes) {
                assert_eq!(report.encode(), bytes);
                let signed = report.to_be_signed();
                assert_eq!([&signed[..], &report.signature].concat(), bytes);
            }
        }
        _ => {
            if let Ok(said) = SignedIntroduction::decode(bytes) {
                assert_eq!(said.encode(), bytes);
                // Nobody can sign for somebody else.
                let expected = Expected {
                    occasion: said.introduction.occasion,
                    holder_key: &said.introduction.holder_key,
                    recipient_key: &said.introduction.recipient_key,
                    certificate_keys: &[[7; 32]],
                    today: said.introduction.day,
                };
                assert!(verify_introduction(bytes, &expected).is_err());
            }
        }
    }
});
