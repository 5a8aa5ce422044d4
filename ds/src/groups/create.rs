//! Reserving a group id and creating a group.

use std::sync::Arc;

use crypto::credential::WRAPPED_LINK_KEY_LEN;
use crypto::keys::StateKey;
use openmls::prelude::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{ExtensionType, MlsMessageBodyIn, MlsMessageIn};
use openmls_rust_crypto::RustCrypto;
use protocol::Wire;
use protocol::groups::{
    CreateGroupRequest, EpochAccepted, GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use protocol::time::day_of;

use super::parts::seal_key_check;
use super::roster::{Leaf, Roster};
use super::rules::LeafClaims;
use super::tree::{Tree, policy_in};
use super::{SUPPORTED_CIPHERSUITES, removals, without_starving_others};
use crate::error::DsError;
use crate::limits::within;
use crate::request::{Request, key_tag};
use crate::service_state::DeliveryService;
use crate::store::{DayRow, NewGroup, Reservation, StoreError, Version};

const OWNER: &str = "group id reservation";

/// Reserves a fresh group id for the signing key.
///
/// # Errors
/// [`ProblemType::TokenRequired`].
pub async fn reserve_group_id(
    service: &DeliveryService,
    request: Request<ReserveGroupIdRequest>,
) -> Result<ReserveGroupIdResponse, DsError> {
    let price = usize::from(service.settings.prices.reserve_group_id);
    request.require_tokens(price)?;
    let owner = request.authenticate_leaf_key()?;
    let group_id = GroupId(crypto::random()?);
    let response = ReserveGroupIdResponse { group_id };
    let reservation = Reservation {
        at: DayRow {
            day: day_of(request.now_ms),
            row: service.rows().group(&group_id),
        },
        owner_tag: key_tag(service, OWNER, owner),
    };
    service
        .store
        .reserve_group(
            reservation,
            request.receipt(service, price, &response.encode())?,
        )
        .await?;
    Ok(response)
}

/// Creates a group of one leaf, the signer's. One that is refused for its tree, or what is in it, uses the reservation
/// up: a token pays for one look.
///
/// # Errors
/// [`ProblemType::InvalidGroupId`], [`ProblemType::InvalidGroupInfo`], [`ProblemType::InvalidLeaf`],
/// [`ProblemType::UnsupportedCiphersuite`], [`ProblemType::LimitExceeded`].
pub async fn create_group(
    service: &Arc<DeliveryService>,
    request: Request<CreateGroupRequest>,
) -> Result<EpochAccepted, DsError> {
    let creator = request.authenticate_leaf_key()?;
    let body = &request.body;
    let group_id = body.group_id;
    let limits = &service.settings.limits;
    within(body.group_info.as_slice().len(), limits.group_info_bytes)?;
    within(body.ratchet_tree.as_slice().len(), limits.new_tree_bytes)?;
    let today = day_of(request.now_ms);
    let reservation_days = vec![today, today.saturating_sub(1)];
    let owner_tag = key_tag(service, OWNER, creator);
    let row = service.rows().group(&group_id);
    // Before the tree: a reservation has cost a token.
    let reservations = reservation_days.iter().map(|day| DayRow { day: *day, row });
    if service.store.reservation(reservations.collect()).await? != Some(owner_tag) {
        return Err(ProblemType::InvalidGroupId.into());
    }
    if body.encrypted_identity_link_key.as_slice().len() != WRAPPED_LINK_KEY_LEN {
        return Err(ProblemType::InvalidGroupInfo.into());
    }
    let (message, rest) = MlsMessageIn::tls_deserialize_bytes(body.group_info.as_slice())
        .map_err(|_| ProblemType::InvalidGroupInfo)?;
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        return Err(ProblemType::InvalidGroupInfo.into());
    };
    if !rest.is_empty() || info.group_id().as_slice() != group_id.0 || info.epoch().as_u64() != 0 {
        return Err(ProblemType::InvalidGroupInfo.into());
    }
    if !SUPPORTED_CIPHERSUITES.contains(&u16::from(info.ciphersuite())) {
        return Err(ProblemType::UnsupportedCiphersuite.into());
    }
    let days = reservation_days.clone();
    let group = match begin(service, body, creator, info) {
        Ok(begun) => NewGroup {
            group: row,
            reservation_days,
            owner_tag,
            version: begun.version,
            key_check: begun.key_check,
            roster: begun.roster,
            tree: begun.tree,
        },
        // Where reservations are free there is nothing to spend.
        Err(DsError::Refused(problem)) if service.settings.prices.reserve_group_id > 0 => {
            let receipt = request.refusal_receipt(service, problem)?;
            return match service
                .store
                .use_up_reservation(row, days, owner_tag, receipt)
                .await
            {
                Ok(()) | Err(StoreError::Absent) => Err(problem.into()),
                Err(other) => Err(other.into()),
            };
        }
        Err(failure) => return Err(failure),
    };
    let response = EpochAccepted {
        epoch: 0,
        accepted_timestamp_ms: request.now_ms,
    };
    service
        .store
        .create_group(group, request.receipt(service, 0, &response.encode())?)
        .await
        .map_err(|error| match error {
            StoreError::Absent | StoreError::Taken => ProblemType::InvalidGroupId.into(),
            other => DsError::from(other),
        })?;
    Ok(response)
}

/// The sealed parts of a new group.
struct Begun {
    version: Version,
    key_check: Vec<u8>,
    roster: Vec<u8>,
    tree: Vec<u8>,
}

fn begin(
    service: &DeliveryService,
    body: &CreateGroupRequest,
    creator: &[u8],
    info: VerifiableGroupInfo,
) -> Result<Begun, DsError> {
    let ciphersuite = u16::from(info.ciphersuite());
    let crypto = RustCrypto::default();
    let (tree, fields) =
        without_starving_others(|| Tree::create(&crypto, body.ratchet_tree.as_slice(), info))?;
    let mut leaves = tree.group.treesync().full_leaves();
    let (Some((index, leaf)), None) = (leaves.next(), leaves.next()) else {
        return Err(ProblemType::InvalidGroupInfo.into());
    };
    if index.u32() != 0 || leaf.signature_key().as_slice() != creator {
        return Err(ProblemType::BadSignature.into());
    }
    let leaf = LeafClaims::of(service, leaf)?
        .into_leaf(service, 0, body.encrypted_identity_link_key.as_slice())?
        .with_recovery_secret(body.recovery_secret.expose());
    // Groups that do not list the service would keep members that are gone.
    let service_sender =
        removals::service_sender(service, &tree).ok_or(ProblemType::InvalidGroupInfo)?;
    let capabilities = creators_capabilities(body.kind, &tree, &leaf)?;
    let leaf = leaf.with_capabilities(capabilities);
    let key = StateKey::from(&body.state_key);
    let version = crypto::random()?;
    Ok(Begun {
        version,
        key_check: seal_key_check(&body.group_id, &key)?,
        roster: Roster::new(body.kind, ciphersuite, leaf, version, service_sender).seal(
            &body.group_id,
            &key,
            &version,
        )?,
        tree: tree.seal(&body.group_id, &key, &version, fields)?,
    })
}

/// Groups may have a policy, in which the creator must be able to change it and which every member must support
/// (RFC 9420 §11.1; or the library would refuse each later change); connections and the groups of one user have none.
fn creators_capabilities(
    kind: GroupKind,
    tree: &Tree,
    creator: &Leaf<'_>,
) -> Result<Capabilities, DsError> {
    let extensions = tree.group.group_context().extensions();
    let policy = policy_in(extensions).map_err(|_| ProblemType::InvalidGroupInfo)?;
    let Some(policy) = policy else {
        return Ok(Capabilities::ALL);
    };
    let capabilities = policy.capabilities(&creator.user_pseudonym);
    let required = extensions.required_capabilities().is_some_and(|required| {
        required
            .extension_types()
            .contains(&ExtensionType::Unknown(POLICY_EXTENSION))
    });
    if kind == GroupKind::Group && required && capabilities.contain(Capabilities::SET_ROLE) {
        Ok(capabilities)
    } else {
        Err(ProblemType::InvalidGroupInfo.into())
    }
}
