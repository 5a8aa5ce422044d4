//! The algorithms of an encapsulation and the header that names them (RFC 9458 §4.3).

use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs::rustcrypto::HpkeRustCrypto;
use hpke_rs::{Hpke, Mode};

/// Key id, KEM, KDF and AEAD.
pub const HEADER_LEN: usize = 7;
/// What the `info` of a request's HPKE context begins with (§5.1 of the draft).
pub const REQUEST_LABEL: &str = "message/bhttp chunked request";

/// The context of a request. It wipes its keys on drop.
pub type HpkeContext = hpke_rs::Context<HpkeRustCrypto>;

/// How a shared secret is made. The KDF is always HKDF-SHA256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kem {
    /// DHKEM(X25519, HKDF-SHA256).
    X25519,
    /// DHKEM(P-256, HKDF-SHA256).
    P256,
    /// X-Wing: X25519 and ML-KEM-768, safe while one of them is.
    XWing,
}

impl Kem {
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
        [Self::X25519, Self::P256, Self::XWing]
            .into_iter()
            .find(|kem| kem.id() == id)
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

    const fn algorithm(self) -> KemAlgorithm {
        match self {
            Self::X25519 => KemAlgorithm::DhKem25519,
            Self::P256 => KemAlgorithm::DhKemP256,
            Self::XWing => KemAlgorithm::XWingDraft06,
        }
    }
}

/// What chunks are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    Aes128Gcm,
    ChaCha20Poly1305,
}

impl Aead {
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
        [Self::Aes128Gcm, Self::ChaCha20Poly1305]
            .into_iter()
            .find(|aead| aead.id() == id)
    }

    /// `max(Nn, Nk)` (RFC 9458 §4.4): Nn is 12.
    pub(crate) const fn entropy_len(self) -> usize {
        self.key_len()
    }

    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::ChaCha20Poly1305 => 32,
        }
    }

    pub(crate) const fn algorithm(self) -> AeadAlgorithm {
        match self {
            Self::Aes128Gcm => AeadAlgorithm::Aes128Gcm,
            Self::ChaCha20Poly1305 => AeadAlgorithm::ChaCha20Poly1305,
        }
    }
}

/// What stands before the encapsulated key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) key_id: u8,
    pub(crate) kem: Kem,
    pub(crate) aead: Aead,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; HEADER_LEN] {
        let [kem, aead] = [self.kem.id(), self.aead.id()].map(u16::to_be_bytes);
        [self.key_id, kem[0], kem[1], 0, 1, aead[0], aead[1]]
    }

    /// `None`: algorithms that we don't have.
    pub(crate) fn decode(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [key_id, kem @ .., kdf0, kdf1, aead0, aead1] = bytes;
        if [kdf0, kdf1] != [0, 1] {
            return None;
        }
        Some(Self {
            key_id,
            kem: Kem::from_id(u16::from_be_bytes(kem))?,
            aead: Aead::from_id(u16::from_be_bytes([aead0, aead1]))?,
        })
    }

    /// The `info` of the HPKE context.
    pub(crate) fn info(self) -> Vec<u8> {
        [REQUEST_LABEL.as_bytes(), &[0], &self.encode()].concat()
    }

    /// `None`: the source of randomness failed.
    pub(crate) fn hpke(self) -> Option<Hpke<HpkeRustCrypto>> {
        hpke(self.kem, self.aead)
    }
}

pub(crate) fn hpke(kem: Kem, aead: Aead) -> Option<Hpke<HpkeRustCrypto>> {
    let kdf = KdfAlgorithm::HkdfSha256;
    Hpke::try_new(Mode::Base, kem.algorithm(), kdf, aead.algorithm()).ok()
}
