//! Against the `ohttp` crate, which has the same algorithms from another HPKE library. Everything
//! is there at once here: it takes a pause inside of a chunk's length for the final chunk, and its
//! client panics on a response that is sealed with ChaCha20-Poly1305.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use oblivious::chunked::{RequestDecoder, RequestEncoder};
use oblivious::{Aead, Kem, Key};
use ohttp::{ClientRequest, KeyConfig, Server, SymmetricSuite, hpke};

const SEED: [u8; 32] = [7; 32];
const KEMS: [(Kem, hpke::Kem); 3] = [
    (Kem::X25519, hpke::Kem::X25519Sha256),
    (Kem::P256, hpke::Kem::P256Sha256),
    (Kem::XWing, hpke::Kem::XWing),
];
const AEADS: [(Aead, hpke::Aead); 2] = [
    (Aead::Aes128Gcm, hpke::Aead::Aes128Gcm),
    (Aead::ChaCha20Poly1305, hpke::Aead::ChaCha20Poly1305),
];

/// Collects what is written.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Collected {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Collected {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn config(kem: hpke::Kem, aead: hpke::Aead) -> KeyConfig {
    let suite = SymmetricSuite::new(hpke::Kdf::HkdfSha256, aead);
    KeyConfig::derive(3, kem, vec![suite], &SEED).unwrap()
}

fn text(len: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(len).collect()
}

#[test]
fn both_derive_the_same_key_pair_from_a_seed() {
    for (kem, its_kem) in KEMS {
        let key = Key::derive(3, kem, &SEED).unwrap();
        let encoded = config(its_kem, hpke::Aead::Aes128Gcm).encode().unwrap();
        // One suite there, two here.
        let public = |config: &[u8], suites: usize| config[..config.len() - suites].to_vec();
        assert_eq!(public(key.config(), 10), public(&encoded, 6), "{kem:?}");
    }
}

#[test]
fn its_gateway_opens_our_requests_and_our_client_its_responses() {
    for (kem, its_kem) in KEMS {
        for (aead, its_aead) in AEADS {
            let key = Key::derive(3, kem, &SEED).unwrap();
            let mut encoder = RequestEncoder::new(key.public(), aead).unwrap();
            let mut encapsulated = Vec::new();
            encoder.push(&text(20_000), &mut encapsulated).unwrap();
            encoder.push(b"!", &mut encapsulated).unwrap();
            let mut decoder = encoder.finish(b"end", &mut encapsulated).unwrap();

            let server = Server::new(config(its_kem, its_aead)).unwrap();
            let mut request = server.decapsulate_stream(&encapsulated[..]);
            let mut opened = Vec::new();
            now(request.read_to_end(&mut opened)).unwrap();
            assert_eq!(opened, [&text(20_000)[..], b"!end"].concat());

            let written = Collected::default();
            let mut response = request.response(written.clone()).unwrap();
            now(response.write_all(&text(50_000))).unwrap();
            now(response.close()).unwrap();
            let mut answered = Vec::new();
            decoder.push(&written.bytes(), &mut answered).unwrap();
            decoder.finish(&mut answered).unwrap();
            assert_eq!(answered, text(50_000), "{kem:?} {aead:?}");
        }
    }
}

#[test]
fn our_gateway_opens_its_requests_and_its_client_our_responses() {
    for (kem, its_kem) in KEMS {
        for (aead, its_aead) in AEADS {
            let mut config = config(its_kem, its_aead);
            let client = ClientRequest::from_config(&mut config).unwrap();
            let written = Collected::default();
            let mut request = client.encapsulate_stream(written.clone()).unwrap();
            now(request.write_all(&text(40_000))).unwrap();
            now(request.close()).unwrap();

            let key = Key::derive(3, kem, &SEED).unwrap();
            let mut decoder = RequestDecoder::new(&key);
            let mut opened = Vec::new();
            decoder.push(&written.bytes(), &mut opened).unwrap();
            let mut response = decoder.finish(&mut opened).unwrap().response;
            assert_eq!(opened, text(40_000), "{kem:?} {aead:?}");

            if aead == Aead::ChaCha20Poly1305 {
                continue;
            }
            let mut encapsulated = Vec::new();
            response.push(b"first", &mut encapsulated).unwrap();
            response.push(&text(30_000), &mut encapsulated).unwrap();
            response.finish(b"last", &mut encapsulated).unwrap();
            let mut answered = Vec::new();
            let mut reader = request.response(&encapsulated[..]).unwrap();
            now(reader.read_to_end(&mut answered)).unwrap();
            assert_eq!(answered, [b"first", &text(30_000)[..], b"last"].concat());
        }
    }
}
