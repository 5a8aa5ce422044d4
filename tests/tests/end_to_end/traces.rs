//! What the services leave behind: stored files, logs and metrics.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use client::{Client, sign};
use crypto::sign::{LeafKeyPair, Scheme};
use ds_domain::engine::{Batch, Engine as _, Key, Table};
use ds_store_rocks::Rocks;
use end_to_end::{
    Envelope, LogLevel, Outer, Service, Stack, StoreEngine, account_of, check_log, check_metrics,
    device, group_with, reads, secrets_of,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::operation::Operation;
use protocol::request::Sender;
use xtask::scan::{self, Encoding, Needles};

const GROUP: &str = "harbour festival";
const HANDLES: [&str; 4] = [
    "alice.adebayo",
    "bob.bergstrom",
    "carol.castillo",
    "dave.dimitrov",
];
const TEXTS: [&str; 4] = [
    "The ferry leaves at half past seven",
    "I bring the lanterns and the rope",
    "Who has the keys to the boathouse?",
    "We meet at the lighthouse then",
];

/// Everything that must stay with the users.
#[derive(Default)]
struct Private {
    needles: BTreeSet<Vec<u8>>,
}

impl Private {
    fn add(&mut self, secret: impl Into<Vec<u8>>) {
        self.needles.insert(secret.into());
    }

    fn look_into_homes(&mut self, stack: &Stack) {
        for handle in HANDLES {
            if stack.home(handle).exists() {
                self.needles.extend(secrets_of(&stack.home(handle)));
            }
        }
    }

    fn needles(&self) -> Needles {
        Needles::new(&self.needles).unwrap()
    }
}

/// Four users talk, one is removed. Their keys and tokens are looked at between the steps, since
/// what was used is deleted.
async fn play(stack: &Stack) -> (Private, [Client; 4]) {
    let mut private = Private::default();
    for text in HANDLES.iter().chain(&TEXTS).chain([&GROUP]) {
        private.add(*text);
    }
    let mut clients = Vec::new();
    for (number, handle) in HANDLES.into_iter().enumerate() {
        clients.push(device(stack, number, handle).await);
        private.add(account_of(&stack.account_token(number)));
        private.look_into_homes(stack);
    }
    let [alice, bob, carol, dave]: [Client; 4] = clients.try_into().unwrap();
    group_with(GROUP, &alice, &[&bob, &carol, &dave]).await;
    private.look_into_homes(stack);

    alice.send_message(GROUP, TEXTS[0]).await.unwrap();
    bob.send_message(GROUP, TEXTS[1]).await.unwrap();
    carol.send_message(GROUP, TEXTS[2]).await.unwrap();
    alice.stage_remove(GROUP, &["dave.dimitrov"]).await.unwrap();
    private.add(alice.pending_request(GROUP).unwrap().unwrap().request);
    private.look_into_homes(stack);
    alice.submit(GROUP).await.unwrap();
    bob.update_own_leaf(GROUP).await.unwrap();
    bob.send_message(GROUP, TEXTS[3]).await.unwrap();
    let lines = [
        (HANDLES[0], TEXTS[0]),
        (HANDLES[1], TEXTS[1]),
        (HANDLES[1], TEXTS[3]),
    ];
    // Dave reads nothing: what waits for him is stored, too.
    reads(&carol, &lines).await;
    private.look_into_homes(stack);
    (private, [alice, bob, carol, dave])
}

fn assert_nothing_is_found(directory: &Path, needles: &Needles) -> scan::Report {
    let report = scan::directory(directory, needles).unwrap();
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, Vec::<String>::new());
    report
}

#[tokio::test]
async fn nothing_that_was_said_or_used_is_found_in_the_stored_files() {
    let mut stack = Stack::start(LogLevel::Info).await;
    let (private, clients) = play(&stack).await;
    drop(clients);
    stack.stop().await;

    // The needles are what is really in use: a client's own files hold all of hers.
    let hers = secrets_of(&stack.home(HANDLES[2]));
    let found_at_home = |needles: &[Vec<u8>]| -> BTreeSet<usize> {
        let needles = Needles::new(needles).unwrap();
        let report = scan::directory(&stack.home(HANDLES[2]), &needles).unwrap();
        report
            .findings
            .iter()
            .map(|finding| finding.needle)
            .collect()
    };
    let found = found_at_home(&hers);
    // A row that is longer than a page goes on in another one, perhaps in the middle of a value:
    // then one half of that stands in one piece.
    let split: Vec<&Vec<u8>> = (0..hers.len())
        .filter(|needle| !found.contains(needle))
        .map(|needle| &hers[needle])
        .collect();
    let halves: Vec<Vec<u8>> = split
        .iter()
        .flat_map(|whole| whole.chunks(whole.len().div_ceil(2)))
        .map(<[u8]>::to_vec)
        .collect();
    let found = found_at_home(&halves);
    for (number, whole) in split.iter().enumerate() {
        let half = found.contains(&(2 * number)) || found.contains(&(2 * number + 1));
        assert!(half, "a value of {} bytes is not found", whole.len());
    }

    let needles = private.needles();
    let all_data = stack.layout().all_data();
    let in_the_log = assert_nothing_is_found(&all_data, &needles);
    assert!(in_the_log.bytes > 100_000, "{in_the_log:?}");

    // Its files are complete when the server has stopped.
    if Stack::engine() == StoreEngine::Postgres {
        return;
    }
    // Again with everything in tables, and once more to see that it would have been found there.
    let store = Rocks::open(stack.layout().data(Service::Ds)).unwrap();
    store.flush().await.unwrap();
    let in_tables = assert_nothing_is_found(&all_data, &needles);
    println!(
        "{} needles, {} files, {} bytes",
        needles.count(),
        in_tables.files,
        in_tables.bytes
    );
    plant(&store, TEXTS[0].as_bytes()).await;
    store.flush().await.unwrap();
    assert!(
        !scan::directory(&all_data, &needles)
            .unwrap()
            .findings
            .is_empty()
    );
}

async fn plant(store: &Rocks, sealed: &[u8]) {
    let key = Key {
        table: Table::Groups,
        day: 0,
        name: crypto::random::<16>().unwrap().to_vec(),
    };
    let batch = Batch {
        puts: vec![(key, sealed.to_vec())],
        ..Batch::default()
    };
    store.apply(batch).await.unwrap();
}

#[tokio::test]
async fn a_text_that_is_planted_through_the_store_is_found() {
    let needles = Needles::new([TEXTS[0]]).unwrap();
    let hex: String = TEXTS[0].bytes().map(|byte| format!("{byte:02x}")).collect();
    for (planted, encoding) in [(TEXTS[0].to_owned(), Encoding::Raw), (hex, Encoding::Hex)] {
        let directory = tempfile::tempdir().unwrap();
        let store = Rocks::create(directory.path()).unwrap();
        assert_nothing_is_found(directory.path(), &needles);
        for flush in [false, true] {
            plant(&store, format!("before {planted} after").as_bytes()).await;
            if flush {
                store.flush().await.unwrap();
            }
            let report = scan::directory(directory.path(), &needles).unwrap();
            let found = report
                .findings
                .iter()
                .any(|finding| finding.encoding == encoding);
            assert!(found, "{encoding:?}, flushed: {flush}");
        }
    }
}

/// A request that names everything that may not be named, sent as it is, and where it came from.
fn unwelcome_request(to: SocketAddr, method: &str, path: &str, marker: &str) -> SocketAddr {
    let mut stream = TcpStream::connect(to).unwrap();
    let request = format!(
        "{method} {path}?{marker}=1 HTTP/1.1\r\nHost: {marker}\r\nUser-Agent: {marker}\r\n\
         Authorization: Bearer {marker}\r\nContent-Type: application/{marker}\r\n\
         X-Forwarded-For: 203.0.113.77\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{marker}",
        marker.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    stream.local_addr().unwrap()
}

#[tokio::test]
async fn the_logs_at_their_most_verbose_identify_nothing() {
    let mut stack = Stack::start(LogLevel::Trace).await;
    let (mut private, mut clients) = play(&stack).await;

    // Refusals are where texts slip out: each service is sent things that it does not take.
    let marker = "marked-by-the-test";
    private.add(marker);
    private.add("203.0.113.77");
    for service in Service::ALL {
        let paths = [
            "/",
            "/v1/groups/send-message",
            "/gateway",
            "/token-request",
            "/marked-by-the-test",
        ];
        for path in paths {
            for method in ["GET", "POST"] {
                let from = unwelcome_request(stack.ports().of(service), method, path, marker);
                private.add(from.to_string());
            }
        }
    }
    let outer = Outer::of(&stack).await;
    outer.post(Operation::SendMessage, marker.as_bytes()).await;
    let stranger = Envelope {
        authority: format!("{marker}.example"),
        path: "/v1/marked-by-the-test",
        body: marker.as_bytes(),
    };
    outer.exchange(&stranger).await;
    let key = LeafKeyPair::random(Scheme::Ed25519).unwrap();
    let sender = Sender::Key(opaque(key.public()));
    let request = sign(
        Operation::RegisterHandle,
        1,
        &sender,
        marker.as_bytes(),
        &key,
    )
    .unwrap()
    .encode();
    let token = clients[0].withdraw_tokens(1).await.unwrap();
    let refused = clients[0]
        .post(Operation::RegisterHandle, &request, &token)
        .await;
    assert!(refused.is_err());
    private.add(key.public());
    private.add(request);
    private.add(token.concat());
    // And so are failures: services that are asked while another one is away.
    for service in [Service::Ds, Service::Gateway, Service::Issuer] {
        let before = stack.kill(service);
        for client in &mut clients[..3] {
            client.send_message(GROUP, TEXTS[3]).await.unwrap();
            // The issuer may be away for too long.
            let _ = client.fill_wallet().await;
        }
        stack.restarted(service, before).await;
    }
    private.look_into_homes(&stack);

    // Metrics are read by whoever reads logs.
    for service in Service::ALL {
        let (status, metrics) = xtask::http::get(stack.ports().admin_of(service), "/metrics")
            .await
            .unwrap();
        assert_eq!(status, 200);
        if matches!(service, Service::Relay | Service::Gateway) {
            check_metrics(service, &metrics);
        }
        fs::write(
            stack
                .layout()
                .all_logs()
                .join(format!("{}.metrics", service.name())),
            metrics,
        )
        .unwrap();
    }
    drop(clients);
    stack.stop().await;

    let mut lines = 0;
    for service in Service::ALL {
        let log = fs::read_to_string(stack.layout().log(service)).unwrap();
        assert!(
            log.to_lowercase().contains("debug"),
            "{} is not verbose:\n{log}",
            service.name()
        );
        // Where the operators listen they may say; whoever comes is nowhere.
        let without_operators = Service::ALL.iter().fold(log.clone(), |log, operator| {
            let ports = stack.ports();
            log.replace(&ports.of(*operator).to_string(), "")
                .replace(&ports.admin_of(*operator).to_string(), "")
        });
        assert!(
            !without_operators.contains("127.0.0.1"),
            "{}:\n{log}",
            service.name()
        );
        if matches!(service, Service::Relay | Service::Gateway) {
            check_log(service, &log);
        }
        lines += log.lines().count();
    }
    println!("{} needles, {lines} lines", private.needles().count());
    assert!(lines > 200, "{lines}");
    assert_nothing_is_found(&stack.layout().all_logs(), &private.needles());
}
