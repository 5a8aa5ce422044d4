//! The push handles of a group's leaves, for who wakes their devices after a message. They are
//! opened with the key that the message brought: the service has no other.

use protocol::Wire as _;
use protocol::group::{GroupKey, SendMessageRequest};
use protocol::push::Handle;
use protocol::request::{Sender, SignedRequest};

use super::open::OpenedGroup;
use super::roster::{Roster, page_number};
use crate::engine::Key;
use crate::env::Env;
use crate::refusal::Stop;
use crate::view::View;

/// Whose devices a message wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's but the sender's.
    AllBut(u32),
    /// That of one leaf.
    Only(u32),
}

/// A message that was accepted: who sent it to which group.
#[derive(Debug)]
pub struct AcceptedMessage {
    group: GroupKey,
    /// The sender's leaf.
    pub sender: u32,
}

impl AcceptedMessage {
    /// Of the request, once it was carried out. Nothing is verified here.
    #[must_use]
    pub fn of(request: &[u8]) -> Option<Self> {
        let request = SignedRequest::decode(request).ok()?;
        let Sender::Leaf(sender) = request.sender else {
            return None;
        };
        let message = SendMessageRequest::decode(request.body.as_slice()).ok()?;
        Some(Self {
            group: message.group,
            sender: sender.0,
        })
    }

    /// The handles, in no order that tells leaves. A leaf that has not come yet has none.
    ///
    /// # Errors
    /// [`Stop::Need`]; [`Stop::Moved`] if a commit came between two reads;
    /// [`ProblemType::UnknownGroup`](protocol::problem::ProblemType::UnknownGroup) if the group
    /// has other keys by now.
    pub fn handles(&self, whose: Whose, view: &View, env: &Env<'_>) -> Result<Vec<Handle>, Stop> {
        let group = OpenedGroup::open(view, &self.group, None, env)?;
        let pages = match whose {
            Whose::AllBut(_) => Roster::all_pages(&group),
            Whose::Only(leaf) => vec![page_number(leaf)],
        };
        let parts = pages.iter().filter_map(|page| group.short.page(*page));
        let keys: Vec<Key> = parts.map(|(part, _)| group.row.part(part)).collect();
        view.all(&keys)?;
        let roster = Roster::open(&group, pages, view)?;
        let mut handles: Vec<Handle> = roster
            .leaves()
            .filter(|(index, _)| match whose {
                Whose::AllBut(sender) => *index != sender,
                Whose::Only(leaf) => *index == leaf,
            })
            .filter_map(|(_, leaf)| leaf.push_handle())
            .collect();
        handles.sort_unstable();
        Ok(handles)
    }
}
