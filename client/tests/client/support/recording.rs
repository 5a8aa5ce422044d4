//! What gateway and service see and store, kept byte for byte: requests, answers, rows, and the
//! state of groups as the service opens it for a request. Who has sent what stands beside it: it is
//! the truth that guesses are held against.

use ds_domain::engine::Table;
use ds_domain::group::laid_open::LaidOpen;
use protocol::Wire as _;
use protocol::codec::WireSecret;
use protocol::group::{CommitRequest, CreateGroupRequest, ExternalJoinRequest, GroupKey};
use protocol::ids::GroupId;
use protocol::operation::Operation as Number;
use protocol::request::SignedRequest;
use tls_codec::DeserializeBytes as _;

/// A client: whose, and which of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Who {
    pub(crate) user: usize,
    pub(crate) device: usize,
}

/// A row that was written.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) table: Table,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// One request with all that came of it.
#[derive(Clone)]
pub(crate) struct Exchange {
    /// The truth; the service is not told.
    pub(crate) author: Who,
    pub(crate) operation: Number,
    pub(crate) request: Vec<u8>,
    pub(crate) tokens: usize,
    /// None if it was refused.
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) rows: Vec<Written>,
    /// The group's state after it.
    pub(crate) opened: Option<(GroupId, LaidOpen)>,
}

/// The group that a request opens: its key, and the one that its commit tells.
pub(crate) fn opens(operation: Number, request: &[u8]) -> Option<(GroupKey, Option<WireSecret>)> {
    let envelope = SignedRequest::decode(request).ok()?;
    let body = envelope.body.as_slice();
    let rotation = |next: Option<protocol::group::NextSegment>| next.map(|it| it.state_key);
    let only = |group: GroupKey| Some((group, None));
    match operation {
        Number::CreateGroup => {
            let request = CreateGroupRequest::decode(body).ok()?;
            only(GroupKey {
                group_id: request.group_id,
                state_key: request.segment.state_key,
            })
        }
        Number::AddUsers
        | Number::RemoveUsers
        | Number::AddClients
        | Number::RemoveClients
        | Number::UpdateClient
        | Number::SetRole
        | Number::ReInitializeGroup
        | Number::DeleteGroup => {
            let request = CommitRequest::decode(body).ok()?;
            Some((request.group, rotation(request.rotation)))
        }
        Number::ExternalJoin => {
            let request = ExternalJoinRequest::decode(body).ok()?;
            Some((request.group, rotation(request.rotation)))
        }
        // Bodies that act on a group begin with its key.
        _ if operation.path().starts_with("/v1/groups/") => {
            let (group, _) = GroupKey::tls_deserialize_bytes(body).ok()?;
            only(group)
        }
        _ => None,
    }
}
