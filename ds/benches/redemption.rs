//! What a redemption costs: the check of a token's signature beside the bare verification by the library, in
//! the same run, and the whole request that spends it, on RocksDB with fsync.
//!
//! `make bench`; figures are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    reason = "shares the kit of the wire tests"
)]

#[path = "../tests/wire/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA384};
use ds::tokens::{Challenge, PresentedToken};
use ds_domain::tokens::authorization;
use http::HeaderValue;
use protocol::Operation;
use protocol::groups::ReserveGroupIdRequest;

use support::request::{Draft, fresh_key};
use support::{DOMAIN, Engine, ISSUER, Service, Setup, tokens};

const TOKENS: usize = 200;
const ROUNDS: usize = 25;
const AT_ONCE: usize = 32;

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

fn verification() {
    let tokens: Vec<HeaderValue> = (0..TOKENS).map(|_| tokens::mint()).collect();
    let keys = tokens::accepted_keys();
    let challenge = Challenge::new(ISSUER, DOMAIN).unwrap();
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

async fn reserve(service: &Service, request: &[u8], token: &HeaderValue) {
    let token = std::slice::from_ref(token);
    let reply = service
        .post_with(Operation::ReserveGroupId, request, token)
        .await;
    assert_eq!(reply.status, 200);
}

async fn redemption() {
    let service = Arc::new(Service::with(Setup::on(Engine::Rocks)));
    let mut work: Vec<(Vec<u8>, HeaderValue)> = (0..AT_ONCE * 40)
        .map(|_| {
            let (key, body) = (fresh_key(), ReserveGroupIdRequest {});
            let draft = Draft::by_key(&service, Operation::ReserveGroupId, &key, &body);
            (draft.signed(&key), tokens::mint())
        })
        .collect();
    let mut times = Vec::new();
    for (request, token) in work.drain(..AT_ONCE * 8) {
        let start = Instant::now();
        reserve(&service, &request, &token).await;
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
        let service = Arc::clone(&service);
        workers.push(tokio::spawn(async move {
            for (request, token) in own {
                reserve(&service, &request, &token).await;
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
    verification();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(redemption());
}
