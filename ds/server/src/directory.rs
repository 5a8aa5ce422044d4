//! `GET /v1/directory`: the same for everybody.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto::CryptoError;
use crypto::sign::Scheme;
use ds_domain::execution::Failure;
use http::{HeaderValue, header};
use mls_rules::SUPPORTED_CIPHERSUITES;
use protocol::WIRE_VERSION;
use protocol::directory::{AcceptedIssuer, Allowance, AllowanceList, Directory, Prices};
use protocol::request::WINDOW_MINUTES;

use crate::problem;
use crate::server::Server;
use crate::tokens::AllowanceLimits;

pub(crate) async fn directory(State(server): State<Arc<Server>>) -> Response {
    let cached = HeaderValue::from_static("max-age=600");
    match describe(&server) {
        Ok(directory) => ([(header::CACHE_CONTROL, cached)], Json(directory)).into_response(),
        Err(_) => problem::respond(&server, Failure::Internal("the service's keys")),
    }
}

fn describe(server: &Server) -> Result<Directory, CryptoError> {
    let (keys, settings) = (&server.keys, &server.settings);
    let former = match keys.external_senders() {
        [former @ .., _] => former,
        [] => &[],
    };
    let issuer_keys = server.issuer_keys();
    Ok(Directory {
        domain: settings.domain.clone(),
        wire_versions: vec![WIRE_VERSION],
        ciphersuites: SUPPORTED_CIPHERSUITES.to_vec(),
        external_sender_key: URL_SAFE.encode(keys.external_sender_public(Scheme::Ed25519)?),
        external_sender_key_p256: URL_SAFE.encode(keys.external_sender_public(Scheme::EcdsaP256)?),
        former_external_sender_keys: former
            .iter()
            .flat_map(|key| [key.ed25519.public(), key.p256.public()])
            .map(|key| URL_SAFE.encode(key))
            .collect(),
        journal_signing_key: URL_SAFE.encode(keys.journal_signing().public()),
        issuer: AcceptedIssuer {
            name: settings.issuer_name.clone(),
            challenge: URL_SAFE.encode(settings.challenge.as_bytes()),
            token_key_ids: issuer_keys.ids().map(|id| URL_SAFE.encode(id)).collect(),
            token_keys_not_before_s: issuer_keys.not_before_s().collect(),
        },
        prices: prices(&settings.decisions.prices),
        allowances: Some(AllowanceList {
            leaf: shown(settings.allowed.leaf),
            group: shown(settings.allowed.group),
            segment: shown(settings.allowed.segment),
            owner: shown(settings.allowed.owner),
        }),
        clock_window_ms: u64::from(WINDOW_MINUTES) * 60_000,
        max_request_bytes: settings.max_request_bytes,
        store: settings.store.clone(),
    })
}

fn prices(prices: &ds_domain::env::Prices) -> Prices {
    let ds_domain::env::Prices {
        create_blob,
        reserve_group_id,
        external_join,
        publish_key_packages,
        key_package_sets_per_token,
        claim_key_package,
        register_handle,
        lookup_handle,
        request_connection,
        bytes_a_token: _,
    } = *prices;
    Prices {
        create_blob,
        reserve_group_id,
        publish_key_packages,
        key_package_sets_per_token,
        claim_key_package,
        register_handle,
        lookup_handle,
        request_connection,
        external_join,
    }
}

fn shown(limits: AllowanceLimits) -> Allowance {
    Allowance {
        capacity: limits.capacity,
        refill_per_minute: limits.refill_per_minute,
    }
}
