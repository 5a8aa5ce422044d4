//! Files that go to the service and come back, in one process.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ds_domain::blobs::Location;
use mimimi_client::{
    Attachment, AttachmentError, Client, Draft, Error, Thumbnail, Transferred, UploadOptions,
};
use protocol::Wire as _;
use protocol::blobs::{BlobLife, BlobName, CreateBlobRequest, CreateBlobResponse, PutChunkRequest};
use protocol::ids::Day;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::SignedRequest;

use crate::support::blobs::Chunks;
use crate::support::{Homes, refusal};

const CHUNK: usize = crypto::blob::CHUNK_CONTENT;

/// A file whose every byte depends on its place.
fn file(homes: &Homes, name: &str, len: usize) -> PathBuf {
    let path = homes.path(name);
    std::fs::write(&path, content(len)).unwrap();
    path
}

fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

async fn upload(client: &Client, path: &Path) -> Result<Attachment, Error> {
    client.upload(path, UploadOptions::default(), None).await
}

/// What has come of a file that is on its way.
fn part(homes: &Homes) -> Option<PathBuf> {
    let entries = std::fs::read_dir(homes.path(".")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| {
        path.extension().is_some_and(|it| it == "part") && *path != homes.path("b.part")
    })
}

/// Cuts the way of an operation once so many have gone through.
fn cut(homes: &Homes, operation: Operation, after: usize) {
    let left = Mutex::new(after);
    homes.service.intercept(Some(Box::new(move |asked, _| {
        if asked != operation {
            return None;
        }
        let mut left = left.lock().unwrap();
        match left.checked_sub(1) {
            None => Some(Err(Error::Unreachable("the test has cut the way".into()))),
            Some(fewer) => {
                *left = fewer;
                None
            }
        }
    })));
}

fn is(error: &Error, of: AttachmentError) -> bool {
    matches!(error, Error::Attachment(it) if *it == of)
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_and_with_it_what_its_sender_says_of_it() {
    let homes = Homes::in_memory(1);
    let (alice, bob) = (homes.client("alice").await, homes.client("bob").await);
    let picture = [&b"\x89PNG\r\n\x1a\n"[..], &[7; 92]].concat();
    // The last one needs 17 chunks, and has 18.
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 17 * CHUNK - 5] {
        let from = file(&homes, "plan.bin", len);
        let options = UploadOptions {
            media_type: "application/pdf".into(),
            thumbnail: Some(Thumbnail {
                media_type: "image/png".into(),
                content: picture.clone(),
            }),
            days: 8,
            ..UploadOptions::default()
        };
        let sent = alice.upload(&from, options, None).await.unwrap();
        let told = sent.clone();
        assert_eq!(
            (told.file_name(), told.media_type.as_str()),
            (Some("plan.bin"), "application/pdf")
        );
        assert_eq!(
            (told.size, told.thumbnail.as_ref().unwrap().content.len()),
            (len as u64, 100)
        );
        let into = homes.path(&format!("bob-{len}"));
        let heard: Arc<Mutex<Vec<Transferred>>> = Arc::default();
        let hears = Arc::clone(&heard);
        let progress = Arc::new(move |it| hears.lock().unwrap().push(it));
        bob.download(&told, &into, Some(progress)).await.unwrap();
        assert_eq!(std::fs::read(&into).unwrap(), content(len), "{len}");
        let heard = heard.lock().unwrap().clone();
        assert!(heard.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes));
        let ends = heard.iter().filter(|it| it.bytes == it.of).count();
        assert_eq!((heard.last().unwrap().bytes, ends), (len as u64, 1));
        // Nothing is written over.
        let again = bob.download(&told, &into, None).await.unwrap_err();
        assert!(is(&again, AttachmentError::Exists));
    }
}

#[tokio::test]
async fn an_upload_and_a_download_are_as_many_exchanges_and_of_a_class_of_sizes() {
    let homes = Homes::in_memory(2);
    let alice = homes.client("alice").await;
    let count = |of: &[Operation]| -> usize { of.iter().map(|of| homes.service.count(*of)).sum() };
    let both = [Operation::BlobChunks, Operation::ReadChunk];
    for (len, class) in [
        (1, 1),
        (3 * CHUNK, 3),
        (17 * CHUNK - 1, 18),
        (17 * CHUNK, 18),
    ] {
        let from = file(&homes, "a", len);
        let up = count(&[Operation::CreateBlob, Operation::PutChunk]);
        let sent = upload(&alice, &from).await.unwrap();
        let up = count(&[Operation::CreateBlob, Operation::PutChunk]) - up;
        let down = count(&both);
        let into = homes.path(&format!("b-{len}"));
        alice.download(&sent, &into, None).await.unwrap();
        let down = count(&both) - down;
        // 17 chunks and one byte need 18, as 18 do.
        assert_eq!((up, down), (class + 1, class + 1), "{len}");
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_and_nothing_is_sealed_twice_otherwise() {
    let homes = Homes::in_memory(3);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 7 * CHUNK);
    let (seen, until) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(3)));
    let (sees, stops) = (Arc::clone(&seen), Arc::clone(&until));
    homes
        .service
        .intercept(Some(Box::new(move |operation, body| {
            if operation == Operation::PutChunk {
                let put = PutChunkRequest::decode(body).unwrap();
                sees.lock()
                    .unwrap()
                    .push((put.blob, put.index, put.chunk.as_slice().to_vec()));
                let mut left = stops.lock().unwrap();
                if *left == 0 {
                    return Some(Err(Error::Unreachable("the test has cut the way".into())));
                }
                *left -= 1;
            }
            None
        })));
    let cut = upload(&alice, &from).await.unwrap_err();
    assert!(matches!(cut, Error::Unreachable(_)), "{cut}");
    // The process ends, and another one begins.
    alice.close().await;
    let alice = Client::open(&homes.path("alice"), homes.options())
        .await
        .unwrap();
    *until.lock().unwrap() = 1_000;
    let sent = upload(&alice, &from).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 1);
    let seen = seen.lock().unwrap().clone();
    let mut first = HashMap::new();
    for (blob, index, chunk) in seen.iter() {
        assert_eq!(
            *first.entry((*blob, *index)).or_insert(chunk.clone()),
            *chunk
        );
    }
    // Three had come; nothing of them was sent again.
    assert_eq!(first.len(), 7);
    assert!(seen.len() <= 7 + 4, "{}", seen.len());
    homes.service.intercept(None);
    alice.download(&sent, &homes.path("b"), None).await.unwrap();
    assert_eq!(std::fs::read(homes.path("b")).unwrap(), content(7 * CHUNK));
}

#[tokio::test]
async fn a_file_that_changed_is_uploaded_anew_under_other_keys() {
    let homes = Homes::in_memory(4);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 3 * CHUNK);
    let changed = from.clone();
    let sealed: Arc<Mutex<Vec<_>>> = Arc::default();
    let sees = Arc::clone(&sealed);
    // It changes while its first chunk is on its way.
    let mut changes = true;
    homes
        .service
        .intercept(Some(Box::new(move |operation, body| {
            if operation == Operation::CreateBlob && std::mem::take(&mut changes) {
                let mut content = content(3 * CHUNK);
                content[2 * CHUNK] ^= 1;
                std::fs::write(&changed, content).unwrap();
            }
            if operation == Operation::PutChunk {
                let put = PutChunkRequest::decode(body).unwrap();
                let mut sealed = sees.lock().unwrap();
                sealed.push((put.blob, put.index, put.chunk.as_slice().to_vec()));
            }
            None
        })));
    let refused = upload(&alice, &from).await.unwrap_err();
    assert!(is(&refused, AttachmentError::Changed), "{refused}");
    let before = std::mem::take(&mut *sealed.lock().unwrap());
    let sent = upload(&alice, &from).await.unwrap();
    // The first pieces are the same, and nothing of what is sent is.
    let after = sealed.lock().unwrap().clone();
    assert!(!before.is_empty() && after.len() == 3);
    for (blob, index, chunk) in after.iter() {
        let differs = |it: &(BlobName, u16, Vec<u8>)| it.0 != *blob && it.2 != *chunk;
        assert!(before.iter().all(differs), "{index}");
    }
    assert_eq!(homes.service.count(Operation::CreateBlob), 2);
    assert_eq!(homes.service.count(Operation::DeleteBlob), 1);
    alice.download(&sent, &homes.path("b"), None).await.unwrap();
    assert_eq!(
        std::fs::read(homes.path("b")).unwrap(),
        std::fs::read(&from).unwrap()
    );
}

#[tokio::test]
async fn a_file_that_became_shorter_is_no_file_to_go_on_with() {
    let homes = Homes::in_memory(5);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 3 * CHUNK);
    let changed = from.clone();
    homes.service.intercept(Some(Box::new(move |operation, _| {
        if operation == Operation::CreateBlob {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&changed)
                .unwrap();
            file.set_len(CHUNK as u64).unwrap();
        }
        None
    })));
    let refused = upload(&alice, &from).await.unwrap_err();
    assert!(is(&refused, AttachmentError::Changed), "{refused}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_and_not_with_what_was_of_something_else() {
    let homes = Homes::in_memory(6);
    let alice = homes.client("alice").await;
    let sent = upload(&alice, &file(&homes, "a", 9 * CHUNK)).await.unwrap();
    cut(&homes, Operation::ReadChunk, 5);
    let into = homes.path("b");
    // A sender chooses what the file is called, and no other file by that.
    let other = homes.path("b.part");
    std::fs::write(&other, "somebody's").unwrap();
    assert!(alice.download(&sent, &into, None).await.is_err());
    let part = part(&homes).unwrap();
    let came = std::fs::metadata(&part).unwrap().len();
    assert!(came > 0 && came.is_multiple_of(CHUNK as u64) && !into.exists());
    homes.service.intercept(None);
    let before = homes.service.count(Operation::ReadChunk);
    alice.download(&sent, &into, None).await.unwrap();
    let fetched = homes.service.count(Operation::ReadChunk) - before;
    assert_eq!(fetched, 9 - (came / CHUNK as u64) as usize);
    assert_eq!(std::fs::read(&into).unwrap(), content(9 * CHUNK));
    assert!(!part.exists());
    // What stands there of another file, or was cut in a chunk, does no harm.
    for wrong in [
        vec![9; 4 * CHUNK],
        vec![9; 3 * CHUNK + 5],
        content(CHUNK + 9),
        vec![9; 99 * CHUNK],
    ] {
        std::fs::remove_file(&into).unwrap();
        std::fs::write(&part, wrong).unwrap();
        alice.download(&sent, &into, None).await.unwrap();
        assert_eq!(std::fs::read(&into).unwrap(), content(9 * CHUNK));
    }
    assert_eq!(std::fs::read(&other).unwrap(), b"somebody's");
}

#[tokio::test]
async fn what_is_no_file_here_is_read_as_a_stream_and_goes_on_where_it_was() {
    let homes = Homes::in_memory(14);
    let alice = homes.client("alice").await;
    let source = || std::io::Cursor::new(content(9 * CHUNK + 1));
    let nameless = alice.upload_from(source(), UploadOptions::default(), None);
    let nameless = nameless.await.unwrap_err();
    assert!(is(&nameless, AttachmentError::Unusable), "{nameless}");
    let options = UploadOptions {
        name: Some("film".into()),
        ..UploadOptions::default()
    };
    cut(&homes, Operation::PutChunk, 5);
    let unfinished = alice.upload_from(source(), options.clone(), None).await;
    assert!(matches!(unfinished, Err(Error::Unreachable(_))));
    homes.service.intercept(None);
    let before = homes.service.count(Operation::PutChunk);
    // It may have been read already.
    let mut read = source();
    read.set_position(77);
    let sent = alice.upload_from(read, options, None).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 1);
    assert_eq!(homes.service.count(Operation::PutChunk) - before, 10 - 5);
    let into = homes.path("b");
    alice.download(&sent, &into, None).await.unwrap();
    assert_eq!(std::fs::read(&into).unwrap(), content(9 * CHUNK + 1));
}

#[tokio::test]
async fn a_file_is_kept_for_as_long_as_was_asked_whatever_the_service_says() {
    let homes = Homes::in_memory(15);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 3 * CHUNK);
    // What was begun for another time is begun anew.
    cut(&homes, Operation::PutChunk, 1);
    assert!(upload(&alice, &from).await.is_err());
    homes.service.intercept(None);
    let day = UploadOptions {
        days: 1,
        ..UploadOptions::default()
    };
    let sent = alice.upload(&from, day, None).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 2);
    // A day of its own for each file would mark it.
    let other = file(&homes, "c", 10);
    let today = sent.expires / 86_400 - 1;
    for wrong in [0, today, today + 28, today + 32, u32::MAX] {
        homes.service.intercept(Some(Box::new(move |operation, _| {
            let last_day = Day(wrong);
            let lie = CreateBlobResponse { last_day }.encode();
            (operation == Operation::CreateBlob).then_some(Ok(lie))
        })));
        let refused = upload(&alice, &other).await.unwrap_err();
        assert!(matches!(refused, Error::Protocol(_)), "{wrong}: {refused}");
    }
}

#[tokio::test]
async fn a_service_that_mixes_up_cuts_or_changes_chunks_gives_nothing() {
    let homes = Homes::in_memory(7);
    let alice = homes.client("alice").await;
    let sent = upload(&alice, &file(&homes, "a", 3 * CHUNK)).await.unwrap();
    let other = upload(&alice, &file(&homes, "c", 3 * CHUNK)).await.unwrap();
    let mut kept = Chunks::new();
    homes.service.with_chunks(|chunks| kept = chunks.clone());
    let places: BTreeSet<_> = kept.keys().map(|(at, _)| (at.last_day, at.row)).collect();
    let places: Vec<Location> = places
        .into_iter()
        .map(|(last_day, row)| Location { last_day, row })
        .collect();
    let [one, two] = places[..] else {
        panic!("two blobs")
    };
    type Lie = Box<dyn FnOnce(&mut Chunks)>;
    let lies: Vec<Lie> = vec![
        Box::new(move |chunks| {
            for at in [one, two] {
                let (first, second) = (chunks[&(at, 0)].clone(), chunks[&(at, 1)].clone());
                chunks.insert((at, 0), second);
                chunks.insert((at, 1), first);
            }
        }),
        Box::new(move |chunks| {
            for at in [one, two] {
                let last = chunks[&(at, 2)].clone();
                chunks.insert((at, 1), last);
            }
        }),
        Box::new(move |chunks| {
            let (first, second) = (chunks[&(one, 1)].clone(), chunks[&(two, 1)].clone());
            chunks.insert((one, 1), second);
            chunks.insert((two, 1), first);
        }),
        Box::new(|chunks| chunks.values_mut().for_each(|chunk| chunk[1000] ^= 1)),
        Box::new(|chunks| {
            chunks
                .values_mut()
                .for_each(|chunk| chunk.truncate(CHUNK / 2))
        }),
        Box::new(|chunks| chunks.values_mut().for_each(Vec::clear)),
        Box::new(|chunks| chunks.retain(|(_, index), _| *index != 1)),
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        homes.service.with_chunks(lie);
        for of in [&sent, &other] {
            let into = homes.path("b");
            let refused = alice.download(of, &into, None).await.unwrap_err();
            assert!(is(&refused, AttachmentError::Damaged), "{at}: {refused}");
            assert!(!into.exists());
            if let Some(part) = part(&homes) {
                std::fs::remove_file(part).unwrap();
            }
        }
        homes.service.with_chunks(|chunks| *chunks = kept.clone());
    }
    alice.download(&sent, &homes.path("b"), None).await.unwrap();
}

#[tokio::test]
async fn a_sender_who_tells_another_digest_length_or_key_gives_nothing() {
    let homes = Homes::in_memory(8);
    let alice = homes.client("alice").await;
    let sent = upload(&alice, &file(&homes, "a", 2 * CHUNK)).await.unwrap();
    let lies: [fn(&mut Attachment); 5] = [
        |it| it.key[0] ^= 1,
        |it| it.nonce[6] ^= 1,
        |it| it.size += 1,
        |it| it.size -= 1,
        |it| it.content_hash[31] ^= 1,
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        let mut told = sent.clone();
        lie(&mut told);
        let refused = alice
            .download(&told, &homes.path("b"), None)
            .await
            .unwrap_err();
        assert!(is(&refused, AttachmentError::Damaged), "{at}: {refused}");
        assert!(!homes.path("b").exists());
    }
    // Another capability leads nowhere, and so does another day.
    let lies: [fn(&mut Attachment); 2] = [
        |it| {
            it.url
                .replace_range(12..14, if &it.url[12..14] == "AA" { "BB" } else { "AA" })
        },
        |it| it.expires += 86_400,
    ];
    for lie in lies {
        let mut told = sent.clone();
        lie(&mut told);
        let refused = alice
            .download(&told, &homes.path("b"), None)
            .await
            .unwrap_err();
        assert!(is(&refused, AttachmentError::Gone), "{refused}");
    }
    // What is elsewhere is not fetched at all.
    let mut told = sent;
    told.url = "https://example.org/x".into();
    let refused = alice
        .download(&told, &homes.path("b"), None)
        .await
        .unwrap_err();
    assert!(is(&refused, AttachmentError::Unusable), "{refused}");
}

#[tokio::test]
async fn a_file_is_there_until_it_expires_or_its_device_deletes_it() {
    let homes = Homes::in_memory(9);
    let (alice, bob) = (homes.client("alice").await, homes.client("bob").await);
    let from = file(&homes, "a", 10);
    let sent = upload(&alice, &from).await.unwrap();
    let again = upload(&alice, &from).await.unwrap();
    assert_ne!((&sent.url, &sent.key), (&again.url, &again.key));
    let not_own = bob.delete_upload(&sent).await.unwrap_err();
    assert!(is(&not_own, AttachmentError::NotOwn));
    alice.delete_upload(&sent).await.unwrap();
    let gone = bob
        .download(&sent, &homes.path("b"), None)
        .await
        .unwrap_err();
    assert!(is(&gone, AttachmentError::Gone), "{gone}");
    bob.download(&again, &homes.path("b"), None).await.unwrap();
    homes
        .service
        .clock
        .advance(Duration::from_secs(31 * 24 * 3600));
    let gone = bob
        .download(&again, &homes.path("c"), None)
        .await
        .unwrap_err();
    assert!(is(&gone, AttachmentError::Gone), "{gone}");
}

#[tokio::test]
async fn an_upload_that_was_left_for_days_begins_anew() {
    let homes = Homes::in_memory(10);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 2 * CHUNK);
    homes.service.intercept(Some(Box::new(|operation, _| {
        (operation == Operation::PutChunk).then(|| Err(Error::Unreachable("cut".into())))
    })));
    assert!(upload(&alice, &from).await.is_err());
    homes.service.intercept(None);
    homes
        .service
        .clock
        .advance(Duration::from_secs(3 * 24 * 3600));
    let sent = upload(&alice, &from).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 2);
    alice.download(&sent, &homes.path("b"), None).await.unwrap();
}

#[tokio::test]
async fn messages_are_sent_while_a_file_is_on_its_way_and_a_dropped_upload_goes_on_later() {
    let homes = Homes::in_memory(11);
    let alice = homes.user("alice").await;
    alice.create_group("notes").await.unwrap();
    let from = file(&homes, "a", 3 * CHUNK);
    // The service is slow with chunks, for ever.
    homes.service.hold(Some(Operation::PutChunk));
    let uploading = tokio::spawn({
        let (alice, from) = (alice.clone(), from.clone());
        async move { upload(&alice, &from).await }
    });
    while homes.service.count(Operation::CreateBlob) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let sent = tokio::time::timeout(
        Duration::from_secs(20),
        alice.send_message("notes", "meanwhile"),
    );
    sent.await.unwrap().unwrap();
    assert!(!uploading.is_finished());
    uploading.abort();
    homes.service.hold(None);
    upload(&alice, &from).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 1);
}

/// Both ways alike.
#[tokio::test]
async fn on_a_slow_line_a_file_goes_chunk_by_chunk_and_else_four_at_a_time() {
    let homes = Homes::in_memory(16);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 7 * CHUNK);
    let sent = upload(&alice, &from).await.unwrap();
    for (slow, expected) in [(false, 4), (true, 1)] {
        for (first, others) in [
            (Operation::CreateBlob, Operation::PutChunk),
            (Operation::BlobChunks, Operation::ReadChunk),
        ] {
            homes.service.intercept(Some(Box::new(move |operation, _| {
                if operation == first && slow {
                    std::thread::sleep(Duration::from_millis(4_100));
                }
                None
            })));
            homes.service.hold(Some(others));
            let before = homes.service.count(others);
            let transfer = tokio::spawn({
                let (alice, sent) = (alice.clone(), sent.clone());
                let (from, into) = (from.clone(), homes.path("b"));
                async move {
                    match first {
                        Operation::CreateBlob => upload(&alice, &from).await.map(drop),
                        _ => alice.download(&sent, &into, None).await,
                    }
                }
            });
            while homes.service.count(others) == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(homes.service.count(others) - before, expected, "{others:?}");
            homes.service.hold(None);
            transfer.await.unwrap().unwrap();
        }
        std::fs::remove_file(homes.path("b")).unwrap();
    }
}

#[tokio::test]
async fn what_the_service_refuses_is_told_as_what_it_is() {
    let homes = Homes::in_memory(12);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 10);
    for (problem, code) in [
        (ProblemType::StorageFull, "storage-full"),
        (ProblemType::LimitExceeded, "attachment-too-long"),
    ] {
        homes.service.intercept(Some(Box::new(move |operation, _| {
            (operation == Operation::CreateBlob).then(|| Err(refusal(problem)))
        })));
        assert_eq!(upload(&alice, &from).await.unwrap_err().code(), code);
    }
    homes.service.intercept(None);
    let directory = upload(&alice, &homes.path(".")).await.unwrap_err();
    assert!(is(&directory, AttachmentError::Unusable), "{directory}");
    let nothing = upload(&alice, &homes.path("nowhere")).await.unwrap_err();
    assert_eq!(nothing.code(), "local");
    let hidden = UploadOptions {
        name: Some("../x".into()),
        ..UploadOptions::default()
    };
    let hidden = alice.upload(&from, hidden, None).await.unwrap_err();
    assert!(is(&hidden, AttachmentError::Unusable), "{hidden}");
    // The others were refused before the service was asked for anything.
    assert_eq!(homes.service.count(Operation::CreateBlob), 2);
}

#[tokio::test]
async fn the_service_is_told_nothing_of_a_file_but_a_class_of_sizes_and_of_days() {
    let homes = Homes::in_memory(13);
    let alice = homes.client("alice").await;
    let from = file(&homes, "secret-plan.txt", 2 * CHUNK);
    let told: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let hears = Arc::clone(&told);
    homes
        .service
        .intercept(Some(Box::new(move |operation, body| {
            hears.lock().unwrap().push(body.to_vec());
            if operation == Operation::CreateBlob {
                let envelope = SignedRequest::decode(body).unwrap();
                let create = CreateBlobRequest::decode(envelope.body.as_slice()).unwrap();
                assert_eq!((create.chunks, create.life), (2, BlobLife::Month));
            }
            None
        })));
    let sent = upload(&alice, &from).await.unwrap();
    alice.download(&sent, &homes.path("b"), None).await.unwrap();
    let capability = URL_SAFE_NO_PAD
        .decode(&sent.url["mimimi-blob:".len()..])
        .unwrap();
    let content = content(64);
    let secrets = [
        &capability[..],
        &sent.key,
        &sent.content_hash,
        b"secret-plan",
        &content[..32],
    ];
    for body in told.lock().unwrap().iter() {
        for secret in secrets {
            assert!(!body.windows(secret.len()).any(|part| part == secret));
        }
    }
}

/// Its process and another one.
async fn again(homes: &Homes, client: Client) -> Client {
    client.close().await;
    let opened = Client::open(&homes.path("alice"), homes.options()).await;
    opened.unwrap()
}

async fn until(homes: &Homes, operation: Operation, count: usize) {
    let came = async {
        while homes.service.count(operation) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), came);
    came.await.unwrap();
}

#[tokio::test]
async fn what_was_uploaded_is_gone_on_with_until_a_message_tells_of_it() {
    let homes = Homes::in_memory(17);
    let alice = homes.user("alice").await;
    alice.create_group("notes").await.unwrap();
    let from = file(&homes, "a", 3 * CHUNK);
    let lost = upload(&alice, &from).await.unwrap();
    // Before it is said in any message.
    let alice = again(&homes, alice).await;
    let sent = upload(&alice, &from).await.unwrap();
    assert_eq!(sent, lost);
    let counts = || [Operation::CreateBlob, Operation::PutChunk].map(|it| homes.service.count(it));
    assert_eq!(counts(), [1, 3]);
    let draft = Draft::attachment(sent.clone());
    alice.send_message("notes", draft).await.unwrap();
    // Who sends the same file again sends another blob.
    let alice = again(&homes, alice).await;
    let other = upload(&alice, &from).await.unwrap();
    assert_ne!((&other.url, &other.key), (&sent.url, &sent.key));
    assert_eq!(counts(), [2, 6]);
    alice.delete_upload(&sent).await.unwrap();
}

#[tokio::test]
async fn a_blob_whose_answer_was_lost_is_not_paid_for_again() {
    let homes = Homes::in_memory(18);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 2 * CHUNK);
    homes.service.lose_answer(Operation::CreateBlob);
    let lost = upload(&alice, &from).await.unwrap_err();
    assert!(matches!(lost, Error::Unreachable(_)), "{lost}");
    let alice = again(&homes, alice).await;
    let sent = upload(&alice, &from).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 1);
    alice.download(&sent, &homes.path("b"), None).await.unwrap();
    // One that never came is begun anew.
    let other = file(&homes, "c", CHUNK);
    homes.service.lose_request(Operation::CreateBlob);
    upload(&alice, &other).await.unwrap_err();
    upload(&alice, &other).await.unwrap();
    assert_eq!(homes.service.count(Operation::CreateBlob), 2);
}

/// Pickers call every picture the same.
#[tokio::test]
async fn files_of_one_name_go_beside_each_other_and_so_does_one_file_for_two_times() {
    let homes = Homes::in_memory(19);
    let alice = homes.client("alice").await;
    let from = file(&homes, "a", 4 * CHUNK);
    let of_life = |days| UploadOptions {
        name: Some("image.jpg".into()),
        days,
        ..UploadOptions::default()
    };
    homes.service.hold(Some(Operation::PutChunk));
    let mut uploads = Vec::new();
    for (at, len) in [3 * CHUNK, 2 * CHUNK, 2 * CHUNK].into_iter().enumerate() {
        let (alice, options) = (alice.clone(), of_life(30));
        uploads.push((
            len,
            tokio::spawn(async move {
                let source = std::io::Cursor::new(content(len));
                alice.upload_from(source, options, None).await
            }),
        ));
        until(&homes, Operation::CreateBlob, at + 1).await;
    }
    for (at, days) in [1, 7].into_iter().enumerate() {
        let (alice, from, options) = (alice.clone(), from.clone(), of_life(days));
        let upload = async move { alice.upload(&from, options, None).await };
        uploads.push((4 * CHUNK, tokio::spawn(upload)));
        until(&homes, Operation::CreateBlob, at + 4).await;
    }
    homes.service.hold(None);
    let mut urls = BTreeSet::new();
    for (at, (len, upload)) in uploads.into_iter().enumerate() {
        let sent = upload.await.unwrap().unwrap();
        let into = homes.path(&format!("b-{at}"));
        alice.download(&sent, &into, None).await.unwrap();
        assert_eq!(std::fs::read(&into).unwrap(), content(len));
        urls.insert(sent.url);
    }
    assert_eq!(urls.len(), 5);
    assert_eq!(homes.service.count(Operation::CreateBlob), 5);
    assert_eq!(homes.service.count(Operation::DeleteBlob), 0);
}

#[tokio::test]
async fn two_downloads_at_once_harm_neither_each_other_nor_what_is_there() {
    let homes = Homes::in_memory(20);
    let alice = homes.client("alice").await;
    let sent = upload(&alice, &file(&homes, "a", 3 * CHUNK)).await.unwrap();
    let other = upload(&alice, &file(&homes, "c", CHUNK)).await.unwrap();
    let into = homes.path("b");
    let fetch = |of: &Attachment| {
        let (alice, of, into) = (alice.clone(), of.clone(), into.clone());
        tokio::spawn(async move { alice.download(&of, &into, None).await })
    };
    homes.service.hold(Some(Operation::ReadChunk));
    let first = fetch(&sent);
    until(&homes, Operation::ReadChunk, 1).await;
    let twice = fetch(&sent).await.unwrap().unwrap_err();
    assert!(is(&twice, AttachmentError::UnderWay), "{twice}");
    let second = fetch(&other);
    until(&homes, Operation::BlobChunks, 2).await;
    homes.service.hold(None);
    let done = [first.await.unwrap(), second.await.unwrap()];
    let winner = match &done {
        [Ok(()), Err(late)] if is(late, AttachmentError::Exists) => 3 * CHUNK,
        [Err(late), Ok(())] if is(late, AttachmentError::Exists) => CHUNK,
        other => panic!("{other:?}"),
    };
    assert_eq!(std::fs::read(&into).unwrap(), content(winner));
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_is_called_as_it_was_named_and_not_as_what_a_link_leads_to() {
    let homes = Homes::in_memory(21);
    let alice = homes.client("alice").await;
    let from = file(&homes, "secret-project-plan", 10);
    let link = homes.path("plan");
    std::os::unix::fs::symlink(&from, &link).unwrap();
    let sent = upload(&alice, &link).await.unwrap();
    assert_eq!(sent.file_name(), Some("plan"));
}
