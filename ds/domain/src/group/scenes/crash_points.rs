//! Crash points: the apply of each kind of transition fails, before its write and after it. Then
//! the same request comes again, as a client sends it that got no answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use crypto::blob::{BlobCapability, BlobWriteKey};
use crypto::schedule::recovery_row_id;
use protocol::blobs::{BlobLife, BlobName, CreateBlobRequest, DeleteBlobRequest};
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, HandleRecord};
use protocol::group::{GroupKind, PutRecoveryRowsRequest};
use protocol::ids::{InboxId, PoolId, Week};
use protocol::inbox::{
    DeleteFromInboxRequest, DeleteHandleRequest, InboxEntryName, LookupHandleRequest, MAX_READ,
    REQUEST_SIZE, ReadInboxRequest, RegisterHandleRequest, RequestConnectionRequest,
};
use protocol::join::RecoveryRow;
use protocol::key_packages::{
    ClaimKeyPackagesRequest, DeleteKeyPackagesRequest, KeyPackageSetUpload,
    PublishKeyPackagesRequest,
};
use protocol::operation::Operation as Number;
use protocol::{WIRE_VERSION, Wire as _};

use super::group;
use super::requests::{call, repeat_on};
use crate::blobs::{Blob, BlobRequest, CreateBlob};
use crate::engine::faulty::{Fault, Faulty};
use crate::engine::watched::{Asked, Watched};
use crate::engine::{ApplyError, Engine, Key, Read};
use crate::execution::Failure;
use crate::group::extras::PutRecoveryRows;
use crate::group::kit::{Client, Plan, World};
use crate::inbox::{
    DeleteFromInbox, DeleteHandle, LookupHandle, ReadInbox, RegisterHandle, RequestConnection,
};
use crate::key_packages::{ClaimKeyPackages, DeleteKeyPackages, PublishKeyPackages};
use crate::memory::{Memory, MemoryEngine};
use crate::refusal::Stop;
use crate::store::Transition;
use crate::testing::{Service, key as key_pair};
use crate::view::View;

const SEED: u64 = 40;

fn groups(world: &mut World) {
    let mut clients = group(world, 3);
    clients[1].send(world, b"text").unwrap();
    clients[1].commit(world, Plan::update().rotating()).unwrap();
    for client in &mut clients {
        client.catch_up(world);
    }
    let rows = [0, 2].map(|at: usize| RecoveryRow {
        id: recovery_row_id(&clients[at].id, &clients[at].recovery),
        sealed: opaque(vec![1; 80]),
    });
    let body = PutRecoveryRowsRequest {
        group: clients[0].key(),
        rotation_epoch: clients[0].rotation,
        rows: rows.to_vec(),
    };
    clients[1].call::<PutRecoveryRows>(world, &body).unwrap();
    let mut plan = Plan::remove([1, 2]);
    plan.rotates = false;
    plan.operation = Number::DeleteGroup;
    clients[0].commit(world, plan).unwrap();
    let tree = Client::create_with(world, GroupKind::Group, |request| {
        request.leaf.push_handle = opaque(vec![1; 95]);
    });
    assert!(tree.is_err());
}

fn pools(world: &mut World) {
    let pool = PoolId([7; 32]);
    let week = Week::of(world.service.now_ms).0;
    let sets = (0..3u8).map(|content| KeyPackageSetUpload {
        ciphersuite: 1,
        expiry: Week(week + 3),
        sealed: opaque(vec![content; 8]),
    });
    let body = PublishKeyPackagesRequest {
        pool,
        sets: sets.collect(),
    };
    call::<PublishKeyPackages>(world, &key_pair(1), &body).unwrap();
    let body = ClaimKeyPackagesRequest {
        pool,
        ciphersuite: 1,
        sets: 2,
    };
    call::<ClaimKeyPackages>(world, &key_pair(2), &body).unwrap();
    let body = DeleteKeyPackagesRequest { pool };
    call::<DeleteKeyPackages>(world, &key_pair(1), &body).unwrap();
}

fn inboxes(world: &mut World) {
    let inbox = InboxId([9; 32]);
    let credential = key_pair(10);
    let record = crypto::connection::sign_handle_record(
        b"alice",
        &ClientCredential {
            name: opaque(*b"Alice"),
            signature_public_key: opaque(credential.public()),
        },
        &credential,
        &[1; 32],
    );
    let body = RegisterHandleRequest {
        handle: opaque(*b"alice"),
        record: opaque(HandleRecord::encode(&record)),
        inbox,
        inbox_owner: key_pair(11).public(),
        expiry: Week(Week::of(world.service.now_ms).0 + 8),
    };
    call::<RegisterHandle>(world, &key_pair(1), &body).unwrap();
    let unknown = LookupHandleRequest {
        handle: opaque(*b"nobody"),
    };
    assert!(call::<LookupHandle>(world, &key_pair(3), &unknown).is_err());
    let request = RequestConnectionRequest {
        handle: opaque(*b"alice"),
        encrypted_request: opaque(vec![1; REQUEST_SIZE]),
    };
    for sender in [3, 4] {
        call::<RequestConnection>(world, &key_pair(sender), &request).unwrap();
    }
    let body = ReadInboxRequest {
        inbox,
        limit: MAX_READ,
    };
    let there = call::<ReadInbox>(world, &key_pair(11), &body).unwrap();
    let first = there.requests.first().unwrap();
    let body = DeleteFromInboxRequest {
        inbox,
        entries: vec![InboxEntryName {
            day: first.day,
            id: first.id,
        }],
    };
    call::<DeleteFromInbox>(world, &key_pair(11), &body).unwrap();
    let body = DeleteHandleRequest {
        handle: opaque(*b"alice"),
    };
    call::<DeleteHandle>(world, &key_pair(1), &body).unwrap();
}

const WRITER: [u8; 32] = [21; 32];

/// Two blobs that nothing has come of yet.
fn blobs(world: &mut World) -> [BlobName; 2] {
    [19, 20].map(|blob| {
        let id = BlobCapability::new([blob; 32]).id();
        let body = CreateBlobRequest {
            id,
            chunks: 1,
            life: BlobLife::Week,
            writer: BlobWriteKey::new(WRITER).hash(),
        };
        let made = call::<CreateBlob>(world, &key_pair(1), &body).unwrap();
        let last_day = made.last_day;
        BlobName { id, last_day }
    })
}

/// A blob that its writer asks for.
async fn found(service: &mut Service, engine: &dyn Engine, blob: BlobName) -> Blob {
    let request = BlobRequest::Delete(DeleteBlobRequest {
        version: WIRE_VERSION,
        blob,
        write_key: BlobWriteKey::new(WRITER).to_wire(),
    });
    let mut view = View::default();
    loop {
        let decided = request.decide(&view, &mut service.env().0);
        let reads = match decided {
            Ok((blob, _)) => return blob,
            Err(Stop::Need(reads)) => reads,
            Err(other) => panic!("{other:?}"),
        };
        let found = engine.read(reads.clone()).await.unwrap();
        for (read, found) in reads.into_iter().zip(found) {
            view.add(read, found);
        }
    }
}

/// All rows that were ever written or deleted are as they are in the map.
async fn assert_same(
    engine: &Arc<dyn Engine>,
    map: &MemoryEngine,
    touched: &BTreeSet<Key>,
    what: &str,
) {
    let reads: Vec<Read> = touched.iter().cloned().map(Read::Row).collect();
    for some in reads.chunks(64) {
        let found = engine.read(some.to_vec()).await.unwrap();
        assert!(found == map.read(some), "{what}");
    }
}

/// Of every kind: nothing has happened, or one effect with its recorded answer.
pub async fn each_transition_has_one_effect_wherever_its_apply_fails(engine: Arc<dyn Engine>) {
    let mut world = World::new(SEED);
    groups(&mut world);
    pools(&mut world);
    inboxes(&mut world);
    let [whole, unfinished] = blobs(&mut world);
    // Once more with the same randomness, on the engine and beside it on the map.
    let mut service = Service::new(SEED);
    let reference = Arc::new(Memory::default());
    let watched = Arc::new(Watched::new(Arc::clone(&engine)));
    let faulty = Faulty::new(Arc::clone(&watched) as Arc<dyn Engine>);
    let (mut seen, mut touched) = (BTreeSet::new(), BTreeSet::new());
    for sent in &world.sent {
        let before = reference.snapshot();
        let random = service.rng.clone();
        let (transition, expected) = repeat_on(&mut service, &*reference, sent).await;
        let after = reference.snapshot();
        let Some(name) = transition else {
            service.rng = random;
            let (_, answer) = repeat_on(&mut service, &faulty, sent).await;
            assert_eq!(answer, expected);
            continue;
        };
        for (fault, map) in [
            (Fault::BeforeTheWrite, &before),
            (Fault::AfterTheWrite, &after),
        ] {
            service.rng = random.clone();
            faulty.fail(fault);
            let (_, answer) = repeat_on(&mut service, &faulty, sent).await;
            assert!(
                matches!(answer, Err(Failure::Engine(_))),
                "{name}: {answer:?}"
            );
            for asked in watched.take() {
                if let Asked::Applied(batch) = asked {
                    touched.extend(batch.puts.into_iter().map(|(key, _)| key));
                    touched.extend(batch.deletes);
                }
            }
            assert_same(&engine, map, &touched, &format!("{name}, {fault:?}")).await;
        }
        for _ in 0..2 {
            let (tried, answer) = repeat_on(&mut service, &faulty, sent).await;
            assert_eq!((tried, answer), (None, expected.clone()), "{name}");
            assert_same(&engine, &after, &touched, name).await;
        }
        seen.insert(name);
    }
    // What the server does by itself once chunks are there, or are to go.
    for (name, of) in [
        ("complete_blob", whole),
        ("delete_blob", whole),
        ("delete_blob", unfinished),
    ] {
        let blob = found(&mut service, &*engine, of).await;
        let (env, _) = service.env();
        let batch = match name {
            "complete_blob" => blob.completion(&env.rows()),
            _ => blob.deletion(&env.rows()),
        };
        let before = reference.snapshot();
        reference.apply(batch.clone()).await.unwrap();
        let after = reference.snapshot();
        touched.extend(batch.puts.iter().map(|(key, _)| key.clone()));
        touched.extend(batch.deletes.iter().cloned());
        for (fault, map) in [
            (Fault::BeforeTheWrite, &before),
            (Fault::AfterTheWrite, &after),
        ] {
            faulty.fail(fault);
            faulty.apply(batch.clone()).await.unwrap_err();
            assert_same(&engine, map, &touched, &format!("{name}, {fault:?}")).await;
        }
        // Tried again it finds that it is done.
        assert!(
            matches!(faulty.apply(batch).await, Err(ApplyError::Condition { .. })),
            "{name}"
        );
        assert_same(&engine, &after, &touched, name).await;
        seen.insert(name);
    }
    assert_eq!(seen, BTreeSet::from(Transition::NAMES));
}

/// A random history of groups, handles and pools, batch by batch, each of them twice.
/// `HISTORY_SEED` tells which.
pub async fn a_history_of_requests_leaves_what_it_leaves_in_the_map(engine: Arc<dyn Engine>) {
    let seed = std::env::var("HISTORY_SEED").map_or(11, |seed| seed.parse().unwrap());
    let scene = super::snapshot::Scene::play(seed, false);
    let (mut map, mut touched) = (MemoryEngine::default(), BTreeSet::new());
    for batch in &scene.batches {
        touched.extend(batch.puts.iter().map(|(key, _)| key.clone()));
        touched.extend(batch.deletes.iter().cloned());
        for _ in 0..2 {
            assert_eq!(
                engine.apply(batch.clone()).await,
                map.apply(batch.clone()),
                "HISTORY_SEED={seed}"
            );
        }
    }
    assert_same(&engine, &map, &touched, &format!("HISTORY_SEED={seed}")).await;
}
