//! The push handles of a group's leaves, for who wakes their devices after a message. They are
//! opened with the key that the message brought: the service has no other.

use protocol::Wire as _;
use protocol::group::{GroupKey, SendMessageRequest};
use protocol::push::Handle;
use protocol::request::{Sender, SignedRequest};

use super::open::OpenedGroup;
use super::roster::Roster;
use crate::engine::Key;
use crate::env::Env;
use crate::refusal::Stop;
use crate::view::View;

/// A message that was accepted: to which group.
#[derive(Debug)]
pub struct AcceptedMessage {
    group: GroupKey,
}

impl AcceptedMessage {
    /// Of the request, once it was carried out. Nothing is verified here.
    #[must_use]
    pub fn of(request: &[u8]) -> Option<Self> {
        let request = SignedRequest::decode(request).ok()?;
        if !matches!(request.sender, Sender::Leaf(_)) {
            return None;
        }
        let message = SendMessageRequest::decode(request.body.as_slice()).ok()?;
        Some(Self {
            group: message.group,
        })
    }

    /// The handles of all leaves, in no order that tells them. A leaf that has not come yet has
    /// none. The sender's is among them: whoever is asked to wake a group but for one would learn
    /// who wrote.
    ///
    /// # Errors
    /// [`Stop::Need`]; [`Stop::Moved`] if a commit came between two reads;
    /// [`ProblemType::UnknownGroup`](protocol::problem::ProblemType::UnknownGroup) if the group
    /// has other keys by now.
    pub fn handles(&self, view: &View, env: &Env<'_>) -> Result<Vec<Handle>, Stop> {
        let group = OpenedGroup::open(view, &self.group, None, env)?;
        let pages = Roster::all_pages(&group);
        let parts = pages.iter().filter_map(|page| group.short.page(*page));
        let keys: Vec<Key> = parts.map(|(part, _)| group.row.part(part)).collect();
        view.all(&keys)?;
        let roster = Roster::open(&group, pages, view)?;
        let mut handles: Vec<Handle> = roster
            .leaves()
            .filter_map(|(_, leaf)| leaf.push_handle())
            .collect();
        handles.sort_unstable();
        Ok(handles)
    }
}
