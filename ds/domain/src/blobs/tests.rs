use crypto::blob::{BlobCapability, BlobWriteKey};
use protocol::Wire as _;
use protocol::blobs::*;
use protocol::codec::opaque;
use protocol::ids::{BlobId, Day};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use sha2::{Digest as _, Sha256};

use super::{Blob, BlobRequest, CreateBlob, Task, counted, rows_on};
use crate::engine::{Found, Read, Table};
use crate::execution::Failure;
use crate::refusal::Stop;
use crate::testing::{DAY_MS, Service, key};
use crate::view::View;

fn id() -> BlobId {
    BlobCapability::new([1; 32]).id()
}

fn writer() -> BlobWriteKey {
    BlobWriteKey::new([2; 32])
}

fn creation(chunks: u16) -> CreateBlobRequest {
    CreateBlobRequest {
        id: id(),
        chunks,
        life: BlobLife::Week,
        writer: writer().hash(),
    }
}

fn create(service: &mut Service, body: &CreateBlobRequest) -> Result<Day, Failure> {
    let answer = service.call::<CreateBlob>(&key(1), body);
    answer.map(|answer| answer.last_day)
}

/// A service with a blob of this many chunks, which is not written yet.
fn created(chunks: u16) -> (Service, BlobName) {
    let mut service = Service::new(1);
    let last_day = create(&mut service, &creation(chunks)).unwrap();
    (service, BlobName { id: id(), last_day })
}

fn decide(service: &mut Service, request: &BlobRequest) -> Result<(Blob, Task), ProblemType> {
    let mut view = View::default();
    loop {
        let (mut env, engine) = service.env();
        match request.decide(&view, &mut env) {
            Ok(decided) => return Ok(decided),
            Err(Stop::Need(reads)) => {
                let found = engine.read(&reads);
                for (read, found) in reads.into_iter().zip(found) {
                    view.add(read, found);
                }
            }
            Err(Stop::Refused(refusal)) => return Err(refusal.problem()),
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn put(blob: BlobName, writer: &BlobWriteKey, index: u16) -> BlobRequest {
    BlobRequest::Put(PutChunkRequest {
        version: 1,
        blob,
        write_key: writer.to_wire(),
        index,
        completes: 0,
        chunk: opaque(vec![3; CHUNK]),
    })
}

fn list(blob: BlobName) -> BlobRequest {
    BlobRequest::List(BlobChunksRequest { version: 1, blob })
}

fn read(blob: BlobName, index: u16) -> BlobRequest {
    BlobRequest::Read(ReadChunkRequest {
        version: 1,
        blob,
        index,
    })
}

fn delete(blob: BlobName, writer: &BlobWriteKey) -> BlobRequest {
    BlobRequest::Delete(DeleteBlobRequest {
        version: 1,
        blob,
        write_key: writer.to_wire(),
    })
}

/// As the server does when all chunks are there.
fn complete(service: &mut Service, blob: BlobName) {
    let (found, _) = decide(service, &put(blob, &writer(), 0)).unwrap();
    let (env, engine) = service.env();
    engine.apply(found.completion(&env.rows())).unwrap();
}

#[test]
fn only_the_writer_writes_and_only_until_the_blob_is_whole() {
    let (mut service, blob) = created(3);
    let stranger = BlobWriteKey::new([7; 32]);
    let unknown = Err(ProblemType::UnknownBlob);
    assert_eq!(
        decide(&mut service, &put(blob, &stranger, 0)).map(|_| ()),
        unknown
    );
    assert_eq!(
        decide(&mut service, &delete(blob, &stranger)).map(|_| ()),
        unknown
    );
    let (found, task) = decide(&mut service, &put(blob, &writer(), 2)).unwrap();
    let (index, completes) = (2, false);
    assert_eq!(task, Task::Put { index, completes });
    assert!(!found.is_whole() && found.chunks() == 3);
    // Nobody reads what is not whole; everybody sees how far it is.
    let incomplete = Err(ProblemType::BlobIncomplete);
    assert_eq!(decide(&mut service, &read(blob, 0)).map(|_| ()), incomplete);
    assert_eq!(decide(&mut service, &list(blob)).unwrap().1, Task::List);
    complete(&mut service, blob);
    let (found, task) = decide(&mut service, &read(blob, 2)).unwrap();
    assert!(found.is_whole() && task == Task::Read(2));
    // The driver compares from now on, and writes nothing.
    assert!(
        decide(&mut service, &put(blob, &writer(), 0))
            .unwrap()
            .0
            .is_whole()
    );
    // Its secret deletes it.
    let (found, _) = decide(&mut service, &delete(blob, &writer())).unwrap();
    let (env, engine) = service.env();
    engine.apply(found.deletion(&env.rows())).unwrap();
    assert_eq!(decide(&mut service, &read(blob, 0)).map(|_| ()), unknown);
}

#[test]
fn a_blob_becomes_whole_once() {
    let (mut service, blob) = created(1);
    let (found, _) = decide(&mut service, &put(blob, &writer(), 0)).unwrap();
    let (env, engine) = service.env();
    let batch = found.completion(&env.rows());
    engine.apply(batch.clone()).unwrap();
    assert!(engine.apply(batch).is_err());
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let (mut service, blob) = created(3);
    let too_much = Err(ProblemType::LimitExceeded);
    assert_eq!(
        decide(&mut service, &put(blob, &writer(), 3)).map(|_| ()),
        too_much
    );
    let mut short = PutChunkRequest {
        version: 1,
        blob,
        write_key: writer().to_wire(),
        index: 0,
        completes: 0,
        chunk: opaque(vec![3; CHUNK - 1]),
    };
    for len in [0, CHUNK - 1, CHUNK + 1] {
        short.chunk = opaque(vec![3; len]);
        let again = PutChunkRequest::decode(&short.encode()).unwrap();
        assert_eq!(
            decide(&mut service, &BlobRequest::Put(again)).map(|_| ()),
            too_much
        );
    }
    complete(&mut service, blob);
    assert_eq!(decide(&mut service, &read(blob, 3)).map(|_| ()), too_much);
    // A number that is no class tells more than it should.
    for chunks in [0, 17, 33, 513, 576, u16::MAX] {
        let body = CreateBlobRequest {
            id: BlobId([8; 32]),
            ..creation(chunks)
        };
        let refused = create(&mut service, &body).unwrap_err();
        assert_eq!(
            refused,
            Failure::Refused(ProblemType::LimitExceeded.into()),
            "{chunks}"
        );
    }
}

#[test]
fn no_blob_is_begun_for_which_there_is_no_room() {
    let (mut service, _) = created(3);
    let other = |chunks| CreateBlobRequest {
        id: BlobId([8; 32]),
        ..creation(chunks)
    };
    service.blob_room = 3;
    let full = Failure::Refused(ProblemType::StorageFull.into());
    assert_eq!(create(&mut service, &other(4)).unwrap_err(), full);
    create(&mut service, &other(3)).unwrap();
}

#[test]
fn an_id_is_given_once_for_each_last_day() {
    let (mut service, blob) = created(1);
    let taken = Failure::Refused(ProblemType::BlobComplete.into());
    assert_eq!(create(&mut service, &creation(1)).unwrap_err(), taken);
    complete(&mut service, blob);
    assert_eq!(create(&mut service, &creation(1)).unwrap_err(), taken);
}

#[test]
fn a_blob_is_there_until_the_end_of_its_last_day_and_one_that_is_not_whole_until_tomorrow() {
    for whole in [false, true] {
        let (mut service, blob) = created(1);
        assert_eq!(blob.last_day, Day(Day::of(service.now_ms).0 + 7));
        if whole {
            complete(&mut service, blob);
        }
        let days = if whole { 7 } else { 1 };
        service.now_ms += days * DAY_MS;
        assert!(decide(&mut service, &list(blob)).is_ok());
        service.now_ms += DAY_MS;
        // Whether or not somebody has deleted its row yet.
        let gone = decide(&mut service, &list(blob)).map(|_| ());
        assert_eq!(gone, Err(ProblemType::UnknownBlob));
    }
}

#[test]
fn a_name_with_another_day_or_id_is_nobodys() {
    let (mut service, blob) = created(1);
    for other in [
        BlobName {
            last_day: Day(blob.last_day.0 + 1),
            ..blob
        },
        BlobName {
            id: BlobId([3; 32]),
            ..blob
        },
    ] {
        let unknown = decide(&mut service, &list(other)).map(|_| ());
        assert_eq!(unknown, Err(ProblemType::UnknownBlob));
    }
}

#[test]
fn a_request_of_another_version_or_operation_is_refused() {
    let (_, blob) = created(1);
    let mut body = BlobChunksRequest { version: 1, blob }.encode();
    assert!(BlobRequest::decode(Number::BlobChunks, &body).is_ok());
    let problem = |number, body: &[u8]| {
        BlobRequest::decode(number, body)
            .map(|_| ())
            .map_err(|it| it.problem())
    };
    assert_eq!(
        problem(Number::ReadChunk, &body),
        Err(ProblemType::Malformed)
    );
    assert_eq!(
        problem(Number::SendMessage, &body),
        Err(ProblemType::Malformed)
    );
    assert_eq!(
        problem(Number::BlobChunks, &[]),
        Err(ProblemType::Malformed)
    );
    body[1] = 2;
    assert_eq!(
        problem(Number::BlobChunks, &body),
        Err(ProblemType::UnsupportedVersion)
    );
}

#[test]
fn rows_tell_what_is_there_and_nothing_of_whose_it_is() {
    let (mut service, blob) = created(5);
    let (found, _) = decide(&mut service, &list(blob)).unwrap();
    let day = Day::of(service.now_ms).0 + 1;
    let (_, engine) = service.env();
    let range = rows_on(Table::BlobsInMaking, day, &[], 10);
    let Found::Range(rows) = engine.read(&[Read::Range(range)]).remove(0) else {
        panic!("a range")
    };
    let [(name, value)] = rows.as_slice() else {
        panic!("one row")
    };
    assert_eq!(counted(name, value), Some((found.location(), 5)));
    let after = rows_on(Table::BlobsInMaking, day, name, 10);
    assert_eq!(
        engine.read(&[Read::Range(after)]).remove(0),
        Found::Range(Vec::new())
    );
    // Neither the id nor the secret nor its hash stand there.
    let hash = Sha256::digest(writer().expose());
    for (key, value) in engine.rows() {
        for secret in [&id().0[..], writer().expose(), &hash] {
            for place in [&key.name[..], value] {
                assert!(!place.windows(8).any(|part| part == &secret[..8]));
            }
        }
    }
}
