//! Keys that members hand to the service, or get from it.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::WireSecret;
use crate::ids::{Day, GroupId, RotationEpoch};

/// The group, and the key that opens its state.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GroupKey {
    /// The group that the request acts on.
    pub group_id: GroupId,
    /// `S_t` of the sender's epoch.
    pub state_key: WireSecret,
}

/// Opens a journal from one step and one day on.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JournalKeys {
    /// The epoch with which the segment began.
    pub rotation_epoch: RotationEpoch,
    /// `k_t` of the epoch that they come with.
    pub journal_key: WireSecret,
    /// The tag key `T_d` of the present day.
    pub tag_key: WireSecret,
    /// `d`, days since the Unix epoch.
    pub tag_day: Day,
}
