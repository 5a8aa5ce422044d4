//! What a token costs at redemption: its check beside a bare verification of its signature, and a
//! whole redemption on RocksDB.
//!
//! `make bench`; figures are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA384};
use axum::Router;
use axum::body::Body;
use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384, reexports::rand};
use crypto::service_keys::ServiceKeys;
use crypto::sign::SignatureKeyPair;
use ds_domain::env::Settings;
use ds_domain::tokens::{Challenge, IssuerKeys, PresentedToken, authorization};
use ds_server::limits::LoadLimits;
use ds_server::tokens::AllowanceLimits;
use ds_server::{Allowed, Server, ServerSettings, router};
use ds_store_rocks::Rocks;
use http::{HeaderValue, Request, header};
use privacypass::TokenType;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::auth::authorize::build_authorization_header;
use privacypass::public_tokens::{TokenRequest, TokenResponse};
use privacypass::{Deserialize as _, Serialize as _};
use protocol::codec::opaque;
use protocol::directory::StoreState;
use protocol::group::ReserveGroupIdRequest;
use protocol::ids::Minute;
use protocol::operation::Operation;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{REQUEST_MEDIA_TYPE, WIRE_VERSION, Wire as _};
use service::clock::SystemClock;
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GatewaySecret};
use service::shutdown::Shutdown;
use tower::ServiceExt as _;

const TOKENS: usize = 200;
const ROUNDS: usize = 25;
const AT_ONCE: usize = 32;
const ISSUER: &str = "issuer.example";
const ORIGIN: &str = "ds.example";

type Issuer = KeyPair<Sha384, PSS, Deterministic>;

fn mint(issuer: &Issuer) -> HeaderValue {
    let origins = [ORIGIN.to_owned()];
    let challenge = TokenChallenge::new(TokenType::Public, ISSUER, None, &origins);
    let (request, state) =
        TokenRequest::new(&mut rand::rng(), issuer.pk.clone(), &challenge).unwrap();
    let request = privacypass::Serialize::tls_serialize_detached(&request).unwrap();
    let signature = issuer.sk.blind_sign(&request[3..]).unwrap();
    let response = TokenResponse::tls_deserialize_exact(&signature.0).unwrap();
    let (_, value) = build_authorization_header(&response.issue_token(&state).unwrap()).unwrap();
    HeaderValue::from_bytes(value.as_bytes()).unwrap()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What is done with a token: as it came, and read.
type Way<'a> = &'a dyn Fn(&HeaderValue, &PresentedToken);

/// Microseconds for each of `tokens`, the median of all rounds, of several ways taken in turn.
fn compare<const N: usize>(tokens: &[HeaderValue], ways: [Way<'_>; N]) -> [f64; N] {
    let parsed: Vec<PresentedToken> = tokens
        .iter()
        .map(|value| authorization::parse([value]).unwrap().remove(0))
        .collect();
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter().zip(&mut times) {
            let start = Instant::now();
            for (value, token) in tokens.iter().zip(&parsed) {
                way(value, token);
            }
            times.push(start.elapsed().as_secs_f64() * 1e6 / tokens.len() as f64);
        }
    }
    times.map(median)
}

fn verification(issuer: &Issuer) {
    let tokens: Vec<HeaderValue> = (0..TOKENS).map(|_| mint(issuer)).collect();
    let keys = IssuerKeys::from_directory_keys([issuer.pk.to_spki().unwrap()]).unwrap();
    let challenge = Challenge::new(ISSUER, ORIGIN).unwrap();
    // The RSAPublicKey inside the SPKI.
    let bare =
        ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, &keys.challenge_key(0)[72..]).unwrap();
    let [bare, checked, parsed] = compare(
        &tokens,
        [
            &|_, token| {
                black_box(bare.verify_sig(token.authenticator_input(), token.authenticator()))
                    .unwrap();
            },
            &|_, token| {
                let bytes = [token.authenticator_input(), token.authenticator()].concat();
                let token = PresentedToken::from_bytes(&bytes).unwrap();
                let token = keys.identify(token, &challenge).unwrap();
                black_box(keys.verify(token)).unwrap();
            },
            &|value, _| {
                for token in authorization::parse([value]).unwrap() {
                    let token = keys.identify(token, &challenge).unwrap();
                    black_box(keys.verify(token)).unwrap();
                }
            },
        ],
    );
    println!("{:<44} {:>8} {:>6}", "", "us", "ratio");
    for (what, us) in [
        ("bare verification (aws-lc-rs)", bare),
        ("token checked: key, challenge, signature", checked),
        ("header read and token checked", parsed),
    ] {
        println!("{what:<44} {us:>8.1} {:>6.2}", us / bare);
    }
}

fn reservation(now_ms: u64) -> Vec<u8> {
    let key = SignatureKeyPair::random().unwrap();
    let sender = Sender::Key(opaque(key.public()));
    let body = opaque(
        ReserveGroupIdRequest {
            group_id: protocol::ids::GroupId(crypto::random().unwrap()),
        }
        .encode(),
    );
    let (operation, minute) = (Operation::ReserveGroupId, Minute::of(now_ms));
    let nonce = crypto::random().unwrap();
    let tbs = RequestTbs {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender: &sender,
        body: &body,
    };
    let signature = key.sign(REQUEST_LABEL, &tbs.tls_serialize_detached().unwrap());
    SignedRequest {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender,
        body,
        signature: opaque(signature),
    }
    .encode()
}

/// A service on RocksDB, without a listener.
struct Bench {
    router: Router,
    secret: GatewaySecret,
}

impl Bench {
    fn start(directory: &std::path::Path, issuer: &Issuer) -> Self {
        let path = directory.join("gateway-secret");
        let secret = GatewaySecret::load_or_create(&path).unwrap();
        let limits = AllowanceLimits {
            capacity: 1_000_000,
            refill_per_minute: 1_000_000,
            max_buckets: 1_000,
            nodes: 1,
        };
        let (trigger, shutdown) = Shutdown::channel();
        // For as long as the process lives.
        std::mem::forget(trigger);
        let server = Arc::new(Server::new(
            Arc::new(Rocks::create(directory.join("store")).unwrap()),
            ServiceKeys::from_file(&ServiceKeys::generate_file().unwrap()).unwrap(),
            SystemClock::shared(),
            shutdown,
            IssuerKeys::from_directory_keys([issuer.pk.to_spki().unwrap()]).unwrap(),
            ServerSettings {
                decisions: Settings::default(),
                domain: ORIGIN.to_owned(),
                issuer_name: ISSUER.to_owned(),
                challenge: Challenge::new(ISSUER, ORIGIN).unwrap(),
                allowed: Allowed {
                    leaf: limits,
                    group: limits,
                    segment: limits,
                    owner: limits,
                },
                load: LoadLimits::default(),
                look_again_ms: None,
                streams: ds_server::StreamSettings::default(),
                max_request_bytes: 2 * 1024 * 1024,
                store: StoreState {
                    id: String::new(),
                    generation: 0,
                },
            },
        ));
        Self {
            router: router(server, GatewaySecret::load(&path).unwrap()),
            secret,
        }
    }

    async fn reserve(&self, request: &[u8], token: &HeaderValue) {
        let request = Request::post(Operation::ReserveGroupId.path())
            .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .header(GATEWAY_AUTHORIZATION, self.secret.header_value())
            .header(header::AUTHORIZATION, token)
            .body(Body::from(request.to_vec()))
            .unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

async fn redemption(issuer: &Issuer) {
    let directory = tempfile::tempdir().unwrap();
    let bench = Arc::new(Bench::start(directory.path(), issuer));
    let now_ms = SystemClock::shared().now_unix_ms();
    let mut work: Vec<(Vec<u8>, HeaderValue)> = (0..AT_ONCE * 40)
        .map(|_| (reservation(now_ms), mint(issuer)))
        .collect();
    let mut times = Vec::new();
    for (request, token) in work.drain(..AT_ONCE * 8) {
        let start = Instant::now();
        bench.reserve(&request, &token).await;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    println!(
        "{:<44} {:>8.0}",
        "whole redemption, one after the other",
        median(times)
    );
    let count = work.len();
    let start = Instant::now();
    let mut workers = Vec::new();
    while !work.is_empty() {
        let own: Vec<_> = work.drain(..count / AT_ONCE).collect();
        let bench = Arc::clone(&bench);
        workers.push(tokio::spawn(async move {
            for (request, token) in own {
                bench.reserve(&request, &token).await;
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("{:<44} {each:>8.0}", format!("each of {AT_ONCE} at once"));
}

fn main() {
    let issuer = Issuer::generate(&mut rand::rng(), 2048).unwrap();
    verification(&issuer);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(redemption(&issuer));
}
