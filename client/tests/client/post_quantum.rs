//! What stays closed to a quantum computer, and who can make a client settle for less.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::connection::sign_handle_record;
use crypto::hpke::{self, HpkeKeyPair, Kem};
use crypto::journal::{RECOVERY_INFO, recovery_aad};
use crypto::schedule::JoinCodeSecret;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use mimimi_client::{Client, Error, Event, Options, PeerError, UsageError};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, HandleRecord};
use protocol::group::{CreateGroupRequest, GroupKind};
use protocol::ids::GroupId;
use protocol::inbox::LookupHandleResponse;
use protocol::join::RecoveryRowResponse;
use protocol::key_packages::ClaimKeyPackagesRequest;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::SignedRequest;

use crate::support::{Homes, befriend, link, pass, refusal, settle, team, texts};

const X_WING: u16 = 0x4f;
const CLASSICAL: u16 = 1;

async fn user_with(homes: &Homes, name: &str, suites: &[u16]) -> Client {
    let options = Options {
        ciphersuites: suites.to_vec(),
        ..homes.options()
    };
    let client = homes.client_with(name, options).await;
    client.register_handle(name).await.unwrap();
    client
}

fn is_told(client: &Client, group: &str) -> bool {
    let told = Event::NotPostQuantum {
        group: group.into(),
    };
    let mut events = client.events().unwrap().into_iter();
    events.any(|stored| stored.event == told)
}

fn is_post_quantum(client: &Client, group: &str) -> bool {
    let group = client.group(group).unwrap();
    assert_eq!(group.post_quantum, group.ciphersuite == X_WING);
    group.post_quantum
}

/// Kind and ciphersuite of each group that is made from now on.
fn groups_made(homes: &Homes) -> Arc<Mutex<Vec<(GroupKind, u16)>>> {
    let made = Arc::new(Mutex::new(Vec::new()));
    let this = Arc::clone(&made);
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            if operation == Operation::CreateGroup {
                let request = SignedRequest::decode(request).unwrap();
                let body = CreateGroupRequest::decode(request.body.as_slice()).unwrap();
                // Version and wire format of the message; version of the group's context.
                let suite = body.group_info.as_slice()[6..8].try_into().unwrap();
                let suite = u16::from_be_bytes(suite);
                this.lock().unwrap().push((body.kind, suite));
            }
            None
        })));
    made
}

#[tokio::test]
async fn every_group_that_a_client_makes_by_itself_is_post_quantum() {
    let homes = Homes::new(801);
    let made = groups_made(&homes);
    let [alice, bob, carol] = team(&homes).await;
    link(&homes, &alice, "tablet", &[&bob, &carol]).await;
    let made = made.lock().unwrap();
    for kind in [
        GroupKind::Connection,
        GroupKind::Group,
        GroupKind::SingleUser,
    ] {
        assert!(made.iter().any(|(of, _)| *of == kind), "{kind:?}");
    }
    assert!(made.iter().all(|(_, suite)| *suite == X_WING), "{made:?}");
    assert!(is_post_quantum(&bob, "team") && !is_told(&bob, "team"));
}

#[tokio::test]
async fn a_service_that_says_there_are_no_key_packages_with_x_wing_gets_no_weaker_group() {
    let homes = Homes::new(802);
    let alice = homes.user("alice").await;
    let bob = user_with(&homes, "bob", &[X_WING, CLASSICAL]).await;
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    let claimed = Arc::new(Mutex::new(Vec::new()));
    let this = Arc::clone(&claimed);
    homes
        .service
        .intercept(Some(Box::new(move |operation, request| {
            if operation != Operation::ClaimKeyPackages {
                return None;
            }
            let request = SignedRequest::decode(request).unwrap();
            let claim = ClaimKeyPackagesRequest::decode(request.body.as_slice()).unwrap();
            this.lock().unwrap().push(claim.ciphersuite);
            (claim.ciphersuite == X_WING).then(|| Err(refusal(ProblemType::NoKeyPackages)))
        })));
    let refused = alice.add_to_group("team", &["bob"]).await.unwrap_err();
    assert_eq!(refused.problem(), Some(ProblemType::NoKeyPackages));
    // The classical one, which the service did hand out, says that Bob takes X-Wing.
    assert_eq!(*claimed.lock().unwrap(), [X_WING, CLASSICAL]);
    assert!(is_post_quantum(&alice, "team") && !is_told(&alice, "team"));
    homes.service.intercept(None);
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert!(is_post_quantum(&bob, "team"));
}

/// Whoever has chosen nothing has chosen X-Wing too: what a group has changes by its user's word.
#[tokio::test]
async fn a_contact_without_x_wing_is_added_to_no_group_that_has_it_until_its_admin_says_so() {
    let homes = Homes::new(803);
    let alice = homes.user("alice").await;
    let carol = user_with(&homes, "carol", &[X_WING, CLASSICAL]).await;
    let bob = user_with(&homes, "bob", &[CLASSICAL]).await;
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    for (group, others) in [("alone", vec![]), ("team", vec!["carol"])] {
        alice.create_group(group).await.unwrap();
        if !others.is_empty() {
            alice.add_to_group(group, &others).await.unwrap();
        }
        settle(&[&alice, &carol]).await;
        let before = alice.group(group).unwrap();
        let refused = alice.add_to_group(group, &["bob"]).await.unwrap_err();
        let lacks = UsageError::LacksPostQuantum("bob".into());
        assert!(matches!(refused, Error::Usage(why) if why == lacks));
        assert_eq!(alice.group(group).unwrap(), before);
        alice.upgrade_group(group, CLASSICAL).await.unwrap();
        alice.add_to_group(group, &["bob"]).await.unwrap();
        settle(&[&alice, &carol, &bob]).await;
        for client in [&alice, &bob] {
            assert!(!is_post_quantum(client, group) && is_told(client, group));
        }
    }
    assert!(!is_post_quantum(&carol, "team") && is_told(&carol, "team"));
    bob.send_message("team", "hello").await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(texts(&alice, "team"), ["hello"]);
}

/// X-Wing of another ciphersuite is none that a group of the usual one can have.
#[tokio::test]
async fn who_takes_x_wing_in_another_ciphersuite_alone_says_that_it_takes_none() {
    let homes = Homes::new(819);
    let alice = homes.user("alice").await;
    let bob = user_with(&homes, "bob", &[0x4e, CLASSICAL]).await;
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    let refused = alice.add_to_group("team", &["bob"]).await.unwrap_err();
    let lacks = UsageError::LacksPostQuantum("bob".into());
    assert!(matches!(refused, Error::Usage(why) if why == lacks));
    alice.create_group_with("other", 0x4e).await.unwrap();
    alice.add_to_group("other", &["bob"]).await.unwrap();
    assert!(alice.group("other").unwrap().post_quantum);
}

/// The device that publishes for both has no KeyPackages with X-Wing to publish.
#[tokio::test]
async fn of_a_contact_with_a_device_without_x_wing_that_is_said() {
    let homes = Homes::new(818);
    let alice = homes.user("alice").await;
    let bob = user_with(&homes, "bob", &[CLASSICAL]).await;
    befriend(&alice, &bob).await;
    let tablet = link(&homes, &bob, "tablet", &[&alice]).await;
    pass(&homes, 30, &[&alice, &bob, &tablet]).await;
    alice.create_group("team").await.unwrap();
    let refused = alice.add_to_group("team", &["bob"]).await.unwrap_err();
    let lacks = UsageError::LacksPostQuantum("bob".into());
    assert!(
        matches!(&refused, Error::Usage(why) if *why == lacks),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_group_gets_x_wing_without_those_who_do_not_take_it_and_says_who_they_are() {
    let homes = Homes::new(804);
    let alice = homes.user("alice").await;
    let carol = user_with(&homes, "carol", &[X_WING, CLASSICAL]).await;
    let bob = user_with(&homes, "bob", &[CLASSICAL]).await;
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group_with("team", CLASSICAL).await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &carol, &bob]).await;
    let before = alice.group("team").unwrap();
    let refused = alice.upgrade_group("team", X_WING).await.unwrap_err();
    let behind = UsageError::WouldLeaveBehind(vec!["bob".into()]);
    assert!(matches!(refused, Error::Usage(why) if why == behind));
    assert_eq!(alice.group("team").unwrap(), before);
    let left = alice.upgrade_group_leaving_others("team", X_WING).await;
    assert_eq!(left.unwrap(), ["bob"]);
    settle(&[&alice, &carol]).await;
    assert!(is_post_quantum(&alice, "team") && is_post_quantum(&carol, "team"));
}

#[tokio::test]
async fn who_comes_into_a_classical_group_by_a_code_is_told() {
    let homes = Homes::new(805);
    let (alice, dave) = (homes.user("alice").await, homes.user("dave").await);
    for (group, suite) in [("open", CLASSICAL), ("better", X_WING)] {
        alice.create_group_with(group, suite).await.unwrap();
        let code = alice.invite(group, 7).await.unwrap();
        let name = dave.join_by_code(&code).await.unwrap();
        assert_eq!(is_told(&dave, &name), suite == CLASSICAL);
        assert_eq!(is_post_quantum(&dave, &name), suite == X_WING);
    }
}

/// A member and the service say that a group has X-Wing, and show the way into one that does not.
#[tokio::test]
async fn nobody_comes_into_a_classical_group_that_was_said_to_have_x_wing() {
    let homes = Homes::new(806);
    let alice = homes.user("alice").await;
    let (dave, erin) = (homes.user("dave").await, homes.user("erin").await);
    alice.create_group_with("open", CLASSICAL).await.unwrap();
    let code = alice.invite("open", 7).await.unwrap();
    let shown = Arc::new(Mutex::new(None));
    let this = Arc::clone(&shown);
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation == Operation::RecoveryRow {
            *this.lock().unwrap() = Some(answer.clone());
        }
        answer
    })));
    dave.join_by_code(&code).await.unwrap();

    let mut bytes = URL_SAFE_NO_PAD.decode(&code).unwrap();
    let group = GroupId(bytes[2..18].try_into().unwrap());
    bytes[18..20].copy_from_slice(&X_WING.to_be_bytes());
    let secret = JoinCodeSecret::new(bytes[20..52].try_into().unwrap());
    let key = |kem| HpkeKeyPair::derive(kem, &secret.hpke_seed()).unwrap();
    let row = shown.lock().unwrap().take().unwrap();
    let row = RecoveryRowResponse::decode(&row).unwrap();
    let aad = recovery_aad(&group, row.rotation_epoch);
    let sealed = row.sealed.as_slice();
    let way_in = hpke::open(&key(Kem::X25519), RECOVERY_INFO, &aad, sealed).unwrap();
    let sealed = hpke::seal(key(Kem::XWing).public(), RECOVERY_INFO, &aad, &way_in).unwrap();
    homes.service.intercept(Some(Box::new(move |operation, _| {
        (operation == Operation::RecoveryRow).then(|| {
            Ok(RecoveryRowResponse {
                rotation_epoch: row.rotation_epoch,
                sealed: opaque(sealed.as_slice()),
            }
            .encode())
        })
    })));
    let lured = erin.join_by_code(&URL_SAFE_NO_PAD.encode(&bytes)).await;
    assert!(
        matches!(lured, Err(Error::Peer(PeerError::Unauthenticated(_)))),
        "{lured:?}"
    );
    assert!(erin.groups().unwrap().is_empty());
}

/// From now on the service shows another key behind every handle, signed like a genuine one.
fn show_another_key(homes: &Homes, key: Vec<u8>) {
    homes.service.alter(Some(Box::new(move |operation, answer| {
        if operation != Operation::LookupHandle {
            return answer;
        }
        let mut found = LookupHandleResponse::decode(&answer).unwrap();
        let record = HandleRecord::decode(found.record.as_slice()).unwrap();
        let signer = SignatureKeyPair::from_seed(&Secret::new([7; 32]));
        let credential = ClientCredential {
            name: record.credential.name,
            signature_public_key: opaque(signer.public()),
        };
        let handle = credential.name.as_slice().to_vec();
        let forged = sign_handle_record(&handle, &credential, &signer, &key);
        found.record = opaque(forged.encode());
        found.encode()
    })));
}

#[tokio::test]
async fn nothing_is_sealed_to_a_classical_key_behind_a_handle() {
    let homes = Homes::new(807);
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    let key = |kem| HpkeKeyPair::derive(kem, &Secret::new([9; 32])).unwrap();
    for kem in [Kem::X25519, Kem::P256] {
        show_another_key(&homes, key(kem).public().to_vec());
        let refused = alice.connect("bob").await;
        let expected = Err(Error::Peer(PeerError::HandleRecord));
        assert_eq!(
            format!("{refused:?}"),
            format!("{:?}", expected as Result<(), Error>)
        );
        assert_eq!(homes.service.count(Operation::RequestConnection), 0);
    }
    homes.service.alter(None);
    befriend(&alice, &bob).await;
}

#[tokio::test]
async fn a_device_is_linked_to_no_other_key_than_the_one_that_its_code_names() {
    let homes = Homes::new(808);
    let alice = homes.user("alice").await;
    let tablet = homes.client("tablet").await;
    let code = tablet.link_code("tablet").await.unwrap();
    let key = HpkeKeyPair::from_seed(&Secret::new([9; 32])).unwrap();
    show_another_key(&homes, key.public().to_vec());
    let refused = alice.approve_link(&code.code, &code.number).await;
    assert!(
        matches!(refused, Err(Error::Peer(PeerError::HandleRecord))),
        "{refused:?}"
    );
    assert_eq!(homes.service.count(Operation::RequestConnection), 0);
    homes.service.alter(None);
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    tablet.complete_link(&number, 0).await.unwrap();
}
