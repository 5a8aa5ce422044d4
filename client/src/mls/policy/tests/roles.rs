//! What roles allow, and who may change them.

use super::*;

/// The context's extensions with a user's role and standing set.
pub(super) fn with(
    mls_group: &MlsGroup,
    user: u32,
    role: u8,
    standing: Standing,
) -> Extensions<GroupContext> {
    let policy = policy_in(mls_group.extensions()).unwrap().unwrap();
    let user = mls_group
        .member(LeafNodeIndex::new(user))
        .and_then(pseudonym_of)
        .unwrap();
    let policy = policy.with(&user, role, standing);
    let others = mls_group
        .extensions()
        .iter()
        .filter(|it| it.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION))
        .cloned();
    Extensions::from_vec(others.chain([policy_extension(&policy)]).collect()).unwrap()
}

#[test]
fn a_removal_by_who_may_not_remove_is_not_followed() {
    let [alice, bob, carol] = trio();
    let before = alice.epoch();
    let commit = bob.commit(1, |_| (vec![CAROL], None));
    let outcome = alice.takes_commit(&commit);
    assert!(is_forbidden(&outcome), "{outcome:?}");
    assert_eq!(outcome.unwrap_err().fault(), Fault::Peer);
    assert!(carol.takes_commit(&commit).is_err());
    assert_eq!(alice.epoch(), before);
    recovery::lose_to(&alice.db, &alice.profile, &ID, PeerError::NotPermitted).unwrap();
    assert_eq!(alice.group().status, Status::Refused);
    // The admin's is.
    let [alice, bob, _] = trio();
    let commit = alice.commit(1, |_| (vec![CAROL], None));
    bob.takes_commit(&commit).unwrap();
    assert_eq!(bob.epoch(), alice.epoch());
}

fn changes_senders(outcome: &Result<(), Error>) -> bool {
    matches!(outcome, Err(Error::Peer(PeerError::ExternalSenders)))
}

#[test]
fn external_senders_change_to_what_the_directory_announces_and_to_nothing_else() {
    let mut rotated = directory();
    rotated.former_external_sender_keys = vec![rotated.external_sender_key.clone()];
    rotated.external_sender_key = crate::encoding::BASE64URL.encode(sender(ROTATED).public());
    for (seeds, announced, followed) in [
        // The service dropped, an outsider more or less, another order of outsiders' places.
        (&[OUTSIDER][..], false, false),
        (&[SERVICE], false, false),
        (&[SERVICE, OUTSIDER, 9], false, false),
        (&[OUTSIDER, SERVICE], false, true),
        // A new key of the service, before and after its directory says so.
        (&[ROTATED, OUTSIDER], false, false),
        (&[ROTATED, OUTSIDER], true, true),
        (&[SERVICE, ROTATED, OUTSIDER], true, true),
        (&[OUTSIDER], true, false),
    ] {
        let [alice, bob, _] = trio();
        if announced {
            bob.hears_of(&rotated);
        }
        let commit = alice.commit(0, |group| {
            (Vec::new(), Some(with_senders(group.extensions(), seeds)))
        });
        let outcome = bob.takes_commit(&commit);
        if followed {
            outcome.unwrap();
        } else {
            assert!(changes_senders(&outcome), "{seeds:?}: {outcome:?}");
            recovery::lose_to(&bob.db, &bob.profile, &ID, PeerError::ExternalSenders).unwrap();
            assert_eq!(bob.group().status, Status::Refused);
        }
    }
}

#[test]
fn a_removal_that_keeps_the_state_key_is_not_followed() {
    let [alice, bob, _] = trio();
    let commit = alice.commit(0, |_| (vec![CAROL], None));
    assert!(matches!(
        bob.takes_commit(&commit),
        Err(Error::Peer(PeerError::RemovalWithoutRotation))
    ));
}

#[test]
fn nobody_makes_himself_an_admin() {
    let [alice, bob, carol] = trio();
    let commit = bob.commit(0, |group| {
        let roles = with(group, BOB, GroupPolicy::ADMIN, Standing::Active);
        (Vec::new(), Some(roles))
    });
    assert!(is_forbidden(&alice.takes_commit(&commit)));
    assert!(is_forbidden(&carol.takes_commit(&commit)));

    let [alice, bob, _] = trio();
    let commit = alice.commit(0, |group| {
        let roles = with(group, BOB, GroupPolicy::ADMIN, Standing::Active);
        (Vec::new(), Some(roles))
    });
    bob.takes_commit(&commit).unwrap();
}

#[test]
fn not_even_an_admin_drops_the_policy() {
    let [alice, bob, _] = trio();
    let commit = alice.commit(0, |group| {
        let kept = group
            .extensions()
            .iter()
            .filter(|it| it.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION))
            .cloned();
        (
            Vec::new(),
            Some(Extensions::from_vec(kept.collect()).unwrap()),
        )
    });
    assert!(is_forbidden(&bob.takes_commit(&commit)));
}

#[test]
fn a_message_of_a_muted_member_is_not_shown() {
    let [alice, bob, carol] = trio();
    carol.takes_message(&bob.message("before")).unwrap();
    let mute = alice.commit(0, |group| {
        let muted = with(group, BOB, GroupPolicy::MEMBER, Standing::Muted);
        (Vec::new(), Some(muted))
    });
    // Made before Bob knew, and late: he could send in the epoch that it names.
    let late = bob.message("late");
    bob.takes_commit(&mute).unwrap();
    carol.takes_commit(&mute).unwrap();
    carol.takes_message(&late).unwrap();
    assert!(is_forbidden(&carol.takes_message(&bob.message("muted"))));
    carol.takes_message(&alice.message("quiet now")).unwrap();
    assert_eq!(carol.texts(), ["before", "late", "quiet now"]);

    // The other way round: what was muted when it was said stays so.
    let then = bob.message("muted still");
    let unmute = alice.commit(0, |group| {
        let heard = with(group, BOB, GroupPolicy::MEMBER, Standing::Active);
        (Vec::new(), Some(heard))
    });
    carol.takes_commit(&unmute).unwrap();
    assert!(is_forbidden(&carol.takes_message(&then)));
}

#[test]
fn who_is_muted_and_banned_cannot_add() {
    let [alice, bob, carol] = trio();
    let ban = alice.commit(0, |group| {
        let banned = with(group, BOB, GroupPolicy::MEMBER, Standing::Banned);
        (Vec::new(), Some(banned))
    });
    bob.takes_commit(&ban).unwrap();
    carol.takes_commit(&ban).unwrap();
    let dave = User::new("dave");
    let add = bob.add(&[&dave]);
    assert!(is_forbidden(&carol.takes_commit(&add)));
    let [alice, bob, carol] = trio();
    let add = bob.add(&[&User::new("dave")]);
    carol.takes_commit(&add).unwrap();
    alice.takes_commit(&add).unwrap();
}

#[test]
fn a_second_admin_cannot_be_removed_by_a_member_nor_remove_half_a_user() {
    let [alice, bob, carol] = trio();
    let commit = bob.commit(1, |_| (vec![ALICE, CAROL], None));
    assert!(is_forbidden(&alice.takes_commit(&commit)));
    assert!(is_forbidden(&carol.takes_commit(&commit)));
}
