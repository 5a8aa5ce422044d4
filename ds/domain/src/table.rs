//! The table of operations: one line each. Servers and tests carry operations out by it.

use protocol::operation::Operation as Number;

use crate::execution::Execution;
use crate::operation::{Operation, UnsignedRead};
use crate::{blobs, group, inbox, journal, key_packages};

/// Whether a decision works on a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Microseconds.
    Light,
    /// Milliseconds in a large group.
    Heavy,
}

/// What somebody does with an operation, whichever it is.
pub trait WithOperation {
    /// What comes of it.
    type Output;

    /// With one on signed requests.
    fn signed<O: Operation>(self, work: Work) -> Self::Output
    where
        Execution<O>: Send;

    /// With a read that nobody signs.
    fn unsigned<R: UnsignedRead>(self) -> Self::Output;

    /// With one on the chunks of a blob, which lie outside the engine
    /// ([`BlobRequest`](crate::blobs::BlobRequest)).
    fn chunks(self, number: Number) -> Self::Output;
}

macro_rules! table {
    (
        signed { $($work:ident $operation:ty,)+ }
        unsigned { $($read:ty,)+ }
        chunks { $($chunks:ident,)+ }
    ) => {
        /// Does something with the operation of this number.
        pub fn with_operation<W: WithOperation>(number: Number, with: W) -> W::Output {
            match number {
                $(<$operation as Operation>::OPERATION => {
                    with.signed::<$operation>(Work::$work)
                })+
                $(<$read as UnsignedRead>::OPERATION => with.unsigned::<$read>(),)+
                $(Number::$chunks => with.chunks(number),)+
            }
        }
    };
}

table! {
    signed {
        Light group::create::ReserveGroupId,
        Heavy group::create::CreateGroup,
        Heavy group::commit::AddUsers,
        Heavy group::commit::RemoveUsers,
        Heavy group::commit::AddClients,
        Heavy group::commit::RemoveClients,
        Heavy group::commit::UpdateClient,
        Heavy group::commit::SetRole,
        Heavy group::commit::ReInitializeGroup,
        Heavy group::commit::DeleteGroup,
        Heavy group::external::ExternalJoin,
        Light group::message::SendMessage,
        Heavy group::propose::SelfRemove,
        Heavy group::propose::Propose,
        Heavy group::external::ExternalCommitInfo,
        Light group::extras::SetLeafExtras,
        Light group::extras::PutRecoveryRows,
        Light group::extras::SetJoinCode,
        Light group::inspect::InspectGroup,
        Light group::inspect::OwnLeaf,
        Light key_packages::PublishKeyPackages,
        Light key_packages::ClaimKeyPackages,
        Light key_packages::DeleteKeyPackages,
        Light key_packages::CountKeyPackages,
        Light inbox::RegisterHandle,
        Light inbox::LookupHandle,
        Light inbox::DeleteHandle,
        Light inbox::RequestConnection,
        Light inbox::ReadInbox,
        Light inbox::DeleteFromInbox,
        Light blobs::CreateBlob,
    }
    unsigned {
        journal::read::ReadJournal,
        journal::read::FollowJournal,
        group::records::JoinRecord,
        group::records::FetchWelcome,
        group::records::RecoveryRow,
    }
    chunks {
        PutChunk,
        BlobChunks,
        ReadChunk,
        DeleteBlob,
    }
}
