//! What a lying service could get from clients that are in step with it, in one process.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mimimi_client::{Client, Clock, Error, Event, Options};
use protocol::Wire as _;
use protocol::group::{
    CommitRequest, CreateGroupRequest, EntryAccepted, InspectGroupResponse, JoinAccepted, JoinCode,
    JoinCodeChange, ProposalRequest, SetJoinCodeRequest,
};
use protocol::ids::{Day, GroupId, Position, RotationEpoch};
use protocol::inbox::{InboxEntry, ReadInboxResponse};
use protocol::journal::{Place, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::SignedRequest;

use crate::support::{
    Homes, TestClock, befriend, database, link, lose_state_of_team, pass, refusal, settle, team,
    texts,
};

fn number(homes: &Homes, name: &str, query: &str) -> i64 {
    let db = database(homes, name);
    db.query_row(query, (), |row| row.get(0)).unwrap()
}

fn body<T: protocol::Wire>(request: &[u8]) -> T {
    let request = SignedRequest::decode(request).unwrap();
    T::decode(request.body.as_slice()).unwrap()
}

/// The service asks for a rotation where it has no reason to, and what it shows as good codes are
/// all that it has ever seen.
#[derive(Clone, Default)]
struct Codes {
    seen: Arc<Mutex<Vec<JoinCode>>>,
    /// Of each rotation: whose, and how many codes it sealed to.
    sealed: Arc<Mutex<Vec<(GroupId, usize)>>>,
    asks: Arc<Mutex<bool>>,
}

impl Codes {
    fn watch(homes: &Homes) -> Self {
        let codes = Self::default();
        let this = codes.clone();
        homes
            .service
            .intercept(Some(Box::new(move |operation, request| match operation {
                Operation::SetJoinCode => {
                    if let JoinCodeChange::Make(new) = body::<SetJoinCodeRequest>(request).change {
                        this.seen.lock().unwrap().push(new.code);
                    }
                    None
                }
                Operation::UpdateClient => {
                    let asks = std::mem::take(&mut *this.asks.lock().unwrap());
                    let commit = body::<CommitRequest>(request);
                    match commit.rotation {
                        Some(next) => {
                            let mut sealed = this.sealed.lock().unwrap();
                            sealed.push((commit.group.group_id, next.code_rows.len()));
                            None
                        }
                        None => asks.then(|| Err(refusal(ProblemType::RotationRequired))),
                    }
                }
                _ => None,
            })));
        let this = codes.clone();
        homes.service.alter(Some(Box::new(move |operation, answer| {
            if operation != Operation::InspectGroup {
                return answer;
            }
            let mut inspected = InspectGroupResponse::decode(&answer).unwrap();
            for code in this.seen.lock().unwrap().iter() {
                if !inspected.codes.contains(code) {
                    inspected.codes.push(code.clone());
                }
            }
            inspected.encode()
        })));
        codes
    }

    /// Has a member rotate; returns to how many codes it has sealed the way in.
    async fn rotate(&self, client: &Client) -> Vec<usize> {
        self.sealed.lock().unwrap().clear();
        *self.asks.lock().unwrap() = true;
        let _ = client.update_own_leaf("team").await;
        let sealed = std::mem::take(&mut *self.sealed.lock().unwrap());
        sealed.into_iter().map(|(_, codes)| codes).collect()
    }
}

#[tokio::test]
async fn no_rotation_seals_a_way_in_to_a_code_that_a_removal_has_ended() {
    let homes = Homes::new(101);
    let [alice, bob, carol] = team(&homes).await;
    let dave = homes.user("dave").await;
    befriend(&alice, &dave).await;
    let codes = Codes::watch(&homes);
    alice.invite("team", 70).await.unwrap();
    alice.remove_from_group("team", &["bob"]).await.unwrap();
    alice.add_to_group("team", &["dave"]).await.unwrap();
    settle(&[&alice, &bob, &carol, &dave]).await;
    // Who has seen the removal, and who came after it.
    assert_eq!(codes.rotate(&carol).await, [0]);
    settle(&[&alice, &dave, &carol]).await;
    assert_eq!(codes.rotate(&dave).await, [0]);
}

#[tokio::test]
async fn no_rotation_seals_a_way_in_to_a_code_that_has_expired() {
    let homes = Homes::new(102);
    let [alice, bob, carol] = team(&homes).await;
    let codes = Codes::watch(&homes);
    alice.invite("team", 7).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    homes
        .service
        .clock
        .advance(Duration::from_secs(15 * 86_400));
    assert_eq!(codes.rotate(&carol).await, [0]);
}

#[tokio::test]
async fn no_rotation_of_a_connection_seals_a_way_in_to_the_code_of_its_request() {
    let homes = Homes::new(103);
    let codes = Codes::watch(&homes);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    codes.sealed.lock().unwrap().clear();
    homes
        .service
        .clock
        .advance(Duration::from_secs(46 * 86_400));
    pass(&homes, 8, &[&alice, &bob]).await;
    let shared: Vec<u8> = database(&homes, "bob")
        .query_row(
            "SELECT group_id FROM groups WHERE kind = 2
                AND group_id NOT IN (SELECT group_id FROM connection_stock)",
            (),
            |row| row.get(0),
        )
        .unwrap();
    let sealed = codes.sealed.lock().unwrap().clone();
    let mut sealed = sealed
        .iter()
        .filter(|(group, _)| group.0 == *shared)
        .peekable();
    assert!(sealed.peek().is_some());
    assert!(sealed.all(|(_, rows)| *rows == 0));
}

#[tokio::test]
async fn a_good_code_outlasts_the_rotation_of_whoever_came_in_after_it_was_made() {
    let homes = Homes::new(104);
    let [alice, bob, carol] = team(&homes).await;
    let (dave, erin) = (homes.user("dave").await, homes.user("erin").await);
    let frank = homes.user("frank").await;
    befriend(&alice, &dave).await;
    let code = alice.invite("team", 70).await.unwrap();
    let codes = Codes::watch(&homes);
    alice.add_to_group("team", &["dave"]).await.unwrap();
    settle(&[&alice, &bob, &carol, &dave]).await;
    erin.join_by_code(&code).await.unwrap();
    settle(&[&alice, &bob, &erin, &dave]).await;
    assert_eq!(codes.rotate(&dave).await, [1]);
    settle(&[&alice, &bob, &erin, &dave]).await;
    assert_eq!(codes.rotate(&erin).await, [1]);
    settle(&[&alice, &bob, &erin, &dave]).await;
    frank.join_by_code(&code).await.unwrap();
}

#[tokio::test]
async fn a_service_that_promises_news_and_shows_none_is_not_asked_in_a_circle() {
    let homes = Homes::new(105);
    let alice = homes.user("alice").await;
    alice.create_group("team").await.unwrap();
    settle(&[&alice]).await;
    let last: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let shown = Arc::clone(&last);
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation == Operation::ReadJournal {
            *shown.lock().unwrap() = Some(answer.clone());
        }
        answer
    })));
    alice.sync(0).await.unwrap();
    for closed in [0, 1] {
        let last = Arc::clone(&last);
        homes
            .service
            .intercept(Some(Box::new(move |operation, request| {
                if operation != Operation::ReadJournal
                    || ReadJournalRequest::decode(request).unwrap().wait_ms == 0
                {
                    return None;
                }
                let mut read = last
                    .lock()
                    .unwrap()
                    .as_ref()
                    .map(|it| ReadJournalResponse::decode(it).unwrap())
                    .unwrap();
                read.closed = closed;
                read.head.next = Position(read.head.next.0 + u64::from(1 - closed));
                Some(Ok(read.encode()))
            })));
        let before = homes.service.count(Operation::ReadJournal);
        let received = alice.receive(3_000).await.unwrap();
        assert!(received.is_empty());
        let asked = homes.service.count(Operation::ReadJournal) - before;
        assert!(asked < 16, "{asked}");
    }
}

#[tokio::test]
async fn whose_message_is_said_to_stand_far_ahead_hears_that_it_is_withheld() {
    let homes = Homes::new(106);
    let [alice, bob, carol] = team(&homes).await;
    homes.service.intercept(Some(Box::new(move |operation, _| {
        (operation == Operation::SendMessage).then(|| {
            Ok(EntryAccepted {
                place: Place {
                    rotation_epoch: RotationEpoch(0),
                    position: Position(1 << 40),
                },
                accepted_ms: 1,
            }
            .encode())
        })
    })));
    alice.send_message("team", "to nobody").await.unwrap();
    homes.service.intercept(None);
    settle(&[&alice]).await;
    homes.service.clock.advance(Duration::from_secs(3_600));
    bob.send_message("team", "to all").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let events = alice.events().unwrap().into_iter();
    let told = events
        .filter(|stored| matches!(&stored.event, Event::MessageWithheld { .. }))
        .count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_message_that_comes_after_it_was_given_up_makes_no_copy_of_its_senders_home() {
    let homes = Homes::new(107);
    let [alice, bob, _carol] = team(&homes).await;
    let held: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let keeps = Arc::clone(&held);
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            (operation == Operation::SendMessage).then(|| {
                keeps.lock().unwrap().push(request.to_vec());
                Err(Error::Unreachable("the test holds it".into()))
            })
        })));
    let _ = alice.send_message("team", "once").await;
    homes.service.intercept(None);
    // It can come no more, as far as an honest service goes.
    homes.service.clock.advance(Duration::from_secs(1_800));
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["once"]);
    homes.service.clock.set_back(Duration::from_secs(1_800));
    let held = held.lock().unwrap()[0].clone();
    let late = mimimi_client::in_process::Service::answer(
        &*homes.service,
        Operation::SendMessage,
        &held,
        &[],
    );
    late.await.unwrap();
    homes.service.clock.advance(Duration::from_secs(1_800));
    let before = homes.service.count(Operation::UpdateClient);
    settle(&[&alice, &bob]).await;
    assert_eq!(homes.service.count(Operation::UpdateClient), before);
    assert!(alice.evidence("team").unwrap().is_empty());
    // Nor does anybody read it twice.
    assert_eq!(texts(&bob, "team"), ["once"]);
    let events = alice.events().unwrap();
    assert!(
        !events
            .iter()
            .any(|it| matches!(it.event, Event::MessageUnreadable { .. })),
        "{events:?}"
    );
}

/// So much later than the service's.
struct Ahead(Arc<TestClock>, Duration);

impl Clock for Ahead {
    fn now_unix_ms(&self) -> u64 {
        self.0.now_unix_ms() + u64::try_from(self.1.as_millis()).unwrap()
    }
}

#[tokio::test]
async fn a_service_that_dates_commits_back_has_no_leaf_renewed_again_and_again() {
    let homes = Homes::new(108);
    let clock = Arc::new(homes.service.clock.clone());
    let options = Options {
        clock: Arc::new(Ahead(clock, Duration::from_secs(60 * 86_400))),
        ..homes.options()
    };
    drop(homes.user("alice").await);
    let alice = Client::open(&homes.path("alice"), options).await.unwrap();
    alice.create_group("team").await.unwrap();
    settle(&[&alice]).await;
    alice.update_own_leaf("team").await.unwrap();
    let before = homes.service.count(Operation::UpdateClient);
    pass(&homes, 48, &[&alice]).await;
    assert_eq!(homes.service.count(Operation::UpdateClient), before);
}

#[tokio::test]
async fn who_renews_a_leaf_is_known_to_have_committed() {
    let homes = Homes::new(109);
    let [alice, bob, _carol] = team(&homes).await;
    bob.update_own_leaf("team").await.unwrap();
    settle(&[&alice, &bob]).await;
    let today = Day::of(homes.service.clock.now_unix_ms());
    let committed = "SELECT min(committed_day) FROM known_members JOIN groups USING (group_id)
         WHERE groups.name = 'team' AND known_members.name = 'bob' AND removed_epoch IS NULL";
    assert_eq!(number(&homes, "alice", committed), i64::from(today.0));
}

#[tokio::test]
async fn whose_commit_and_message_are_dated_back_is_heard_no_earlier_than_what_stood_there() {
    let homes = Homes::new(119);
    let [alice, bob, carol] = team(&homes).await;
    homes.service.clock.advance(Duration::from_secs(3 * 86_400));
    carol.update_own_leaf("team").await.unwrap();
    alice.sync(0).await.unwrap();
    let before = Day::of(homes.service.clock.now_unix_ms());
    homes
        .service
        .clock
        .set_back(Duration::from_secs(2 * 86_400));
    bob.update_own_leaf("team").await.unwrap();
    bob.send_message("team", "of today").await.unwrap();
    homes.service.clock.advance(Duration::from_secs(2 * 86_400));
    alice.sync(0).await.unwrap();
    assert_eq!(texts(&alice, "team"), ["of today"]);
    for day in ["heard_day", "committed_day"] {
        let query = format!(
            "SELECT max({day}) FROM known_members JOIN groups USING (group_id)
             WHERE groups.name = 'team' AND known_members.name = 'bob' AND removed_epoch IS NULL"
        );
        assert_eq!(
            number(&homes, "alice", &query),
            i64::from(before.0),
            "{day}"
        );
    }
}

#[tokio::test]
async fn a_return_that_was_accepted_and_is_said_to_be_refused_is_found() {
    let homes = Homes::new(120);
    let [alice, bob, carol] = team(&homes).await;
    drop(bob);
    lose_state_of_team(&homes, "bob");
    let bob = Client::open(&homes.path("bob"), homes.options())
        .await
        .unwrap();
    homes.service.lose_answer(Operation::ExternalJoin);
    let _ = bob.sync(0).await;
    let joins = homes.service.count(Operation::ExternalJoin);
    homes.service.intercept(Some(Box::new(move |operation, _| {
        (operation == Operation::ExternalJoin).then(|| Err(refusal(ProblemType::NotAllowed)))
    })));
    let _ = bob.sync(0).await;
    assert!(homes.service.count(Operation::ExternalJoin) > joins);
    homes.service.intercept(None);
    settle(&[&alice, &carol]).await;
    assert_eq!(alice.groups().unwrap()[0].epoch, 2, "it was accepted");
    // They seal the way back to the leaf that they see.
    pass(&homes, 2, &[&alice, &carol]).await;
    settle(&[&bob]).await;
    assert_eq!(bob.stop_reason("team").unwrap(), None);
    settle(&[&alice, &carol, &bob]).await;
    alice.send_message("team", "welcome").await.unwrap();
    settle(&[&bob]).await;
    bob.send_message("team", "back").await.unwrap();
    settle(&[&alice]).await;
    assert_eq!(texts(&alice, "team"), ["back"]);
    pass(&homes, 12, &[&bob]).await;
    let kept = "SELECT count(*) FROM refused_returns";
    assert_eq!(number(&homes, "bob", kept), 0, "the own leaf is renewed");
}

/// What has been put into inboxes, shown again.
fn show_again(homes: &Homes) {
    let taken: Arc<Mutex<Vec<InboxEntry>>> = Arc::default();
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::ReadInbox {
            return answer;
        }
        let mut page = ReadInboxResponse::decode(&answer).unwrap();
        let mut taken = taken.lock().unwrap();
        if page.requests.is_empty() {
            page.requests.clone_from(&taken);
        } else {
            taken.clone_from(&page.requests);
        }
        page.more = 0;
        page.encode()
    })));
}

#[tokio::test]
async fn a_connection_request_that_was_declined_is_not_shown_again_on_any_device() {
    let homes = Homes::new(121);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    let phone = link(&homes, &bob, "phone", &[]).await;
    show_again(&homes);
    let requests = |client: &Client| {
        let events = client.events().unwrap().into_iter();
        events
            .filter(|it| matches!(it.event, Event::ConnectionRequest { .. }))
            .count()
    };
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    // Nor twice before it is.
    bob.check_inbox().await.unwrap();
    assert_eq!(requests(&bob), 1);
    settle(&[&bob, &phone]).await;
    assert_eq!(requests(&phone), 1);
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    bob.decline_request(&request.id).await.unwrap();
    settle(&[&bob, &phone]).await;
    let laptop = link(&homes, &bob, "laptop", &[&phone]).await;
    for device in [&bob, &phone, &laptop] {
        device.check_inbox().await.unwrap();
        assert!(device.incoming_requests().unwrap().is_empty());
    }
    assert_eq!((requests(&bob), requests(&phone)), (1, 1));
    // Asked anew, it is another one.
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    assert_eq!(bob.incoming_requests().unwrap().len(), 1);
    assert_eq!(requests(&bob), 2);
}

#[tokio::test]
async fn who_comes_by_a_code_and_is_told_a_later_place_does_not_miss_what_was_said_in_silence() {
    for behind in [1, 2] {
        let homes = Homes::new(110 + behind);
        let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
        alice.create_group("team").await.unwrap();
        let code = alice.invite("team", 7).await.unwrap();
        homes.service.alter(Some(Box::new(move |operation, answer| {
            if operation != Operation::ExternalJoin {
                return answer;
            }
            let mut accepted = JoinAccepted::decode(&answer).unwrap();
            accepted.accepted.place.position.0 += behind;
            accepted.encode()
        })));
        dave.join_by_code(&code).await.unwrap();
        homes.service.alter(None);
        alice.sync(0).await.unwrap();
        alice.send_message("team", "hello").await.unwrap();
        alice.send_message("team", "there").await.unwrap();
        dave.sync(0).await.unwrap();
        let knows = texts(&dave, "team") == ["hello", "there"];
        let stopped = dave.stop_reason("team").unwrap();
        assert!(
            knows || stopped.is_some(),
            "{behind}: {:?}",
            texts(&dave, "team")
        );
    }
}

#[tokio::test]
async fn no_day_after_tomorrow_is_taken_from_an_answer() {
    let homes = Homes::new(113);
    let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
    alice.create_group("team").await.unwrap();
    let code = alice.invite("team", 7).await.unwrap();
    homes.service.alter(Some(Box::new(|operation, answer| {
        if operation != Operation::ExternalJoin {
            return answer;
        }
        let mut accepted = JoinAccepted::decode(&answer).unwrap();
        accepted.accepted.accepted_ms = u64::MAX;
        accepted.journal.tag_day = Day(u32::MAX);
        accepted.encode()
    })));
    dave.join_by_code(&code).await.unwrap();
    let today = Day::of(homes.service.clock.now_unix_ms());
    let day = number(&homes, "dave", "SELECT max(tag_day) FROM segments");
    // The service may be ahead of this client at midnight.
    assert!(day <= i64::from(today.0) + 1, "{day}");
}

#[tokio::test]
async fn nothing_is_committed_that_the_service_shows_beside_the_journal() {
    let homes = Homes::new(114);
    let [alice, bob, carol] = team(&homes).await;
    let held: Arc<Mutex<Option<ProposalRequest>>> = Arc::default();
    let keeps = Arc::clone(&held);
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            (operation == Operation::SelfRemove).then(|| {
                *keeps.lock().unwrap() = Some(body(request));
                Err(Error::Unreachable("the test holds it".into()))
            })
        })));
    let _ = carol.leave_group("team").await;
    let proposal = held.lock().unwrap().take().unwrap().proposal;
    let mut asks = true;
    homes.service.intercept(Some(Box::new(move |operation, _| {
        (operation == Operation::UpdateClient && std::mem::take(&mut asks))
            .then(|| Err(refusal(ProblemType::PendingProposals)))
    })));
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::InspectGroup {
            return answer;
        }
        let mut inspected = InspectGroupResponse::decode(&answer).unwrap();
        inspected.pending_proposals = vec![proposal.clone()];
        inspected.encode()
    })));
    let _ = alice.update_own_leaf("team").await;
    homes.service.intercept(None);
    homes.service.alter(None);
    let kept = "SELECT count(*) FROM openmls_proposals";
    assert_eq!(number(&homes, "alice", kept), 0);
    settle(&[&alice, &bob]).await;
    alice.send_message("team", "still here").await.unwrap();
    settle(&[&bob]).await;
    assert_eq!(texts(&bob, "team"), ["still here"]);
}

#[tokio::test]
async fn a_return_whose_answer_is_lost_is_made_once_however_late_that_is_found_out() {
    for (seed, later) in [(115, 60), (116, 3 * 86_400)] {
        let homes = Homes::new(seed);
        let [alice, bob, carol] = team(&homes).await;
        drop(bob);
        // Of no other group: it would be the answer of that one's return that is lost.
        lose_state_of_team(&homes, "bob");
        let bob = Client::open(&homes.path("bob"), homes.options())
            .await
            .unwrap();
        homes.service.lose_answer(Operation::ExternalJoin);
        let _ = bob.sync(0).await;
        homes.service.clock.advance(Duration::from_secs(later));
        settle(&[&bob]).await;
        settle(&[&alice, &carol, &bob]).await;
        bob.send_message("team", "back").await.unwrap();
        settle(&[&alice, &bob]).await;
        let events = bob.events().unwrap().into_iter();
        let returns = events
            .filter(|it| matches!(it.event, Event::Rejoined { .. }))
            .count();
        assert_eq!(returns, 1);
        // The return, and the key that replaces the one it was made with.
        let joins =
            "SELECT epoch FROM known_groups JOIN groups USING (group_id) WHERE name = 'team'";
        assert_eq!(number(&homes, "alice", joins), 1 + 2);
        assert_eq!(texts(&alice, "team"), ["back"]);
    }
}

/// What is shown is used some time after it was compared.
async fn hear(homes: &Homes, client: &Client) {
    for _ in 0..3 {
        let _ = client.send_message("team", "on").await;
        let _ = client.sync(0).await;
        homes.service.clock.advance(Duration::from_secs(180));
    }
}

#[tokio::test]
async fn another_key_that_signs_journals_is_not_taken_for_the_same_store() {
    let homes = Homes::new(117);
    let alice = homes.user("alice").await;
    alice.create_group("team").await.unwrap();
    let key = |homes: &Homes| -> String {
        let db = database(homes, "alice");
        let query = "SELECT json_extract(directory, '$.journal_signing_key') FROM profile";
        db.query_row(query, (), |row| row.get(0)).unwrap()
    };
    let before = key(&homes);
    homes
        .service
        .generations
        .other_key
        .store(true, Ordering::Relaxed);
    hear(&homes, &alice).await;
    assert_eq!(key(&homes), before);
    // Another store has another one.
    homes.service.generations.shown.store(1, Ordering::Relaxed);
    hear(&homes, &alice).await;
    assert_ne!(key(&homes), before);
}

#[tokio::test]
async fn no_two_groups_are_made_under_an_id_that_the_service_has_chosen() {
    let homes = Homes::new(118);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    let made: Arc<Mutex<Vec<GroupId>>> = Arc::default();
    let sees = Arc::clone(&made);
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            if operation == Operation::CreateGroup {
                let created = body::<CreateGroupRequest>(request);
                sees.lock().unwrap().push(created.group_id);
            }
            (operation == Operation::ReserveGroupId).then(|| Ok(vec![7; 16]))
        })));
    let _ = alice.create_group("one").await;
    let _ = bob.create_group("other").await;
    assert!(made.lock().unwrap().is_empty());
}
