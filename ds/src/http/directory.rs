//! `GET /v1/directory`: the same for everybody.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto::sign::Scheme;
use http::{HeaderValue, header};
use protocol::WIRE_VERSION;
use protocol::directory::{AcceptedIssuer, Allowance, AllowanceList, Directory, QueueServiceKey};
use protocol::time::CLOCK_WINDOW_MS;

use super::{Service, problem};
use crate::error::DsError;
use crate::groups::SUPPORTED_CIPHERSUITES;
use crate::service_state::DeliveryService;
use crate::tokens::AllowanceLimits;

pub(super) async fn directory(State(service): State<Service>) -> Response {
    match describe(&service) {
        Ok(directory) => (
            [(
                header::CACHE_CONTROL,
                HeaderValue::from_static("max-age=600"),
            )],
            Json(directory),
        )
            .into_response(),
        Err(error) => problem::respond(&service, error),
    }
}

fn describe(service: &DeliveryService) -> Result<Directory, DsError> {
    let (key_id, public_key) = service.keys.queue_service_key()?;
    let settings = &service.settings;
    let former = match service.keys.external_senders() {
        [former @ .., _] => former,
        [] => &[],
    };
    Ok(Directory {
        domain: settings.domain.clone(),
        wire_versions: vec![WIRE_VERSION],
        ciphersuites: SUPPORTED_CIPHERSUITES.to_vec(),
        queue_service_key: QueueServiceKey {
            key_id,
            public_key: URL_SAFE.encode(public_key),
        },
        external_sender_key: URL_SAFE.encode(service.keys.external_sender_public(Scheme::Ed25519)?),
        external_sender_key_p256: URL_SAFE
            .encode(service.keys.external_sender_public(Scheme::EcdsaP256)?),
        former_external_sender_keys: former
            .iter()
            .flat_map(|key| [key.ed25519.public(), key.p256.public()])
            .map(|key| URL_SAFE.encode(key))
            .collect(),
        issuer: AcceptedIssuer {
            name: settings.issuer_name.clone(),
            challenge: URL_SAFE.encode(settings.challenge.as_bytes()),
            token_key_ids: service
                .issuer_keys()
                .ids()
                .map(|id| URL_SAFE.encode(id))
                .collect(),
            token_keys_not_before_s: service.issuer_keys().not_before_s().collect(),
        },
        prices: settings.prices,
        allowances: Some(AllowanceList {
            leaf: shown(settings.leaf_allowance),
            group: shown(settings.group_allowance),
            queue: shown(settings.queue_allowance),
        }),
        clock_window_ms: CLOCK_WINDOW_MS,
        max_request_bytes: settings.max_request_bytes,
        store: settings.store.clone(),
    })
}

fn shown(limits: AllowanceLimits) -> Allowance {
    Allowance {
        capacity: limits.capacity,
        refill_per_minute: limits.refill_per_minute,
    }
}
