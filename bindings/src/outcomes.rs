//! Words for what became of members, groups and stores.

use crate::mirror::outcome;

outcome! {
    /// Why this client has stopped following a group.
    StopReason {
        /// The service says that the group went on, and has no commit that leads there.
        Missing,
        /// The service shows the group at an earlier epoch than this client was in: it has lost
        /// what it accepted.
        Behind,
        /// The state of the MLS library is gone or unreadable.
        State,
        /// The client was restored from a backup.
        Restored,
        /// A commit came that could not be carried out.
        Unprocessable,
        /// A commit came that the group's policy forbids.
        Forbidden,
        /// Somebody is in the group now whom this client does not know: the user is to look first.
        Newcomers,
        /// Another copy of this client's home directory is in use.
        OtherCopy,
        /// The service says that this client's leaf is not in the group, though nobody has removed
        /// it as far as is known.
        LeafGone,
        /// The backup that this client was restored from is too old: its leaf is there no more.
        Outdated,
        /// The service has shown different journals of the group to different members, and has
        /// signed both.
        Split,
        /// A commit led to where the service has nothing.
        Stranded,
        /// The service had this client removed from a connection or its user's devices.
        RemovedByService,
        /// This client was away for longer than the service keeps what would lead on from where it
        /// was.
        Expired,
    }
    else
    /// Something that has no name here.
    Other
}

outcome! {
    /// Why the service has removed somebody, as it says.
    RemovalReason {
        /// The client has not made a commit for longer than the service waits.
        Inactive(
            /// Of its last commit: weeks since 1970.
            week: u16
        ),
        /// The client was added, and had not been here when its invitation expired.
        NeverCame,
        /// The client has proposed it itself.
        OwnWish,
    }
    else
    /// Something that has no name here.
    Other
}

outcome! {
    /// What became of a service's store, as its directory says.
    StoreChange {
        /// Its operator says that it was restored from a backup.
        Restored,
        /// It is of an earlier generation than before: a backup from before a restoration.
        RolledBack,
        /// It is another one.
        Replaced,
    }
    else
    /// Something that has no name here.
    Other
}
