//! Limits for each client address that keep no address.
//!
//! An address counts twice: as what one subscriber has (IPv6: a /64), and as the network that
//! subscribers and their /64 are handed out of (IPv6: a /48, with 65,536 of them), with a larger
//! bound. It is hashed under keys that are drawn when the process starts, and only picks a counter
//! in tables of fixed size. There is no list of addresses to log, to store or to seize. Addresses
//! that share a counter in one table hardly ever share one in the other; what one of the two admits
//! is admitted, so that nobody is refused for somebody else's requests.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;

use crate::clock::SharedClock;
use crate::rate::{Bucket, Rate};

/// Counters in each table: 64 Ki, which are a MiB of memory.
const COUNTERS: usize = 1 << 16;
const TABLES: usize = 2;
/// Subscriber and network.
const SCOPES: usize = 2;

/// The table `[address_limits]`: what one address may do; 0 for any number. By default as much as
/// the clients behind one address of a large network need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressLimitSettings {
    /// Of all of its connections.
    pub requests_per_second: u32,
    /// New ones: each may be a TLS handshake.
    pub connections_per_second: u32,
    /// As many of either may come at once; at least one.
    pub burst: u32,
    pub max_connections: u32,
    /// Requests that are being answered, on all of its connections.
    pub max_requests: u32,
    /// An IPv6 network (/48) may do as much as so many addresses of it.
    pub addresses_of_network: u32,
}

impl Default for AddressLimitSettings {
    fn default() -> Self {
        Self {
            requests_per_second: 50,
            connections_per_second: 50,
            burst: 500,
            max_connections: 200,
            max_requests: 400,
            addresses_of_network: 16,
        }
    }
}

impl AddressLimitSettings {
    /// An address may do anything.
    pub const NONE: Self = Self {
        requests_per_second: 0,
        connections_per_second: 0,
        burst: 0,
        max_connections: 0,
        max_requests: 0,
        addresses_of_network: 0,
    };

    /// Of a network, in the place of an address.
    fn of_network(self) -> Self {
        let times = |limit: u32| limit.saturating_mul(self.addresses_of_network);
        Self {
            requests_per_second: times(self.requests_per_second),
            connections_per_second: times(self.connections_per_second),
            burst: times(self.burst),
            max_connections: times(self.max_connections),
            max_requests: times(self.max_requests),
            addresses_of_network: 0,
        }
    }
}

/// The limits of one listener.
pub struct AddressLimits {
    clock: SharedClock,
    scopes: [Scope; SCOPES],
}

/// How much of an address counts as one, and what that may do.
struct Scope {
    /// Bits of an IPv6 address.
    bits: u32,
    requests: Option<Rate>,
    connections: Option<Rate>,
    max_connections: Option<NonZeroU32>,
    max_requests: Option<NonZeroU32>,
    tables: [Table; TABLES],
}

struct Table {
    hasher: RandomState,
    request_rates: Box<[Bucket]>,
    /// Of new ones: each may be a TLS handshake.
    connection_rates: Box<[Bucket]>,
    connections: Box<[AtomicU32]>,
    requests: Box<[AtomicU32]>,
}

/// The counters of an address: all that is known of it beyond the accepting of its connection.
#[derive(Clone, Copy)]
pub(crate) struct Counters([[usize; TABLES]; SCOPES]);

/// A request of some address that is being answered, until dropped.
pub(crate) struct Running {
    limits: Arc<AddressLimits>,
    counters: Counters,
}

/// The place of a request among those of its address. It is among the extensions of the request:
/// whoever goes on with an answer after the client has gone keeps it as long.
#[derive(Clone)]
pub struct AddressPlace {
    _running: Arc<Running>,
}

impl AddressPlace {
    pub(crate) fn of(running: Running) -> Self {
        Self {
            _running: Arc::new(running),
        }
    }
}

/// Why an address may not do more now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    /// For the metrics.
    pub(crate) limit: &'static str,
    pub(crate) retry_after_s: u64,
}

/// An open connection of some address, until dropped.
pub(crate) struct Admitted {
    limits: Arc<AddressLimits>,
    counters: Counters,
}

impl AddressLimits {
    /// `None` where nothing is limited.
    #[must_use]
    pub fn new(settings: AddressLimitSettings, clock: SharedClock) -> Option<Arc<Self>> {
        let scopes = [
            Scope::new(64, settings),
            Scope::new(48, settings.of_network()),
        ];
        let is_limited = scopes.iter().any(Scope::is_limited);
        is_limited.then(|| Arc::new(Self { clock, scopes }))
    }

    fn counters(&self, peer: SocketAddr) -> Counters {
        Counters(std::array::from_fn(|scope| {
            let scope = &self.scopes[scope];
            let address = prefix(peer.ip(), scope.bits);
            std::array::from_fn(|table| {
                let hash = scope.tables[table].hasher.hash_one(address);
                // The remainder is below COUNTERS.
                usize::try_from(hash % COUNTERS as u64).unwrap_or(0)
            })
        }))
    }

    fn counted<'a>(
        &'a self,
        counters: &'a Counters,
    ) -> impl Iterator<Item = (&'a Scope, &'a [usize; TABLES])> {
        self.scopes.iter().zip(&counters.0)
    }

    /// A connection of `peer`.
    ///
    /// # Errors
    /// It has as many as it may have, or they come too fast.
    pub(crate) fn connect(self: &Arc<Self>, peer: SocketAddr) -> Result<Admitted, TooMany> {
        let counters = self.counters(peer);
        let mut is_full = false;
        for (scope, counters) in self.counted(&counters) {
            is_full |= scope.count(counters, scope.max_connections, |table| &table.connections);
        }
        let admitted = Admitted {
            limits: Arc::clone(self),
            counters,
        };
        if is_full {
            // Dropping it counts back.
            return Err(TooMany {
                limit: "connections",
                retry_after_s: 1,
            });
        }
        let taken = self.take(
            &counters,
            |scope| scope.connections,
            |table| &table.connection_rates,
        );
        taken.map_err(|retry_after_s| TooMany {
            limit: "new_connections",
            retry_after_s,
        })?;
        Ok(admitted)
    }

    /// One more at the allowed rate.
    fn take(
        &self,
        counters: &Counters,
        rate: impl Fn(&Scope) -> Option<Rate>,
        of: impl Fn(&Table) -> &[Bucket],
    ) -> Result<(), u64> {
        let now_ms = self.clock.now_unix_ms();
        // What is refused to an address takes nothing of its network's.
        self.counted(counters).try_for_each(|(scope, counters)| {
            rate(scope).map_or(Ok(()), |rate| scope.take(rate, counters, now_ms, &of))
        })
    }
}

impl Scope {
    fn new(bits: u32, settings: AddressLimitSettings) -> Self {
        let rate = |per_second| {
            (per_second > 0).then(|| Rate::new(settings.burst.max(1), per_second, 1_000))
        };
        Self {
            bits,
            requests: rate(settings.requests_per_second),
            connections: rate(settings.connections_per_second),
            max_connections: NonZeroU32::new(settings.max_connections),
            max_requests: NonZeroU32::new(settings.max_requests),
            tables: std::array::from_fn(|_| Table {
                hasher: RandomState::new(),
                request_rates: (0..COUNTERS).map(|_| Bucket::default()).collect(),
                connection_rates: (0..COUNTERS).map(|_| Bucket::default()).collect(),
                connections: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
                requests: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            }),
        }
    }

    fn is_limited(&self) -> bool {
        self.requests.is_some()
            || self.connections.is_some()
            || self.max_connections.is_some()
            || self.max_requests.is_some()
    }

    /// Counts one more, and says whether there were as many as there may be.
    fn count(
        &self,
        counters: &[usize; TABLES],
        most: Option<NonZeroU32>,
        of: impl Fn(&Table) -> &[AtomicU32],
    ) -> bool {
        let mut least = u32::MAX;
        for (table, counter) in self.tables.iter().zip(counters) {
            least = least.min(of(table)[*counter].fetch_add(1, Ordering::Relaxed));
        }
        most.is_some_and(|most| least >= most.get())
    }

    fn take(
        &self,
        rate: Rate,
        counters: &[usize; TABLES],
        now_ms: u64,
        of: impl Fn(&Table) -> &[Bucket],
    ) -> Result<(), u64> {
        let mut wait_ms = u64::MAX;
        let mut admitted = false;
        for (table, counter) in self.tables.iter().zip(counters) {
            match rate.take(&of(table)[*counter], 1, now_ms) {
                Ok(()) => admitted = true,
                Err(empty) => wait_ms = wait_ms.min(empty.retry_after_ms.unwrap_or(u64::MAX)),
            }
        }
        if admitted {
            Ok(())
        } else {
            Err(wait_ms.div_ceil(1_000).max(1))
        }
    }
}

impl Admitted {
    /// One more request.
    ///
    /// # Errors
    /// It is one too many.
    pub(crate) fn request(&self) -> Result<Running, TooMany> {
        let running = self.begin()?;
        let limits = &self.limits;
        let taken = limits.take(
            &self.counters,
            |scope| scope.requests,
            |table| &table.request_rates,
        );
        taken.map_err(|retry_after_s| TooMany {
            limit: "requests",
            retry_after_s,
        })?;
        Ok(running)
    }

    fn begin(&self) -> Result<Running, TooMany> {
        let mut is_full = false;
        for (scope, counters) in self.limits.counted(&self.counters) {
            is_full |= scope.count(counters, scope.max_requests, |table| &table.requests);
        }
        let running = Running {
            limits: Arc::clone(&self.limits),
            counters: self.counters,
        };
        if is_full {
            // Dropping it counts back.
            return Err(TooMany {
                limit: "requests_at_once",
                retry_after_s: 1,
            });
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (scope, counters) in self.limits.counted(&self.counters) {
            for (table, counter) in scope.tables.iter().zip(counters) {
                table.requests[*counter].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// How many connections there are of an address's network. It outlives none of them.
pub(crate) struct Share {
    limits: Arc<AddressLimits>,
    counters: Counters,
}

impl Admitted {
    pub(crate) fn share(&self) -> Share {
        Share {
            limits: Arc::clone(&self.limits),
            counters: self.counters,
        }
    }
}

impl Share {
    /// Of the larger of the two scopes, as the fuller of no table has it.
    pub(crate) fn connections(&self) -> u32 {
        let scopes = self.limits.counted(&self.counters);
        let counts = scopes.map(|(scope, counters)| {
            let tables = scope.tables.iter().zip(counters);
            let counts = tables.map(|(table, at)| table.connections[*at].load(Ordering::Relaxed));
            counts.min().unwrap_or(0)
        });
        counts.max().unwrap_or(0)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        for (scope, counters) in self.limits.counted(&self.counters) {
            for (table, counter) in scope.tables.iter().zip(counters) {
                table.connections[*counter].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// The first so many bits of an IPv6 address; all of an IPv4 address, which has no larger network.
fn prefix(address: IpAddr, bits: u32) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // No prefix is in use whose upper half is zero, so that none meets an IPv4 address.
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            let half = [a, b, c, d]
                .into_iter()
                .fold(0, |prefix, segment| prefix << 16 | u64::from(segment));
            half & u64::MAX.unbounded_shl(64u32.saturating_sub(bits))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::MovedClock;

    fn limits(settings: AddressLimitSettings) -> (Arc<AddressLimits>, Arc<MovedClock>) {
        let clock = MovedClock::at(1_700_000_000_000);
        let limits = AddressLimits::new(settings, clock.clone()).unwrap();
        (limits, clock)
    }

    fn two_a_second() -> (Arc<AddressLimits>, Arc<MovedClock>) {
        limits(AddressLimitSettings {
            requests_per_second: 2,
            connections_per_second: 2,
            burst: 4,
            ..AddressLimitSettings::NONE
        })
    }

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 40_000)
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let (limits, clock) = two_a_second();
        let client = limits.connect(at("192.0.2.1")).unwrap();
        for _ in 0..4 {
            assert!(client.request().is_ok());
        }
        assert_eq!(client.request().err().unwrap().retry_after_s, 1);
        clock.advance(500);
        assert!(client.request().is_ok());
        assert_eq!(client.request().err().unwrap().retry_after_s, 1);
    }

    #[test]
    fn an_address_does_not_pay_for_another_one() {
        let (limits, _) = two_a_second();
        let greedy = limits.connect(at("192.0.2.1")).unwrap();
        while greedy.request().is_ok() {}
        for last in 2..=255 {
            let other = limits.connect(at(&format!("192.0.2.{last}"))).unwrap();
            assert!(other.request().is_ok(), "{last}");
        }
    }

    #[test]
    fn a_subscriber_is_an_ipv4_address_or_a_slash_64() {
        let same = |left: &str, right: &str| {
            prefix(left.parse().unwrap(), 64) == prefix(right.parse().unwrap(), 64)
        };
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::7"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }

    /// Counts what is admitted, each from a /64 of its own.
    fn admitted_of(limits: &Arc<AddressLimits>, network: &str) -> (Vec<Admitted>, usize) {
        let peers = (0..100).map(|subscriber| at(&format!("{network}:{subscriber:x}::1")));
        let open: Vec<_> = peers.filter_map(|peer| limits.connect(peer).ok()).collect();
        let requests: Vec<_> = open.iter().map(Admitted::request).collect();
        let answered = requests.iter().filter(|request| request.is_ok()).count();
        (open, answered)
    }

    #[test]
    fn a_network_of_many_slash_64_may_do_as_much_as_a_few_of_them() {
        let none = AddressLimitSettings {
            addresses_of_network: 3,
            ..AddressLimitSettings::NONE
        };
        let connections = AddressLimitSettings {
            max_connections: 2,
            ..none
        };
        let requests = AddressLimitSettings {
            max_requests: 2,
            ..none
        };
        let rate = AddressLimitSettings {
            requests_per_second: 1,
            connections_per_second: 1,
            burst: 2,
            ..none
        };
        for (settings, open, answered) in [(connections, 6, 6), (requests, 100, 6), (rate, 6, 6)] {
            let (limits, _) = limits(settings);
            for network in ["2001:db8:1", "2001:db8:2"] {
                let (admitted, requests) = admitted_of(&limits, network);
                assert_eq!((admitted.len(), requests), (open, answered), "{settings:?}");
            }
            // IPv4 addresses are handed out one by one.
            for last in 0..100 {
                assert!(limits.connect(at(&format!("192.0.2.{last}"))).is_ok());
            }
        }
    }

    #[test]
    fn a_new_connection_is_no_new_allowance() {
        let (limits, _) = two_a_second();
        let mut admitted = 0;
        for _ in 0..10 {
            let client = limits.connect(at("2001:db8::1"));
            admitted += u32::from(client.is_ok_and(|client| client.request().is_ok()));
        }
        assert_eq!(admitted, 4);
    }

    #[test]
    fn new_connections_come_at_a_rate_of_their_own() {
        let (limits, clock) = two_a_second();
        for _ in 0..4 {
            assert!(limits.connect(at("192.0.2.1")).is_ok());
        }
        let refused = limits.connect(at("192.0.2.1")).err().unwrap();
        assert_eq!(refused.limit, "new_connections");
        assert!(limits.connect(at("192.0.2.2")).is_ok());
        clock.advance(500);
        assert!(limits.connect(at("192.0.2.1")).is_ok());
    }

    #[test]
    fn connections_are_counted_until_they_end() {
        let (limits, _) = limits(AddressLimitSettings {
            max_connections: 2,
            ..AddressLimitSettings::NONE
        });
        let first = limits.connect(at("192.0.2.1")).unwrap();
        let _second = limits.connect(at("192.0.2.1")).unwrap();
        assert!(limits.connect(at("192.0.2.1")).is_err());
        assert!(limits.connect(at("192.0.2.2")).is_ok());
        drop(first);
        assert!(limits.connect(at("192.0.2.1")).is_ok());
    }

    #[test]
    fn requests_are_counted_until_they_are_answered_on_all_connections_together() {
        let (limits, _) = limits(AddressLimitSettings {
            max_requests: 2,
            ..AddressLimitSettings::NONE
        });
        let [one, two] = [(), ()].map(|()| limits.connect(at("192.0.2.1")).unwrap());
        let first = one.request().unwrap();
        let _second = two.request().unwrap();
        assert_eq!(one.request().err().unwrap().limit, "requests_at_once");
        let other = limits.connect(at("192.0.2.2")).unwrap();
        assert!(other.request().is_ok());
        drop(first);
        assert!(two.request().is_ok());
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let (limits, clock) = two_a_second();
        let client = limits.connect(at("192.0.2.1")).unwrap();
        assert!(client.request().is_ok());
        clock.set(1_600_000_000_000);
        assert!(client.request().is_err());
        clock.advance(500);
        assert!(client.request().is_ok());
    }

    #[test]
    fn two_processes_count_the_same_address_elsewhere() {
        let same = (0..8).filter(|last| {
            let peer = at(&format!("192.0.2.{last}"));
            two_a_second().0.counters(peer).0 == two_a_second().0.counters(peer).0
        });
        assert_eq!(same.count(), 0);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let clock = MovedClock::at(0);
        assert!(AddressLimits::new(AddressLimitSettings::NONE, clock).is_none());
    }
}
