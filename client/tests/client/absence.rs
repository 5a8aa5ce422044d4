//! What a client sees that was away for months, while the others went on, and how it comes back.

use std::time::Duration;

use mimimi_client::{Client, Error, Event, RemovalReason, StopReason, UsageError};
use protocol::ids::Week;
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::support::{Homes, befriend, database, link, pass, settle, texts};

/// Days in which the others go on: they renew their leaves, which rotates each month, and talk.
async fn without(homes: &Homes, days: u64, others: &[&Client]) {
    for step in 0..days / 5 {
        homes.service.clock.advance(Duration::from_secs(5 * 86_400));
        homes.service.expire();
        settle(others).await;
        if step % 6 == 0 {
            for other in others {
                other.send_message("team", "still here").await.unwrap();
            }
        }
    }
    // Only with a commit the service looks who is silent for too long.
    if let [first, ..] = others {
        first.update_own_leaf("team").await.unwrap();
    }
    settle(others).await;
}

/// Alice, Bob and Carol, in one group, the connection of Alice and Carol not being Bob's matter;
/// Bob has a group of his own too.
async fn team(homes: &Homes) -> [Client; 3] {
    let [alice, bob, carol] = crate::support::team(homes).await;
    befriend(&bob, &carol).await;
    bob.create_group("diary").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    for client in [&alice, &bob, &carol] {
        client.acknowledge(&client.events().unwrap()).unwrap();
    }
    [alice, bob, carol]
}

fn told(client: &Client) -> Vec<Event> {
    let events = client.events().unwrap().into_iter();
    events.map(|stored| stored.event).collect()
}

/// The week in which all has begun.
const BEGUN: Week = Week(2976);

fn removed(group: &str) -> Event {
    Event::RemovedByService {
        group: group.into(),
        name: "bob".into(),
        why: RemovalReason::Inactive(BEGUN.0),
    }
}

/// The rotations of all connections that a home follows, the lowest number first.
fn connections(homes: &Homes, home: &str) -> Vec<i64> {
    let query = "SELECT rotation_epoch FROM segments JOIN groups USING (group_id)
                 WHERE kind = 2 AND status = 'active' AND group_id NOT IN
                    (SELECT group_id FROM connection_stock) ORDER BY rotation_epoch";
    let db = database(homes, home);
    let mut statement = db.prepare(query).unwrap();
    let rows = statement.query_map((), |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Bob asks one after the other, who adds him; then all read each other. Where he does not know
/// what has become of the group, he waits for the word of another one than who has added him.
async fn comes_back(homes: &Homes, [alice, bob, carol]: [&Client; 3], waits: bool) {
    // He publishes KeyPackages at a time of its own.
    pass(homes, 48, &[alice, bob, carol]).await;
    assert_eq!(bob.who_can_bring_back("team").unwrap(), ["alice", "carol"]);
    let asked = bob.ask_to_return("team", "dave").await;
    assert!(matches!(
        asked,
        Err(Error::Usage(UsageError::UnknownContact(_)))
    ));
    let asked = bob.ask_to_return("diary", "alice").await;
    assert!(matches!(
        asked,
        Err(Error::Usage(UsageError::AlreadyAMember(_)))
    ));
    bob.ask_to_return("team", "alice").await.unwrap();
    settle(&[alice, carol]).await;
    let wanted = Event::ReturnWanted {
        group: "team".into(),
        name: "bob".into(),
    };
    assert!(told(alice).contains(&wanted));
    assert!(!told(carol).contains(&wanted));
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[alice, bob, carol]).await;
    assert_eq!(bob.stop_reason("team").unwrap(), None);
    assert!(bob.who_can_bring_back("team").unwrap().is_empty());
    let sent = bob.send_message("team", "here?").await;
    assert_eq!(sent.is_err(), waits, "{sent:?}");
    carol.send_message("team", "welcome").await.unwrap();
    settle(&[alice, bob, carol]).await;
    bob.send_message("team", "back again").await.unwrap();
    settle(&[alice, bob, carol]).await;
    assert_eq!(texts(alice, "team").last().unwrap(), "back again");
    assert!(texts(alice, "team").contains(&"back again".to_owned()));
    assert_eq!(texts(bob, "team").last().unwrap(), "welcome");
}

#[tokio::test]
async fn who_comes_back_after_four_and_a_half_months_hears_what_is_lost_and_that_it_was_removed() {
    let homes = Homes::new(137);
    let [alice, bob, carol] = team(&homes).await;
    without(&homes, 137, &[&alice, &carol]).await;
    bob.sync(0).await.unwrap();
    let told = told(&bob);
    let gone = Event::MessagesDropped {
        group: "team".into(),
        count: 8,
    };
    assert_eq!(told.first(), Some(&gone), "{told:?}");
    assert_eq!(texts(&bob, "team"), ["still here", "still here"]);
    let removal = Event::Removed {
        group: "team".into(),
    };
    assert!(told.contains(&removal) && told.contains(&removed("team")));
    for name in ["alice", "carol", "diary"] {
        assert_eq!(bob.stop_reason(name).unwrap(), None, "{name}");
    }
    comes_back(&homes, [&alice, &bob, &carol], false).await;
}

#[tokio::test]
async fn who_comes_back_after_eight_months_has_its_contacts_and_is_brought_back_by_them() {
    let homes = Homes::new(245);
    let [alice, bob, carol] = team(&homes).await;
    let before = bob.safety_number("alice").unwrap();
    without(&homes, 245, &[&alice, &carol]).await;
    bob.sync(0).await.unwrap();
    let lost = Event::GroupLost {
        group: "team".into(),
        why: StopReason::Expired,
    };
    let told = told(&bob);
    let of_losses = told.iter().filter(|event| {
        let loss = matches!(
            event,
            Event::GroupLost { .. } | Event::ConnectionLost { .. }
        );
        loss && **event != lost
    });
    assert!(told.contains(&lost) && of_losses.count() == 0, "{told:?}");
    // Nobody has done wrong.
    assert!(bob.evidence("team").unwrap().is_empty());
    for name in ["alice", "carol", "diary"] {
        assert_eq!(bob.stop_reason(name).unwrap(), None, "{name}");
    }
    // Through all segments.
    settle(&[&alice, &bob, &carol]).await;
    let followed = connections(&homes, "bob");
    assert!(followed.len() == 2 && followed[0] >= 5, "{followed:?}");
    assert_eq!(bob.safety_number("alice").unwrap(), before);
    comes_back(&homes, [&alice, &bob, &carol], true).await;
    assert_eq!(bob.contacts().unwrap().len(), 2);
}

#[tokio::test]
async fn who_comes_back_after_sixteen_months_hears_that_its_contacts_are_out_of_reach_and_connects_again()
 {
    let homes = Homes::new(480);
    let [alice, bob, carol] = team(&homes).await;
    without(&homes, 480, &[&alice, &carol]).await;
    bob.sync(0).await.unwrap();
    let told_bob = told(&bob);
    let why = StopReason::Expired;
    let group = "team".into();
    assert!(told_bob.contains(&Event::GroupLost { group, why }));
    for name in ["alice", "carol"] {
        let name = name.to_owned();
        assert!(bob.evidence(&name).unwrap().is_empty());
        let lost = Event::ConnectionLost { name, why };
        assert!(told_bob.contains(&lost), "{told_bob:?}");
    }
    assert!(told(&alice).contains(&removed("")));
    assert!(bob.who_can_bring_back("team").unwrap().is_empty());
    bob.disconnect("alice").await.unwrap();
    alice.disconnect("bob").await.unwrap();
    bob.connect("alice").await.unwrap();
    alice.check_inbox().await.unwrap();
    let request = alice.incoming_requests().unwrap().pop().unwrap();
    assert_eq!(alice.accept_request(&request.id).await.unwrap(), "bob");
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(bob.stop_reason("alice").unwrap(), None);
    alice.create_group("again").await.unwrap();
    alice.add_to_group("again", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.send_message("again", "there?").await.unwrap();
    settle(&[&bob]).await;
    assert_eq!(texts(&bob, "again"), ["there?"]);
}

#[tokio::test]
async fn a_device_that_was_away_for_eight_months_hears_that_it_has_lost_the_others() {
    let homes = Homes::new(247);
    let [alice, bob, carol] = team(&homes).await;
    let phone = link(&homes, &bob, "phone", &[&alice, &carol]).await;
    settle(&[&alice, &bob, &carol, &phone]).await;
    bob.acknowledge(&bob.events().unwrap()).unwrap();
    without(&homes, 245, &[&alice, &carol, &phone]).await;
    bob.sync(0).await.unwrap();
    let told = told(&bob);
    let why = StopReason::Expired;
    assert!(told.contains(&Event::DevicesLost { why }), "{told:?}");
    for name in ["alice", "carol"] {
        assert_eq!(bob.stop_reason(name).unwrap(), None, "{name}");
    }
    let back = bob.rejoin_devices().await;
    assert!(
        matches!(back, Err(Error::Usage(UsageError::GroupLost(_)))),
        "{back:?}"
    );
}

#[tokio::test]
async fn a_handle_stays_its_owners_while_that_is_there() {
    let homes = Homes::new(402);
    let alice = homes.user("alice").await;
    for _ in 0..60 {
        homes.service.clock.advance(Duration::from_secs(7 * 86_400));
        settle(&[&alice]).await;
    }
    let mallory = homes.client("mallory").await;
    let taken = mallory.register_handle("alice").await;
    let is_taken = |error: &Error| matches!(error, Error::Refused(refusal) if refusal.problem == ProblemType::HandleTaken);
    assert!(is_taken(&taken.unwrap_err()));
    // Not more often than it must be.
    assert!(homes.service.count(Operation::RegisterHandle) <= 2 + 60 / 12);
}

#[tokio::test]
async fn who_missed_a_contacts_new_token_is_told_it_again() {
    let homes = Homes::new(246);
    let [alice, bob, carol] = team(&homes).await;
    let phone = link(&homes, &alice, "phone", &[&bob, &carol]).await;
    settle(&[&alice, &phone, &bob, &carol]).await;
    drop(phone);
    // What the phone knew finds nothing any more, and the word of it expires.
    alice.unlink_device("phone").await.unwrap();
    without(&homes, 95, &[&alice, &carol]).await;
    settle(&[&alice, &bob, &carol]).await;
    // Bob renews his leaf.
    pass(&homes, 72, &[&alice, &bob, &carol]).await;
    bob.create_group("new").await.unwrap();
    bob.add_to_group("new", &["alice"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.members("new").unwrap().len(), 2);
}
