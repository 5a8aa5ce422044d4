//! Reserving a group id and creating a group.

use std::sync::Arc;

use crypto::credential::WRAPPED_LINK_KEY_LEN;
use crypto::keys::StateKey;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
use openmls_rust_crypto::RustCrypto;
use protocol::Wire;
use protocol::groups::{
    CreateGroupRequest, EpochAccepted, ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::time::day_of;

use super::roster::Roster;
use super::rules::LeafClaims;
use super::tree::Tree;
use super::{SUPPORTED_CIPHERSUITES, without_starving_others};
use crate::error::DsError;
use crate::limits::within;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{DayRow, NewGroup, Reservation, StoreError};

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
    let owner = request.authenticate_key()?;
    let group_id = GroupId(crypto::random()?);
    let response = ReserveGroupIdResponse { group_id };
    let reservation = Reservation {
        at: DayRow {
            day: day_of(request.now_ms),
            row: service.rows().group(&group_id),
        },
        owner_tag: owner.tag(service, OWNER),
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

/// Creates a group of one leaf, the signer's.
///
/// # Errors
/// [`ProblemType::InvalidGroupId`], [`ProblemType::InvalidGroupInfo`], [`ProblemType::InvalidLeaf`],
/// [`ProblemType::UnsupportedCiphersuite`], [`ProblemType::LimitExceeded`].
pub async fn create_group(
    service: &Arc<DeliveryService>,
    request: Request<CreateGroupRequest>,
) -> Result<EpochAccepted, DsError> {
    let creator = request.authenticate_key()?;
    let body = &request.body;
    let group_id = body.group_id;
    let limits = &service.settings.limits;
    within(body.group_info.as_slice().len(), limits.group_info_bytes)?;
    within(body.ratchet_tree.as_slice().len(), limits.new_tree_bytes)?;
    let today = day_of(request.now_ms);
    let reservation_days = vec![today, today.saturating_sub(1)];
    let owner_tag = creator.tag(service, OWNER);
    let row = service.rows().group(&group_id);
    // Before the tree: a reservation has cost a token.
    let reservations = reservation_days.iter().map(|day| DayRow { day: *day, row });
    if !service
        .store
        .is_reserved(reservations.collect(), owner_tag)
        .await?
    {
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
    let ciphersuite = u16::from(info.ciphersuite());
    if !SUPPORTED_CIPHERSUITES.contains(&ciphersuite) {
        return Err(ProblemType::UnsupportedCiphersuite.into());
    }
    let crypto = RustCrypto::default();
    let (tree, fields) =
        without_starving_others(|| Tree::create(&crypto, body.ratchet_tree.as_slice(), info))?;
    let mut leaves = tree.group.treesync().full_leaves();
    let (Some((index, leaf)), None) = (leaves.next(), leaves.next()) else {
        return Err(ProblemType::InvalidGroupInfo.into());
    };
    if index.u32() != 0 || leaf.signature_key().as_slice() != creator.0 {
        return Err(ProblemType::BadSignature.into());
    }
    let leaf = LeafClaims::of(service, leaf)?
        .into_leaf(service, 0, body.encrypted_identity_link_key.as_slice())?
        .as_creator(body.recovery_secret.expose());
    let key = StateKey::from(&body.state_key);
    let response = EpochAccepted {
        epoch: 0,
        accepted_timestamp_ms: request.now_ms,
    };
    let version = crypto::random()?;
    let group = NewGroup {
        group: row,
        reservation_days,
        owner_tag,
        version,
        roster: Roster::new(body.kind, ciphersuite, version, leaf)
            .seal(&group_id, &version, &key)?,
        tree: tree.seal(&group_id, &version, &key, fields)?,
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
