//! The push sender's own key, and what follows from it.

use crypto::{CryptoError, kdf};
use protocol::Wire as _;
use protocol::push::{Address, Handle};
use zeroize::Zeroizing;

/// Bytes of the key file.
pub(crate) const KEY_LEN: usize = 32;

/// Names a device's record. Nobody but the push sender sees one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceId(pub [u8; 16]);

impl std::fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceId(..)")
    }
}

/// Stands for an address: the same for records with the same one, and no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tag(pub [u8; 32]);

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tag(..)")
    }
}

/// A push service, app or server of somebody's own: what holds up one does not hold up others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) kind: Kind,
    /// Stands for the origin, or for the app.
    of: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    WebPush,
    Webhook,
    Apns,
    Fcm,
}

/// What a handle says, to the push sender alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Naming {
    pub device: DeviceId,
    /// Which of the device's handles it is.
    pub id: HandleId,
    /// Of the device's handles: all of one generation end together.
    pub generation: u32,
    /// The last week in which it is good, since 1970.
    pub last_week: u16,
}

/// Tells the handles of a device apart.
pub(crate) type HandleId = [u8; 12];

/// Version, device, id, generation, week, zeros.
const NAMING_LEN: usize = 1 + 16 + 12 + 4 + 2 + 13;
const SALT: usize = 32;
const VERSION: u8 = 1;

/// What is derived from the key file.
pub(crate) struct Keys {
    handles: Zeroizing<[u8; 32]>,
    records: Zeroizing<[u8; 32]>,
    names: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            handles: _,
            records: _,
            names: _,
        } = self;
        f.write_str("Keys(..)")
    }
}

impl Keys {
    #[must_use]
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        let derived = |label| Zeroizing::new(kdf::derive(key, label, &[]));
        Self {
            handles: derived("push handles"),
            records: derived("push records"),
            names: derived("push names"),
        }
    }

    /// The key that records are sealed under.
    pub(crate) fn records(&self) -> &[u8; 32] {
        &self.records
    }

    /// The device whose owner has this key.
    #[must_use]
    pub(crate) fn device(&self, owner_key: &[u8; 32]) -> DeviceId {
        DeviceId(kdf::derive(&self.names, "push device", owner_key))
    }

    /// The name of a device's row.
    pub(crate) fn row(&self, device: DeviceId) -> [u8; 32] {
        kdf::derive(&self.names, "push row", &device.0)
    }

    /// What stands for an address.
    #[must_use]
    pub(crate) fn tag(&self, address: &Address) -> Tag {
        let reached = match address {
            // Other keys of the same subscription reach the same device.
            Address::WebPush(it) => [b"1", &*plain_url(it.endpoint.as_slice())].concat(),
            Address::Webhook(it) => [b"2", &*plain_url(it.url.as_slice())].concat(),
            Address::Apns(it) => [b"3", &*it.encode()].concat(),
            Address::Fcm(it) => [b"4", &*it.encode()].concat(),
        };
        Tag(kdf::derive(&self.names, "push address", &reached))
    }

    /// Who is asked to reach an address.
    pub(crate) fn lane(&self, address: &Address) -> Lane {
        let (kind, asked) = match address {
            Address::WebPush(it) => (Kind::WebPush, origin(it.endpoint.as_slice())),
            Address::Webhook(it) => (Kind::Webhook, origin(it.url.as_slice())),
            Address::Apns(it) => (Kind::Apns, it.app.as_slice().to_vec()),
            Address::Fcm(it) => (Kind::Fcm, it.app.as_slice().to_vec()),
        };
        let of = kdf::derive(&self.names, "push lane", &asked);
        Lane { kind, of }
    }

    /// A handle: `salt(32) || AES-256-GCM(key of the salt, nonce 0, naming(48))`. To all others it
    /// is random, as is one that never was a handle.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness.
    pub(crate) fn issue(&self, naming: &Naming) -> Result<Handle, CryptoError> {
        let salt: [u8; SALT] = crypto::random()?;
        let Naming {
            device,
            id,
            generation,
            last_week,
        } = naming;
        let mut sealed = Vec::with_capacity(protocol::group::PUSH_HANDLE_BYTES);
        sealed.extend_from_slice(&salt);
        sealed.push(VERSION);
        sealed.extend_from_slice(&device.0);
        sealed.extend_from_slice(id);
        sealed.extend_from_slice(&generation.to_be_bytes());
        sealed.extend_from_slice(&last_week.to_be_bytes());
        sealed.resize(SALT + NAMING_LEN, 0);
        self.aead(&salt)?
            .seal_from(SALT, [0; 12], LABEL, &mut sealed)?;
        sealed.try_into().map_err(|_| CryptoError::Backend)
    }

    /// What a handle says. `None`: it is none of ours.
    #[must_use]
    pub(crate) fn open(&self, handle: &Handle) -> Option<Naming> {
        let (salt, sealed) = handle.split_first_chunk::<SALT>()?;
        let mut naming = sealed.to_vec();
        let key = self.aead(salt).ok()?;
        key.open([0; 12], LABEL, &mut naming).ok()?;
        let (&[version], rest) = naming.split_first_chunk::<1>()?;
        let (device, rest) = rest.split_first_chunk::<16>()?;
        let (id, rest) = rest.split_first_chunk::<12>()?;
        let (generation, rest) = rest.split_first_chunk::<4>()?;
        let (last_week, _) = rest.split_first_chunk::<2>()?;
        (version == VERSION).then(|| Naming {
            device: DeviceId(*device),
            id: *id,
            generation: u32::from_be_bytes(*generation),
            last_week: u16::from_be_bytes(*last_week),
        })
    }

    /// A key for each salt: there is no nonce to keep count of.
    fn aead(&self, salt: &[u8; SALT]) -> Result<crypto::aead::Key, CryptoError> {
        let key = Zeroizing::new(kdf::derive_salted(&self.handles, salt, "push handle", &[]));
        crypto::aead::Key::new(&key)
    }
}

/// The URL as it is asked: other ways to write its scheme, host and port are the same address.
fn plain_url(url: &[u8]) -> Vec<u8> {
    let path = parsed(url).and_then(|uri| uri.path_and_query().cloned());
    let path = path.as_ref().map_or("/", |path| path.as_str());
    match origin(url) {
        origin if origin.is_empty() => url.to_vec(),
        origin => [&*origin, path.as_bytes()].concat(),
    }
}

/// `scheme://host:port` in small letters, with the port that is meant if none is said. Empty: it is
/// no URL.
fn origin(url: &[u8]) -> Vec<u8> {
    let Some(uri) = parsed(url) else {
        return Vec::new();
    };
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Vec::new();
    };
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(usual);
    let host = host.to_ascii_lowercase();
    format!("{scheme}://{host}:{port}").into_bytes()
}

fn parsed(url: &[u8]) -> Option<http::Uri> {
    std::str::from_utf8(url).ok()?.parse().ok()
}

const LABEL: &[u8] = b"MIMIMI 1.0 push handle";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NAMING: Naming = Naming {
        device: DeviceId([7; 16]),
        id: [3; 12],
        generation: 9,
        last_week: 2970,
    };

    #[test]
    fn a_handle_opens_for_its_sender_alone_and_only_whole() {
        let keys = Keys::new(&[1; 32]);
        let handle = keys.issue(&NAMING).unwrap();
        assert!(keys.open(&handle) == Some(NAMING));
        assert!(Keys::new(&[2; 32]).open(&handle).is_none());
        for bit in 0..handle.len() * 8 {
            let mut changed = handle;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.open(&changed).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn two_handles_of_a_device_share_no_bytes_that_tell() {
        let keys = Keys::new(&[1; 32]);
        let handles: Vec<Handle> = (0..64).map(|_| keys.issue(&NAMING).unwrap()).collect();
        for place in 0..handles[0].len() {
            let first = handles[0][place];
            assert!(
                handles.iter().any(|handle| handle[place] != first),
                "byte {place} is the same in all"
            );
        }
    }

    #[test]
    fn an_address_that_is_written_in_another_way_is_the_same_one() {
        let keys = Keys::new(&[1; 32]);
        let of = |url: &str| {
            let address = Address::Webhook(protocol::push::WebhookAddress {
                url: protocol::codec::opaque(url.as_bytes()),
                secret: protocol::codec::WireSecret::new([1; 32]),
            });
            (keys.tag(&address), keys.lane(&address))
        };
        let plain = of("https://hooks.example/a?b");
        for same in [
            "https://HOOKS.example/a?b",
            "https://hooks.example:443/a?b",
            "HTTPS://Hooks.Example:443/a?b",
        ] {
            assert_eq!(of(same), plain, "{same}");
        }
        assert_eq!(of("https://hooks.example"), of("https://hooks.example/"));
        for (other, is_same_lane) in [
            ("https://hooks.example/a?c", true),
            ("https://hooks.example/A?b", true),
            ("https://hooks.example:444/a?b", false),
            ("https://other.example/a?b", false),
        ] {
            let (tag, lane) = of(other);
            assert_ne!(tag, plain.0, "{other}");
            assert_eq!(lane == plain.1, is_same_lane, "{other}");
        }
    }

    #[test]
    fn random_bytes_are_no_handle() {
        let keys = Keys::new(&[1; 32]);
        assert!((0..64).all(|_| keys.open(&crypto::random().unwrap()).is_none()));
    }
}
