//! Commits by members: one operation for each kind, all alike but for what the rules let them
//! contain.

use protocol::group::{CommitAccepted, CommitRequest};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::attempt::{Attempt, By, digest};
use super::control::Control;
use super::open::{Drawer, OpenedGroup, charges};
use super::roster::leaf_of_page;
use crate::env::Env;
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::Part;
use crate::view::View;

macro_rules! commits {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            impl Operation for $name {
                type Request = CommitRequest;
                type Response = CommitAccepted;
                type Who = Committer;
                const OPERATION: Number = Number::$name;
                const IS_DEAR: bool = true;

                fn authenticate<'r>(
                    request: &'r Unauthenticated<CommitRequest>,
                    view: &View,
                    env: &mut Env<'_>,
                ) -> Result<Authenticated<'r, CommitRequest, Committer>, Stop> {
                    Committer::authenticate(request, view, env)
                }

                fn cost(
                    request: &Authenticated<'_, CommitRequest, Committer>,
                    env: &Env<'_>,
                ) -> Cost {
                    request.who().cost(request.body(), env)
                }

                fn decide(
                    request: &Authenticated<'_, CommitRequest, Committer>,
                    view: &View,
                    env: &mut Env<'_>,
                ) -> Result<Change<CommitAccepted>, Stop> {
                    request.who().decide(Self::OPERATION, request.body(), view, env)
                }
            }
        )+
    };
}

commits! {
    /// [`Number::AddUsers`].
    AddUsers;
    /// [`Number::RemoveUsers`].
    RemoveUsers;
    /// [`Number::AddClients`].
    AddClients;
    /// [`Number::RemoveClients`].
    RemoveClients;
    /// [`Number::UpdateClient`].
    UpdateClient;
    /// [`Number::SetRole`].
    SetRole;
    /// [`Number::ReInitializeGroup`].
    ReInitializeGroup;
    /// [`Number::DeleteGroup`].
    DeleteGroup;
}

/// The leaf whose commit it is.
#[derive(Debug)]
pub struct Committer {
    group: OpenedGroup,
    index: u32,
    /// Its user's pseudonym.
    user: Vec<u8>,
    /// The acceptance, if this very commit has won before and its answer was lost.
    answered: Option<CommitAccepted>,
}

impl Committer {
    fn authenticate<'r>(
        request: &'r Unauthenticated<CommitRequest>,
        view: &View,
        env: &Env<'_>,
    ) -> Result<Authenticated<'r, CommitRequest, Self>, Stop> {
        let index = request.claimed_leaf()?.0;
        let group = OpenedGroup::open(view, request.group(), request.next_key(), env)?;
        let bad = ProblemType::BadSignature;
        let (page, _) = group.short.page_of(index).ok_or(bad)?;
        let is_current = group.require_current();
        let page = group.row.part(page);
        if is_current.is_ok() {
            view.row(&page)?;
        } else {
            view.all(&[page, group.row.part(Part::Control)])?;
        }
        let leaf = leaf_of_page(&group, index, view)?.ok_or(bad)?;
        let user = leaf.user_pseudonym.clone();
        let Err(wrong_epoch) = is_current else {
            let key = leaf.signature_key.clone();
            let who = Self {
                group,
                index,
                user,
                answered: None,
            };
            return Ok(request.by_leaf(&key, who)?);
        };
        // Who has won and lost the answer comes again with the keys before.
        let control = Control::open(&group, view)?;
        let won = request
            .commit()
            .and_then(|commit| control.accepted(&digest(commit)));
        let (answered, former_key) = match won {
            Some((accepted, former_key)) => (Some(accepted), former_key),
            None => (None, None),
        };
        let known = answered.is_some();
        let who = |group| Self {
            group,
            index,
            user,
            answered,
        };
        let key = match former_key {
            Some(former) if request.by_leaf(former, ()).is_ok() => former,
            _ => leaf.signature_key.as_slice(),
        };
        let authenticated = request.by_leaf(key, ())?;
        if known {
            Ok(authenticated.map(|()| who(group)))
        } else {
            Err(wrong_epoch.into())
        }
    }

    fn cost(&self, body: &CommitRequest, env: &Env<'_>) -> Cost {
        if self.answered.is_some() {
            return Cost::default();
        }
        let welcomes = body.welcome.iter().flat_map(|welcome| &welcome.welcomes);
        let welcomes: usize = welcomes.map(|w| w.sealed.as_slice().len()).sum();
        // What is kept, and the work: nothing is refused for more than it was charged.
        let mut bytes = welcomes
            .saturating_add(body.commit.as_slice().len())
            .saturating_add(self.group.tree_work());
        if body.welcome.is_some() {
            bytes = bytes.saturating_add(self.group.join_record_bytes());
        }
        let drawer = Drawer::Leaf(self.index, &self.user);
        charges(&self.group.id, drawer, bytes, env)
    }

    fn decide(
        &self,
        operation: Number,
        body: &CommitRequest,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<CommitAccepted>, Stop> {
        if let Some(accepted) = &self.answered {
            return Ok(Change::nothing(accepted.clone()));
        }
        let attempt = Attempt {
            operation,
            group: &self.group,
            by: By::Member(self.index),
            commit: body.commit.as_slice(),
            partial: &body.group_info,
            rotation: body.rotation.as_ref(),
            link_keys: &body.link_keys,
            extras: body.committer.as_ref(),
            welcome: body.welcome.as_ref(),
        };
        let decision = attempt.decide(view, env)?;
        Ok(Change {
            wake: decision.wake,
            ..Change::of(decision.transition, decision.accepted)
        })
    }
}
