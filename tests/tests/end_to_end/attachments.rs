//! Files through relay, gateway and service, on real processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{
    Attachment, AttachmentError, Client, Draft, Error, MAX_TEXT, MAX_THUMBNAIL, Thumbnail,
    TransferProgress, UploadOptions,
};
use crypto::blob::{BlobCapability, BlobWriteKey, CHUNK_CONTENT};
use end_to_end::{
    LogLevel, Outer, Service, Stack, User, befriend, device, devices, free_address, program,
    secrets_of,
};
use protocol::Wire as _;
use protocol::blobs::{
    BlobChunksRequest, BlobName, CHUNK, DeleteBlobRequest, PutChunkRequest, ReadChunkRequest,
    ReadChunkResponse,
};
use protocol::codec::opaque;
use protocol::ids::Day;
use protocol::operation::Operation;
use protocol::padding::BULK;
use xtask::scan::{self, Needles};

/// A file whose every byte depends on its place.
fn file(stack: &Stack, name: &str, len: usize) -> (PathBuf, Vec<u8>) {
    let path = stack.home(name);
    let content: Vec<u8> = (0..len)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect();
    fs::write(&path, &content).unwrap();
    (path, content)
}

async fn upload(client: &Client, path: &Path) -> Result<Attachment, Error> {
    client.upload(path, UploadOptions::default(), None).await
}

/// Counts what a transfer says.
fn counted() -> (TransferProgress, Arc<AtomicU64>) {
    let bytes = Arc::new(AtomicU64::new(0));
    let hears = Arc::clone(&bytes);
    (
        Arc::new(move |it| hears.store(it.bytes, Ordering::Relaxed)),
        bytes,
    )
}

async fn until(what: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap();
}

fn is(error: &Error, of: AttachmentError) -> bool {
    matches!(error, Error::Attachment(it) if *it == of)
}

#[tokio::test]
async fn two_members_fetch_a_file_while_a_service_is_killed_on_the_way() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = devices(&stack, ["alice", "bob", "carol"]).await;
    let (path, content) = file(&stack, "film", 40 * CHUNK_CONTENT + 9);
    let (progress, sent) = counted();
    let uploading = tokio::spawn({
        let (alice, path) = (alice.clone(), path.clone());
        async move {
            alice
                .upload(&path, UploadOptions::default(), Some(progress))
                .await
        }
    });
    // In the middle of a write, perhaps. What was acknowledged stays.
    until(|| sent.load(Ordering::Relaxed) > 8 * CHUNK_CONTENT as u64).await;
    let before = stack.kill(Service::Ds);
    stack.restarted(Service::Ds, before).await;
    let told = match uploading.await.unwrap() {
        Ok(told) => told,
        // Its patience was shorter than the start.
        Err(Error::Unreachable(_)) => upload(&alice, &path).await.unwrap(),
        Err(error) => panic!("{error}"),
    };
    for (name, client) in [("bob", &bob), ("carol", &carol)] {
        let into = stack.home(&format!("film of {name}"));
        let (progress, came) = counted();
        let fetching = tokio::spawn({
            let (client, into, told) = (client.clone(), into.clone(), told.clone());
            async move { client.download(&told, &into, Some(progress)).await }
        });
        until(|| came.load(Ordering::Relaxed) > 8 * CHUNK_CONTENT as u64).await;
        let before = stack.kill(Service::Ds);
        stack.restarted(Service::Ds, before).await;
        match fetching.await.unwrap() {
            Ok(()) => {}
            Err(Error::Unreachable(_)) => client.download(&told, &into, None).await.unwrap(),
            Err(error) => panic!("{error}"),
        }
        assert!(fs::read(&into).unwrap() == content, "{name}");
    }
}

#[tokio::test]
async fn an_upload_that_was_dropped_goes_on_in_the_next_process_with_what_is_missing() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let (path, content) = file(&stack, "film", 30 * CHUNK_CONTENT);
    let (progress, sent) = counted();
    let uploading = tokio::spawn({
        let (alice, path) = (alice.clone(), path.clone());
        async move {
            alice
                .upload(&path, UploadOptions::default(), Some(progress))
                .await
        }
    });
    until(|| sent.load(Ordering::Relaxed) > 4 * CHUNK_CONTENT as u64).await;
    uploading.abort();
    let _ = uploading.await;
    drop(alice);
    let first = liar.heard(Operation::PutChunk).len();
    let alice = Client::open(&stack.home("alice"), end_to_end::patient())
        .await
        .unwrap();
    let told = upload(&alice, &path).await.unwrap();
    assert_eq!(liar.heard(Operation::CreateBlob).len(), 1);
    let puts = liar.heard(Operation::PutChunk);
    // What was under way when it ended was sent again, at most.
    assert!(puts.len() <= 30 + 4 && puts.len() > first, "{}", puts.len());
    alice.download(&told, &stack.home("b"), None).await.unwrap();
    assert!(fs::read(stack.home("b")).unwrap() == content);
}

#[tokio::test]
async fn whoever_knows_a_name_reads_and_only_the_write_key_writes_or_deletes() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let (path, _) = file(&stack, "film", CHUNK_CONTENT);
    let told = upload(&alice, &path).await.unwrap();
    let put = liar.heard(Operation::PutChunk).pop().unwrap();
    let put = PutChunkRequest::decode(&put.body).unwrap();
    let outer = Outer::of(&stack).await;
    let read = |blob, index| {
        ReadChunkRequest {
            version: 1,
            blob,
            index,
        }
        .encode()
    };
    let answer = outer.post(Operation::ReadChunk, &read(put.blob, 0)).await;
    let read_chunk = ReadChunkResponse::decode(&answer.body).unwrap();
    assert_eq!(read_chunk.chunk, put.chunk);
    let problem = async |operation, body: Vec<u8>| outer.post(operation, &body).await.problem();
    for other in [
        BlobName {
            id: BlobCapability::new([1; 32]).id(),
            ..put.blob
        },
        BlobName {
            last_day: Day(put.blob.last_day.0 + 1),
            ..put.blob
        },
    ] {
        let list = BlobChunksRequest {
            version: 1,
            blob: other,
        };
        for (operation, body) in [
            (Operation::ReadChunk, read(other, 0)),
            (Operation::BlobChunks, list.encode()),
        ] {
            assert_eq!(
                problem(operation, body).await.as_deref(),
                Some("unknown-blob")
            );
        }
    }
    let stranger = BlobWriteKey::new([7; 32]);
    let foreign = PutChunkRequest {
        version: 1,
        blob: put.blob,
        write_key: stranger.to_wire(),
        index: 0,
        completes: 0,
        chunk: opaque(vec![0; CHUNK]),
    };
    let deletion = DeleteBlobRequest {
        version: 1,
        blob: put.blob,
        write_key: stranger.to_wire(),
    };
    for (operation, body) in [
        (Operation::PutChunk, foreign.encode()),
        (Operation::DeleteBlob, deletion.encode()),
    ] {
        assert_eq!(
            problem(operation, body).await.as_deref(),
            Some("unknown-blob")
        );
    }
    // Nor does the right one write over what is there.
    let over = PutChunkRequest {
        write_key: put.write_key,
        ..foreign
    };
    let refused = problem(Operation::PutChunk, over.encode()).await;
    assert_eq!(refused.as_deref(), Some("blob-complete"));
    alice.download(&told, &stack.home("b"), None).await.unwrap();
    // The sender's device deletes.
    alice.delete_upload(&told).await.unwrap();
    let gone = alice
        .download(&told, &stack.home("c"), None)
        .await
        .unwrap_err();
    assert!(is(&gone, AttachmentError::Gone), "{gone}");
}

#[tokio::test]
async fn a_service_that_swaps_cuts_or_repeats_chunks_is_found_out_at_the_first_one() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let [alice, bob] = devices(&stack, ["alice", "bob"]).await;
    let (path, content) = file(&stack, "film", 3 * CHUNK_CONTENT);
    let told = upload(&alice, &path).await.unwrap();
    let puts = liar.heard(Operation::PutChunk);
    let mut chunks = vec![Vec::new(); 3];
    for put in puts {
        let put = PutChunkRequest::decode(&put.body).unwrap();
        chunks[usize::from(put.index)] = put.chunk.as_slice().to_vec();
    }
    let swapped = chunks.clone();
    let swap = move |index: u16| swapped[usize::from((index + 1) % 3)].clone();
    let repeated = chunks.clone();
    let repeat = move |_: u16| repeated[2].clone();
    let cut = move |index: u16| chunks[usize::from(index)][..CHUNK - 1].to_vec();
    let lies: [Box<dyn Fn(u16) -> Vec<u8> + Send>; 3] =
        [Box::new(swap), Box::new(repeat), Box::new(cut)];
    for (at, lie) in lies.into_iter().enumerate() {
        liar.answer(Operation::ReadChunk, move |body| {
            let read = ReadChunkRequest::decode(body).unwrap();
            let chunk = opaque(lie(read.index));
            Some(ReadChunkResponse { chunk }.encode())
        });
        let into = stack.home("b");
        let refused = bob.download(&told, &into, None).await.unwrap_err();
        assert!(is(&refused, AttachmentError::Damaged), "{at}: {refused}");
        assert!(!into.exists());
        liar.repent();
    }
    bob.download(&told, &stack.home("b"), None).await.unwrap();
    assert!(fs::read(stack.home("b")).unwrap() == content);
}

#[tokio::test]
async fn a_file_goes_with_its_day() {
    let (stack, clocks) = Stack::start_with_clocks(LogLevel::Info, 0).await;
    let [alice, bob] = devices(&stack, ["alice", "bob"]).await;
    let (path, _) = file(&stack, "film", 10);
    let options = UploadOptions {
        days: 1,
        ..UploadOptions::default()
    };
    let told = alice.upload(&path, options, None).await.unwrap();
    assert_eq!(days(&stack).len(), 1);
    clocks.set("ds", 2 * 24 * 3600);
    let (status, said) = stack.command(Service::Ds, "believe-clock", "").await;
    assert_eq!(status, 200, "{said}");
    let gone = bob
        .download(&told, &stack.home("b"), None)
        .await
        .unwrap_err();
    assert!(is(&gone, AttachmentError::Gone), "{gone}");
    // A start looks at once for what has expired.
    let before = stack.kill(Service::Ds);
    stack.restarted(Service::Ds, before).await;
    until(|| days(&stack).is_empty()).await;
}

/// The directories of days in which the service has chunks.
fn days(stack: &Stack) -> Vec<PathBuf> {
    let blobs = stack.layout().data(Service::Ds).with_extension("blobs");
    let entries = fs::read_dir(blobs).unwrap().map(|it| it.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

/// Such a request has the size of a bulk one, and so has its answer.
#[tokio::test]
async fn the_longest_text_goes_with_the_longest_thumbnail() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    alice.create_group("notes").await.unwrap();
    let (path, _) = file(&stack, "film", 10);
    let mut picture = b"RIFF....WEBP".to_vec();
    picture.resize(MAX_THUMBNAIL, 1);
    let options = UploadOptions {
        thumbnail: Some(Thumbnail {
            media_type: "image/webp".to_owned(),
            content: picture,
        }),
        ..UploadOptions::default()
    };
    let told = alice.upload(&path, options, None).await.unwrap();
    let text = "x".repeat(MAX_TEXT);
    let draft = Draft::text(text.clone()).with_attachment(told.clone());
    alice.send_message("notes", draft).await.unwrap();
    let message = alice.messages("notes", None, 1).unwrap().remove(0);
    assert!(message.text == text && message.details.attachment == Some(told));
}

/// What a relay sees of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Exchange {
    request: usize,
    answer: usize,
}

mod watched {
    //! A listener in front of the relay that notes what the relay can: lengths of bodies.

    use super::*;
    use axum::Router;
    use axum::body::{Bytes, to_bytes};
    use axum::extract::{Request, State};
    use axum::response::{IntoResponse as _, Response};
    use std::sync::Mutex;

    /// Exchanges in the order in which they ended, each with how many bulk ones were under way when
    /// it began.
    pub(super) type Seen = Arc<Mutex<Vec<(Exchange, u64)>>>;

    #[derive(Clone)]
    struct Watch {
        http: reqwest::Client,
        relay: String,
        seen: Seen,
        under_way: Arc<AtomicU64>,
    }

    async fn pass(State(watch): State<Watch>, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let body: Bytes = to_bytes(body, 4 << 20).await.unwrap();
        let request_len = body.len();
        let is_bulk = u64::from(request_len >= BULK);
        let beside = watch.under_way.fetch_add(is_bulk, Ordering::Relaxed);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut onward = watch
            .http
            .request(head.method.clone(), format!("{}{path}", watch.relay))
            .body(body);
        if let Some(kind) = head.headers.get("content-type") {
            onward = onward.header("content-type", kind);
        }
        let answer = onward.send().await.unwrap();
        let status = answer.status();
        let kind = answer.headers().get("content-type").cloned();
        let body = answer.bytes().await.unwrap();
        watch.under_way.fetch_sub(is_bulk, Ordering::Relaxed);
        if head.method == "POST" {
            let exchange = Exchange {
                request: request_len,
                answer: body.len(),
            };
            watch.seen.lock().unwrap().push((exchange, beside));
        }
        let mut response = (status, body).into_response();
        if let Some(kind) = kind {
            response.headers_mut().insert("content-type", kind);
        }
        response
    }

    /// Its address, and what it sees.
    pub(super) async fn relay(stack: &Stack) -> (String, Seen) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let watch = Watch {
            http,
            relay: format!("http://{}", stack.ports().of(Service::Relay)),
            seen: Arc::default(),
            under_way: Arc::default(),
        };
        let seen = Arc::clone(&watch.seen);
        let address = free_address();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let router = Router::new().fallback(pass).with_state(watch);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (format!("http://{address}"), seen)
    }
}

/// Whether an adversary who sees these calls them an upload: more bytes went out than came in.
fn looks_like_an_upload(seen: &[Exchange]) -> Option<bool> {
    let (out, back) = seen.iter().fold((0, 0), |(out, back), it| {
        (out + it.request, back + it.answer)
    });
    // What encapsulation adds to a request, and to an answer, is the same in both directions.
    let overhead = 2_000 * seen.len();
    (out.abs_diff(back) > overhead).then_some(out > back)
}

/// C-BLOB-3. The same adversary wins where clients pad their requests as ordinary ones, which lets
/// the gateway pad the answers so.
#[tokio::test]
async fn a_relay_does_not_tell_an_upload_from_a_download_and_tells_one_that_is_not_padded() {
    let stack = Stack::start(LogLevel::Info).await;
    let (relay, seen) = watched::relay(&stack).await;
    let description = stack.description();
    let mut endpoints = description.clone();
    endpoints["relay"] = format!("{relay}/").into();
    endpoints["ohttp_keys"] = format!("{relay}/ohttp-keys").into();
    let endpoints = client::Endpoints::from_json(endpoints.to_string().as_bytes()).unwrap();
    let token = fs::read_to_string(stack.account_token(0)).unwrap();
    let home = stack.home("alice");
    let alice = Client::init(&home, &endpoints, token.trim(), end_to_end::patient())
        .await
        .unwrap();
    let take = || std::mem::take(&mut *seen.lock().unwrap());
    let sizes = |seen: Vec<(Exchange, u64)>| -> Vec<Exchange> {
        seen.into_iter().map(|(exchange, _)| exchange).collect()
    };
    let bulk = |seen: Vec<(Exchange, u64)>| -> Vec<Exchange> {
        let is_bulk = |it: &(Exchange, u64)| it.0.request.max(it.0.answer) >= BULK;
        let seen: Vec<_> = seen.into_iter().filter(is_bulk).collect();
        // The first and the last one go alone, the others up to four at a time.
        let beside: Vec<u64> = seen.iter().map(|(_, beside)| *beside).collect();
        assert!(beside.iter().all(|it| *it < 4), "{beside:?}");
        assert_eq!([beside.first(), beside.last()], [Some(&0), Some(&0)]);
        sizes(seen)
    };
    let mut shapes = BTreeSet::new();
    for chunks in [1, 5, 18] {
        let (path, _) = file(&stack, "film", chunks * CHUNK_CONTENT - 7);
        take();
        let told = upload(&alice, &path).await.unwrap();
        let up = bulk(take());
        let into = stack.home(&format!("back {chunks}"));
        alice.download(&told, &into, None).await.unwrap();
        let down = bulk(take());
        // A refusal has the same shape.
        alice.delete_upload(&told).await.unwrap();
        fs::remove_file(&into).unwrap();
        alice.download(&told, &into, None).await.unwrap_err();
        let others = bulk(take());
        assert_eq!(up.len(), chunks + 1);
        assert_eq!(up, down);
        assert_eq!(others.len(), 2);
        assert_eq!(
            [looks_like_an_upload(&up), looks_like_an_upload(&down)],
            [None, None]
        );
        shapes.extend([up, down, others].concat());
    }
    // One size of requests, and one of answers.
    assert_eq!(shapes.len(), 1, "{shapes:?}");
    let Exchange { request, answer } = *shapes.first().unwrap();
    assert!(request.abs_diff(BULK) < 2_000 && answer.abs_diff(BULK) < 2_000);

    // Weakened: a client whose requests have the sizes of ordinary ones.
    let (path, _) = file(&stack, "film", 5 * CHUNK_CONTENT);
    upload(&alice, &path).await.unwrap();
    take();
    let weak = Outer::at(&stack, &relay).await;
    let blob = BlobName {
        id: BlobCapability::new([1; 32]).id(),
        last_day: Day(1),
    };
    let put = PutChunkRequest {
        version: 1,
        blob,
        write_key: BlobWriteKey::new([1; 32]).to_wire(),
        index: 0,
        completes: 0,
        chunk: opaque(vec![0; CHUNK]),
    };
    weak.post(Operation::PutChunk, &put.encode()).await;
    assert_eq!(looks_like_an_upload(&sizes(take())), Some(true));
    let told = upload(&alice, &path).await.unwrap();
    take();
    let read = ReadChunkRequest {
        version: 1,
        blob: name_of(&told),
        index: 0,
    };
    let answer = weak.post(Operation::ReadChunk, &read.encode()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(looks_like_an_upload(&sizes(take())), Some(false));
}

fn capability_of(told: &Attachment) -> BlobCapability {
    let capability = told.url.strip_prefix("mimimi-blob:").unwrap();
    let capability = URL_SAFE_NO_PAD.decode(capability).unwrap();
    BlobCapability::try_from(capability.as_slice()).unwrap()
}

/// Whoever has the message knows where the blob is.
fn name_of(told: &Attachment) -> BlobName {
    BlobName {
        id: capability_of(told).id(),
        last_day: Day(told.expires / 86_400),
    }
}

#[tokio::test]
async fn nothing_of_a_file_is_found_in_what_the_services_keep_and_log() {
    let mut stack = Stack::start(LogLevel::Trace).await;
    let [alice, bob] = devices(&stack, ["alice", "bob"]).await;
    befriend(&alice, &bob).await;
    let (path, content) = file(&stack, "secret harbour plan.pdf", 3 * CHUNK_CONTENT);
    let told = upload(&alice, &path).await.unwrap();
    bob.download(&told, &stack.home("b"), None).await.unwrap();
    let (unfinished, _) = file(&stack, "another harbour plan.pdf", CHUNK_CONTENT);
    let other = upload(&alice, &unfinished).await.unwrap();
    alice.delete_upload(&other).await.unwrap();
    let mut needles: BTreeSet<Vec<u8>> = BTreeSet::new();
    for told in [&told, &other] {
        needles.insert(capability_of(told).expose().to_vec());
        needles.extend([told.key.clone(), told.content_hash.clone()]);
        needles.insert(name_of(told).id.0.to_vec());
    }
    needles.insert(b"harbour plan".to_vec());
    needles.insert(content[1000..1064].to_vec());
    needles.extend(secrets_of(alice_home(&stack).as_path()));
    drop((alice, bob));
    stack.stop().await;
    let needles = Needles::new(&needles).unwrap();
    for directory in [stack.layout().all_data(), stack.layout().all_logs()] {
        let report = scan::directory(&directory, &needles).unwrap();
        let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings, Vec::<String>::new());
    }
}

fn alice_home(stack: &Stack) -> PathBuf {
    stack.home("alice")
}

/// `mimimi` that is killed when so many bytes of the file have come to where they are kept.
async fn killed(user: &User, arguments: &[&str], at: &Path, bytes: u64) {
    let mut child = Command::new(program("mimimi"))
        .arg("--home")
        .arg(user.home())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(|| bytes_below(at) >= bytes).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(metadata) = fs::metadata(path) else {
        return 0;
    };
    if metadata.is_file() {
        return metadata.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| bytes_below(&entry.path())).sum()
}

#[tokio::test]
async fn mimimi_goes_on_with_a_file_after_it_was_killed_both_ways() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, "alice").await;
    let bob = User::register(&stack, 1, "bob").await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", "lab"]).await;
    alice.run(&["group", "add", "lab", "bob"]).await;
    let (path, content) = file(&stack, "film", 100 * CHUNK_CONTENT + 1);
    let path = path.to_str().unwrap().to_owned();
    let blobs = stack.layout().data(Service::Ds).with_extension("blobs");
    let kept = || -> u64 { days(&stack).iter().map(|day| bytes_below(day)).sum() };
    let send = ["send", "lab", "look", "--file", &path];
    killed(&alice, &send, &blobs, 20 * CHUNK as u64).await;
    let there = kept();
    let sent = alice.run(&send).await;
    // One blob: what was there was gone on with.
    let count = |day: &PathBuf| fs::read_dir(day).unwrap().count();
    assert_eq!(days(&stack).iter().map(count).sum::<usize>(), 1);
    assert!(there > 0 && kept() == 104 * (CHUNK as u64 + 32));
    let message = sent["message"].as_str().unwrap();
    let directory = stack.home("saved");
    fs::create_dir(&directory).unwrap();
    let into = directory.join("film");
    let save = ["save", "lab", message, "--to", directory.to_str().unwrap()];
    bob.run(&["receive"]).await;
    killed(&bob, &save, &directory, 20 * CHUNK_CONTENT as u64).await;
    assert!(!into.exists());
    let saved = bob.run(&save).await;
    assert_eq!(saved["bytes"].as_u64().unwrap(), content.len() as u64);
    assert!(fs::read(&into).unwrap() == content);
}
