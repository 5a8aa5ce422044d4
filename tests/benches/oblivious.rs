//! What relay and gateway cost: processor time of each for a request, and what their clients see.
//!
//! `cargo bench --workspace --bench oblivious`, after a build of the programs. Requests and answers
//! are 1 KiB before encapsulation. The relay stands beside a process that copies bytes between the
//! same two sockets and knows nothing of HTTP, the whole way beside plain HTTP to the same target.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use bhttp::{Message, Mode};
use end_to_end::{free_address, program};

/// Of content, which binary HTTP and padding make a KiB.
const CONTENT: usize = 700;
const CLIENTS: usize = 64;
const ROUNDS: usize = 6_000;
const WARM_UP: usize = 500;
/// For each program.
const ONE_CORE: &str = "1";

const OHTTP_REQ: &str = "message/ohttp-req";

/// A process that ends with this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Processor time of all its threads, in seconds.
    fn cpu(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let nanoseconds: u64 = tasks
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).ok())
            .map(|stat| stat.split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        nanoseconds as f64 / 1e9
    }

    fn service(name: &str, directory: &Path, config: &str) -> Self {
        let path = directory.join(format!("{name}-{}.toml", free_address().port()));
        fs::write(&path, config).unwrap();
        let mut command = Command::new(program(name));
        command.env("TOKIO_WORKER_THREADS", ONE_CORE);
        Self(command.arg("--config").arg(path).spawn().unwrap())
    }

    /// With its first keys.
    fn gateway(directory: &Path, config: &str) -> Self {
        let path = directory.join("init.toml");
        fs::write(&path, config).unwrap();
        let mut init = Command::new(program("ohttp-gateway"));
        init.arg("init").arg("--config").arg(&path);
        assert!(init.stdout(Stdio::null()).status().unwrap().success());
        Self::service("ohttp-gateway", directory, config)
    }

    /// This program once more, as something that copies bytes between `listen` and `to`.
    fn copier(listen: SocketAddr, to: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("COPY", format!("{listen} {to}"));
        command.env("TOKIO_WORKER_THREADS", ONE_CORE);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

async fn listening(address: SocketAddr) {
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a program does not listen: what it said is above");
}

/// Copies until it is killed.
async fn copy(listen: SocketAddr, to: SocketAddr) {
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
            server.set_nodelay(true).unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

/// A target that answers a KiB to whatever is posted.
async fn target() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/v1/echo", post(|| async { vec![7_u8; CONTENT] }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

struct Requests {
    url: String,
    media_type: &'static str,
    bodies: Vec<Vec<u8>>,
}

/// Requests to `target`, each encapsulated by itself: the gateway takes none twice.
fn encapsulated(config: &[u8], target: SocketAddr, url: String, count: usize) -> Requests {
    let mut message = Message::request(
        b"POST".to_vec(),
        b"http".to_vec(),
        target.to_string().into_bytes(),
        b"/v1/echo".to_vec(),
    );
    message.write_content(vec![7; CONTENT]);
    let mut encoded = Vec::new();
    message
        .write_bhttp(Mode::KnownLength, &mut encoded)
        .unwrap();
    encoded.resize(protocol::padding::bucket(encoded.len()), 0);
    let bodies = (0..count).map(|_| {
        let request = ohttp::ClientRequest::from_encoded_config(config).unwrap();
        request.encapsulate(&encoded).unwrap().0
    });
    Requests {
        url,
        media_type: OHTTP_REQ,
        bodies: bodies.collect(),
    }
}

struct Measured {
    a_second: f64,
    p50: Duration,
    p99: Duration,
}

/// Sends every one of `requests`, so many at once.
async fn run(http: &reqwest::Client, requests: Requests, clients: usize) -> Measured {
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (http, requests, next) = (http.clone(), Arc::clone(&requests), Arc::clone(&next));
            tokio::spawn(async move {
                let mut times = Vec::new();
                while let Some(body) = requests.bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let answer = http
                        .post(&requests.url)
                        .header("content-type", requests.media_type)
                        .body(body.clone())
                        .send()
                        .await
                        .unwrap();
                    assert_eq!(answer.status(), 200);
                    assert!(answer.bytes().await.unwrap().len() >= CONTENT);
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let took = began.elapsed();
    times.sort_unstable();
    Measured {
        a_second: times.len() as f64 / took.as_secs_f64(),
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Ok(addresses) = std::env::var("COPY") {
        let (listen, to) = addresses.split_once(' ').unwrap();
        runtime.block_on(copy(listen.parse().unwrap(), to.parse().unwrap()));
    } else {
        runtime.block_on(measure());
    }
}

async fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let target = target().await;
    let [gateway_at, relay_at, copier_at] = [(); 3].map(|()| free_address());
    let gateway = Process::gateway(
        directory.path(),
        &format!(
            "listen = '{gateway_at}'\ngateway_secret_file = '{path}/secret'\n\
             keys = {{ directory = '{path}/keys' }}\n\
             [[targets]]\nscheme = 'http'\nauthority = '{target}'\nmethods = ['POST']\n\
             path_prefix = '/v1/'\nforward_to = 'http://{target}'\n\
             [replay]\nrequire_date = false\n\
             [service]\nadmin_listen = '{}'\n",
            free_address()
        ),
    );
    let relay = Process::service(
        "ohttp-relay",
        directory.path(),
        &format!(
            "listen = '{relay_at}'\ngateway = 'http://{gateway_at}/'\n\
             [[gateways]]\npath = '/h2'\nurl = 'http://{gateway_at}/'\nhttp = '2'\n\
             [address_limits]\nrequests_per_second = 0\nconnections_per_second = 0\nmax_connections = 0\nmax_requests = 0\n\
             [service]\nadmin_listen = '{}'\n",
            free_address()
        ),
    );
    let copier = Process::copier(copier_at, gateway_at);
    for address in [gateway_at, relay_at, copier_at] {
        listening(address).await;
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let keys = http
        .get(format!("http://{relay_at}/ohttp-keys"))
        .send()
        .await
        .unwrap();
    let keys = keys.bytes().await.unwrap();
    // The first configuration of the list, without its length (RFC 9458 §3.2).
    let length = usize::from(u16::from_be_bytes([keys[0], keys[1]]));
    let config = keys[2..2 + length].to_vec();

    println!(
        "{:<34} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "", "clients", "req/s", "p50 us", "p99 us", "hop us", "gw us"
    );
    for clients in [1, CLIENTS] {
        let ways: [(&str, String, &Process); 3] = [
            (
                "copied bytes + gateway",
                format!("http://{copier_at}/"),
                &copier,
            ),
            (
                "relay by HTTP/1.1 + gateway",
                format!("http://{relay_at}/"),
                &relay,
            ),
            (
                "relay by HTTP/2 + gateway",
                format!("http://{relay_at}/h2"),
                &relay,
            ),
        ];
        for (way, url, hop) in ways {
            let requests = |count| encapsulated(&config, target, url.clone(), count);
            run(&http, requests(WARM_UP), clients).await;
            let requests = requests(ROUNDS);
            let before = (hop.cpu(), gateway.cpu());
            let measured = run(&http, requests, clients).await;
            let cpu = |after: f64, before: f64| (after - before) / ROUNDS as f64 * 1e6;
            let spent = (cpu(hop.cpu(), before.0), cpu(gateway.cpu(), before.1));
            row(way, clients, &measured, Some(spent));
        }
        let direct = |count| Requests {
            url: format!("http://{target}/v1/echo"),
            media_type: "application/octet-stream",
            bodies: vec![vec![7; 1024]; count],
        };
        run(&http, direct(WARM_UP), clients).await;
        let measured = run(&http, direct(ROUNDS), clients).await;
        row("plain HTTP to the target", clients, &measured, None);
    }
}

fn row(way: &str, clients: usize, measured: &Measured, cpu: Option<(f64, f64)>) {
    let Measured { a_second, p50, p99 } = measured;
    let (p50, p99) = (p50.as_secs_f64() * 1e6, p99.as_secs_f64() * 1e6);
    print!("{way:<34} {clients:>8} {a_second:>8.0} {p50:>9.0} {p99:>9.0}");
    match cpu {
        Some((hop, gateway)) => println!(" {hop:>9.1} {gateway:>9.1}"),
        None => println!(),
    }
}
