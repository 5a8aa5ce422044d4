//! Ports on loopback that nobody listens on, for whoever has to know them beforehand.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the system gives to outgoing connections: one of these that is free may be
/// taken a moment later.
const FIRST: u32 = 16_384;
const COUNT: u32 = 16_384;
/// Processes that run at the same time begin so far from each other.
const STRIDE: u32 = 509;

/// The first of `span` neighbours that were not given to this process before. Others may have them.
pub fn untried(span: u16) -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let given = GIVEN.fetch_add(span.into(), Ordering::Relaxed);
    let begin = std::process::id().wrapping_mul(STRIDE);
    let at = begin.wrapping_add(given) % (COUNT - u32::from(span));
    (FIRST + at) as u16
}

/// One that is free; `None` if none is.
pub fn free() -> Option<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..COUNT).map(|_| untried(1)).find(is_free)
}
