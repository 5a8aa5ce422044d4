//! Every field of the answers that lead a client into a group from outside, told otherwise than it
//! is (`end_to_end::lies::outside` has the tables): when it comes back, comes in by a code, or
//! accepts a connection. It sends nothing into what it could not authenticate, and comes in when
//! the truth is told again.

use std::sync::{Arc, Mutex};

use client::{Client, Error, PeerError, StopReason, UsageError};
use end_to_end::lies::alter;
use end_to_end::lies::outside::{COMING_BACK, EXTERNAL_COMMIT_INFO, Lie, Seen, Shown, Way};
use end_to_end::{
    FalseGroup, Liar, LogLevel, MUCH, Stack, added_by, asked_into, blank, context_of, device,
    group_with, requests_of, settle, talks,
};
use protocol::Wire as _;
use protocol::group::{CommitRequest, GroupKind};
use protocol::ids::GroupId;
use protocol::join::ExternalCommitInfoResponse;
use protocol::journal::ReadJournalRequest;
use protocol::operation::Operation;

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const DAVE: &str = "dave.dimitrov";
const SECRET: &str = "the key lies under the third stone";

struct Scene {
    stack: Stack,
    liar: Liar,
    alice: Client,
    bob: Client,
    carol: Client,
}

/// A group of three, at a service that has been honest so far.
async fn scene() -> Scene {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let carol = device(&stack, 2, CAROL).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    talks(GROUP, &[&alice, &bob, &carol]).await;
    Scene {
        stack,
        liar,
        alice,
        bob,
        carol,
    }
}

/// What the service shows of a group of its own under a real one's id, with the members' genuine
/// KeyPackages.
fn own_group(liar: &Liar, id: GroupId, kind: GroupKind) -> ExternalCommitInfoResponse {
    let created = liar.created(kind);
    let created = created.iter().find(|created| created.group_id == id);
    let context = context_of(created.unwrap().group_info.as_slice());
    let heard = liar.heard(Operation::AddUsers);
    let requests = heard
        .iter()
        .map(|heard| CommitRequest::decode(&heard.body).unwrap());
    let genuine: Vec<_> = requests
        .filter(|request| request.group.group_id == id)
        .flat_map(|request| added_by(request.commit.as_slice()))
        .collect();
    let mut own = FalseGroup::make(id, context, &genuine);
    own.advance(20);
    own.info(Vec::new())
}

/// The answer that the service has given last to somebody who came from outside.
fn last_info(liar: &Liar) -> ExternalCommitInfoResponse {
    let heard = liar.heard(Operation::ExternalCommitInfo);
    ExternalCommitInfoResponse::decode(&heard.last().unwrap().answer).unwrap()
}

fn seen<T: std::fmt::Debug>(field: &str, came: &Result<T, Error>) -> Seen {
    match came {
        Ok(_) => Seen::NotBelieved,
        Err(Error::Peer(PeerError::Unauthenticated(_))) => Seen::NotTheGroup,
        Err(Error::Protocol(_)) => Seen::Unreadable,
        Err(other) => panic!("{field}: {other:?}"),
    }
}

fn tell(liar: &Liar, (_, change, _): &Lie, shown: &Arc<Shown>) {
    let (change, shown) = (*change, Arc::clone(shown));
    alter(liar, Operation::ExternalCommitInfo, move |info| {
        change(info, &shown)
    });
}

/// Shows what did not hold, all together.
#[derive(Default)]
struct Fell(Vec<String>);

impl Fell {
    fn hold(&mut self, field: &str, seen: Seen, expected: Seen, joined: usize) {
        if seen != expected {
            self.0.push(format!("{field}: {seen:?}, not {expected:?}"));
        }
        // What the answer to a join says comes when it was sent, into the true group.
        let is_sent = field.starts_with("JoinAccepted");
        let may_join = is_sent || matches!(seen, Seen::NotBelieved | Seen::Unverified);
        if joined != usize::from(may_join) {
            self.0.push(format!("{field}: {joined} joins"));
        }
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// Has bob stop, by a word that is not signed: what is signed is proof for ever, and others tell
/// him of it when he is back.
async fn stop(scene: &mut Scene, field: &str) {
    let Scene { liar, bob, .. } = scene;
    if bob.stop_reason(GROUP).unwrap().is_none() {
        let segment = bob.group_access(GROUP).unwrap().segment;
        liar.lies(move |asked, told| {
            if let Some((Operation::ReadJournal, request)) = asked.request()
                && ReadJournalRequest::decode(&request).unwrap().segment == segment
            {
                told.status = http::StatusCode::NOT_FOUND;
                let json = http::HeaderValue::from_static("application/problem+json");
                told.headers.insert("content-type", json);
                told.body = br#"{"type":"urn:mimi-ds:problem:unknown-segment"}"#.to_vec();
            }
        });
        bob.sync(0).await.unwrap();
        liar.repent();
    }
    let why = bob.stop_reason(GROUP).unwrap();
    assert!(
        matches!(why, Some(StopReason::Missing | StopReason::Stranded)),
        "{field}: {why:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_an_answer_leads_a_client_back_into_another_group() {
    let mut scene = scene().await;
    let id = scene.bob.group_access(GROUP).unwrap().id;
    scene.alice.invite(GROUP, 30).await.unwrap();
    stop(&mut scene, "for the first time").await;
    scene.bob.rejoin_group(GROUP).await.unwrap();
    settle(&[&scene.alice, &scene.bob, &scene.carol]).await;
    // So that what was is not what is.
    scene.carol.update_own_leaf(GROUP).await.unwrap();
    settle(&[&scene.alice, &scene.bob]).await;
    let shown = Arc::new(Shown {
        own: own_group(&scene.liar, id, GroupKind::Group),
        old: last_info(&scene.liar),
    });
    let mut fell = Fell::default();
    for lie in EXTERNAL_COMMIT_INFO {
        let (field, _, expected) = lie;
        stop(&mut scene, field).await;
        let before = scene.liar.joins();
        tell(&scene.liar, lie, &shown);
        let back = scene.bob.rejoin_group(GROUP).await;
        let seen = seen(field, &back);
        let joined = scene.liar.joins() - before;
        fell.hold(field, seen, expected[Way::Back as usize], joined);
        scene.liar.repent();
        settle(&[&scene.alice, &scene.bob]).await;
    }
    for (field, tell, expected) in COMING_BACK {
        stop(&mut scene, field).await;
        let before = scene.liar.joins();
        tell(&scene.liar);
        let back = scene.bob.rejoin_group(GROUP).await;
        let seen = seen(field, &back);
        fell.hold(field, seen, *expected, scene.liar.joins() - before);
        scene.liar.repent();
        settle(&[&scene.alice, &scene.bob]).await;
    }
    fell.end();
    let Scene {
        alice, bob, carol, ..
    } = &mut scene;
    if bob.stop_reason(GROUP).unwrap().is_some() {
        bob.rejoin_group(GROUP).await.unwrap();
    }
    settle(&[alice, bob, carol]).await;
    talks(GROUP, &[alice, bob, carol]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_an_answer_leads_whoever_has_a_code_into_another_group() {
    let mut scene = scene().await;
    let Scene {
        stack,
        liar,
        alice,
        bob,
        ..
    } = &mut scene;
    let id = alice.group_access(GROUP).unwrap().id;
    let dave = blank(stack, 3, DAVE).await;
    dave.register_handle(DAVE).await.unwrap();
    let mut code = alice.invite(GROUP, 30).await.unwrap();
    // Once, so that there is something that was.
    dave.join_by_code(&code).await.unwrap();
    let old = last_info(liar);
    alice.sync(0).await.unwrap();
    alice.remove_from_group(GROUP, &[DAVE]).await.unwrap();
    dave.sync(0).await.unwrap();
    code = alice.invite(GROUP, 30).await.unwrap();
    let shown = Arc::new(Shown {
        own: own_group(liar, id, GroupKind::Group),
        old,
    });
    let mut fell = Fell::default();
    for lie in EXTERNAL_COMMIT_INFO {
        let (field, _, expected) = lie;
        let before = liar.joins();
        tell(liar, lie, &shown);
        let came = dave.join_by_code(&code).await;
        let mut seen = seen(field, &came);
        liar.repent();
        let joined = liar.joins() - before;
        if seen == Seen::NotBelieved {
            // The one that let him in does not count.
            settle(&[alice, bob, &dave]).await;
            let sent = dave.send_message(GROUP, SECRET).await;
            match sent {
                Ok(_) => {}
                Err(Error::Usage(UsageError::UnverifiedMember(_))) => seen = Seen::Unverified,
                other => panic!("{field}: {other:?}"),
            }
            alice.remove_from_group(GROUP, &[DAVE]).await.unwrap();
            dave.sync(0).await.unwrap();
            code = alice.invite(GROUP, 30).await.unwrap();
        }
        fell.hold(field, seen, expected[Way::Code as usize], joined);
    }
    fell.end();
    assert_eq!(dave.join_by_code(&code).await.unwrap(), GROUP);
    settle(&[alice, bob, &dave]).await;
    talks(GROUP, &[alice, bob, &dave]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_an_answer_leads_whoever_accepts_a_connection_into_another_group() {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    // Once, so that there is an answer about another group.
    alice.connect(BOB).await.unwrap();
    let request = requests_of(&bob).await.remove(0);
    bob.accept_request(&request).await.unwrap();
    let old = last_info(&liar);
    settle(&[&alice, &bob]).await;
    alice.disconnect(BOB).await.unwrap();
    settle(&[&alice, &bob]).await;
    let seen_of_old = Arc::new(Mutex::new(Some(old)));
    let mut fell = Fell::default();
    let mut open: Option<(String, Arc<Shown>)> = None;
    for lie in EXTERNAL_COMMIT_INFO {
        let (field, _, expected) = lie;
        let (request, shown) = match open.take() {
            Some(open) => open,
            None => {
                alice.connect(BOB).await.unwrap();
                let request = requests_of(&bob).await.remove(0);
                let id = asked_into(&stack.home(ALICE));
                let old = seen_of_old.lock().unwrap().take();
                let shown = Shown {
                    own: own_group(&liar, id, GroupKind::Connection),
                    old: old.unwrap_or_else(|| last_info(&liar)),
                };
                (request, Arc::new(shown))
            }
        };
        let before = liar.joins();
        tell(&liar, lie, &shown);
        let accepted = bob.accept_request(&request).await;
        let seen = seen(field, &accepted);
        liar.repent();
        let joined = liar.joins() - before;
        fell.hold(field, seen, expected[Way::Connection as usize], joined);
        if accepted.is_err() {
            open = Some((request, shown));
            continue;
        }
        settle(&[&alice, &bob]).await;
        assert_eq!(bob.contacts().unwrap().len(), 1, "{field}");
        assert_eq!(
            alice.safety_number(BOB).unwrap(),
            bob.safety_number(ALICE).unwrap(),
            "{field}"
        );
        alice.disconnect(BOB).await.unwrap();
        settle(&[&alice, &bob]).await;
    }
    fell.end();
    if let Some((request, _)) = open {
        assert_eq!(bob.accept_request(&request).await.unwrap(), ALICE);
    }
}
