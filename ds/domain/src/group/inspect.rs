//! What the service holds of a group, for its members.

use protocol::codec::opaque;
use protocol::group::{
    InspectGroupRequest, InspectGroupResponse, LEAVES_PER_PAGE, LeafRecord, OwnLeafRequest,
    OwnLeafResponse,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::control::Control;
use super::marks::Marks;
use super::member::Member;
use super::open::{Drawer, OpenedGroup, charges, names_group};
use super::proposals::PendingProposals;
use super::roster::{Leaf, Roster};
use super::short::LEAVES_IN_PAGE;
use crate::engine::Key;
use crate::env::Env;
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::Part;
use crate::view::View;

names_group! { InspectGroupRequest OwnLeafRequest }

/// [`Number::InspectGroup`].
#[derive(Debug)]
pub struct InspectGroup;

impl Operation for InspectGroup {
    type Request = InspectGroupRequest;
    type Response = InspectGroupResponse;
    type Who = Member;
    const OPERATION: Number = Number::InspectGroup;

    fn authenticate<'r>(
        request: &'r Unauthenticated<InspectGroupRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, InspectGroupRequest, Member>, Stop> {
        Member::authenticate(request, view, env, |_| Vec::new())
    }

    fn cost(request: &Authenticated<'_, InspectGroupRequest, Member>, env: &Env<'_>) -> Cost {
        request.who().cost(0, env)
    }

    fn decide(
        request: &Authenticated<'_, InspectGroupRequest, Member>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<InspectGroupResponse>, Stop> {
        let group = &request.who().group;
        group.require_current()?;
        let from = request.body().from.0;
        let until = from.saturating_add(LEAVES_PER_PAGE);
        let first = u16::try_from(from / LEAVES_IN_PAGE).map_err(|_| ProblemType::Malformed)?;
        let last = u16::try_from(until.saturating_sub(1) / LEAVES_IN_PAGE)
            .map_err(|_| ProblemType::Malformed)?;
        let pages: Vec<u16> = (first..=last)
            .filter(|page| group.short.page(*page).is_some())
            .collect();
        let parts = pages.iter().map(|page| Part::Roster(*page));
        let keys: Vec<Key> = parts
            .chain([Part::Control, Part::Marks])
            .chain(group.short.proposals.map(|_| Part::Proposals))
            .map(|part| group.row.part(part))
            .collect();
        view.all(&keys)?;
        let roster = Roster::open(group, pages, view)?;
        let marks = Marks::open(group, view)?;
        let control = Control::open(group, view)?;
        let leaves: Vec<(u32, &Leaf)> = roster
            .leaves()
            .filter(|(index, _)| (from..until).contains(index))
            .collect();
        let week = env.week();
        let due = group.short.is_due(env) || control.has_expired_code(week);
        let (mut codes, mut pending_proposals) = (Vec::new(), Vec::new());
        if from == 0 {
            let pending = PendingProposals::open(group, view)?.proposals;
            pending_proposals = pending.into_iter().map(|p| opaque(p.message)).collect();
            codes = control.codes;
            codes.retain(|code| code.expiry >= week);
        }
        Ok(Change::nothing(InspectGroupResponse {
            epoch: group.short.epoch,
            rotation_epoch: group.short.rotation_epoch,
            rotation_due: u8::from(due),
            leaves: records(group, &leaves, &marks, view, env)?,
            places: group.short.places,
            codes,
            pending_proposals,
        }))
    }
}

/// Leaves as members see them: with whether a row of the present rotation is there.
fn records(
    group: &OpenedGroup,
    leaves: &[(u32, &Leaf)],
    marks: &Marks,
    view: &View,
    env: &Env<'_>,
) -> Result<Vec<LeafRecord>, Stop> {
    let rows = env.rows();
    let ids: Vec<Option<Key>> = leaves
        .iter()
        .map(|(_, leaf)| leaf.recovery_row(&group.id))
        .map(|id| id.map(|id| rows.recovery(&id).key()))
        .collect();
    let keys: Vec<Key> = ids.iter().flatten().cloned().collect();
    view.all(&keys)?;
    let mut records = Vec::with_capacity(leaves.len());
    for ((index, leaf), key) in leaves.iter().zip(ids) {
        // Rows of former rotations are not kept.
        let has_row = match key {
            Some(key) => view.row(&key)?.is_some(),
            None => false,
        };
        records.push(leaf.record(*index, has_row, marks.week(*index, env.week())));
    }
    Ok(records)
}

/// A client that asks for its leaf with its signature key.
#[derive(Debug)]
pub struct Asker {
    group: OpenedGroup,
    key: Vec<u8>,
}

/// [`Number::OwnLeaf`].
#[derive(Debug)]
pub struct OwnLeaf;

impl Operation for OwnLeaf {
    type Request = OwnLeafRequest;
    type Response = OwnLeafResponse;
    type Who = Asker;
    const OPERATION: Number = Number::OwnLeaf;

    fn authenticate<'r>(
        request: &'r Unauthenticated<OwnLeafRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, OwnLeafRequest, Asker>, Stop> {
        let signed = request.by_its_key()?;
        let group = OpenedGroup::open(view, request.group(), None, env)?;
        group.require_current()?;
        let key = signed.who().key().to_vec();
        Ok(signed.map(|_| Asker { group, key }))
    }

    fn cost(request: &Authenticated<'_, OwnLeafRequest, Asker>, env: &Env<'_>) -> Cost {
        charges(&request.who().group.id, Drawer::Asker, 0, env)
    }

    fn decide(
        request: &Authenticated<'_, OwnLeafRequest, Asker>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<OwnLeafResponse>, Stop> {
        let Asker { group, key } = request.who();
        let pages = Roster::all_pages(group);
        let parts = pages.iter().map(|page| Part::Roster(*page));
        let keys: Vec<Key> = parts
            .chain([Part::Marks])
            .map(|part| group.row.part(part))
            .collect();
        view.all(&keys)?;
        let roster = Roster::open(group, pages, view)?;
        let marks = Marks::open(group, view)?;
        let own: Vec<(u32, &Leaf)> = roster
            .leaves()
            .filter(|(_, leaf)| leaf.signature_key == *key)
            .collect();
        let record = records(group, &own, &marks, view, env)?.into_iter().next();
        Ok(Change::nothing(OwnLeafResponse {
            epoch: group.short.epoch,
            leaf: record.ok_or(ProblemType::NotAllowed)?,
        }))
    }
}
