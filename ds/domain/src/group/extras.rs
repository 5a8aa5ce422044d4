//! What a leaf, or a member for others, changes without a commit: recovery keys, push handles,
//! recovery rows, join codes.

use std::collections::BTreeSet;

use crypto::journal::verify_join_code;
use crypto::records::seal_recovery_row;
use crypto::schedule::recovery_row_id;
use protocol::group::{
    Accepted, GroupKind, JoinCodeChange, MAX_JOIN_CODE_WEEKS, MAX_JOIN_CODES, MAX_ROWS,
    NewJoinCode, PutRecoveryRowsRequest, SetJoinCodeRequest, SetLeafExtrasRequest,
};
use protocol::ids::{LeafIndex, RecoveryRowId};
use protocol::operation::Operation as Number;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;

use super::checks::{check_own_key, check_push_handle, check_recovery_key, check_row, within};
use super::control::{Control, row_of};
use super::marks::Marks;
use super::member::Member;
use super::open::{OpenedGroup, names_group};
use super::roster::{Roster, page_number};
use super::state::write;
use crate::engine::Key;
use crate::env::Env;
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::{Part, RecoveryRow};
use crate::store::{self, Transition};
use crate::view::View;

/// Where recovery keys and codes stand, in short.
fn keys_too(group: &OpenedGroup) -> Vec<Key> {
    let parts = [Part::Control, Part::Marks];
    parts.map(|part| group.row.part(part)).to_vec()
}

names_group! { SetLeafExtrasRequest PutRecoveryRowsRequest SetJoinCodeRequest }

/// [`Number::SetLeafExtras`]: also a joiner's first act, which says that it came.
#[derive(Debug)]
pub struct SetLeafExtras;

impl Operation for SetLeafExtras {
    type Request = SetLeafExtrasRequest;
    type Response = Accepted;
    type Who = Member;
    const OPERATION: Number = Number::SetLeafExtras;

    fn authenticate<'r>(
        request: &'r Unauthenticated<SetLeafExtrasRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, SetLeafExtrasRequest, Member>, Stop> {
        Member::authenticate(request, view, env, keys_too)
    }

    fn cost(request: &Authenticated<'_, SetLeafExtrasRequest, Member>, env: &Env<'_>) -> Cost {
        let bytes = request.body().row.sealed.as_slice().len();
        request.who().cost(bytes, env)
    }

    fn decide(
        request: &Authenticated<'_, SetLeafExtrasRequest, Member>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let body = request.body();
        let Member { group, index, leaf } = request.who();
        group.require_current()?;
        check_push_handle(body.push_handle.as_slice())?;
        check_recovery_key(&group.id, &leaf.signature_key, &body.recovery_key)?;
        check_row(&body.row)?;
        let id = recovery_row_id(&group.id, body.recovery_key.public_key.as_slice());
        if body.row.id != id {
            return Err(ProblemType::Malformed.into());
        }
        let mut control = Control::open(group, view)?;
        let mut marks = Marks::open(group, view)?;
        let key = body.recovery_key.public_key.as_slice();
        check_own_key(&group.id, key, Some(*index), (&marks, &control))?;
        let former = leaf.recovery_row(&group.id);
        let mut plain = Vec::new();
        if former != Some(id) {
            require_free(&id, view, env)?;
            marks.set_key(*index, Some(&id));
            plain.push((Part::Marks, marks.encode()));
        }
        let former = former.filter(|former| *former != id);
        let mut roster = Roster::open(group, [page_number(*index)], view)?;
        roster
            .leaf_mut(*index)
            .ok_or(Stop::Internal("a leaf that was there"))?
            .set_extras(&body.recovery_key, body.push_handle.as_slice());
        for (page, bytes) in roster.changed(false, u16::MAX)? {
            plain.push((Part::Roster(page), bytes));
        }
        if control.no_longer_awaits(&[*index]) {
            plain.push((Part::Control, control.encode()?));
        }
        let mut change = write(group, plain, |_| {}, env)?;
        let salt = env.salt();
        let rotation = group.short.rotation_epoch;
        let sealed = seal_recovery_row(&id, salt, rotation, body.row.sealed.as_slice())?;
        let rows = env.rows();
        change.recovery_rows = vec![(rows.recovery(&id), sealed)];
        change.dropped_recovery_rows = former.map(|id| rows.recovery(&id)).into_iter().collect();
        Ok(Change::of(
            Transition::ChangeGroup(Box::new(change)),
            Accepted {},
        ))
    }
}

/// Nobody's row is written over, of whatever group.
fn require_free(id: &RecoveryRowId, view: &View, env: &Env<'_>) -> Result<(), Stop> {
    match view.row(&env.rows().recovery(id).key())? {
        None => Ok(()),
        Some(_) => Err(ProblemType::NotAllowed.into()),
    }
}

/// [`Number::PutRecoveryRows`].
#[derive(Debug)]
pub struct PutRecoveryRows;

impl Operation for PutRecoveryRows {
    type Request = PutRecoveryRowsRequest;
    type Response = Accepted;
    type Who = Member;
    const OPERATION: Number = Number::PutRecoveryRows;

    fn authenticate<'r>(
        request: &'r Unauthenticated<PutRecoveryRowsRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, PutRecoveryRowsRequest, Member>, Stop> {
        Member::authenticate(request, view, env, |group| {
            vec![group.row.part(Part::Marks)]
        })
    }

    fn cost(request: &Authenticated<'_, PutRecoveryRowsRequest, Member>, env: &Env<'_>) -> Cost {
        let rows = request.body().rows.iter();
        let bytes = rows.map(|row| row.sealed.as_slice().len()).sum();
        request.who().cost(bytes, env)
    }

    fn decide(
        request: &Authenticated<'_, PutRecoveryRowsRequest, Member>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let body = request.body();
        let Member { group, leaf, .. } = request.who();
        group.require_current()?;
        if body.rotation_epoch != group.short.rotation_epoch {
            return Err(ProblemType::Malformed.into());
        }
        within(body.rows.len(), MAX_ROWS)?;
        body.rows.iter().try_for_each(check_row)?;
        let marks = Marks::open(group, view)?;
        let leaves: Vec<Option<u32>> = body.rows.iter().map(|row| marks.leaf_of(&row.id)).collect();
        let pages: BTreeSet<u16> = leaves
            .iter()
            .flatten()
            .map(|leaf| page_number(*leaf))
            .collect();
        let rows = env.rows();
        let named: Vec<(RecoveryRow, Key)> = body
            .rows
            .iter()
            .map(|row| rows.recovery(&row.id))
            .map(|row| (row, row.key()))
            .collect();
        let mut keys: Vec<Key> = named.iter().map(|(_, key)| key.clone()).collect();
        keys.extend(pages.iter().map(|page| group.row.part(Part::Roster(*page))));
        view.all(&keys)?;
        let roster = Roster::open(group, pages, view)?;
        // Not only in short: a row that is no leaf's would stay for ever.
        let is_leafs = |leaf: Option<u32>, id: &RecoveryRowId| {
            let leaf = leaf.and_then(|leaf| roster.leaf(leaf));
            leaf.and_then(|leaf| leaf.recovery_row(&group.id)) == Some(*id)
        };
        let own = leaf.recovery_row(&group.id);
        let mut seen = BTreeSet::new();
        let mut written = Vec::new();
        // A leaf may have changed its key meanwhile: the rows of the others are written.
        let mut known = leaves.iter().zip(&body.rows);
        if !known.any(|(leaf, row)| is_leafs(*leaf, &row.id)) {
            return Err(ProblemType::NotAllowed.into());
        }
        for ((row, leaf), (name, key)) in body.rows.iter().zip(leaves).zip(named) {
            if !is_leafs(leaf, &row.id) || !seen.insert(row.id) {
                continue;
            }
            if view.row(&key)?.is_some() && own != Some(row.id) {
                continue;
            }
            let salt = env.salt();
            let sealed =
                seal_recovery_row(&row.id, salt, body.rotation_epoch, row.sealed.as_slice())?;
            written.push((name, sealed));
        }
        let put = store::PutRecoveryRows {
            group: group.row,
            expected: group.version,
            rows: written,
        };
        Ok(Change::of(Transition::PutRecoveryRows(put), Accepted {}))
    }
}

/// [`Number::SetJoinCode`].
#[derive(Debug)]
pub struct SetJoinCode;

impl Operation for SetJoinCode {
    type Request = SetJoinCodeRequest;
    type Response = Accepted;
    type Who = Member;
    const OPERATION: Number = Number::SetJoinCode;

    fn authenticate<'r>(
        request: &'r Unauthenticated<SetJoinCodeRequest>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, SetJoinCodeRequest, Member>, Stop> {
        Member::authenticate(request, view, env, keys_too)
    }

    fn cost(request: &Authenticated<'_, SetJoinCodeRequest, Member>, env: &Env<'_>) -> Cost {
        request.who().cost(0, env)
    }

    fn decide(
        request: &Authenticated<'_, SetJoinCodeRequest, Member>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let member = request.who();
        let group = &member.group;
        group.require_current()?;
        let may_add = member.leaf.capabilities().contain(Capabilities::ADD);
        if !may_add || group.short.kind == GroupKind::SingleUser {
            return Err(ProblemType::NotAllowed.into());
        }
        if group.short.reinitialized {
            return Err(ProblemType::GroupReinitialized.into());
        }
        let mut control = Control::open(group, view)?;
        let week = env.week();
        let rows = env.rows();
        let revoked = match &request.body().change {
            JoinCodeChange::Make(_) => None,
            JoinCodeChange::Revoke(id) => Some(*id),
        };
        let ended = control.end_codes(
            &group.id,
            |code| code.expiry >= week && Some(row_of(&group.id, code)) != revoked,
            &rows,
        );
        let mut written = Vec::new();
        if let JoinCodeChange::Make(new) = &request.body().change {
            check_code(new, member, &control, env)?;
            require_free(&new.row.id, view, env)?;
            let marks = Marks::open(group, view)?;
            let key = new.code.public_key.as_slice();
            check_own_key(&group.id, key, None, (&marks, &control))?;
            let salt = env.salt();
            let rotation = group.short.rotation_epoch;
            let sealed = seal_recovery_row(&new.row.id, salt, rotation, new.row.sealed.as_slice())?;
            written.push((env.rows().recovery(&new.row.id), sealed));
            control.codes.push(new.code.clone());
        } else if ended.is_empty() {
            return Ok(Change::nothing(Accepted {}));
        }
        let plain = vec![(Part::Control, control.encode()?)];
        // Who has a code that ended knows the segment.
        let ends = !ended.is_empty();
        let mut change = write(group, plain, |short| short.must_rotate |= ends, env)?;
        change.recovery_rows = written;
        change.dropped_recovery_rows = ended;
        Ok(Change::of(
            Transition::ChangeGroup(Box::new(change)),
            Accepted {},
        ))
    }
}

fn check_code(
    new: &NewJoinCode,
    member: &Member,
    control: &Control,
    env: &Env<'_>,
) -> Result<(), Stop> {
    let NewJoinCode { code, row } = new;
    let group = &member.group.id;
    let week = env.week();
    check_row(row)?;
    if code.expiry < week
        || code.expiry.0.saturating_sub(week.0) > MAX_JOIN_CODE_WEEKS
        || control.codes.len() >= MAX_JOIN_CODES
    {
        return Err(ProblemType::LimitExceeded.into());
    }
    let is_of_now = code.epoch == member.group.short.epoch;
    if !is_of_now || code.maker != LeafIndex(member.index) || row.id != row_of(group, code) {
        return Err(ProblemType::Malformed.into());
    }
    verify_join_code(&member.leaf.signature_key, group, code)
        .map_err(|_| ProblemType::BadSignature)?;
    let is_known = control
        .codes
        .iter()
        .any(|known| known.permit_hash == code.permit_hash || row_of(group, known) == row.id);
    if is_known {
        return Err(ProblemType::NotAllowed.into());
    }
    Ok(())
}
