//! Clients that come from outside: what an external commit needs, and the commit (RFC 9420
//! §12.4.3.2).

use crypto::leaf_authorization::AuthorizedJoin;
use mls_rules::commit::verify_word;
use mls_rules::leaf::is_one_user;
use mls_rules::operation::Permit;
use protocol::codec::opaque;
use protocol::group::{CommitAccepted, ExternalJoinRequest, GroupKind, JoinAccepted, JournalKeys};
use protocol::ids::GroupId;
use protocol::join::{ExternalCommitInfoRequest, ExternalCommitInfoResponse};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::attempt::{Attempt, By, digest, permit_of};
use super::control::Control;
use super::message::head_of;
use super::open::{Drawer, OpenedGroup, charges, names_group};
use super::roster::Roster;
use super::tree::Tree;
use crate::env::{Env, Prices};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::Part;
use crate::view::View;

/// A signer that has a state key of a group and a key that no leaf of it has yet.
#[derive(Debug)]
pub struct Joiner {
    group: OpenedGroup,
    key: Vec<u8>,
    /// The acceptance, if this very commit has won before and its answer was lost.
    answered: Option<CommitAccepted>,
}

/// [`Number::ExternalJoin`].
#[derive(Debug)]
pub struct ExternalJoin;

impl Operation for ExternalJoin {
    type Request = ExternalJoinRequest;
    type Response = JoinAccepted;
    type Who = Joiner;
    const OPERATION: Number = Number::ExternalJoin;
    const IS_DEAR: bool = true;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.external_join)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<ExternalJoinRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, ExternalJoinRequest, Joiner>, Stop> {
        let signed = request.by_its_key()?;
        let group = OpenedGroup::open(view, request.group(), request.next_key(), env)?;
        let key = signed.who().key().to_vec();
        let mut answered = None;
        if let Err(wrong_epoch) = group.require_current() {
            let mut keys: Vec<_> = Roster::all_pages(&group)
                .into_iter()
                .map(|page| group.row.part(Part::Roster(page)))
                .collect();
            keys.push(group.row.part(Part::Control));
            view.all(&keys)?;
            let roster = Roster::open(&group, Roster::all_pages(&group), view)?;
            let control = Control::open(&group, view)?;
            let won = request
                .commit()
                .and_then(|commit| control.accepted(&digest(commit)));
            // Keys of its own epoch are all that it may have: it is told nothing once the group has
            // gone on.
            let (accepted, _) = won
                .filter(|(accepted, _)| accepted.epoch == group.short.epoch)
                .filter(|_| roster.leaves().any(|(_, leaf)| leaf.signature_key == key))
                .ok_or(wrong_epoch)?;
            answered = Some(accepted);
        }
        Ok(signed.map(|_| Joiner {
            group,
            key,
            answered,
        }))
    }

    fn cost(request: &Authenticated<'_, ExternalJoinRequest, Joiner>, env: &Env<'_>) -> Cost {
        let joiner = request.who();
        if joiner.answered.is_some() {
            return Cost::default();
        }
        // The token is for the work.
        let bytes = request.body().commit.as_slice().len();
        Cost {
            tokens: env.settings.prices.external_join,
            ..charges(&joiner.group.id, Drawer::Joiner, bytes, env)
        }
    }

    fn decide(
        request: &Authenticated<'_, ExternalJoinRequest, Joiner>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<JoinAccepted>, Stop> {
        let body = request.body();
        let joiner = request.who();
        if let Some(accepted) = &joiner.answered {
            let head = head_of(&joiner.group, view, env)?.head;
            let journal = JournalKeys {
                rotation_epoch: joiner.group.short.rotation_epoch,
                journal_key: joiner.group.short.journal_key.to_wire(),
                tag_key: head.tag_key.to_wire(),
                tag_day: head.tag_day,
            };
            return Ok(Change::nothing(JoinAccepted {
                accepted: accepted.clone(),
                journal,
            }));
        }
        let attempt = Attempt {
            operation: Number::ExternalJoin,
            group: &joiner.group,
            by: By::Joiner(&joiner.key, &body.permit),
            commit: body.commit.as_slice(),
            partial: &body.group_info,
            rotation: body.rotation.as_ref(),
            link_keys: &[],
            extras: Some(&body.leaf),
            welcome: None,
        };
        let decision = attempt.decide(view, env)?;
        let response = JoinAccepted {
            accepted: decision.accepted,
            journal: decision.journal,
        };
        Ok(Change {
            wake: decision.wake,
            ..Change::of(decision.transition, response)
        })
    }
}

names_group! { ExternalCommitInfoRequest }

/// [`Number::ExternalCommitInfo`].
#[derive(Debug)]
pub struct ExternalCommitInfo;

impl Operation for ExternalCommitInfo {
    type Request = ExternalCommitInfoRequest;
    type Response = ExternalCommitInfoResponse;
    type Who = Joiner;
    const OPERATION: Number = Number::ExternalCommitInfo;

    fn authenticate<'r>(
        request: &'r Unauthenticated<ExternalCommitInfoRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, ExternalCommitInfoRequest, Joiner>, Stop> {
        let signed = request.by_its_key()?;
        let group = OpenedGroup::open(view, request.group(), None, env)?;
        group.require_current()?;
        let key = signed.who().key().to_vec();
        Ok(signed.map(|_| Joiner {
            group,
            key,
            answered: None,
        }))
    }

    fn cost(request: &Authenticated<'_, ExternalCommitInfoRequest, Joiner>, env: &Env<'_>) -> Cost {
        charges(&request.who().group.id, Drawer::Joiner, 0, env)
    }

    fn decide(
        request: &Authenticated<'_, ExternalCommitInfoRequest, Joiner>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<ExternalCommitInfoResponse>, Stop> {
        let Joiner { group, key, .. } = request.who();
        let pages = Roster::all_pages(group);
        let parts = pages.iter().map(|page| Part::Roster(*page));
        let keys: Vec<_> = parts
            .chain([Part::Control])
            .chain(group.short.tree_parts())
            .map(|part| group.row.part(part))
            .collect();
        view.all(&keys)?;
        if group.short.reinitialized {
            return Err(ProblemType::GroupReinitialized.into());
        }
        let control = Control::open(group, view)?;
        let tree = Tree::open(group, view)?;
        check_permit(request.body(), group, key, &control, &tree, env)?;
        let week = env.week();
        let roster = Roster::open(group, pages, view)?;
        Ok(Change::nothing(ExternalCommitInfoResponse {
            epoch: group.short.epoch,
            group_info: opaque(tree.group_info_message()?),
            ratchet_tree: opaque(tree.ratchet_tree()?),
            leaves: roster.link_keys(),
            wrapper_chain: control.chain,
            codes: control
                .codes
                .into_iter()
                .filter(|code| code.expiry >= week)
                .collect(),
        }))
    }
}

/// The permit of an external commit that will come, as far as it can be checked without it.
fn check_permit(
    body: &ExternalCommitInfoRequest,
    group: &OpenedGroup,
    key: &[u8],
    control: &Control,
    tree: &Tree,
    env: &Env<'_>,
) -> Result<(), Stop> {
    let id: &GroupId = &group.id;
    let join = match permit_of(&body.permit, control, env)? {
        Permit::Client => AuthorizedJoin::Client,
        Permit::Rejoin => AuthorizedJoin::Rejoin,
        Permit::JoinCode => {
            return match group.short.kind {
                GroupKind::Group => Ok(()),
                GroupKind::Connection if is_one_user(&tree.group) => Ok(()),
                GroupKind::Connection | GroupKind::SingleUser => {
                    Err(ProblemType::NotAllowed.into())
                }
            };
        }
    };
    let word = body.authorization.as_ref().ok_or(ProblemType::NotAllowed)?;
    let segment = &group.short.segment;
    verify_word(&tree.group, id, segment, word, join, key, env.now_ms)
        .map(|_| ())
        .map_err(|refusal| refusal.problem().into())
}
