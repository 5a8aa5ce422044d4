//! Every field of every answer, told otherwise than it is (`end_to_end::lies` has the tables): the
//! real SDK says no, or stops and says so, or does not care. Whatever it is told, it sends nothing
//! that the service can read, loses no group in silence, spends no tokens without bound, ends in
//! time, and goes on in its other groups.

#![allow(clippy::disallowed_methods, reason = "how long a call really takes")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{Client, Error, Event, Options, Patience, UsageError};
use crypto::connection::open_connection_request;
use crypto::safety_number::safety_number;
use end_to_end::lies::answers::{ANSWERS, Means, own_identity, own_key};
use end_to_end::lies::refusals::{ASKED, LEFT_OUT, MANGLED, WRONG, expected};
use end_to_end::lies::{Does, Outcome};
use end_to_end::{
    Liar, LogLevel, MUCH, Stack, befriend, blank, device_with, group_with, patient, settle, talks,
    thorough,
};
use protocol::Wire as _;
use protocol::group::{CreateGroupRequest, GroupKind, SendMessageRequest};
use protocol::inbox::{LookupHandleResponse, RegisterHandleRequest, RequestConnectionRequest};
use protocol::key_packages::{ClaimKeyPackagesResponse, CountKeyPackagesResponse};
use protocol::operation::Operation;

const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const DAVE: &str = "dave.dimitrov";
const ERIN: &str = "erin.eriksson";
/// Of alice, bob and carol.
const GROUP: &str = "expedition";
/// Of alice, bob, carol and dave: what nobody lies about.
const OTHER: &str = "camp";
/// Of alice alone.
const ALONE: &str = "kitchen";
/// Of alice and erin.
const PAIR: &str = "two";
const SECRET: &str = "the key lies under the third stone";
/// What one call and what follows from it may cost: as many as there are rounds, or as the client
/// pays for one request at most, and a few.
const MOST_TOKENS: usize = 16 + 3;
/// For a call, a look at what is new, and two more.
const DEADLINE: Duration = Duration::from_secs(20);

/// Gives up soon.
fn options() -> Options {
    Options {
        patience: Patience {
            call: Duration::from_secs(1),
            ..patient().patience
        },
        ciphersuites: vec![0x4f],
        ..patient()
    }
}

struct Scene {
    stack: Stack,
    liar: Liar,
    means: Means,
    alice: Client,
    bob: Client,
    carol: Client,
    dave: Client,
    erin: Client,
    /// A join code of the group.
    code: String,
    /// The group that bob is invited to and has not come into.
    invited: Option<String>,
    said: usize,
    made: usize,
    /// What did not hold.
    fell: Vec<String>,
}

async fn scene() -> Scene {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device_with(&stack, 0, ALICE, options()).await;
    let bob = device_with(&stack, 1, BOB, options()).await;
    let carol = device_with(&stack, 2, CAROL, options()).await;
    let dave = device_with(&stack, 3, DAVE, options()).await;
    let erin = device_with(&stack, 4, ERIN, options()).await;
    group_with(PAIR, &alice, &[&erin]).await;
    group_with(OTHER, &alice, &[&bob, &carol, &dave]).await;
    alice.create_group(GROUP).await.unwrap();
    alice.add_to_group(GROUP, &[BOB, CAROL]).await.unwrap();
    alice.create_group(ALONE).await.unwrap();
    talks(GROUP, &[&alice, &bob, &carol]).await;
    let code = alice.invite(GROUP, 30).await.unwrap();
    // The last one is of carol: it is shown to who adds her.
    let claims = liar.heard(Operation::ClaimKeyPackages);
    let claimed = ClaimKeyPackagesResponse::decode(&claims.last().unwrap().answer).unwrap();
    let looked_up = liar.heard(Operation::LookupHandle);
    // The last one is of dave.
    let record = LookupHandleResponse::decode(&looked_up.last().unwrap().answer).unwrap();
    let created = liar.heard(Operation::CreateGroup).into_iter();
    let created = created.map(|heard| CreateGroupRequest::decode(&heard.body).unwrap());
    let created: Vec<_> = created.filter(|it| it.kind == GroupKind::Group).collect();
    let means = Means {
        other: alice.group_access(OTHER).unwrap().id,
        tree: created.last().unwrap().ratchet_tree.as_slice().to_vec(),
        handle: ERIN,
        record: record.record.as_slice().to_vec(),
        claimed: claimed.sets[0].as_slice().to_vec(),
    };
    Scene {
        stack,
        liar,
        means,
        alice,
        bob,
        carol,
        dave,
        erin,
        code,
        invited: None,
        said: 0,
        made: 0,
        fell: Vec::new(),
    }
}

/// What the client has seen of a lie.
struct Seen {
    outcome: Outcome,
    detail: String,
}

impl Scene {
    fn actor(&mut self, does: Does) -> &Client {
        match does {
            Does::Connect | Does::Enter | Does::Look => &mut self.dave,
            Does::Join => &mut self.bob,
            _ => &mut self.alice,
        }
    }

    /// What comes before, while the service is honest.
    async fn prepare(&mut self, does: Does) {
        self.said += 1;
        let word = format!("word {}", self.said);
        self.carol.send_message(OTHER, &word).await.unwrap();
        if does == Does::Add && self.said.is_multiple_of(2) {
            // Lies use up her KeyPackages.
            self.carol.count_key_packages().await.unwrap();
            self.carol.sync(0).await.unwrap();
        }
        if does == Does::Look {
            self.erin.connect(DAVE).await.unwrap();
            // It is not answered.
            self.erin.cancel_request(DAVE).await.unwrap();
        }
        if does == Does::Join && self.invited.is_none() {
            self.made += 1;
            let trip = format!("trip {}", self.made);
            self.alice.create_group(&trip).await.unwrap();
            if self.alice.add_to_group(&trip, &[CAROL, BOB]).await.is_err() {
                // Lies have used up their KeyPackages: they find out once an hour.
                for client in [&mut self.bob, &mut self.carol] {
                    client.count_key_packages().await.unwrap();
                    client.sync(0).await.unwrap();
                }
                let added = self.alice.add_to_group(&trip, &[CAROL, BOB]).await;
                added.unwrap();
            }
            self.invited = Some(trip);
        }
    }

    async fn act(&mut self, does: Does) -> Result<(), Error> {
        self.made += 1;
        match does {
            Does::Verify => self.alice.verify_group(GROUP).await.map(drop),
            Does::Send => self.alice.send_message(GROUP, SECRET).await.map(drop),
            Does::Renew => self.alice.update_own_leaf(GROUP).await,
            Does::Mute => {
                self.alice.set_muted(GROUP, CAROL, true).await?;
                self.alice.send_message(GROUP, SECRET).await.map(drop)
            }
            Does::Add => self.alice.add_to_group(ALONE, &[CAROL]).await,
            Does::Create => {
                let name = format!("new {}", self.made);
                self.alice.create_group(&name).await?;
                self.alice.send_message(&name, SECRET).await.map(drop)
            }
            Does::Upgrade => self.alice.upgrade_group(PAIR, 1).await,
            Does::Invite => self.alice.invite(GROUP, 7).await.map(drop),
            Does::Count => self.alice.count_key_packages().await.map(drop),
            Does::Connect => self.dave.connect(ERIN).await,
            Does::Look => self.dave.check_inbox().await,
            Does::Accept => unreachable!("in `lying_outside`"),
            Does::Enter => {
                let code = self.code.clone();
                self.dave.join_by_code(&code).await.map(drop)
            }
            Does::Join => {
                self.bob.sync(0).await?;
                let trip = self.invited.clone().unwrap();
                self.bob.send_message(&trip, SECRET).await.map(drop)
            }
        }
    }

    fn judge(&mut self, does: Does, done: &Result<(), Error>, told: &[Event]) -> Outcome {
        let group = match does {
            Does::Join => self.invited.clone().unwrap(),
            Does::Add => ALONE.to_owned(),
            Does::Create => format!("new {}", self.made),
            Does::Upgrade => PAIR.to_owned(),
            _ => GROUP.to_owned(),
        };
        let came_back =
            |event: &Event| matches!(event, Event::Rejoined { group: into, .. } if *into == group);
        if told.iter().any(came_back) {
            return Outcome::ComesBack;
        }
        if let Ok(Some(why)) = self.actor(does).stop_reason(&group) {
            return Outcome::Stops(why);
        }
        match done {
            Ok(()) if does == Does::Connect && self.reads_requests() => Outcome::Pinned,
            Ok(()) => Outcome::Harmless,
            Err(Error::Usage(UsageError::UnknownGroup(_))) if does == Does::Join => Outcome::Waits,
            Err(Error::Usage(UsageError::UnverifiedMember(_))) => Outcome::Unverified,
            Err(Error::Usage(UsageError::NobodyHeard(_))) => Outcome::Unheard,
            Err(error) => Outcome::Refused(error.code()),
        }
    }

    /// Whether the last connection request opens with the service's key.
    fn reads_requests(&self) -> bool {
        let asked = self.liar.heard(Operation::RequestConnection);
        asked.last().is_some_and(|heard| {
            let request = RequestConnectionRequest::decode(&heard.body).unwrap();
            let sealed = request.encrypted_request.as_slice();
            open_connection_request(&own_key(), sealed).is_ok()
        })
    }

    /// Lies to whoever does it, and holds it to what holds whatever the lie is.
    async fn lie(&mut self, what: &str, does: Does, tell: impl FnOnce(&Liar, &Means)) -> Seen {
        self.prepare(does).await;
        let evidence = self.alice.evidence(GROUP).unwrap().len();
        let groups_before = names(self.actor(does));
        let _ = self.liar.asked();
        tell(&self.liar, &self.means);
        let began = Instant::now();
        let done = self.act(does).await;
        let news = self.actor(does).receive(0).await.map(drop);
        let mut again = Vec::new();
        for _ in 0..2 {
            again.push(self.actor(does).sync(0).await);
        }
        let (cost, readable) = self.paid_and_readable();
        let took = began.elapsed();

        let stored = self.actor(does).events().unwrap();
        self.actor(does).acknowledge(&stored).unwrap();
        let told: Vec<_> = stored.into_iter().map(|stored| stored.event).collect();
        let word = format!("word {}", self.said);
        let goes_on = told.iter().any(|event| {
            matches!(event, Event::Message { group, text, .. } if group == OTHER && *text == word)
        });
        let mut outcome = self.judge(does, &done, &told);
        if let Outcome::Refused(code) = outcome
            && self.alice.evidence(GROUP).unwrap().len() > evidence
        {
            outcome = Outcome::Evidence(code);
        }
        // Then nothing of any group can be read, and readers may be asked to pay.
        let is_blind = what.starts_with("ReadJournal");
        let reads_request = does == Does::Connect && self.reads_requests();
        let in_silence = groups_before.into_iter().any(|name| {
            let Ok(lost) = self.actor(does).stop_reason(&name) else {
                return true;
            };
            let said =
                |event: &Event| matches!(event, Event::GroupLost { group, .. } if *group == name);
            lost.is_some() && !told.iter().any(said)
        });
        let together = self.carol.members(OTHER).unwrap().len();
        let detail = format!("{done:?} {news:?} {again:?} in {took:?}, {told:?}");
        for (holds, why) in [
            (!readable, "the service reads"),
            (
                !reads_request || outcome == Outcome::Pinned,
                "the service reads a request",
            ),
            (goes_on || is_blind, "the other group does not go on"),
            (
                is_blind || news.is_ok() && again.iter().all(Result::is_ok),
                "all groups are held up",
            ),
            (together == 4, "somebody has come into another group"),
            (!in_silence, "a group is lost in silence"),
            (cost <= MOST_TOKENS || is_blind, "it is dear"),
            (took < DEADLINE, "it takes too long"),
        ] {
            if !holds {
                self.fell
                    .push(format!("{what}: {why}: {outcome:?}: {detail}"));
            }
        }
        if outcome == Outcome::Pinned {
            self.see_the_safety_number();
        }
        self.liar.repent();
        if is_blind {
            let late = self.actor(does).receive(0).await.unwrap();
            let came = late.iter().any(|stored| {
                matches!(&stored.event, Event::Message { group, text, .. } if group == OTHER && *text == word)
            });
            assert!(came, "{what}: {late:?}");
        }
        self.mend(what, does, outcome).await;
        Seen { outcome, detail }
    }

    /// Tokens since the last call, and whether a secret has passed in the open.
    fn paid_and_readable(&self) -> (usize, bool) {
        let asked = self.liar.asked();
        let secret = SECRET.as_bytes();
        let mut bodies = asked.iter().map(|asked| &asked.body);
        let readable = bodies.any(|body| body.windows(secret.len()).any(|it| it == secret));
        // A request that is made again is paid with what it was paid with.
        let tokens: BTreeSet<_> = asked.iter().flat_map(|asked| &asked.tokens).collect();
        (tokens.len(), readable)
    }

    /// Who compares numbers sees that the service has put itself between.
    fn see_the_safety_number(&self) {
        let claimed = own_identity().public();
        let erin = self.liar.heard(Operation::RegisterHandle);
        let erin = erin.iter().find_map(|heard| {
            let request = RegisterHandleRequest::decode(&heard.body).ok()?;
            let record = protocol::connections::HandleRecord::decode(request.record.as_slice());
            let own = request.handle.as_slice() == ERIN.as_bytes();
            own.then(|| record.unwrap().credential.signature_public_key)
        });
        let own = [1; 32];
        assert_ne!(
            safety_number(&own, &claimed),
            safety_number(&own, erin.unwrap().as_slice())
        );
    }

    /// The truth is told again, and everything goes on as before.
    async fn mend(&mut self, what: &str, does: Does, outcome: Outcome) {
        let Self {
            alice,
            bob,
            carol,
            dave,
            ..
        } = self;
        match does {
            Does::Connect => {
                if outcome != Outcome::Pinned {
                    let asked = dave.connect(ERIN).await;
                    asked.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                }
                dave.cancel_request(ERIN).await.unwrap();
            }
            // Who has asked is there, but where the service has shown something else in the place
            // of the request.
            Does::Look => {
                dave.check_inbox().await.unwrap();
                let request = dave.incoming_requests().unwrap().pop();
                let may_be_gone = what.contains("encrypted_request");
                assert!(request.is_some() || may_be_gone, "{what}");
                if let Some(request) = request {
                    dave.decline_request(&request.id).await.unwrap();
                }
            }
            Does::Enter => {
                dave.sync(0).await.unwrap();
                alice.sync(0).await.unwrap();
                let members = alice.members(GROUP).unwrap();
                if members.iter().any(|it| it.name == DAVE) {
                    // What he cannot read he finds out now, and comes back by his word.
                    alice.send_message(GROUP, "welcome").await.unwrap();
                    dave.sync(0).await.unwrap();
                    let stopped = dave.stop_reason(GROUP);
                    if stopped
                        .unwrap_or_else(|error| panic!("{what}: {error:?}"))
                        .is_some()
                    {
                        let back = dave.rejoin_group(GROUP).await;
                        back.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                    }
                    alice.sync(0).await.unwrap();
                    alice.remove_from_group(GROUP, &[DAVE]).await.unwrap();
                    dave.sync(0).await.unwrap();
                    self.code = alice.invite(GROUP, 30).await.unwrap();
                }
            }
            Does::Join => bob.sync(0).await.unwrap(),
            _ => {
                alice
                    .sync(0)
                    .await
                    .unwrap_or_else(|error| panic!("{what}: {error:?}"));
                for name in [GROUP, ALONE] {
                    if alice.stop_reason(name).unwrap().is_none() {
                        continue;
                    }
                    let mut back = alice.rejoin_group(name).await;
                    if back.is_err() {
                        // What the service has lost somebody else makes up for.
                        bob.update_own_leaf(name).await.unwrap();
                        back = alice.rejoin_group(name).await;
                    }
                    back.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                    alice.sync(0).await.unwrap();
                    if name == GROUP {
                        // The leaf that had made the code is gone, and the code with it.
                        self.code = alice.invite(GROUP, 30).await.unwrap();
                    }
                }
                let members = alice.members(ALONE).unwrap();
                if members.len() > 1 {
                    alice.remove_from_group(ALONE, &[CAROL]).await.unwrap();
                }
            }
        }
        for client in [alice, bob, carol, dave] {
            if does != Does::Join {
                client.sync(0).await.unwrap();
                let events = client.events().unwrap();
                client.acknowledge(&events).unwrap();
            }
            if client.tokens().await.unwrap() < 30 {
                client.fill_wallet().await.unwrap();
            }
        }
    }

    /// Bob comes in after all, if the invitation has waited.
    async fn join(&mut self, outcome: Outcome) {
        if outcome != Outcome::Waits {
            self.invited = None;
            return;
        }
        let Some(trip) = self.invited.take() else {
            return;
        };
        self.bob.sync(0).await.unwrap();
        talks(&trip, &[&self.alice, &self.bob]).await;
    }
}

fn names(client: &Client) -> Vec<String> {
    let groups = client.groups().unwrap();
    let following = groups
        .into_iter()
        .filter(|group| group.stopped.is_none() && group.active);
    following.map(|group| group.name).collect()
}

/// Says one lie and holds the outcome against the table.
async fn hold(
    scene: &mut Scene,
    (what, does): (&str, Does),
    tell: impl FnOnce(&Liar, &Means),
    expected: Outcome,
) {
    let seen = scene.lie(what, does, tell).await;
    if does == Does::Join {
        scene.join(seen.outcome).await;
    }
    if seen.outcome != expected {
        let fell = format!(
            "{what}: {:?}, not {expected:?}: {}",
            seen.outcome, seen.detail
        );
        scene.fell.push(fell);
    }
}

/// All lies are told; what did not hold is shown together.
async fn end(mut scene: Scene) {
    assert!(scene.fell.is_empty(), "{}", scene.fell.join("\n"));
    let Scene {
        alice,
        bob,
        carol,
        dave,
        ..
    } = &mut scene;
    // Who was muted meanwhile says something too.
    alice.sync(0).await.unwrap();
    let _ = alice.set_muted(GROUP, CAROL, false).await;
    talks(GROUP, &[alice, bob, carol]).await;
    talks(OTHER, &[alice, bob, carol, dave]).await;
    drop(scene.stack);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_an_answer_gives_anything_away_or_holds_anybody_up() {
    let mut scene = scene().await;
    for (what, does, tell, expected) in ANSWERS.iter().copied().flatten() {
        hold(&mut scene, (what, *does), tell, *expected).await;
    }
    end(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_that_the_protocol_does_not_have_gives_anything_away_or_holds_anybody_up() {
    let mut scene = scene().await;
    // A third of the lies, of each operation and of each kind. `make soak` tells all.
    let is_told = |operation: usize, lie: usize| thorough() || (operation + lie).is_multiple_of(3);
    for (number, (operation, does)) in ASKED.iter().enumerate() {
        for (lie, (how, mangle)) in MANGLED.iter().enumerate() {
            if !is_told(number, lie) {
                continue;
            }
            let what = format!("{operation:?}: {how}");
            let expected = expected(*operation, how, Outcome::Refused("protocol"));
            let tell = |liar: &Liar, _: &Means| {
                liar.twist(*operation, move |_, answer| mangle(answer));
            };
            hold(&mut scene, (&what, *does), tell, expected).await;
        }
        for (lie, wrong) in WRONG.iter().enumerate() {
            if !is_told(number, lie) {
                continue;
            }
            if LEFT_OUT.contains(&(*operation, wrong.what)) {
                continue;
            }
            let what = format!("{operation:?}: {}", wrong.what);
            let expected = expected(*operation, wrong.what, wrong.outcome());
            let tell = |liar: &Liar, _: &Means| liar.instead(*operation, wrong.told());
            hold(&mut scene, (&what, *does), tell, expected).await;
        }
    }
    end(scene).await;
}

/// What a client does by itself is not done again and again for tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_in_vain_costs_a_few_tokens_a_day_however_often_a_client_looks() {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device_with(&stack, 0, ALICE, options()).await;
    let bob = device_with(&stack, 1, BOB, options()).await;
    // There is a pool for each contact.
    befriend(&alice, &bob).await;
    alice.fill_wallet().await.unwrap();
    let before = alice.tokens().await.unwrap();
    liar.twist(Operation::CountKeyPackages, |_, answer| {
        *answer = CountKeyPackagesResponse { counts: Vec::new() }.encode();
    });
    liar.twist(Operation::PublishKeyPackages, |_, answer| answer.push(0));
    alice.count_key_packages().await.unwrap();
    for _ in 0..30 {
        alice.sync(0).await.unwrap();
    }
    let in_vain = before - alice.tokens().await.unwrap();
    assert!(in_vain > 0, "the attack works");
    assert!(in_vain <= 24, "{in_vain} tokens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_waits_for_its_record_holds_up_no_other_one() {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device_with(&stack, 0, ALICE, options()).await;
    let bob = device_with(&stack, 1, BOB, options()).await;
    befriend(&alice, &bob).await;
    // What the user is told once, and what may pass.
    for (number, (wrong, told)) in [("handle-taken", 1), ("too-many-requests", 0)]
        .into_iter()
        .enumerate()
    {
        for name in ["first", "second"].map(|name| format!("{name} {number}")) {
            alice.create_group(&name).await.unwrap();
            alice.add_to_group(&name, &[BOB]).await.unwrap();
        }
        let mut first = None;
        liar.lies(move |asked, told| {
            if asked.path != Operation::JoinRecord.path() {
                return;
            }
            let body = asked.body.clone();
            if *first.get_or_insert_with(|| body.clone()) == body {
                told.status = http::StatusCode::BAD_REQUEST;
                let json = http::HeaderValue::from_static("application/problem+json");
                told.headers.insert("content-type", json);
                told.body = format!(r#"{{"type":"urn:mimi-ds:problem:{wrong}"}}"#).into_bytes();
            }
        });
        for _ in 0..3 {
            bob.sync(0).await.unwrap();
        }
        let events = bob.events().unwrap();
        bob.acknowledge(&events).unwrap();
        let waits = |event: &Event| matches!(event, Event::InvitationWaits { .. });
        let said = events.iter().filter(|stored| waits(&stored.event));
        assert_eq!(said.count(), told, "{wrong}: {events:?}");
        assert_eq!(bob.groups().unwrap().len(), 2 * number + 1, "{wrong}");
        liar.repent();
        bob.sync(0).await.unwrap();
        assert_eq!(bob.groups().unwrap().len(), 2 * number + 2, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_who_cannot_be_told_of_a_new_token_holds_up_no_other_one() {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device_with(&stack, 0, ALICE, options()).await;
    for (number, handle) in [BOB, CAROL, DAVE].into_iter().enumerate() {
        let contact = device_with(&stack, number + 1, handle, options()).await;
        befriend(&alice, &contact).await;
    }
    // What a device knew that is gone changes for all contacts.
    let laptop = blank(&stack, 4, "laptop").await;
    let code = laptop.link_code("laptop").await.unwrap();
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    laptop.complete_link(&number, 0).await.unwrap();
    settle(&[&alice, &laptop]).await;
    let created = liar.heard(Operation::CreateGroup).into_iter();
    let created = created.map(|heard| CreateGroupRequest::decode(&heard.body).unwrap());
    let connections: BTreeSet<_> = created
        .filter(|it| it.kind == GroupKind::Connection)
        .map(|it| it.group_id.0)
        .collect();
    let told: Arc<Mutex<BTreeSet<[u8; 16]>>> = Arc::default();
    let asked_for = Arc::clone(&told);
    liar.lies(move |asked, told| {
        if asked.path != Operation::SendMessage.path() {
            return;
        }
        let (_, request) = asked.request().unwrap();
        let request = SendMessageRequest::decode(&request).unwrap();
        asked_for.lock().unwrap().insert(request.group.group_id.0);
        // Nobody is.
        told.status = http::StatusCode::BAD_REQUEST;
        told.body = b"no".to_vec();
    });
    let _ = alice.unlink_device("laptop").await;
    alice.sync(0).await.unwrap();
    let told = told.lock().unwrap();
    let told = told.intersection(&connections).count();
    assert_eq!(told, 3, "bob, carol and dave");
}
