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
    /// External commit into a connection group (`external_join`).
    JoinConnection = 6, "/v1/groups/join-connection";
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
    /// Publish KeyPackage sets.
    PublishKeyPackages = 20, "/v1/key-packages/publish";
    /// Claim one KeyPackage set for each of several users.
    ClaimKeyPackages = 21, "/v1/key-packages/claim";
    /// Register a handle.
    RegisterHandle = 30, "/v1/handles/register";
    /// Look up a handle.
    LookupHandle = 31, "/v1/handles/lookup";
    /// Send a connection request to the owner of a handle.
    RequestConnection = 32, "/v1/connections/request";
    /// Create a queue.
    CreateQueue = 40, "/v1/queues/create";
    /// Fetch entries of a queue.
    FetchQueue = 41, "/v1/queues/fetch";
    /// Acknowledge entries of a queue.
    AcknowledgeQueue = 42, "/v1/queues/acknowledge";
}

/// Path of the public directory (`GET`, JSON).
pub const DIRECTORY_PATH: &str = "/v1/directory";
