//! What release 0.1 wrote opens, and is rewritten with the next change.

use crypto::keys::{GroupLookup as _, StateKey};
use crypto::sealing::{self, Place};
use ds::groups::parts::{Part, open_roster, place, seal_key_check};
use ds::groups::roster::Roster;
use ds::store::{Advance, Deliveries, Parts, ProposalsChange, Receipt, Store};
use protocol::Operation;
use protocol::groups::Accepted;
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::queues::DeleteQueueRequest;
use serde::Serialize;

use crate::recovery::{key_in_record, recovered_key, set_recovery_secret};
use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::{Service, on_every_engine};

on_every_engine! {
    recovery_records_of_an_earlier_release_are_found_and_move_with_the_next_change
    a_group_of_release_0_1_goes_on_and_is_rewritten
    a_roster_that_is_rewritten_alone_keeps_the_tree_of_release_0_1
    a_queue_of_release_0_1_takes_and_gives_and_is_rewritten
}

/// `groups/roster.rs` of release 0.1.
#[derive(Serialize)]
struct RosterV1 {
    format: u8,
    kind: u8,
    ciphersuite: u16,
    epoch: u64,
    oldest_message_epoch: u64,
    recent_commits: Vec<RecentCommitV1>,
    leaves: Vec<LeafV1>,
}

#[derive(Serialize)]
struct RecentCommitV1 {
    epoch: u64,
    digest: [u8; 32],
    accepted_timestamp_ms: u64,
    former_key: Option<[u8; 32]>,
}

#[derive(Serialize)]
struct LeafV1 {
    index: u32,
    signature_key: Vec<u8>,
    user_pseudonym: Vec<u8>,
    role: u8,
    handle_key_id: u8,
    handle: Vec<u8>,
    encrypted_identity_link_key: Vec<u8>,
    recovery_secret: Vec<u8>,
}

fn engine(service: &Service) -> &dyn Store {
    service.store.quietly()
}

/// Alice and Bob in a group as release 0.1 has left it in the store: no versions, no policy, no service among the
/// senders in the roster.
async fn of_release_0_1(service: &Service) -> (Client, Client, GroupId) {
    let (mut alice, mut bob) = (Client::new(service).await, Client::new(service).await);
    let id = alice.create_group_without_policy(service).await;
    let invitee = bob.invitee(service);
    alice.commit(service, &id, Plan::add([invitee])).await;
    bob.receive(service).await;
    alice.receive(service).await;

    let key = StateKey::new(alice.group(&id).state_key);
    let row = service.domain.rows().group(&id);
    let stored = engine(service)
        .group(row, Parts::ALL)
        .await
        .unwrap()
        .unwrap();
    let opened = open_roster(&id, &key, Some(&stored)).unwrap();
    let now = Roster::read(&opened).unwrap();
    let queues = [alice.queue, bob.queue];
    let leaves = now.leaves().iter().zip(queues).map(|(leaf, queue)| {
        let (handle_key_id, handle) = service.keys.seal_handle(&queue).unwrap();
        LeafV1 {
            index: leaf.index,
            signature_key: leaf.signature_key.to_vec(),
            user_pseudonym: leaf.user_pseudonym.to_vec(),
            role: u8::from(leaf.index == 0),
            handle_key_id,
            handle: handle.to_vec(),
            encrypted_identity_link_key: leaf.encrypted_identity_link_key.to_vec(),
            recovery_secret: leaf.recovery_secret.to_vec(),
        }
    });
    let roster = RosterV1 {
        format: 1,
        kind: 1,
        ciphersuite: now.ciphersuite,
        epoch: now.epoch,
        oldest_message_epoch: now.oldest_message_epoch,
        recent_commits: vec![RecentCommitV1 {
            epoch: 1,
            digest: [1; 32],
            accepted_timestamp_ms: service.now(),
            former_key: Some([2; 32]),
        }],
        leaves: leaves.collect(),
    };
    let seal = |part, bytes: &[u8]| {
        let at = place(&id, part, None);
        sealing::seal(key.expose(), at.as_place(), bytes).unwrap()
    };
    let at = place(&id, Part::Tree, now.tree_version.as_ref());
    let tree = sealing::open(key.expose(), at.as_place(), &stored.tree.unwrap()).unwrap();
    let advance = Advance {
        group: row,
        expected: stored.version,
        next: [9; 16],
        key_check: seal_key_check(&id, &key).unwrap(),
        roster: seal(Part::Roster, &postcard::to_stdvec(&roster).unwrap()),
        tree: Some(seal(Part::Tree, &tree)),
        proposals: ProposalsChange::Clear,
        join_record: None,
        dropped_join_records: Vec::new(),
        recovery_records: Vec::new(),
        dropped_recovery_records: Vec::new(),
        deliveries: Deliveries::default(),
    };
    engine(service)
        .advance_group(advance, Receipt::default())
        .await
        .unwrap();
    (alice, bob, id)
}

/// The first byte of the roster, which must be sealed for its version.
async fn roster_format(service: &Service, id: &GroupId, state_key: [u8; 32]) -> Option<u8> {
    let row = service.domain.rows().group(id);
    let stored = engine(service)
        .group(row, Parts::ALL)
        .await
        .unwrap()
        .unwrap();
    let at = place(id, Part::Roster, Some(&stored.version));
    let opened = sealing::open(&state_key, at.as_place(), &stored.roster).ok()?;
    opened.first().copied()
}

async fn a_group_of_release_0_1_goes_on_and_is_rewritten(service: Service) {
    let (mut alice, mut bob, id) = of_release_0_1(&service).await;
    alice.send(&service, &id, b"as before").await;
    assert_eq!(
        bob.receive(&service).await,
        [Event::Message {
            from: 0,
            text: b"as before".to_vec()
        }]
    );
    let key = alice.group(&id).state_key;
    assert_eq!(roster_format(&service, &id, key).await, None);
    // Everybody may do everything, and the service can propose nothing yet.
    assert_eq!(bob.inspect(&service, &id).await.members.len(), 2);
    let mut carol = Client::new(&service).await;
    let invitee = carol.invitee(&service);
    bob.commit(&service, &id, Plan::add([invitee])).await;
    alice.receive(&service).await;
    carol.receive(&service).await;
    assert_eq!(roster_format(&service, &id, key).await, Some(3));
    let delete = DeleteQueueRequest {
        queue_id: carol.queue,
    };
    let _: Accepted = service
        .call(Operation::DeleteQueue, &carol.queue_owner, &delete)
        .await;
    let message = alice.text_request(&service, &id, b"is Carol there?");
    let reply = service.post(Operation::SendMessage, &message).await;
    assert_eq!(reply.problem(), ProblemType::PendingProposals);
    alice.receive(&service).await;
    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(alice.members(&id), [0, 1]);
}

async fn a_roster_that_is_rewritten_alone_keeps_the_tree_of_release_0_1(service: Service) {
    let (mut alice, bob, id) = of_release_0_1(&service).await;
    set_recovery_secret(&service, &bob, &id).await;
    let key = alice.group(&id).state_key;
    assert_eq!(roster_format(&service, &id, key).await, Some(3));
    // A queue that is gone stops nothing before the service knows its place among the senders.
    let delete = DeleteQueueRequest {
        queue_id: bob.queue,
    };
    let _: Accepted = service
        .call(Operation::DeleteQueue, &bob.queue_owner, &delete)
        .await;
    alice.send(&service, &id, b"to nobody").await;
    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(alice.receive(&service).await, [Event::Proposed]);
    assert_eq!(
        recovered_key(&service, &id, &bob.recovery_secret(&id)).await,
        Some(alice.group(&id).state_key)
    );
}

/// What of the group's recovery record a client finds: where it stands now, and where release 0.1 wrote it.
async fn found(service: &Service, client: &Client, id: &GroupId) -> [Option<[u8; 32]>; 2] {
    let secret = client.recovery_secret(id);
    [
        recovered_key(service, id, &secret).await,
        key_in_record(service, &secret, secret.older_lookup()).await,
    ]
}

/// Has the group of a roster of format 3 stand in the store as format 2 would, whose records are not bound to it.
async fn as_format_2(service: &Service, clients: &[&Client], id: &GroupId) {
    let row = service.domain.rows().group(id);
    let key = StateKey::new(clients.first().unwrap().group(id).state_key);
    let stored = engine(service).group(row, Parts::ALL).await.unwrap();
    let stored = stored.unwrap();
    let mut roster = open_roster(id, &key, Some(&stored)).unwrap();
    assert_eq!(roster.first(), Some(&3));
    *roster.first_mut().unwrap() = 2;
    let next = [9; 16];
    let at = place(id, Part::Roster, Some(&next));
    let (mut written, mut dropped) = (Vec::new(), Vec::new());
    for client in clients {
        let secret = client.recovery_secret(id);
        let lookup = secret.older_lookup();
        let at = Place {
            table: "recovery_records",
            row: &lookup.0,
            part: "record",
        };
        let sealed = sealing::seal(secret.expose(), at, key.expose()).unwrap();
        written.push((service.domain.rows().recovery_record(&lookup), sealed));
        let now = secret.lookup_in(id);
        dropped.push(service.domain.rows().recovery_record(&now));
    }
    let advance = Advance {
        group: row,
        expected: stored.version,
        next,
        key_check: seal_key_check(id, &key).unwrap(),
        roster: sealing::seal(key.expose(), at.as_place(), &roster).unwrap(),
        tree: None,
        proposals: ProposalsChange::Keep,
        join_record: None,
        dropped_join_records: Vec::new(),
        recovery_records: written,
        dropped_recovery_records: dropped,
        deliveries: Deliveries::default(),
    };
    let advanced = engine(service).advance_group(advance, Receipt::default());
    advanced.await.unwrap();
}

async fn recovery_records_of_an_earlier_release_are_found_and_move_with_the_next_change(
    service: Service,
) {
    // Without a commit, a member sets its own secret.
    let plans = [
        Some(Plan::update()),
        Some(Plan::update().rotating(true)),
        None,
    ];
    for plan in plans {
        let (mut alice, bob, id) = crate::support::scenes::pair(&service).await;
        for client in [&alice, &bob] {
            set_recovery_secret(&service, client, &id).await;
        }
        as_format_2(&service, &[&alice, &bob], &id).await;
        let before = alice.group(&id).state_key;
        assert_eq!(found(&service, &bob, &id).await, [None, Some(before)]);
        match plan {
            Some(plan) => {
                alice.commit(&service, &id, plan).await;
            }
            None => {
                // Later: the very same request is answered from its record.
                service.clock.advance(1000);
                set_recovery_secret(&service, &alice, &id).await;
            }
        }
        let now = alice.group(&id).state_key;
        for client in [&alice, &bob] {
            assert_eq!(found(&service, client, &id).await, [Some(now), None]);
        }
        assert_eq!(roster_format(&service, &id, now).await, Some(3));
    }
    // Who leaves changes it too, and a deletion leaves nothing.
    let (mut alice, mut bob, id) = crate::support::scenes::pair(&service).await;
    for client in [&alice, &bob] {
        set_recovery_secret(&service, client, &id).await;
    }
    as_format_2(&service, &[&alice, &bob], &id).await;
    bob.leave(&service, &id).await;
    let key = Some(alice.group(&id).state_key);
    assert_eq!(found(&service, &alice, &id).await, [key, None]);
    as_format_2(&service, &[&alice, &bob], &id).await;
    alice.receive(&service).await;
    alice.commit(&service, &id, Plan::delete([1])).await;
    for client in [&alice, &bob] {
        assert_eq!(found(&service, client, &id).await, [None, None]);
    }
}

fn queue_place(queue: &protocol::ids::QueueId) -> Place<'_> {
    Place {
        table: "queues",
        row: &queue.0,
        part: "record",
    }
}

async fn a_queue_of_release_0_1_takes_and_gives_and_is_rewritten(service: Service) {
    let (mut alice, mut bob, id) = crate::support::scenes::pair(&service).await;
    let storage_key = service.domain.rows().storage_key().expose();
    let row = service.domain.rows().queue(&bob.queue);
    let record = [
        &[1][..],
        &bob.queue_owner.public(),
        &bob.queue_hpke.public(),
    ]
    .concat();
    let sealed = sealing::seal(storage_key, queue_place(&bob.queue), &record).unwrap();
    let current = engine(&service).queue(row).await.unwrap().unwrap();
    engine(&service)
        .replace_queue(row, current, Some(sealed), Receipt::default())
        .await
        .unwrap();
    set_recovery_secret(&service, &bob, &id).await;
    // Nobody knows when he was here last: he is not gone, however long ago it was.
    service.clock.advance(200 * protocol::time::DAY_MS);
    alice.receive(&service).await;
    alice.send(&service, &id, b"as before").await;
    assert_eq!(bob.receive(&service).await.len(), 1);
    let stored = engine(&service).queue(row).await.unwrap().unwrap();
    let opened = sealing::open(storage_key, queue_place(&bob.queue), &stored).unwrap();
    assert_eq!(opened.first(), Some(&2));
}
