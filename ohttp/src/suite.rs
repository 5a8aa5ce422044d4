//! The algorithms of an encapsulation and the header that names them (RFC 9458 §4.3).

use hpke_rs::hpke_types::KemAlgorithm;
use zeroize::Zeroizing;

/// Key id, KEM, KDF and AEAD.
pub const HEADER_LEN: usize = 7;
pub(crate) const HKDF_SHA256: u16 = 0x0001;
/// Both AEADs have nonces of 12 bytes, and tags of 16.
pub(crate) const NONCE_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;

/// Nsecret of each KEM.
pub(crate) type SharedSecret = Zeroizing<[u8; 32]>;

/// How a shared secret is made, most wanted first. The KDF is always HKDF-SHA256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kem {
    /// X-Wing: X25519 and ML-KEM-768. A later quantum computer cannot open recorded requests.
    XWing,
    /// DHKEM(X25519, HKDF-SHA256).
    X25519,
    /// DHKEM(P-256, HKDF-SHA256), for clients that have nothing else.
    P256,
}

impl Kem {
    /// All KEMs, the most wanted first.
    pub const ALL: [Self; 3] = [Self::XWing, Self::X25519, Self::P256];

    /// The code point (RFC 9180 §7.1).
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::X25519 => 0x0020,
            Self::P256 => 0x0010,
            Self::XWing => 0x647a,
        }
    }

    /// The KEM with this code point, if we have it.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kem| kem.id() == id)
    }

    /// As configurations have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XWing => "x-wing",
            Self::X25519 => "x25519",
            Self::P256 => "p256",
        }
    }

    /// Bytes of an encapsulated key.
    #[must_use]
    pub const fn encapsulated_key_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::P256 => 65,
            Self::XWing => 1120,
        }
    }

    /// Bytes of a public key.
    #[must_use]
    pub const fn public_key_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::P256 => 65,
            Self::XWing => 1216,
        }
    }

    pub(crate) const fn algorithm(self) -> KemAlgorithm {
        match self {
            Self::X25519 => KemAlgorithm::DhKem25519,
            Self::P256 => KemAlgorithm::DhKemP256,
            Self::XWing => KemAlgorithm::XWingDraft06,
        }
    }
}

/// The AEAD that a message is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    Aes128Gcm,
    ChaCha20Poly1305,
}

impl Aead {
    /// Both AEADs.
    pub const ALL: [Self; 2] = [Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// The code point (RFC 9180 §7.3).
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Aes128Gcm => 1,
            Self::ChaCha20Poly1305 => 3,
        }
    }

    /// The AEAD with this code point, if we have it.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|aead| aead.id() == id)
    }

    /// Nk, and at the same time `max(Nn, Nk)` (RFC 9458 §4.4), in bytes: Nn is 12.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// The header before the encapsulated key (RFC 9458 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub key_id: u8,
    pub kem: Kem,
    pub aead: Aead,
}

impl Header {
    /// The bytes of the header in a request and in the `info` of its HPKE context.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [kem, aead] = [self.kem.id(), self.aead.id()].map(u16::to_be_bytes);
        [self.key_id, kem[0], kem[1], 0, 1, aead[0], aead[1]]
    }

    /// `None`: algorithms that we don't have.
    pub(crate) fn decode(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [key_id, kem @ .., kdf0, kdf1, aead0, aead1] = bytes;
        if u16::from_be_bytes([kdf0, kdf1]) != HKDF_SHA256 {
            return None;
        }
        Some(Self {
            key_id,
            kem: Kem::from_id(u16::from_be_bytes(kem))?,
            aead: Aead::from_id(u16::from_be_bytes([aead0, aead1]))?,
        })
    }
}
