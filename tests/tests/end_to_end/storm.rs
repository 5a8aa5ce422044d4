//! The delivery service is killed again and again while everybody is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Error};
use end_to_end::{
    LogLevel, Said, Service, Stack, befriend, device, group_with, messages, reservation, talks,
};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const KILLS: u64 = 20;
/// At least so many of each sender and of commits, however slow the machine is.
const MESSAGES: usize = 50;
const COMMITS: u64 = 20;
const GROUP: &str = "storm watch";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const DAVE: &str = "dave.dimitrov";
const ERIN: &str = "erin.eriksson";
const FRANK: &str = "frank.fischer";

type Over = Arc<AtomicBool>;

/// Sends until it is over and there are many: each message until it is accepted. Also gives what it
/// read meanwhile.
fn sends(client: Client, over: &Over) -> JoinHandle<(Client, Vec<String>, Vec<Said>)> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let (mut accepted, mut read) = (Vec::new(), Vec::new());
        while !over.load(Ordering::Relaxed) || accepted.len() < MESSAGES {
            let text = format!(
                "{} number {}",
                client.handle().unwrap().unwrap(),
                accepted.len()
            );
            client.send_message(GROUP, &text).await.unwrap();
            accepted.push(text);
            read.extend(messages(&client).await);
            sleep(Duration::from_millis(60)).await;
        }
        (client, accepted, read)
    })
}

/// Adds Dave, removes him, takes new keys, and again.
fn commits(client: Client, over: &Over) -> JoinHandle<(Client, u64, Vec<Said>)> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let (mut accepted, mut read) = (0, Vec::new());
        while !over.load(Ordering::Relaxed) || accepted < COMMITS {
            match accepted % 3 {
                0 => client.add_to_group(GROUP, &[DAVE]).await.unwrap(),
                1 => client.remove_from_group(GROUP, &[DAVE]).await.unwrap(),
                _ => client.update_own_leaf(GROUP).await.unwrap(),
            }
            accepted += 1;
            read.extend(messages(&client).await);
            sleep(Duration::from_millis(150)).await;
        }
        if accepted % 3 == 1 {
            client.remove_from_group(GROUP, &[DAVE]).await.unwrap();
            accepted += 1;
        }
        (client, accepted, read)
    })
}

/// Is there and reads.
fn listens(client: Client, over: &Over) -> JoinHandle<(Client, Vec<Said>)> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let mut read = Vec::new();
        while !over.load(Ordering::Relaxed) {
            read.extend(messages(&client).await);
            sleep(Duration::from_millis(200)).await;
        }
        (client, read)
    })
}

fn said_by(sender: &str, texts: &[String]) -> Vec<Said> {
    texts
        .iter()
        .map(|text| (sender.to_owned(), text.clone()))
        .collect()
}

fn of(read: &[Said], sender: &str) -> Vec<Said> {
    read.iter()
        .filter(|(by, _)| by == sender)
        .cloned()
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_over_twenty_kills() {
    let stack = Stack::start(LogLevel::Info).await;
    let mut clients = Vec::new();
    for (number, handle) in [ALICE, BOB, CAROL, DAVE, ERIN, FRANK]
        .into_iter()
        .enumerate()
    {
        clients.push(device(&stack, number, handle).await);
    }
    let [alice, bob, carol, dave, erin, frank]: [Client; 6] = clients.try_into().unwrap();
    group_with(GROUP, &alice, &[&bob, &carol, &erin]).await;
    befriend(&carol, &dave).await;
    alice.set_role(GROUP, CAROL, "admin").await.unwrap();

    let over = Over::default();
    let (from_alice, from_bob) = (sends(alice, &over), sends(bob, &over));
    let (by_carol, with_dave) = (commits(carol, &over), listens(dave, &over));

    let mut moments = StdRng::seed_from_u64(20);
    for _ in 0..KILLS {
        sleep(Duration::from_millis(moments.random_range(600..1600))).await;
        let request = reservation();
        let token = frank.withdraw_tokens(1).await.unwrap();
        let reserve = Operation::ReserveGroupId;
        let result = frank.post(reserve, &request, &token).await.unwrap();

        let before = stack.kill(Service::Ds);
        stack.restarted(Service::Ds, before).await;

        // The same request again costs nothing and has the same result; the token pays for no
        // other.
        assert_eq!(frank.post(reserve, &request, &token).await.unwrap(), result);
        let another = frank.post(reserve, &reservation(), &token).await;
        let problem = another.as_ref().err().and_then(Error::problem);
        assert_eq!(problem, Some(ProblemType::TokenRejected), "{another:?}");
    }
    over.store(true, Ordering::Relaxed);

    let (alice, hers, read_by_alice) = from_alice.await.unwrap();
    let (bob, his, read_by_bob) = from_bob.await.unwrap();
    let (carol, commits, read_by_carol) = by_carol.await.unwrap();
    let (dave, _) = with_dave.await.unwrap();
    println!(
        "{} and {} messages, {commits} commits",
        hers.len(),
        his.len()
    );

    let (hers, his) = (said_by(ALICE, &hers), said_by(BOB, &his));
    for (client, mut read, senders) in [
        (&alice, read_by_alice, vec![&his]),
        (&bob, read_by_bob, vec![&hers]),
        (&carol, read_by_carol, vec![&hers, &his]),
        // Erin was away all the time.
        (&erin, Vec::new(), vec![&hers, &his]),
    ] {
        read.extend(messages(client).await);
        let sent: usize = senders.iter().map(|sent| sent.len()).sum();
        assert_eq!(read.len(), sent, "{:?}", client.handle());
        for sent in senders {
            assert_eq!(of(&read, &sent[0].0), *sent, "{:?}", client.handle());
        }
    }
    // Every commit is there for all of them or for none.
    talks(GROUP, &[&alice, &bob, &carol, &erin]).await;
    // Dave's client is on still, and fills its pool up.
    messages(&dave).await;
    carol.add_to_group(GROUP, &[DAVE]).await.unwrap();
    talks(GROUP, &[&alice, &bob, &carol, &dave, &erin]).await;
}
