//! What a ciphersuite costs a client: bytes and this thread's time of KeyPackages, Welcomes,
//! commits and recovery rows, with X25519 and with X-Wing. The MLS library's part alone, with
//! secrets in memory; credentials of ours are some 400 bytes longer.
//!
//! `cargo bench --workspace --bench suites`. `MEMBERS` are the sizes of groups. All are added by
//! one commit, so that a commit is sealed to each leaf by itself: the largest that there is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark"
)]

#[allow(dead_code, reason = "another bench needs more of it")]
mod bare;

use bare::each;
use crypto::hpke::{self, HpkeKeyPair, Kem};
use crypto::secret::Secret;
use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, LeafNodeParameters, MlsGroup,
    MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut,
    ProtocolMessage, StagedWelcome,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::{DeserializeBytes as _, Size as _};

const SUITES: [(&str, Ciphersuite); 2] = [
    (
        "X25519",
        Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    ),
    (
        "X-Wing",
        Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
    ),
];
/// Of what a recovery row seals.
const ROW: [u8; 100] = [7; 100];

struct Member {
    provider: OpenMlsRustCrypto,
    key: SignatureKeyPair,
    credential: CredentialWithKey,
}

impl Member {
    fn new(suite: Ciphersuite) -> Self {
        let key = SignatureKeyPair::new(suite.signature_algorithm()).unwrap();
        let credential = CredentialWithKey {
            credential: BasicCredential::new(b"member".to_vec()).into(),
            signature_key: key.public().into(),
        };
        Self {
            provider: OpenMlsRustCrypto::default(),
            key,
            credential,
        }
    }

    fn package(&self, suite: Ciphersuite) -> KeyPackage {
        KeyPackage::builder()
            .build(suite, &self.provider, &self.key, self.credential.clone())
            .unwrap()
            .key_package()
            .clone()
    }
}

fn row(what: &str, bytes: usize, us: f64) {
    println!("{what:<56} {bytes:>9} bytes {us:>10.0} us");
}

fn read(message: &MlsMessageOut) -> MlsMessageIn {
    MlsMessageIn::tls_deserialize_exact_bytes(&message.to_bytes().unwrap()).unwrap()
}

fn main() {
    let sizes = std::env::var("MEMBERS").unwrap_or_else(|_| "2,10,100,400".to_owned());
    for (name, suite) in SUITES {
        alone(name, suite);
        for members in sizes.split(',').map(|size| size.parse().unwrap()) {
            commits(name, suite, members);
        }
    }
}

fn alone(name: &str, suite: Ciphersuite) {
    let member = Member::new(suite);
    let bytes = member.package(suite).tls_serialized_len();
    let us = each(100, || drop(member.package(suite)));
    row(&format!("{name}: KeyPackage, make"), bytes, us);
    let kem = Kem::of_ciphersuite(suite.into()).unwrap();
    let pair = HpkeKeyPair::derive(kem, &Secret::new([1; 32])).unwrap();
    let us = each(200, || {
        drop(HpkeKeyPair::derive(kem, &Secret::new([1; 32])))
    });
    row(
        &format!("{name}: key pair, derive"),
        pair.public().len(),
        us,
    );
    let seal = || hpke::seal_with(kem, pair.public(), "info", b"aad", &ROW).unwrap();
    let sealed = seal();
    row(
        &format!("{name}: recovery row, seal"),
        sealed.len(),
        each(200, || drop(seal())),
    );
    let us = each(200, || {
        drop(hpke::open(&pair, "info", b"aad", &sealed).unwrap())
    });
    row(&format!("{name}: recovery row, open"), sealed.len(), us);
}

fn commits(name: &str, suite: Ciphersuite, members: usize) {
    let (alice, bob) = (Member::new(suite), Member::new(suite));
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(suite)
        .use_ratchet_tree_extension(false)
        .build();
    let credential = alice.credential.clone();
    let mut group = MlsGroup::new(&alice.provider, &alice.key, &config, credential).unwrap();
    let mut packages = vec![bob.package(suite)];
    packages.extend((2..members).map(|_| Member::new(suite).package(suite)));
    let (_, welcome, _) = group
        .add_members(&alice.provider, &alice.key, &packages)
        .unwrap();
    group.merge_pending_commit(&alice.provider).unwrap();
    let all = welcome.tls_serialized_len();
    row(
        &format!("{name}, n = {members}: Welcome, a joiner's part"),
        all / (members - 1),
        0.0,
    );
    let tree = group.export_ratchet_tree();
    row(
        &format!("{name}, n = {members}: tree"),
        tree.tls_serialized_len(),
        0.0,
    );
    let MlsMessageBodyIn::Welcome(welcome) = read(&welcome).extract() else {
        return;
    };
    let joining = MlsGroupJoinConfig::default();
    let mut bobs =
        StagedWelcome::new_from_welcome(&bob.provider, &joining, welcome, Some(tree.into()))
            .and_then(|welcome| welcome.into_group(&bob.provider))
            .unwrap();
    let (mut made, mut bytes) = (Vec::new(), 0);
    let rounds = 7;
    let commit = each(rounds, || {
        let update = LeafNodeParameters::default();
        let bundle = group
            .self_update(&alice.provider, &alice.key, update)
            .unwrap();
        bytes = bundle.commit().tls_serialized_len();
        made.push(bundle.commit().clone());
        group.merge_pending_commit(&alice.provider).unwrap();
    });
    row(
        &format!("{name}, n = {members}: commit with a path, make"),
        bytes,
        commit,
    );
    let mut made = made.into_iter();
    let process = each(rounds, || {
        let message = read(&made.next().unwrap());
        let message: ProtocolMessage = message.try_into_protocol_message().unwrap();
        let processed = bobs.process_message(&bob.provider, message).unwrap();
        if let openmls::prelude::ProcessedMessageContent::StagedCommitMessage(staged) =
            processed.into_content()
        {
            bobs.merge_staged_commit(&bob.provider, *staged).unwrap();
        }
    });
    row(
        &format!("{name}, n = {members}: commit with a path, read"),
        bytes,
        process,
    );
}
