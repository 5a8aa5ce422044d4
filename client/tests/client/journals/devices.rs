//! Several devices of one user.

use super::*;

#[tokio::test]
async fn a_second_device_comes_into_all_groups_and_both_say_the_same() {
    let homes = Homes::new(11);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let phone = homes.client("phone").await;
    let code = phone.link_code("phone").await.unwrap();
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    assert_eq!(phone.complete_link(&number, 0).await.unwrap(), "alice");
    for _ in 0..4 {
        settle(&[&alice, &phone, &bob]).await;
    }
    assert_eq!(phone.devices().unwrap().len(), 2);
    assert_eq!(phone.contacts().unwrap().len(), 1);
    assert_eq!(bob.members("team").unwrap().len(), 3);
    bob.send_message("team", "to both").await.unwrap();
    settle(&[&alice, &phone, &bob]).await;
    phone.send_message("team", "from the phone").await.unwrap();
    settle(&[&alice, &phone, &bob]).await;
    assert_eq!(texts(&bob, "team"), ["from the phone"]);
    assert!(texts(&alice, "team").contains(&"to both".to_owned()));
    assert_eq!(texts(&phone, "team"), ["to both"]);
}

#[tokio::test]
async fn all_devices_of_a_contact_come_in_by_one_add() {
    let homes = Homes::new(27);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    let phone = link(&homes, &bob, "phone", &[&alice]).await;
    let tablet = link(&homes, &bob, "tablet", &[&alice, &phone]).await;
    days(&homes, 2, &[&bob, &phone, &tablet, &alice]).await;
    let ways_in = homes.service.count(Operation::ExternalJoin);
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    assert_eq!(epoch(&alice, "team"), 1);
    assert_eq!(alice.members("team").unwrap().len(), 4, "by one commit");
    settle(&[&alice, &bob, &phone, &tablet]).await;
    for device in [&bob, &phone, &tablet] {
        assert_eq!(device.members("team").unwrap().len(), 4);
    }
    assert_eq!(homes.service.count(Operation::ExternalJoin), ways_in);
    tablet.send_message("team", "from all").await.unwrap();
    settle(&[&alice, &bob, &phone]).await;
    for client in [&alice, &bob, &phone] {
        assert_eq!(texts(client, "team"), ["from all"]);
    }
}

#[tokio::test]
async fn a_device_that_was_restored_and_the_others_know_each_other_and_all_come_in_by_one_add() {
    let homes = Homes::new(36);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    let phone = link(&homes, &bob, "phone", &[&alice]).await;
    let mut devices = [bob, phone];
    let key = mimimi_client::BackupKey::RecoveryKey(mimimi_client::new_recovery_key().unwrap());
    // The one that publishes for both, and the other one.
    for (number, home) in ["bob restored", "phone restored"].into_iter().enumerate() {
        let backup = devices[number].backup(&key).await.unwrap();
        let path = homes.path(home);
        let restored = Client::restore(&path, &backup, &key, homes.options()).await;
        devices[number] = restored.unwrap();
        let [bob, phone] = &mut devices;
        days(&homes, 2, &[bob, phone, &alice]).await;
        for device in &devices {
            assert_eq!(device.devices().unwrap().len(), 2);
        }
        // A set that was claimed before is used first.
        for team in ["first", "then"].map(|it| format!("{it} {number}")) {
            alice.create_group(&team).await.unwrap();
            alice.add_to_group(&team, &["bob"]).await.unwrap();
            let [bob, phone] = &mut devices;
            days(&homes, 2, &[bob, phone, &alice]).await;
        }
        let team = format!("then {number}");
        assert_eq!(alice.members(&team).unwrap().len(), 3);
        for device in &devices {
            assert_eq!(device.members(&team).unwrap().len(), 3);
        }
    }
}

#[tokio::test]
async fn of_three_devices_the_one_that_is_removed_reads_nothing_more_and_the_others_go_on() {
    let homes = Homes::new(28);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let phone = link(&homes, &alice, "phone", &[&bob]).await;
    let tablet = link(&homes, &alice, "tablet", &[&bob, &phone]).await;
    assert_eq!(bob.members("team").unwrap().len(), 4);
    alice.unlink_device("phone").await.unwrap();
    settle(&[&alice, &bob, &tablet]).await;
    assert_eq!(bob.members("team").unwrap().len(), 3);
    assert_eq!(alice.devices().unwrap().len(), 2);
    assert_eq!(tablet.devices().unwrap().len(), 2);
    bob.send_message("team", "without the phone").await.unwrap();
    tablet.sync(0).await.unwrap();
    tablet
        .send_message("team", "with the tablet")
        .await
        .unwrap();
    settle(&[&alice, &bob, &tablet, &phone]).await;
    assert_eq!(texts(&tablet, "team"), ["without the phone"]);
    let said: Vec<_> = texts(&alice, "team").into_iter().collect();
    assert_eq!(said, ["without the phone", "with the tablet"]);
    assert!(texts(&phone, "team").is_empty());
    let mut events = phone.events().unwrap().into_iter();
    assert!(events.any(|stored| matches!(stored.event, Event::DeviceUnlinked)));
    assert!(phone.send_message("team", "I").await.is_err());
    // Whom the contact adds next are the two that are left.
    days(&homes, 1, &[&alice, &tablet, &bob]).await;
    bob.create_group("next").await.unwrap();
    bob.add_to_group("next", &["alice"]).await.unwrap();
    assert_eq!(bob.members("next").unwrap().len(), 3);
}

#[tokio::test]
async fn a_home_that_was_copied_renews_its_leaf_and_the_copy_that_is_in_use_stops() {
    let homes = Homes::new(29);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    std::fs::create_dir(homes.path("copy")).unwrap();
    for file in std::fs::read_dir(homes.path("alice")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), homes.path("copy").join(file.file_name())).unwrap();
    }
    let copy = Client::open(&homes.path("copy"), homes.options())
        .await
        .unwrap();
    copy.sync(0).await.unwrap();
    let mut events = copy.events().unwrap().into_iter();
    assert!(events.any(|stored| matches!(stored.event, Event::HomeCopied)));
    copy.send_message("team", "from the copy").await.unwrap();
    settle(&[&bob]).await;
    assert_eq!(texts(&bob, "team"), ["from the copy"]);
    assert_eq!(epoch(&bob, "team"), 2, "under a leaf of its own");
    alice.sync(0).await.unwrap();
    assert_eq!(
        alice.stop_reason("team").unwrap(),
        Some(StopReason::OtherCopy)
    );
    assert!(alice.send_message("team", "from the other").await.is_err());
}

#[tokio::test]
async fn a_group_that_refuses_holds_up_the_removal_of_a_device_in_no_other_one() {
    let homes = Homes::new(50);
    let [alice, bob, carol] = team(&homes).await;
    alice.create_group("also").await.unwrap();
    alice.add_to_group("also", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    let phone = homes.client("phone").await;
    let code = phone.link_code("phone").await.unwrap();
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    phone.complete_link(&number, 0).await.unwrap();
    for _ in 0..4 {
        settle(&[&alice, &phone, &bob, &carol]).await;
    }
    assert_eq!(bob.members("also").unwrap().len(), 3);
    assert_eq!(bob.members("team").unwrap().len(), 4);
    drop(phone);
    // By name: the groups before it are the devices' and the connections'.
    let refused = alice.group_access("also").unwrap().id.0;
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            let is_it = request.windows(16).any(|window| window == refused);
            (operation == Operation::RemoveClients && is_it)
                .then(|| Err(refusal(ProblemType::LimitExceeded)))
        })));
    assert!(alice.unlink_device("phone").await.is_err());
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(bob.members("team").unwrap().len(), 3);
    assert_eq!(bob.members("also").unwrap().len(), 3);
    // It is not forgotten.
    homes.service.intercept(None);
    settle(&[&alice, &bob]).await;
    assert_eq!(bob.members("also").unwrap().len(), 2);
    assert_eq!(alice.devices().unwrap().len(), 1);
}

#[tokio::test]
async fn a_device_whose_way_in_is_stale_is_added_by_a_commit() {
    let homes = Homes::new(60);
    let alice = homes.user("alice").await;
    let laptop = link(&homes, &alice, "laptop", &[]).await;
    alice.create_group("plans").await.unwrap();
    alice.sync(0).await.unwrap();
    // The key that vouches for the laptop is gone before the laptop has come.
    alice.update_own_leaf("plans").await.unwrap();
    for _ in 0..3 {
        settle(&[&laptop, &alice]).await;
    }
    assert_eq!(homes.service.count(Operation::AddClients), 1);
    for device in [&laptop, &alice] {
        assert_eq!(device.members("plans").unwrap().len(), 2);
    }
}
