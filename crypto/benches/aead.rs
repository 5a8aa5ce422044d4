//! The AEAD at rest beside RustCrypto's engine, keying included. Run by `make bench`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]

use std::time::{Duration, Instant};

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use crypto::aead;

fn main() {
    println!(
        "{:>8} {:>12} {:>14} {:>8}",
        "bytes", "ours us", "RustCrypto us", "ratio"
    );
    for len in [41, 160, 1024, 27 * 1024, 268 * 1024] {
        let ours = median(len, |buffer| {
            aead::seal(&[1; 32], [0; 12], b"aad", buffer).unwrap()
        });
        let other = median(len, |buffer| {
            let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from([1; 32]));
            let nonce = Nonce::from([0; 12]);
            let tag = cipher
                .encrypt_inout_detached(&nonce, b"aad", buffer.as_mut_slice().into())
                .unwrap();
            buffer.extend_from_slice(&tag);
        });
        println!("{len:>8} {ours:>12.2} {other:>14.2} {:>8.2}", ours / other);
    }
}

fn median(len: usize, seal: impl Fn(&mut Vec<u8>)) -> f64 {
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let mut buffer = Vec::with_capacity(len + aead::TAG_LEN);
            buffer.resize(len, 7);
            let start = Instant::now();
            seal(&mut buffer);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
        * 1e6
}
