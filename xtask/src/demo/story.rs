//! What the users do.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::sync::watch;

use super::operators::{Observation, Said};
use super::progress::Progress;
use super::user::{Invitation, Message, User};
use crate::stack::{Service, Stack};

/// The handles are long enough that chance puts none into random bytes.
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const DAVE: &str = "dave.dimitrov";
const ERIN: &str = "erin.eriksson";

const GROUP: &str = "harbour festival";

/// Messages of each of two senders while the delivery service is killed.
const MESSAGES_IN_THE_STORM: usize = 15;
/// How many of both are accepted when it is killed.
const ACCEPTED_BEFORE: usize = 10;

struct Cast {
    alice: User,
    bob: User,
    carol: User,
    dave: User,
    erin: User,
}

impl Cast {
    fn all(&self) -> [&User; 5] {
        [&self.alice, &self.bob, &self.carol, &self.dave, &self.erin]
    }
}

/// Plays all of it.
///
/// # Errors
/// Something did not go as it must.
pub(super) async fn tell(
    stack: &Stack,
    directory: &Path,
    progress: &Progress,
    seen: &mut Observation,
) -> Result<Said> {
    let mut story = Story {
        progress,
        said: Said::default(),
    };
    let cast = story.register(stack, directory).await?;
    story.connect(&cast).await?;
    story.talk(&cast).await?;
    story.crash(&cast, stack, seen).await?;
    story.removals(&cast).await?;
    Ok(story.said)
}

struct Story<'a> {
    progress: &'a Progress,
    said: Said,
}

impl Story<'_> {
    async fn register(&mut self, stack: &Stack, directory: &Path) -> Result<Cast> {
        self.progress
            .chapter("Five users, each a process of its own for every command");
        let homes = directory.join("homes");
        std::fs::create_dir(&homes)?;
        let stack_json = stack.layout().stack_json();
        let document: Value = serde_json::from_str(&std::fs::read_to_string(&stack_json)?)?;
        let tokens = account_tokens(&document)?;
        let join = |handle, number: usize| {
            let (homes, stack_json, token) = (&homes, &stack_json, &tokens[number]);
            async move {
                let invitation = Invitation {
                    stack_json,
                    account_token: Path::new(token),
                };
                User::register(homes, handle, &invitation).await
            }
        };
        let (alice, bob, carol, dave, erin) = tokio::try_join!(
            join(ALICE, 0),
            join(BOB, 1),
            join(CAROL, 2),
            join(DAVE, 3),
            join(ERIN, 4),
        )?;
        let cast = Cast {
            alice,
            bob,
            carol,
            dave,
            erin,
        };
        for (user, token) in cast.all().into_iter().zip(&tokens) {
            self.said.plaintexts.push(user.handle.to_owned());
            self.said.plaintexts.push(account_of(token)?);
        }
        self.progress.done(
            "tokens from the issuer, blinded; handles with their inboxes at the delivery \
             service, through relay and gateway, each paid for with a token",
        );
        Ok(cast)
    }

    async fn connect(&mut self, cast: &Cast) -> Result<()> {
        self.progress.chapter("Consent comes first");
        let Cast {
            alice,
            bob,
            carol,
            dave,
            erin,
        } = cast;
        for other in [bob, carol, dave, erin] {
            alice.run(&["connect", other.handle]).await?;
        }
        tokio::try_join!(
            bob.accept(alice),
            carol.accept(alice),
            dave.accept(alice),
            erin.accept(alice),
        )?;
        alice.receive().await?;
        self.progress.done("alice asked, the others accepted");
        let (hers, his) = tokio::try_join!(alice.safety_number(bob), bob.safety_number(alice))?;
        ensure!(hers == his, "the safety numbers differ: {hers} and {his}");
        self.progress
            .done("alice and bob compared safety numbers: no key was swapped");
        self.progress.quote(&hers);
        Ok(())
    }

    async fn talk(&mut self, cast: &Cast) -> Result<()> {
        self.progress.chapter("A group");
        let Cast {
            alice,
            bob,
            carol,
            dave,
            erin,
        } = cast;
        self.said.plaintexts.push(GROUP.to_owned());
        alice.run(&["group", "create", GROUP]).await?;
        alice
            .run(&["group", "add", GROUP, BOB, CAROL, DAVE, ERIN])
            .await?;
        for user in [bob, carol, dave, erin] {
            user.receive().await?;
        }
        bob.sees_members(GROUP, &[ALICE, BOB, CAROL, DAVE, ERIN])
            .await?;
        self.progress
            .done("alice made a group and added the others; bob sees who is in it");
        self.says(alice, "The ferry leaves at half past seven")
            .await?;
        self.says(bob, "I bring the lanterns and the rope").await?;
        self.says(carol, "Who has the keys to the boathouse?")
            .await?;
        let line = |user: &User, text: &str| Message {
            sender: user.handle.into(),
            text: text.into(),
        };
        let a = line(alice, "The ferry leaves at half past seven");
        let b = line(bob, "I bring the lanterns and the rope");
        let c = line(carol, "Who has the keys to the boathouse?");
        let everything = [a.clone(), b.clone(), c.clone()];
        tokio::try_join!(
            dave.reads(&everything),
            erin.reads(&everything),
            alice.reads(&everything[1..]),
            carol.reads(&everything[..2]),
        )?;
        bob.reads(&[a, c]).await?;
        self.progress
            .done("each read what the others wrote, once and in order");
        Ok(())
    }

    async fn crash(&mut self, cast: &Cast, stack: &Stack, seen: &mut Observation) -> Result<()> {
        self.progress
            .chapter("The delivery service is killed (-9) while they write");
        let Cast {
            alice,
            bob,
            carol,
            dave,
            erin,
        } = cast;
        let hers = numbered("Lantern number", MESSAGES_IN_THE_STORM);
        let his = numbered("Rope of length", MESSAGES_IN_THE_STORM);
        self.said
            .plaintexts
            .extend(hers.iter().chain(&his).cloned());
        let before = stack.pid(Service::Ds);
        let (accepted, mut count) = watch::channel(0);
        let crash = async {
            count.wait_for(|count| *count >= ACCEPTED_BEFORE).await?;
            // What the process counted dies with it.
            seen.look_at(stack, Service::Ds).await?;
            stack.kill(Service::Ds)?;
            stack.restarted(Service::Ds, before).await
        };
        let (from_alice, from_bob, after) = tokio::try_join!(
            sends_all(alice, &hers, &accepted),
            sends_all(bob, &his, &accepted),
            crash
        )?;
        self.progress.done(&format!(
            "process {before} was killed after {ACCEPTED_BEFORE} messages, process {after} took over"
        ));
        let all = [from_alice.clone(), from_bob.clone()].concat();
        tokio::try_join!(
            carol.reads(&all),
            dave.reads(&all),
            erin.reads(&all),
            alice.reads(&from_bob),
            bob.reads(&from_alice),
        )?;
        self.progress.done(&format!(
            "{} messages were accepted before and after: each was read by everybody, once",
            all.len()
        ));
        Ok(())
    }

    async fn removals(&mut self, cast: &Cast) -> Result<()> {
        self.progress
            .chapter("Dave goes offline; the keys of the group change twice");
        let Cast {
            alice,
            bob,
            carol,
            dave,
            erin,
        } = cast;
        let mut missed = Vec::new();

        alice.run(&["group", "remove", GROUP, ERIN]).await?;
        missed.push(self.says(alice, "Erin has moved to the mountains").await?);
        bob.reads(&missed).await?;
        missed.push(self.says(bob, "We meet at the lighthouse then").await?);
        self.progress
            .done("erin was removed: the first rotation of the state key");

        carol.reads(&missed).await?;
        alice.reads(&missed[1..]).await?;
        let carols_copy = carol.copy()?;
        alice.run(&["group", "remove", GROUP, CAROL]).await?;
        let after_carol = self
            .says(alice, "The second boat stays in the harbour")
            .await?;
        missed.push(after_carol.clone());
        self.progress.done("carol was removed: the second one");

        dave.reads(&missed).await?;
        dave.sees_members(GROUP, &[ALICE, BOB, DAVE]).await?;
        let back = self.says(dave, "Back again, what did I miss?").await?;
        self.progress
            .done("dave came back, caught up over both and wrote");
        for line in &missed {
            self.progress
                .quote(&format!("{}: {}", line.sender, line.text));
        }
        bob.reads(&[after_carol, back.clone()]).await?;
        alice.reads(&[back]).await?;
        self.progress.done("alice and bob read it");

        for removed in [carol, erin] {
            let read = removed.receive().await?;
            ensure!(
                read.is_empty(),
                "{} was removed and read {read:?}",
                removed.handle
            );
            let sent = removed.send(GROUP, "Can anybody still hear me?").await;
            ensure!(
                sent.is_err(),
                "{} was removed and could still send",
                removed.handle
            );
        }
        self.progress
            .done("carol and erin read nothing that was written since, and cannot send");

        // Her own client has thrown her keys away by now; this one has them all.
        let read = carols_copy.receive().await?;
        ensure!(read.is_empty(), "a copy of carol's keys reads {read:?}");
        let sent = carols_copy.send(GROUP, "Can anybody still hear me?").await;
        ensure!(sent.is_err(), "a copy of carol's keys can still send");
        self.progress.done(
            "a copy of all the keys that carol had as a member ends where her segment of the journal ends: \
             the name of the next one cannot be made from them",
        );
        bob.reads(&[]).await?;
        Ok(())
    }

    async fn says(&mut self, user: &User, text: &str) -> Result<Message> {
        self.said.plaintexts.push(text.to_owned());
        user.send(GROUP, text).await?;
        Ok(Message {
            sender: user.handle.to_owned(),
            text: text.to_owned(),
        })
    }
}

fn numbered(text: &str, count: usize) -> Vec<String> {
    (1..=count)
        .map(|number| format!("{text} {number}"))
        .collect()
}

/// Sends each and returns them as they must be read: an error ends the demo, since a client goes on
/// trying while the service is away.
async fn sends_all(
    user: &User,
    texts: &[String],
    accepted: &watch::Sender<usize>,
) -> Result<Vec<Message>> {
    let mut sent = Vec::new();
    for text in texts {
        user.send(GROUP, text).await?;
        accepted.send_modify(|count| *count += 1);
        sent.push(Message {
            sender: user.handle.to_owned(),
            text: text.clone(),
        });
    }
    Ok(sent)
}

fn account_tokens(stack: &Value) -> Result<Vec<String>> {
    let paths = stack["account_tokens"]
        .as_array()
        .context("stack.json names no tokens")?;
    Ok(paths
        .iter()
        .filter_map(|path| path.as_str().map(str::to_owned))
        .collect())
}

/// The account that a token is for: the `sub` of its payload.
fn account_of(token: &str) -> Result<String> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let token = std::fs::read_to_string(token)?;
    let payload = token
        .split('.')
        .nth(1)
        .context("an account token is no JWT")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    Ok(claims["sub"]
        .as_str()
        .context("an account token names no account")?
        .to_owned())
}
