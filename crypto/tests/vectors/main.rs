//! The vectors of derivations, seals, signatures and hashes, for whoever writes a client. What a
//! vector says is computed once more by the formulas of the documents, with other libraries.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod derivations;
mod hashes;
mod seals;
mod signatures;

use std::collections::BTreeMap;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use crypto::blob::{
    BlobCapability, BlobCipher, BlobContentKey, BlobWriteKey, CHUNK_CONTENT, ChunkPlace,
    NONCE_PREFIX,
};
use crypto::connection::{self, ConnectionOffer};
use crypto::credential::{self, PseudonymousCredential, PseudonymousCredentialTbs};
use crypto::hpke::{self, HpkeKeyPair};
use crypto::journal::{self, End, HeadSigner};
use crypto::keys::{ConnectionKey, IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::leaf_authorization::{AuthorizedJoin, authorize};
use crypto::reporting::{self as certificates, OwnCertificate};
use crypto::schedule::*;
use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use crypto::sign::{self, LeafKeyPair, Scheme, SignatureKeyPair, sign_content};
use crypto::{feed, kdf, records, safety_number};
use hkdf::Hkdf;
use presentation::{Structures, hex, unhex, vectors};
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, ConnectionRequest, ConnectionResponse};
use protocol::feed::{FeedTickTbs, Resolution, Tag, code};
use protocol::group::{JOIN_CODE_LABEL, JoinCode};
use protocol::ids::*;
use protocol::journal::{Class, EntryContent, Event};
use protocol::padding::{bucket, padme};
use protocol::reporting::{
    AbuseReport, CERTIFICATE_LABEL, Occasion, Padded, ReportReason, ReportingCertificate,
};
use protocol::{WIRE_VERSION, Wire};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const GROUP: GroupId = GroupId([1; 16]);
const SEGMENT: SegmentId = SegmentId([2; 32]);

type Vectors = BTreeMap<String, Vec<Value>>;

fn add(made: &mut Vectors, section: &str, vector: Value) {
    made.entry(section.to_owned()).or_default().push(vector);
}

fn signer() -> SignatureKeyPair {
    SignatureKeyPair::from_seed(&Secret::new([3; 32]))
}

fn real() -> ClientCredential {
    ClientCredential {
        name: opaque(*b"alice"),
        signature_public_key: opaque(signer().public()),
    }
}

/// RFC 5869 with the info of the documents.
fn hkdf(salt: Option<&[u8]>, secret: &[u8], name: &str, context: &[u8], output: &mut [u8]) {
    let info = [b"MIMIMI 1.0 ", name.as_bytes(), &[0], context].concat();
    Hkdf::<Sha256>::new(salt, secret)
        .expand(&info, output)
        .unwrap();
}
