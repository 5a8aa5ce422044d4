//! What the activity feed costs a client, by the real encoder, beside polling; and what a tag and a
//! tick cost the service. Run by `make bench`.
//!
//! Each user sends 20 messages a day, at times independent of each other, into 5 segments that
//! go on per user. Bursts and quiet hours would make the feed smaller: a segment is in a tick once.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]

use std::collections::BTreeSet;
use std::time::Instant;

use crypto::journal::HeadSigner;
use crypto::schedule::FeedKey;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::feed::{FeedTickTbs, MAX_TAGS, Resolution, Tag, code};
use protocol::ids::{Digest, TickNumber};

const MESSAGES_A_DAY: f64 = 20.0;
const SEGMENTS_A_USER: f64 = 5.0;
const DAYS: f64 = 30.0;
/// What a request for a tick and the head of its answer take beside the tick, over a connection
/// that stays open: about 70 and 180 bytes of HTTP/1.1, and two TLS records.
const BESIDE: f64 = 300.0;
/// What a read of a journal takes both ways: an answer of 8 KiB, a request of 512 bytes, what
/// encapsulates them, and heads.
const READ: f64 = 9_400.0;
const GROUPS: f64 = 40.0;

fn key(at: usize) -> FeedKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&at.to_be_bytes());
    FeedKey::new(bytes)
}

fn tags(count: usize, resolution: Resolution) -> BTreeSet<Tag> {
    (0..count)
        .map(|at| key(at).tag(resolution, TickNumber(900_000_000)))
        .collect()
}

fn tick(signer: &HeadSigner, tags: &BTreeSet<Tag>, resolution: Resolution) -> Vec<u8> {
    let (count, coded) = code(tags);
    let tbs = FeedTickTbs {
        version: 1,
        generation: 0,
        resolution,
        number: TickNumber(900_000_000),
        previous: Digest([7; 32]),
        count,
        coded,
    };
    signer.sign_tick(tbs).unwrap().encode()
}

fn megabytes(bytes: f64) -> String {
    let megabytes = bytes / 1e6;
    match megabytes {
        small if small < 10.0 => format!("{small:.1}"),
        large => format!("{large:.0}"),
    }
}

fn main() {
    let signer = HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([1; 32])));
    println!(
        "{:>9} {:>8} {:>10} {:>10} {:>9} {:>12} {:>12} {:>14}",
        "users",
        "seconds",
        "segments",
        "bytes",
        "padding",
        "MB a month",
        "with heads",
        "polling, MB"
    );
    for users in [1e4, 1e5, 1e6, 1e7] {
        for resolution in Resolution::ALL {
            let seconds = resolution.seconds() as f64;
            let segments = users * SEGMENTS_A_USER;
            let messages = users * MESSAGES_A_DAY * seconds / 86_400.0;
            let active = segments * (1.0 - (-messages / segments).exp());
            let ticks = DAYS * 86_400.0 / seconds;
            if active > MAX_TAGS as f64 {
                println!("{users:>9} {seconds:>8} {active:>10.0} {:>10}", "too many");
                continue;
            }
            let tags = tags(active.round() as usize, resolution);
            let bytes = tick(&signer, &tags, resolution).len() as f64;
            let bare = tags.len() as f64 * 22.55 / 8.0 + 121.0;
            println!(
                "{users:>9} {seconds:>8} {:>10} {bytes:>10} {:>8.1}% {:>12} {:>12} {:>14}",
                tags.len(),
                100.0 * (bytes / bare - 1.0),
                megabytes(bytes * ticks),
                megabytes((bytes + BESIDE) * ticks),
                megabytes(READ * GROUPS * ticks),
            );
        }
    }
    let begun = Instant::now();
    let feed_key = key(1);
    let mut sum = 0;
    for number in 0..100_000 {
        sum ^= feed_key.tag(Resolution::Seconds2, TickNumber(number)).0;
    }
    println!(
        "\na tag: {:.2} us ({sum:x})",
        begun.elapsed().as_secs_f64() * 10.0
    );
    let tags = tags(100_000, Resolution::Seconds2);
    let begun = Instant::now();
    let made = tick(&signer, &tags, Resolution::Seconds2);
    println!(
        "a tick of 100,000 tags: {:.1} ms, {} bytes",
        begun.elapsed().as_secs_f64() * 1e3,
        made.len()
    );
}
