//! How groups are set up in the MLS library.

use openmls::group::MlsGroupJoinConfig;
use openmls::prelude::{PURE_PLAINTEXT_WIRE_FORMAT_POLICY, SenderRatchetConfiguration};

use crate::store::mls::PAST_EPOCHS;

/// Application messages are padded to multiples of this.
pub(crate) const PADDING: usize = 128;

pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .padding_size(PADDING)
        .sender_ratchet_configuration(sender_ratchet())
        .build()
}

/// Messages of an epoch whose keys are kept when later ones come first.
pub(crate) const OUT_OF_ORDER: u32 = 200;

/// Steps that a reader takes at once: about 50 ms of work.
pub(crate) const FORWARD: u32 = 5_000;

pub(crate) fn sender_ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER, FORWARD)
}
