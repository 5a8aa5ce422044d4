//! The part of a report that is kept for the operator: encrypted, and always of one length.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use protocol::Wire as _;
use protocol::reporting::{
    AbuseReport, MAX_GREETING_BYTES, Occasion, Padded, ReportReason, VERSION,
};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::store::StoreError;
use crate::store::reports::ReportId;

const PLACE: &[u8] = b"report";

/// Neither key nor name of anybody.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(super) struct ReportContent {
    version: u16,
    pub(super) reason: ReportReason,
    pub(super) occasion: Occasion,
    /// When the reported one introduced himself.
    pub(super) day: u32,
    greeting: Padded<{ MAX_GREETING_BYTES + 2 }>,
}

impl ReportContent {
    pub(super) fn of(report: &AbuseReport) -> Self {
        let introduction = &report.evidence.introduction;
        Self {
            version: VERSION,
            reason: report.reason,
            occasion: introduction.occasion,
            day: introduction.day,
            greeting: Padded::new(introduction.greeting.as_slice()).unwrap_or_else(Padded::empty),
        }
    }

    pub(super) fn greeting(&self) -> String {
        String::from_utf8_lossy(self.greeting.content()).into_owned()
    }

    pub(super) fn seal(&self, key: &LessSafeKey, id: &ReportId) -> Result<Vec<u8>, StoreError> {
        let failed = || StoreError::Engine("a report cannot be sealed".to_owned());
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| failed())?;
        let mut sealed = self.encode();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place(id), &mut sealed)
            .map_err(|_| failed())?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(super) fn open(
        key: &LessSafeKey,
        id: &ReportId,
        sealed: &[u8],
    ) -> Result<Self, StoreError> {
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(StoreError::Format)?;
        let mut sealed = sealed.to_vec();
        let opened = key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), place(id), &mut sealed)
            .map_err(|_| StoreError::Format)?;
        Self::decode(opened).map_err(|_| StoreError::Format)
    }
}

fn place(id: &ReportId) -> Aad<Vec<u8>> {
    Aad::from([PLACE, &id.0].concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_as_it_always_was() {
        let content = ReportContent {
            version: VERSION,
            reason: ReportReason::Abuse,
            occasion: Occasion::Request,
            day: 0x0304_0506,
            greeting: Padded::new(*b"hi").unwrap(),
        };
        let fixture = [&b"\0\x01\x02\x01\x03\x04\x05\x06\0\x02hi"[..], &[0; 254]].concat();
        assert_eq!(content.encode(), fixture);
        assert_eq!(ReportContent::decode(&fixture), Ok(content));
    }
}
