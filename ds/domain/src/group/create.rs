//! Reserving a group id and creating a group.

use crypto::schedule::{DataKey, SegmentKeys};
use openmls::prelude::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{ExtensionType, MlsMessageBodyIn, MlsMessageIn};
use openmls_rust_crypto::RustCrypto;
use protocol::group::{
    CommitAccepted, CreateGroupRequest, GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::{Day, Epoch, GroupId, Position, RotationEpoch};
use protocol::journal::{MESSAGE_DAYS, Place};
use protocol::operation::Operation as Number;
use protocol::policy::{Capabilities, POLICY_EXTENSION};
use protocol::problem::ProblemType;

use super::checks::{check_extras, within};
use super::control::Control;
use super::marks::Marks;
use super::parts;
use super::removals;
use super::roster::{self, Leaf, Roster};
use super::short::Short;
use super::tree::Tree;
use crate::env::{Env, Prices, Version};
use crate::journal::Journal;
use crate::journal::head::{Head, StoredHead};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::rows::{OwnerOf, Part};
use crate::store::{self, Kept, ReservationName, Transition, Versioned};
use crate::view::View;

/// [`Number::ReserveGroupId`].
#[derive(Debug)]
pub struct ReserveGroupId;

impl Operation for ReserveGroupId {
    type Request = ReserveGroupIdRequest;
    type Response = ReserveGroupIdResponse;
    type Who = SignedBy;
    const OPERATION: Number = Number::ReserveGroupId;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.reserve_group_id)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<ReserveGroupIdRequest>,
        _view: &View,
        _env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, ReserveGroupIdRequest, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(_request: &Authenticated<'_, ReserveGroupIdRequest, SignedBy>, env: &Env<'_>) -> Cost {
        Cost {
            tokens: env.settings.prices.reserve_group_id,
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, ReserveGroupIdRequest, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<ReserveGroupIdResponse>, Stop> {
        let group_id = request.body().group_id;
        let rows = env.rows();
        let is_reserved = reservation(&group_id, view, env)?.is_some();
        if is_reserved || view.row(&rows.group(&group_id).key())?.is_some() {
            return Err(ProblemType::InvalidGroupId.into());
        }
        let reserve = store::ReserveGroup {
            name: ReservationName {
                row: rows.reservation(&group_id),
                last_day: Day(env.today().0.saturating_add(1)),
            },
            group: rows.group(&group_id),
            owner: rows.owner(OwnerOf::Reservation, request.who().key()),
        };
        Ok(Change::of(
            Transition::ReserveGroup(reserve),
            ReserveGroupIdResponse { group_id },
        ))
    }
}

/// The reservation of a group id, with its owner.
pub(super) fn reservation(
    id: &GroupId,
    view: &View,
    env: &Env<'_>,
) -> Result<Option<(ReservationName, Vec<u8>)>, Stop> {
    let row = env.rows().reservation(id);
    let today = env.today();
    let days = [today, Day(today.0.saturating_add(1))];
    let found = view.all(&days.map(|day| row.key(day)))?;
    let found = days.into_iter().zip(found).find_map(|(last_day, owner)| {
        owner.map(|owner| (ReservationName { row, last_day }, owner.to_vec()))
    });
    Ok(found)
}

/// [`Number::CreateGroup`]: a group of one leaf, the signer's. A creation that is refused for its
/// tree, or for something in it, uses up the reservation: a token pays for one look.
#[derive(Debug)]
pub struct CreateGroup;

impl Operation for CreateGroup {
    type Request = CreateGroupRequest;
    type Response = CommitAccepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::CreateGroup;

    fn authenticate<'r>(
        request: &'r Unauthenticated<CreateGroupRequest>,
        _view: &View,
        _env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, CreateGroupRequest, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(_request: &Authenticated<'_, CreateGroupRequest, SignedBy>, _env: &Env<'_>) -> Cost {
        // The reservation was paid for.
        Cost::default()
    }

    fn decide(
        request: &Authenticated<'_, CreateGroupRequest, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<CommitAccepted>, Stop> {
        let body = request.body();
        let creator = request.who().key();
        let limits = &env.settings.limits;
        within(body.group_info.as_slice().len(), limits.group_info_bytes)?;
        within(body.ratchet_tree.as_slice().len(), limits.tree_bytes)?;
        let owner = env.rows().owner(OwnerOf::Reservation, creator);
        let (reserved, by) =
            reservation(&body.group_id, view, env)?.ok_or(ProblemType::InvalidGroupId)?;
        if by != owner.0 {
            return Err(ProblemType::InvalidGroupId.into());
        }
        let keys = SegmentKeys::from(&body.segment);
        let segment = keys.state_key.segment(&body.group_id, RotationEpoch(0));
        if StoredHead::read(view, &segment, env)?.is_some() {
            return Err(ProblemType::InvalidGroupId.into());
        }
        let info = shape(body)?;
        let founded = match found(body, creator, info, env) {
            Err(Stop::Refused(refusal)) => return Err(Stop::RefusedUsingUp(refusal, reserved)),
            founded => founded?,
        };
        let version = env.version();
        let (short, parts, head) = seal(body, founded, keys, version, env)?;
        let create = store::CreateGroup {
            group: env.rows().group(&body.group_id),
            reservation: reserved,
            short: Versioned {
                version,
                sealed: short,
            },
            parts,
            head,
        };
        let accepted = CommitAccepted {
            epoch: Epoch(0),
            place: Place {
                rotation_epoch: RotationEpoch(0),
                position: Position(0),
            },
            accepted_ms: env.now_ms,
        };
        Ok(Change::of(
            Transition::CreateGroup(Box::new(create)),
            accepted,
        ))
    }
}

/// What is seen without looking at the tree.
fn shape(body: &CreateGroupRequest) -> Result<VerifiableGroupInfo, Stop> {
    let segment = &body.segment;
    if !(1..=MESSAGE_DAYS).contains(&body.message_days)
        || segment.former_wrapper_key.is_some()
        || !segment.code_rows.is_empty()
    {
        return Err(ProblemType::InvalidGroupInfo.into());
    }
    let (message, rest) = MlsMessageIn::tls_deserialize_bytes(body.group_info.as_slice())
        .map_err(|_| ProblemType::InvalidGroupInfo)?;
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        return Err(ProblemType::InvalidGroupInfo.into());
    };
    if !rest.is_empty()
        || info.group_id().as_slice() != body.group_id.0
        || info.epoch().as_u64() != 0
    {
        return Err(ProblemType::InvalidGroupInfo.into());
    }
    if !mls_rules::SUPPORTED_CIPHERSUITES.contains(&u16::from(info.ciphersuite())) {
        return Err(ProblemType::UnsupportedCiphersuite.into());
    }
    Ok(info)
}

struct Founded {
    ciphersuite: u16,
    tree: zeroize::Zeroizing<Vec<u8>>,
    roster: Roster,
}

fn found(
    body: &CreateGroupRequest,
    creator: &[u8],
    info: VerifiableGroupInfo,
    env: &Env<'_>,
) -> Result<Founded, Stop> {
    let ciphersuite = u16::from(info.ciphersuite());
    let crypto = RustCrypto::default();
    let (tree, fields) = Tree::create(&crypto, body.ratchet_tree.as_slice(), info)?;
    let mut leaves = tree.group.treesync().full_leaves();
    let (Some((index, node)), None) = (leaves.next(), leaves.next()) else {
        return Err(ProblemType::InvalidGroupInfo.into());
    };
    if index.u32() != 0 || node.signature_key().as_slice() != creator {
        return Err(ProblemType::BadSignature.into());
    }
    let claims =
        mls_rules::LeafClaims::of(node).map_err(|refusal| Stop::from(refusal.problem()))?;
    check_extras(&body.group_id, &claims.signature_key, &body.leaf)?;
    // Groups that do not list the service would keep members that are gone.
    if removals::service_sender(env.keys, &tree).is_none() {
        return Err(ProblemType::InvalidGroupInfo.into());
    }
    let policy = mls_rules::policy_in(tree.group.group_context().extensions())
        .map_err(|_| ProblemType::InvalidGroupInfo)?;
    let may = mls_rules::capabilities(policy.as_ref(), &claims.user_pseudonym);
    if policy.is_some() {
        check_policy(body.kind, &tree, may)?;
    }
    let link_key = body.leaf.wrapped_link_key.as_slice().to_vec();
    let mut leaf = Leaf::new(claims, Epoch(0), (RotationEpoch(0), link_key));
    leaf.take(&body.leaf);
    leaf.set_capabilities(may, Epoch(0));
    Ok(Founded {
        ciphersuite,
        tree: tree.encode(fields)?,
        roster: Roster::of_creator(leaf),
    })
}

/// Groups may have a policy, in which the creator must be able to change it and which every member
/// must support (RFC 9420 §11.1; or the library would refuse each later change); connections and
/// the groups of one user have none.
fn check_policy(kind: GroupKind, tree: &Tree, creator: Capabilities) -> Result<(), Stop> {
    let extensions = tree.group.group_context().extensions();
    let required = extensions.required_capabilities().is_some_and(|required| {
        required
            .extension_types()
            .contains(&ExtensionType::Unknown(POLICY_EXTENSION))
    });
    if kind == GroupKind::Group && required && creator.contain(Capabilities::SET_ROLE) {
        Ok(())
    } else {
        Err(ProblemType::InvalidGroupInfo.into())
    }
}

type Sealed = (Vec<u8>, Vec<(Part, Vec<u8>)>, store::NewHead);

fn seal(
    body: &CreateGroupRequest,
    founded: Founded,
    keys: SegmentKeys,
    version: Version,
    env: &mut Env<'_>,
) -> Result<Sealed, Stop> {
    let Founded {
        ciphersuite,
        tree,
        roster,
    } = founded;
    let SegmentKeys {
        state_key,
        journal_key,
    } = keys;
    let rotation_epoch = RotationEpoch(0);
    let segment = state_key.segment(&body.group_id, rotation_epoch);
    // The tag key is another label of k_0, which stays with the group.
    let tag_key = journal_key.tag_key();
    let today = env.today();
    let head = Head::new(
        segment,
        rotation_epoch,
        tag_key,
        (Kept::of(body.kind, body.message_days), 1),
        today,
    );
    let journal = Journal::begin(head, env);
    let (head, _) = journal.into_new(env)?;
    let own = roster
        .leaf(0)
        .and_then(|leaf| leaf.recovery_row(&body.group_id));
    let marks = Marks::of_creator(env.week(), own.as_ref());
    let short = Short {
        kind: body.kind,
        ciphersuite,
        epoch: Epoch(0),
        rotation_epoch,
        message_days: body.message_days,
        segment,
        journal_key,
        data_key: DataKey::new(env.random()),
        begun: today,
        must_rotate: false,
        reinitialized: false,
        removal_pending: false,
        places: 1,
        control: env.version(),
        marks: env.version(),
        tree: env.version(),
        tree_changes: None,
        proposals: None,
        pages: vec![env.version()],
    };
    let mut plain = vec![
        (Part::Control, short.control, Control::default().encode()?),
        (Part::Marks, short.marks, marks.encode()),
        (Part::Tree, short.tree, tree),
    ];
    for (number, page) in roster.changed(true, 1)? {
        let (part, version) = short
            .page(number)
            .ok_or(Stop::Internal("a page without a version"))?;
        debug_assert_eq!(part, roster::part(number));
        plain.push((part, version, page));
    }
    let mut sealed = Vec::with_capacity(plain.len());
    for (part, version, bytes) in plain {
        let bytes = parts::seal(
            &body.group_id,
            &short.data_key,
            (part, &version),
            &bytes,
            env,
        )?;
        sealed.push((part, bytes));
    }
    let short = parts::seal_short(&body.group_id, &state_key, &version, &short.encode(), env)?;
    Ok((short, sealed, head))
}
