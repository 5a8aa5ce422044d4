//! How contacts come about and end.

use super::*;

#[tokio::test]
async fn contacts_come_about_through_inboxes_and_are_added_through_pointers() {
    let homes = Homes::new(2);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
    assert_eq!(bob.contacts().unwrap().len(), 1);
    assert_eq!(
        alice.safety_number("bob").unwrap(),
        bob.safety_number("alice").unwrap()
    );
    alice.create_group("climbing").await.unwrap();
    alice.add_to_group("climbing", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("climbing").unwrap().len(), 2);
    alice.send_message("climbing", "Saturday?").await.unwrap();
    bob.sync(0).await.unwrap();
    bob.send_message("climbing", "yes").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, "climbing"), ["Saturday?"]);
    assert_eq!(texts(&alice, "climbing"), ["yes"]);
    assert_eq!(bob.verify_group("climbing").await.unwrap().0, 2);
}

#[tokio::test]
async fn who_ends_a_connection_is_forgotten_and_who_deletes_the_account_leaves_nothing_behind() {
    let homes = Homes::new(15);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    alice.disconnect("bob").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert!(alice.contacts().unwrap().is_empty());
    assert!(bob.contacts().unwrap().is_empty());
    bob.delete_account().await.unwrap();
    settle(&[&alice]).await;
    assert_eq!(alice.members("team").unwrap().len(), 1);
    assert!(!homes.path("bob").join("client.sqlite").exists());
}

#[tokio::test]
async fn each_contact_claims_from_a_pool_of_its_own_and_ahead_of_need() {
    let homes = Homes::new(16);
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    settle(&[&alice, &bob, &carol]).await;
    let db = rusqlite::Connection::open(homes.path("alice").join("client.sqlite")).unwrap();
    let pools: u32 = db
        .query_row(
            "SELECT count(DISTINCT pool_token) FROM contacts",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(pools, 2);
    assert_eq!(homes.service.count(Operation::ClaimKeyPackages), 0);
    pass(&homes, 48, &[&alice]).await;
    assert_eq!(homes.service.count(Operation::ClaimKeyPackages), 2);
    // What is in stock is used: nothing is claimed for an Add.
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    assert_eq!(homes.service.count(Operation::ClaimKeyPackages), 2);
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("team").unwrap().len(), 2);
    // Who is no contact any more finds nothing, and others still do.
    alice.disconnect("bob").await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    carol.create_group("other").await.unwrap();
    carol.add_to_group("other", &["alice"]).await.unwrap();
    settle(&[&alice, &carol]).await;
    assert_eq!(alice.members("other").unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_leads_into_a_group_that_was_made_ahead_and_stays_as_it_was_until_the_answer() {
    let homes = Homes::new(24);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    let stock = "SELECT count(*) FROM connection_stock WHERE made_ms > 0";
    settle(&[&alice]).await;
    assert_eq!(count(&homes, "alice", stock), 0, "not with the handle");
    days(&homes, 2, &[&alice]).await;
    assert_eq!(count(&homes, "alice", stock), 2);
    let made = |homes: &Homes| {
        let operations = [Operation::CreateGroup, Operation::SetJoinCode];
        operations.map(|operation| homes.service.count(operation))
    };
    let before = made(&homes);
    alice.connect("bob").await.unwrap();
    assert_eq!(made(&homes), before, "nothing is made with the request");
    assert_eq!(count(&homes, "alice", stock), 1);
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    days(&homes, 50, &[&alice]).await;
    assert_eq!(count(&homes, "alice", stock), 2, "filled again");
    let committed = homes.service.count(Operation::UpdateClient);
    assert_eq!(committed, 0, "no group that waits for somebody is renewed");
    bob.accept_request(&request.id).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("team").unwrap().len(), 2);
}

#[tokio::test]
async fn a_group_in_stock_that_was_not_needed_gives_way_to_another_one() {
    let homes = Homes::new(25);
    let alice = homes.user("alice").await;
    days(&homes, 2, &[&alice]).await;
    let first = "SELECT count(*) FROM groups WHERE kind = 2";
    assert_eq!(count(&homes, "alice", first), 2);
    days(&homes, 70, &[&alice]).await;
    assert_eq!(count(&homes, "alice", first), 2);
    let deleted = homes.service.count(Operation::DeleteGroup);
    assert_eq!(deleted, 2, "both were too old");
}

#[tokio::test]
async fn a_request_that_is_taken_back_leads_nowhere() {
    let homes = Homes::new(26);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    alice.cancel_request("bob").await.unwrap();
    let accepted = bob.accept_request(&request.id).await;
    assert!(matches!(
        accepted,
        Err(Error::Usage(mimimi_client::UsageError::RequestExpired))
    ));
    assert!(bob.incoming_requests().unwrap().is_empty());
    assert!(bob.contacts().unwrap().is_empty());
}

#[tokio::test]
async fn who_asks_again_pays_what_the_inbox_costs_by_now_and_uses_its_key_of_now() {
    let homes = Homes::new(33);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    // A quarter of an inbox, and one more.
    for _ in 0..INBOX_CAPACITY / 4 + 1 {
        alice.connect("bob").await.unwrap();
    }
    let groups = homes.service.count(Operation::CreateGroup);
    assert_eq!(groups, 1, "all lead into one group");
    bob.check_inbox().await.unwrap();
    let mut requests = bob.incoming_requests().unwrap();
    let request = requests.pop().unwrap();
    assert!(requests.is_empty());
    // Without the device the handle has another key.
    let phone = link(&homes, &bob, "phone", &[]).await;
    bob.decline_request(&request.id).await.unwrap();
    bob.unlink_device("phone").await.unwrap();
    settle(&[&bob, &phone]).await;
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    bob.accept_request(&request.id).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
}
