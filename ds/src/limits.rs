//! Bounds on what a request holds, each with a default, a configuration key (`max_…` in `[limits]`) and
//! one problem: [`ProblemType::LimitExceeded`].

use protocol::problem::ProblemType;

/// Longest payload that goes into a queue; padding to a Padmé size adds a few per cent.
pub const LARGEST_PAYLOAD: usize = 3 * 512 * 1024;

/// Longest join record: a gateway passes answers of 4 MiB, and the commits that follow fill in parent nodes
/// before the next joiner asks for the tree.
pub const LARGEST_JOIN_RECORD: usize = 3 * 1024 * 1024;

/// See `sample.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// An application message.
    pub message_bytes: usize,
    /// A commit.
    pub commit_bytes: usize,
    /// A Welcome with its sealed join information.
    pub welcome_bytes: usize,
    /// The tree and link keys that somebody who joins a group has to fetch: bounds the group.
    pub join_record_bytes: usize,
    /// A GroupInfo, or the part of it that a committer sends.
    pub group_info_bytes: usize,
    /// The tree of a new group: one leaf.
    pub new_tree_bytes: usize,
    /// A sealed KeyPackage set.
    pub key_package_set_bytes: usize,
    /// A proposal that stands alone.
    pub proposal_bytes: usize,
    /// Leaves of a group.
    pub members: usize,
    /// Proposals that a commit covers.
    pub proposals: usize,
    /// Proposals that are pending in a group.
    pub pending_proposals: usize,
    /// Days for which a leaf's word for another key may be good.
    pub authorization_days: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            message_bytes: 1024 * 1024,
            commit_bytes: 1024 * 1024,
            welcome_bytes: 1024 * 1024,
            join_record_bytes: LARGEST_JOIN_RECORD,
            group_info_bytes: 16 * 1024,
            new_tree_bytes: 16 * 1024,
            key_package_set_bytes: 64 * 1024,
            proposal_bytes: 16 * 1024,
            members: 5000,
            proposals: 5000,
            pending_proposals: 256,
            authorization_days: 35,
        }
    }
}

/// How much may wait in a queue, as far as one process knows: application messages that it has put there
/// since its incarnation of that day began. Handshakes don't count and are never dropped for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Of all groups together.
    pub entries: usize,
    /// Of one group.
    pub entries_of_group: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            entries: 20_000,
            entries_of_group: 5_000,
        }
    }
}

impl QueueLimits {
    /// The share of one of so many nodes; at least one entry.
    #[must_use]
    pub fn share_of(self, nodes: u32) -> Self {
        let share = |entries: usize| {
            let nodes = usize::try_from(nodes.max(1)).unwrap_or(usize::MAX);
            entries.div_ceil(nodes).max(1)
        };
        Self {
            entries: share(self.entries),
            entries_of_group: share(self.entries_of_group),
        }
    }
}

/// How much is done at once, whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// Requests that one process works on at the same time, fetches apart.
    pub concurrent_requests: usize,
    /// Fetches that one process works on or has wait for their queues.
    pub concurrent_fetches: usize,
    /// Requests a second at all nodes together, of which as many may come at once; 0 for any number.
    pub requests_per_second: u32,
    /// Nodes that serve requests side by side: this one takes its share, at least one request.
    pub nodes: u32,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            // Together as many as the listener has connections.
            concurrent_requests: 1024,
            concurrent_fetches: 3072,
            requests_per_second: 0,
            nodes: 1,
        }
    }
}

impl LoadLimits {
    /// The same for one of so many nodes.
    #[must_use]
    pub fn share_of(self, nodes: u32) -> Self {
        Self { nodes, ..self }
    }
}

/// Checks a length against its bound.
///
/// # Errors
/// [`ProblemType::LimitExceeded`].
pub fn within(bytes: usize, limit: usize) -> Result<(), ProblemType> {
    if bytes <= limit {
        Ok(())
    } else {
        Err(ProblemType::LimitExceeded)
    }
}
