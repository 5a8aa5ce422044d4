//! The operations of the service, their numbers and their routes.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $path:literal;)+) => {
        /// The operation that a request asks for. Its number is in the envelope and is signed with
        /// it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
        #[repr(u16)]
        pub enum Operation {
            $($(#[$doc])* $name = $number,)+
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Operation] = &[$(Operation::$name,)+];

            /// The path that it is posted to.
            #[must_use]
            pub const fn path(self) -> &'static str {
                match self {
                    $(Operation::$name => $path,)+
                }
            }

            /// The number in the envelope.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self {
                    $(Operation::$name => $number,)+
                }
            }
        }
    };
}

operations! {
    /// Reserve a fresh group id (draft-robert-mimi-delivery-service-02 `request_group_id`).
    ReserveGroupId = 1, "/v1/groups/reserve";
    /// Create a group with one leaf (`create_group`).
    CreateGroup = 2, "/v1/groups/create";
    /// Commit that adds users (`add_users`).
    AddUsers = 3, "/v1/groups/add-users";
    /// Commit that removes users (`remove_users`).
    RemoveUsers = 4, "/v1/groups/remove-users";
    /// Commit that adds clients of the committer's user (`add_clients`).
    AddClients = 5, "/v1/groups/add-clients";
    /// Commit that removes clients of the committer's user (`remove_clients`).
    RemoveClients = 6, "/v1/groups/remove-clients";
    /// Commit that updates the committer's leaf (`update_client`).
    UpdateClient = 7, "/v1/groups/update-client";
    /// Commit that changes the policy (`set_role`).
    SetRole = 8, "/v1/groups/set-role";
    /// Commit with a ReInit to a reserved id (`re_initialize_group`).
    ReInitializeGroup = 9, "/v1/groups/re-initialize";
    /// Commit that removes everybody else, after which the group is gone (`delete_group`).
    DeleteGroup = 10, "/v1/groups/delete";
    /// External commit by the holder of a permit (`external_join`).
    ExternalJoin = 11, "/v1/groups/external-join";
    /// Appends an application message (`send_message`).
    SendMessage = 12, "/v1/groups/send-message";
    /// Proposal to leave (`self_remove_client`).
    SelfRemove = 13, "/v1/groups/self-remove";
    /// Proposal of an external sender or of a new member (RFC 9420 §12.1.8).
    Propose = 14, "/v1/groups/propose";
    /// GroupInfo and tree for an external commit (`external_commit_info`).
    ExternalCommitInfo = 15, "/v1/groups/external-commit-info";
    /// A leaf's recovery key and push handle.
    SetLeafExtras = 16, "/v1/groups/set-leaf-extras";
    /// Rows that are missing since the last rotation.
    PutRecoveryRows = 17, "/v1/groups/put-recovery-rows";
    /// Make or revoke a join code.
    SetJoinCode = 18, "/v1/groups/set-join-code";
    /// Members, roles, keys and pending proposals.
    InspectGroup = 19, "/v1/groups/inspect";
    /// Tells the holder of a leaf's signature key its leaf.
    OwnLeaf = 20, "/v1/groups/own-leaf";
    /// Entries of a segment. Not signed.
    ReadJournal = 30, "/v1/journals/read";
    /// A page of a join record. Not signed.
    JoinRecord = 31, "/v1/records/join";
    /// A Welcome. Not signed.
    FetchWelcome = 32, "/v1/records/welcome";
    /// A recovery row. Not signed.
    RecoveryRow = 33, "/v1/records/recovery";
    /// Entries of a segment as they come. Not signed.
    FollowJournal = 34, "/v1/journals/follow";
    /// Adds KeyPackage sets to a pool, by its owner.
    PublishKeyPackages = 40, "/v1/key-packages/publish";
    /// Claim KeyPackage sets of one pool.
    ClaimKeyPackages = 41, "/v1/key-packages/claim";
    /// Delete a pool with all its sets.
    DeleteKeyPackages = 42, "/v1/key-packages/delete";
    /// Counts the sets of a pool, for its owner.
    CountKeyPackages = 43, "/v1/key-packages/count";
    /// Register a handle with its inbox.
    RegisterHandle = 50, "/v1/handles/register";
    /// Look up a handle.
    LookupHandle = 51, "/v1/handles/lookup";
    /// Delete a handle with its inbox.
    DeleteHandle = 52, "/v1/handles/delete";
    /// Put a connection request into the inbox of a handle.
    RequestConnection = 53, "/v1/handles/request-connection";
    /// Reads the requests of an inbox, by its owner.
    ReadInbox = 54, "/v1/inboxes/read";
    /// Delete entries of an inbox.
    DeleteFromInbox = 55, "/v1/inboxes/delete";
    /// Make room for a blob.
    CreateBlob = 60, "/v1/blobs/create";
    /// Put a chunk into a blob. Not signed.
    PutChunk = 61, "/v1/blobs/put";
    /// Which chunks of a blob are there. Not signed.
    BlobChunks = 62, "/v1/blobs/chunks";
    /// A chunk of a blob. Not signed.
    ReadChunk = 63, "/v1/blobs/read";
    /// Delete a blob. Not signed.
    DeleteBlob = 64, "/v1/blobs/delete";
}

impl Operation {
    /// Whether request and answer have the one size of bulk exchanges
    /// ([`BULK`](crate::padding::BULK)): all that is about blobs, in whatever direction.
    #[must_use]
    pub const fn is_bulk(self) -> bool {
        matches!(
            self,
            Self::CreateBlob
                | Self::PutChunk
                | Self::BlobChunks
                | Self::ReadChunk
                | Self::DeleteBlob
        )
    }
}

/// Path of the public directory (`GET`, JSON).
pub const DIRECTORY_PATH: &str = "/v1/directory";
