//! What benches of messages have in common: a thread's own time, medians, and the bare work of MLS.

use std::time::Duration;

use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, MlsGroup, MlsGroupCreateConfig,
    MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProtocolMessage,
    StagedWelcome,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use rustix::time::{ClockId, clock_gettime};
use tls_codec::DeserializeBytes as _;

/// Processor time of this thread.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    at(&mut figures, 50)
}

/// The least figure that so many percent are not above.
pub(crate) fn at(figures: &mut [f64], percent: usize) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[(figures.len() * percent / 100).min(figures.len() - 1)]
}

/// The median of calls, µs of this thread.
pub(crate) fn each(calls: usize, mut call: impl FnMut()) -> f64 {
    let times = (0..calls).map(|_| {
        let began = thread_time();
        call();
        (thread_time() - began).as_secs_f64() * 1e6
    });
    median(times.collect())
}

/// Two members with their secrets in memory: to encrypt, to decrypt, and a message.
pub(crate) fn mls(text: &[u8]) -> (f64, f64, Vec<u8>) {
    const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
    let [alice, bob] = [(); 2].map(|()| OpenMlsRustCrypto::default());
    let [alices, bobs] = [(); 2].map(|()| {
        let key = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
        let credential = CredentialWithKey {
            credential: BasicCredential::new(b"member".to_vec()).into(),
            signature_key: key.public().into(),
        };
        (key, credential)
    });
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .use_ratchet_tree_extension(true)
        .build();
    let mut sending = MlsGroup::new(&alice, &alices.0, &config, alices.1).unwrap();
    let package = KeyPackage::builder()
        .build(SUITE, &bob, &bobs.0, bobs.1)
        .unwrap();
    let added = [package.key_package().clone()];
    let (_, welcome, _) = sending.add_members(&alice, &alices.0, &added).unwrap();
    sending.merge_pending_commit(&alice).unwrap();
    let read = |message: MlsMessageOut| {
        MlsMessageIn::tls_deserialize_exact_bytes(&message.to_bytes().unwrap()).unwrap()
    };
    let MlsMessageBodyIn::Welcome(welcome) = read(welcome).extract() else {
        panic!("a Welcome");
    };
    let joining = MlsGroupJoinConfig::default();
    let mut receiving = StagedWelcome::new_from_welcome(&bob, &joining, welcome, None)
        .and_then(|welcome| welcome.into_group(&bob))
        .unwrap();
    let mut messages = Vec::new();
    let encrypt = each(500, || {
        let message = sending.create_message(&alice, &alices.0, text).unwrap();
        messages.push(message);
    });
    let bytes = messages[0].to_bytes().unwrap();
    let mut messages = messages.into_iter();
    let decrypt = each(500, || {
        let message = read(messages.next().unwrap());
        let message: ProtocolMessage = message.try_into_protocol_message().unwrap();
        receiving.process_message(&bob, message).unwrap();
    });
    (encrypt, decrypt, bytes)
}
