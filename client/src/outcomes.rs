//! Words for what became of commits, members and groups.

use protocol::removal::RemovalReason as Said;
use serde::{Deserialize, Serialize};

/// What became of a commit that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is part of the group's history and merged.
    Accepted,
    /// Another commit was first, and has been merged; this one is gone.
    Superseded,
}

/// Why this client has stopped following a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// The service says that the group went on, and has no commit that leads there.
    Missing,
    /// The service shows the group at an earlier epoch than this client was in: it has lost what it
    /// accepted.
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
    /// Another copy of this client's home directory is in use: it has made a commit with the keys
    /// that both have.
    OtherCopy,
    /// The service says that this client's leaf is not in the group, though nobody has removed it
    /// as far as is known: another copy of this client may have replaced it, or the service lies.
    LeafGone,
    /// The backup that this client was restored from is too old: its leaf is there no more.
    Outdated,
    /// The service has shown different journals of the group to different members, and has signed
    /// both.
    Split,
    /// A commit led to where the service has nothing: whoever made it told the service other keys
    /// than the members, or the service says so falsely.
    Stranded,
    /// The service had this client removed. Of connections and devices' groups only: of a group
    /// [`Event::RemovedByService`](crate::Event::RemovedByService) tells.
    RemovedByService,
    /// This client was away for longer than the service keeps what would lead on from where it was.
    Expired,
}

impl StopReason {
    pub(crate) const ALL: [Self; 14] = [
        Self::Missing,
        Self::Behind,
        Self::State,
        Self::Restored,
        Self::Unprocessable,
        Self::Forbidden,
        Self::Newcomers,
        Self::OtherCopy,
        Self::LeafGone,
        Self::Outdated,
        Self::Split,
        Self::Stranded,
        Self::RemovedByService,
        Self::Expired,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Behind => "behind",
            Self::State => "state",
            Self::Restored => "restored",
            Self::Unprocessable => "unprocessable",
            Self::Forbidden => "forbidden",
            Self::Newcomers => "newcomers",
            Self::OtherCopy => "other_copy",
            Self::LeafGone => "leaf_gone",
            Self::Outdated => "outdated",
            Self::Split => "split",
            Self::Stranded => "stranded",
            Self::RemovedByService => "removed_by_service",
            Self::Expired => "expired",
        }
    }

    /// Whether this machine alone has stopped it: then this client comes back by itself, into the
    /// group and among the members that it knows. That commits are missing is the service's word.
    pub(crate) fn is_own_loss(self) -> bool {
        match self {
            Self::State | Self::Restored => true,
            Self::Missing
            | Self::LeafGone
            | Self::Behind
            | Self::Unprocessable
            | Self::Forbidden
            | Self::Newcomers
            | Self::OtherCopy
            | Self::Outdated
            | Self::Split
            | Self::Stranded
            | Self::RemovedByService
            | Self::Expired => false,
        }
    }
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "what happened meanwhile is not there any more",
            Self::Behind => "the service has lost what it accepted, and shows it as it was earlier",
            Self::State => "this client's state of it is lost",
            Self::Restored => "this client comes from a backup",
            Self::Unprocessable => "something came in it that nobody can have done rightly",
            Self::Forbidden => "somebody did what the group's policy forbids",
            Self::Newcomers => "somebody is in it whom you have not seen there",
            Self::OtherCopy => "another copy of this client's home directory is in use",
            Self::LeafGone => {
                "the service says that your place in it is another's now: perhaps a copy of this home directory is in use"
            }
            Self::Outdated => {
                "your place in it was renewed or taken away since the backup: a member can replace it"
            }
            Self::Split => "the service shows its members different journals of it",
            Self::Stranded => "somebody's commit led to where the service has nothing",
            Self::RemovedByService => "the service had this client removed from it",
            Self::Expired => {
                "you were away for longer than the service keeps what would lead on from where you were"
            }
        })
    }
}

/// Why the service has removed somebody, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RemovalReason {
    /// The client has not made a commit since this week (since 1970), for longer than the service
    /// waits.
    Inactive(u16),
    /// The client was added, and had not been here when its invitation expired.
    NeverCame,
    /// The client has proposed it itself.
    OwnWish,
}

impl From<Said> for RemovalReason {
    fn from(said: Said) -> Self {
        match said {
            Said::Inactive(week) => Self::Inactive(week.0),
            Said::NeverCame => Self::NeverCame,
            Said::OwnWish => Self::OwnWish,
        }
    }
}
