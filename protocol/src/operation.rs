//! The operations of the service, their numbers and their routes.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $path:literal;)+) => {
        /// What a request asks for. The number stands in the envelope and is signed with it.
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
    /// Reserve a fresh group id (MIMI DS `request_group_id`).
    ReserveGroupId = 1, "/v1/groups/reserve";
    /// Create a group with one leaf (`create_group`).
    CreateGroup = 2, "/v1/groups/create";
    /// Commit that adds users (`add_users`).
    AddUsers = 3, "/v1/groups/add-users";
    /// Commit that removes users and rotates the state key (`remove_users`).
    RemoveUsers = 4, "/v1/groups/remove-users";
    /// Commit that updates the committer's leaf (`update_client`).
    UpdateClient = 5, "/v1/groups/update-client";
    /// External commit of whoever has a permit: into a connection group, by a user's new client, by a join
    /// code, or again after a loss of state (`external_join`).
    ExternalJoin = 6, "/v1/groups/external-join";
    /// Application message (`send_message`).
    SendMessage = 7, "/v1/groups/send-message";
    /// Join record of the epoch of a Welcome (`welcome_info`).
    JoinRecord = 8, "/v1/groups/join-record";
    /// GroupInfo and tree for an external commit (`external_commit_info`).
    ExternalCommitInfo = 9, "/v1/groups/external-commit-info";
    /// Hand the service a recovery secret for the own leaf.
    SetRecoverySecret = 10, "/v1/groups/set-recovery-secret";
    /// Recovery record written at the last rotation.
    RecoveryRecord = 11, "/v1/groups/recovery-record";
    /// Proposal to leave (`self_remove_client`).
    SelfRemove = 12, "/v1/groups/self-remove";
    /// Proposal of an external sender or of a new member (RFC 9420 §12.1.8).
    Propose = 13, "/v1/groups/propose";
    /// Make or revoke a join code.
    SetJoinCode = 14, "/v1/groups/set-join-code";
    /// Members, roles and pending proposals.
    InspectGroup = 15, "/v1/groups/inspect";
    /// Commit that removes everybody else, after which the group is gone (`delete_group`).
    DeleteGroup = 16, "/v1/groups/delete";
    /// Commit that adds clients of the committer's user (`add_clients`).
    AddClients = 17, "/v1/groups/add-clients";
    /// Commit that removes clients of the committer's user (`remove_clients`).
    RemoveClients = 18, "/v1/groups/remove-clients";
    /// Commit that changes the policy (`set_role`).
    SetRole = 19, "/v1/groups/set-role";
    /// Publish KeyPackage sets.
    PublishKeyPackages = 20, "/v1/key-packages/publish";
    /// Claim one KeyPackage set for each of several users.
    ClaimKeyPackages = 21, "/v1/key-packages/claim";
    /// Delete a pool with all its sets.
    DeleteKeyPackages = 22, "/v1/key-packages/delete";
    /// What a pool holds, for its owner.
    CountKeyPackages = 23, "/v1/key-packages/count";
    /// Register a handle.
    RegisterHandle = 30, "/v1/handles/register";
    /// Look up a handle.
    LookupHandle = 31, "/v1/handles/lookup";
    /// Send a connection request to the owner of a handle.
    RequestConnection = 32, "/v1/connections/request";
    /// Delete a handle.
    DeleteHandle = 33, "/v1/handles/delete";
    /// Create a queue.
    CreateQueue = 40, "/v1/queues/create";
    /// Fetch entries of a queue.
    FetchQueue = 41, "/v1/queues/fetch";
    /// Acknowledge entries of a queue.
    AcknowledgeQueue = 42, "/v1/queues/acknowledge";
    /// Delete a queue.
    DeleteQueue = 43, "/v1/queues/delete";
    /// Take nothing more from a group into a queue, or again.
    BlockGroup = 44, "/v1/queues/block-group";
    /// Commit with a ReInit to a reserved id (`re_initialize_group`).
    ReInitializeGroup = 50, "/v1/groups/re-initialize";
    /// Have deliveries for the own leaf go to another queue (`update_queue_info`).
    UpdateQueueReference = 51, "/v1/groups/update-queue-reference";
    /// The own leaf of whoever has its signature key.
    OwnLeaf = 53, "/v1/groups/own-leaf";
}

/// Path of the public directory (`GET`, JSON).
pub const DIRECTORY_PATH: &str = "/v1/directory";
