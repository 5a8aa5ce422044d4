//! What a group says of itself.

use mimimi_client::{Client, Error, Event, GroupProfile, Picture, UsageError};

use crate::support::{Homes, befriend, link, settle, team};

fn garden() -> GroupProfile {
    let mut garden = GroupProfile::named("garden");
    garden.description = "Roses,\nand whatever else grows".to_owned();
    garden.picture = Some(Picture::new("image/webp", vec![7; 3_000]));
    garden
}

/// What a client was told of profiles and roles; it is acknowledged.
fn told(client: &Client) -> Vec<Event> {
    let stored = client.events().unwrap();
    client.acknowledge(&stored).unwrap();
    let events = stored.into_iter().map(|stored| stored.event);
    let of_policy = |event: &Event| {
        matches!(
            event,
            Event::GroupProfileChanged { .. } | Event::PolicyChanged { .. } | Event::Joined { .. }
        )
    };
    events.filter(of_policy).collect()
}

#[tokio::test]
async fn a_group_says_the_same_of_itself_to_all_its_members_and_to_who_comes_later() {
    let homes = Homes::new(431);
    let [alice, bob, carol] = team(&homes).await;
    let dave = homes.user("dave").await;
    befriend(&bob, &dave).await;
    let id = alice.group("team").unwrap().id;
    // Carol has another group of that name.
    carol.create_group("garden").await.unwrap();
    for client in [&alice, &bob, &carol, &dave] {
        told(client);
    }
    let nothing = alice.group("team").unwrap().profile;
    assert_eq!(nothing, GroupProfile::default());
    alice.set_group_profile("team", garden()).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    for (client, name) in [(&alice, "garden"), (&bob, "garden"), (&carol, "garden (2)")] {
        let group = client.group(id).unwrap();
        assert_eq!((group.name.as_str(), group.profile), (name, garden()));
    }
    let [
        Event::GroupProfileChanged {
            group, by, profile, ..
        },
    ] = &told(&carol)[..]
    else {
        panic!("told of the profile alone");
    };
    assert_eq!(
        (group.as_str(), by.as_str(), profile),
        ("garden (2)", "alice", &garden())
    );
    assert!(told(&alice).is_empty());
    // Who comes in is told that name, whatever the group is called where it is added from.
    bob.add_to_group("garden", &["dave"]).await.unwrap();
    settle(&[&bob, &dave]).await;
    assert!(matches!(&told(&dave)[..], [Event::Joined { group, .. }] if group == "garden"));
    assert_eq!(dave.group(id).unwrap().profile, garden());
    // Nothing is left of what was taken back, and the group keeps the name.
    let none = GroupProfile::named("garden");
    alice
        .set_group_profile("garden", none.clone())
        .await
        .unwrap();
    settle(&[&alice, &bob]).await;
    let group = bob.group("garden").unwrap();
    assert_eq!((group.id, group.profile), (id, none));
}

#[tokio::test]
async fn who_may_not_change_what_a_group_says_of_itself_does_not() {
    let homes = Homes::new(432);
    let [alice, bob, carol] = team(&homes).await;
    let refused = bob.set_group_profile("team", garden()).await;
    assert!(matches!(
        refused,
        Err(Error::Usage(UsageError::NotPermitted))
    ));
    let mut long = garden();
    long.description = "d".repeat(1_025);
    let refused = alice.set_group_profile("team", long).await;
    assert!(matches!(
        refused,
        Err(Error::Usage(UsageError::InvalidGroupProfile))
    ));
    settle(&[&alice, &bob, &carol]).await;
    assert_eq!(
        carol.group("team").unwrap().profile,
        GroupProfile::default()
    );
}

#[tokio::test]
async fn after_a_removal_who_comes_in_reads_it_and_nobody_is_told_again() {
    let homes = Homes::new(433);
    let [alice, bob, carol] = team(&homes).await;
    let dave = homes.user("dave").await;
    befriend(&alice, &dave).await;
    let id = alice.group("team").unwrap().id;
    alice.set_group_profile("team", garden()).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    for client in [&alice, &bob] {
        told(client);
    }
    let policy = |client: &Client| client.group(id).unwrap().epoch;
    alice.remove_from_group(id, &["carol"]).await.unwrap();
    let removed = policy(&alice);
    settle(&[&alice, &bob]).await;
    settle(&[&alice, &bob]).await;
    // Sealed anew, by whoever may: a commit more.
    assert_eq!(policy(&bob), removed + 1);
    assert!(told(&bob).is_empty());
    alice.add_to_group(id, &["dave"]).await.unwrap();
    settle(&[&alice, &bob, &dave]).await;
    for client in [&alice, &bob, &dave] {
        assert_eq!(client.group(id).unwrap().profile, garden());
    }
}

#[tokio::test]
async fn what_a_user_calls_a_contact_is_so_on_the_users_devices_and_nobody_else_hears_it() {
    let homes = Homes::new(434);
    let [alice, bob, carol] = team(&homes).await;
    let tablet = link(&homes, &alice, "tablet", &[&bob, &carol]).await;
    let all = [&alice, &tablet, &bob, &carol];
    alice
        .rename_contact("bob", Some("Bob from work"))
        .await
        .unwrap();
    settle(&all).await;
    bob.send_message("team", "hello").await.unwrap();
    settle(&all).await;
    let sender = |client: &Client| {
        let page = client.messages("team", None, 1).unwrap();
        page[0].sender.clone()
    };
    let is_member = |client: &Client, name: &str| {
        let members = client.members("team").unwrap();
        members.iter().any(|member| member.name == name)
    };
    for client in [&alice, &tablet] {
        let contacts = client.contacts().unwrap();
        let bob = contacts.iter().find(|it| it.handle == "bob").unwrap();
        assert_eq!(bob.name, "Bob from work");
        assert_eq!(sender(client), "Bob from work");
        assert!(is_member(client, "Bob from work"));
    }
    assert_eq!(sender(&carol), "bob");
    assert!(is_member(&carol, "bob") && is_member(&bob, "bob"));
    // By that name and by the handle.
    alice
        .remove_from_group("team", &["Bob from work"])
        .await
        .unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&all).await;
    assert!(is_member(&tablet, "Bob from work"));
}
