//! What a request costs the gateway: the whole of it, on one thread that serves real connections,
//! beside the bare operations of AWS-LC that it cannot be had without, and a generic library, in
//! the same run. CPU time of the thread, not of the clock; 1 KiB of binary HTTP in both directions.
//!
//! `make bench`; figures are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]
#![allow(dead_code, reason = "shares the kit of the wire tests")]

#[path = "../tests/gateway/support.rs"]
mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{self, ECDH_P256, UnparsedPublicKey, X25519};
use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use http::header::CONTENT_TYPE;
use oblivious::{Aead as OurAead, Kem, Key, whole};
use ohttp::hpke::{Aead, Kdf, Kem as OtherKem};
use ohttp::{ClientRequest, KeyConfig, Server, SymmetricSuite};
use ohttp_gateway::Gateway;
use protocol::padding::bucket;
use service::alloc::ZeroOnFree;
use service::{Clock as _, Shutdown, SystemClock};
use support::{gateway_config, http_client, http_date, inner, target};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: ZeroOnFree = ZeroOnFree::new();

/// Fills a bucket of 1 KiB with its control data and fields.
const CONTENT: usize = 900;
const REQUESTS: usize = 3000;
const WARM_UP: usize = 300;
const CLIENTS: usize = 64;

fn main() {
    println!(
        "{:<8} {:<36} {:>8} {:>8}",
        "kem", "CPU of a request", "us", "ratio"
    );
    for (name, kem, other) in [
        ("x-wing", Kem::XWing, OtherKem::XWing),
        ("x25519", Kem::X25519, OtherKem::X25519Sha256),
        ("p256", Kem::P256, OtherKem::P256Sha256),
    ] {
        let bare = bare(kem, other);
        let row = |what: &str, us: f64| {
            println!("{name:<8} {what:<36} {us:>8.1} {:>8.2}", us / bare.floor);
        };
        row("AWS-LC's private operations alone", bare.floor);
        row("ours: open", bare.open);
        row("ours: open, and seal the answer", bare.open_and_seal);
        row("library: open, and seal the answer", bare.library);
        row("client, ours: seal", bare.client_seal);
        row("client, library: seal", bare.library_client_seal);
        let whole = whole(kem);
        row("gateway: the whole request", whole.gateway_us);
        println!(
            "{name:<8} {:<36} {:>8.1} {:>8.1}   p50, p99 in ms with {CLIENTS} clients on this machine",
            "latency", whole.p50_ms, whole.p99_ms
        );
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

/// The median of a few rounds of each, in turn; µs for each call.
fn in_turn<const N: usize>(mut calls: [Box<dyn FnMut() + '_>; N]) -> [f64; N] {
    let rounds = 25;
    let times_a_round = 60;
    let mut times = [(); N].map(|()| Vec::new());
    for _ in 0..rounds {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            let start = cpu();
            (0..times_a_round).for_each(|_| call());
            times.push(cpu().saturating_sub(start));
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[rounds / 2].as_secs_f64() * 1e6 / f64::from(times_a_round)
    })
}

fn message() -> Vec<u8> {
    let date = http_date(SystemClock.now_unix_ms());
    let mut message = inner("/v1/echo", &[("date", &date)], &[7; CONTENT]);
    message.resize(bucket(message.len()), 0);
    assert_eq!(message.len(), 1024);
    message
}

struct Bare {
    floor: f64,
    open: f64,
    open_and_seal: f64,
    library: f64,
    client_seal: f64,
    library_client_seal: f64,
}

fn bare(kem: Kem, other: OtherKem) -> Bare {
    let key = Key::derive(1, kem, &[1; 32]).unwrap();
    let suites = vec![SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm)];
    let server = Server::new(KeyConfig::derive(1, other, suites, &[1; 32]).unwrap()).unwrap();
    let request = encapsulate(key.config());
    let message = message();
    let [
        floor,
        open,
        open_and_seal,
        library,
        client_seal,
        library_client_seal,
    ] = in_turn([
        private_operations(kem),
        Box::new(|| drop(whole::open(&key, &request).unwrap())),
        Box::new(|| {
            let opened = whole::open(&key, &request).unwrap();
            opened.response.seal(&message).unwrap();
        }),
        Box::new(|| {
            let (_, sealer) = server.decapsulate(&request).unwrap();
            sealer.encapsulate(&message).unwrap();
        }),
        Box::new(|| drop(whole::seal(key.public(), OurAead::Aes128Gcm, &message).unwrap())),
        Box::new(|| {
            let client = ClientRequest::from_encoded_config(key.config()).unwrap();
            client.encapsulate(&message).unwrap();
        }),
    ]);
    Bare {
        floor,
        open,
        open_and_seal,
        library,
        client_seal,
        library_client_seal,
    }
}

/// What a request cannot be opened without.
fn private_operations(kem: Kem) -> Box<dyn FnMut()> {
    let curve = if kem == Kem::P256 {
        &ECDH_P256
    } else {
        &X25519
    };
    let private = agreement::PrivateKey::generate(curve).unwrap();
    let peer = agreement::PrivateKey::generate(curve).unwrap();
    let peer = peer.compute_public_key().unwrap();
    let agree = move || {
        let peer = UnparsedPublicKey::new(curve, peer.as_ref());
        agreement::agree(&private, peer, (), |shared| Ok(shared.to_vec())).unwrap();
    };
    if kem != Kem::XWing {
        return Box::new(agree);
    }
    let ml_kem = DecapsulationKey::generate(&ML_KEM_768).unwrap();
    let (ciphertext, _) = ml_kem.encapsulation_key().unwrap().encapsulate().unwrap();
    Box::new(move || {
        agree();
        ml_kem.decapsulate(ciphertext.as_ref().into()).unwrap();
    })
}

fn encapsulate(config: &[u8]) -> Vec<u8> {
    let client = ClientRequest::from_encoded_config(config).unwrap();
    client.encapsulate(&message()).unwrap().0
}

struct Whole {
    gateway_us: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn whole(kem: Kem) -> Whole {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let target = runtime.block_on(target());
    let text = gateway_config(
        directory.path(),
        "127.0.0.1:0",
        "127.0.0.1:0",
        &target.served.url(""),
        "",
    )
    .replace("[keys]", "[keys]\nkems = ['x-wing', 'x25519', 'p256']");
    let config = service::config::parse(&text).unwrap();
    let (address, addresses) = mpsc::channel();
    let (ask, asked) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<Duration>>();
    std::thread::spawn(move || gateway_thread(&config, &address, asked));
    let url = format!("http://{}/", addresses.recv().unwrap());
    let gateway_cpu = || {
        let (send, receive) = mpsc::channel();
        ask.send(send).unwrap();
        receive.recv().unwrap()
    };
    runtime.block_on(async {
        let http = http_client();
        let keys = http.get(&url).send().await.unwrap().bytes().await.unwrap();
        let config = config_with(&keys, kem);
        let mut requests: Vec<_> = (0..WARM_UP + REQUESTS)
            .map(|_| encapsulate(&config))
            .collect();
        send(&http, &url, requests.split_off(REQUESTS)).await;
        let start = gateway_cpu();
        let mut times = send(&http, &url, requests).await;
        let used = gateway_cpu().saturating_sub(start);
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
        Whole {
            gateway_us: used.as_secs_f64() * 1e6 / REQUESTS as f64,
            p50_ms: at(50),
            p99_ms: at(99),
        }
    })
}

/// The gateway and nothing else is on this thread.
fn gateway_thread(
    config: &ohttp_gateway::Config,
    address: &mpsc::Sender<std::net::SocketAddr>,
    mut asked: tokio::sync::mpsc::UnboundedReceiver<mpsc::Sender<Duration>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (_trigger, shutdown) = Shutdown::channel();
        let gateway = Gateway::new(config, SystemClock::shared(), shutdown).unwrap();
        let served = support::serve(gateway.router()).await;
        address.send(served.address).unwrap();
        while let Some(answer) = asked.recv().await {
            answer.send(cpu()).unwrap();
        }
    });
}

fn config_with(mut list: &[u8], kem: Kem) -> Vec<u8> {
    while let Some((length, rest)) = list.split_first_chunk::<2>() {
        let (config, next) = rest.split_at(u16::from_be_bytes(*length).into());
        if config[1..3] == kem.id().to_be_bytes() {
            return config.to_vec();
        }
        list = next;
    }
    Vec::new()
}

/// Sends all of them, from as many clients at once as there may be; the time of each.
async fn send(http: &reqwest::Client, url: &str, requests: Vec<Vec<u8>>) -> Vec<Duration> {
    let share = requests.len().div_ceil(CLIENTS);
    let clients: Vec<_> = requests
        .chunks(share)
        .map(|mine| {
            let (http, url, mine) = (http.clone(), url.to_owned(), mine.to_vec());
            tokio::spawn(async move {
                let mut times = Vec::new();
                for request in mine {
                    let start = Instant::now();
                    let answer = http
                        .post(&url)
                        .header(CONTENT_TYPE, "message/ohttp-req")
                        .body(request)
                        .send()
                        .await
                        .unwrap();
                    assert_eq!(answer.headers()[CONTENT_TYPE], "message/ohttp-res");
                    answer.bytes().await.unwrap();
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    times
}
