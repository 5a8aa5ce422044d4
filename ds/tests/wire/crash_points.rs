//! A model of every point at which the service can die: the store fails once, before or after each of its
//! writes in turn, and whoever got no answer sends the same request again. Nobody who does that is
//! ever stuck, and everything ends as if nothing had happened.

use protocol::Operation;
use protocol::Wire as _;
use protocol::codec::WireSecret;
use protocol::groups::{Accepted, EpochAccepted, GroupKind, JoinPermit, SetJoinCodeRequest};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::queues::DeleteQueueRequest;
use protocol::time::day_of;

use crate::support::client::Client;
use crate::support::commits::{JoinPlan, Plan};
use crate::support::faulty::Crash;
use crate::support::inbox::Event;
use crate::support::scenes::{Trio, trio, with_second_client};
use crate::support::{Engine, Service, Setup};

const CODE: [u8; 32] = [5; 32];

async fn delete_queue(service: &Service, client: &Client) {
    let body = DeleteQueueRequest {
        queue_id: client.queue,
    };
    let _: Accepted = service
        .call(Operation::DeleteQueue, &client.queue_owner, &body)
        .await;
}

async fn joins_by_code(service: &Service, member: &Client, id: &GroupId) -> Client {
    let body = SetJoinCodeRequest {
        group_id: *id,
        state_key: WireSecret::new(member.group(id).state_key),
        secret: WireSecret::new(CODE),
        expiry_day: day_of(service.now()) + 1,
    };
    let request = member.leaf_request(service, id, Operation::SetJoinCode, body.encode());
    let _: Accepted = service
        .post(Operation::SetJoinCode, &request)
        .await
        .accepted();
    let mut joiner = Client::new(service).await;
    let permit = JoinPermit::JoinCode(WireSecret::new(CODE));
    let group = member.group(id);
    let plan = JoinPlan::with(permit, group.state_key, group.wrapper);
    let leaf = joiner.leaf(service);
    let join = joiner.join_externally(service, id, leaf, plan).await;
    let request = join.signed(service);
    let _: EpochAccepted = service
        .pay(Operation::ExternalJoin, &request)
        .await
        .accepted();
    joiner.groups.insert(*id, join.membership);
    joiner
}

/// Everything that writes to a group, once, with what everybody hears in the end.
async fn story(service: &Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(service).await;
    alice.send(service, &id, b"hello").await;
    let hello = [Event::Message {
        from: 0,
        text: b"hello".to_vec(),
    }];
    assert_eq!(bob.receive(service).await, hello);
    assert_eq!(carol.receive(service).await, hello);

    // A second client of Bob's, whose queue then goes: the service has it removed.
    let tablet = with_second_client(service, &mut bob, &mut [&mut alice, &mut carol], &id).await;
    delete_queue(service, &tablet).await;
    let request = alice.text_request(service, &id, b"is everybody there?");
    let reply = service.post(Operation::SendMessage, &request).await;
    assert_eq!(reply.problem(), ProblemType::PendingProposals);
    assert_eq!(alice.receive(service).await, [Event::Proposed]);
    alice
        .commit(service, &id, Plan::update().rotating(true))
        .await;
    alice.receive(service).await;
    bob.receive(service).await;
    carol.receive(service).await;

    // Carol leaves; Dave comes by a code, with what has to be covered.
    carol.leave(service, &id).await;
    bob.receive(service).await;
    bob.commit(service, &id, Plan::update().rotating(true))
        .await;
    alice.receive(service).await;
    assert_eq!(carol.receive(service).await.last(), Some(&Event::Removed));
    let mut dave = joins_by_code(service, &alice, &id).await;
    alice.receive(service).await;
    bob.receive(service).await;
    dave.send(service, &id, b"here I am").await;
    for heard in [alice.receive(service).await, bob.receive(service).await] {
        assert!(matches!(heard.as_slice(), [Event::Message { text, .. }] if text == b"here I am"));
    }
    assert_eq!(alice.members(&id), dave.members(&id));
    let seen = alice.inspect(service, &id).await;
    let leaves: Vec<u32> = seen.members.iter().map(|leaf| leaf.leaf_index).collect();
    assert_eq!(leaves, alice.members(&id));

    // And the end of it.
    let others: Vec<u32> = alice
        .members(&id)
        .into_iter()
        .filter(|leaf| *leaf != 0)
        .collect();
    let deletion = alice.stage(&id, Plan::delete(others));
    let request = alice.commit_request(service, &deletion);
    let _: EpochAccepted = service
        .post(Operation::DeleteGroup, &request)
        .await
        .accepted();
    for client in [&mut bob, &mut dave] {
        assert_eq!(client.receive(service).await, [Event::Removed]);
    }
    let late = alice.text_request(service, &id, b"hello?");
    assert_eq!(
        service.refused(Operation::SendMessage, &late).await,
        ProblemType::UnknownGroup
    );
    alice.create_group(service, GroupKind::Group).await;
}

fn service(crash: Option<Crash>) -> Service {
    Service::with(Setup {
        crash,
        ..Setup::on(Engine::Memory)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_no_point_does_a_crash_leave_anybody_stuck() {
    let whole = service(None);
    story(&whole).await;
    let writes = whole.faulty.writes();
    assert!(writes > 30, "the story writes {writes} times");
    for number in 1..=writes {
        for crash in [Crash::Before(number), Crash::After(number)] {
            let service = service(Some(crash));
            story(&service).await;
            assert!(service.faulty.has_failed(), "{crash:?}");
        }
    }
}
