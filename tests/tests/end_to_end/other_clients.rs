//! Clients that are not ours, through relay and gateway as processes: the `ohttp` and `bhttp`
//! crates. What clients in other languages sent is in the gateway's tests; `docs/rfc9458.md` says
//! which.

use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bhttp::{Message, Mode};
use end_to_end::{LogLevel, Service, Stack};
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use ohttp::ClientRequest;
use protocol::directory::Directory;

const KEMS: [u16; 3] = [0x647a, 0x0020, 0x0010];
const AES_128_GCM: u8 = 1;
const CHACHA20_POLY1305: u8 = 3;

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

struct OtherClient {
    http: reqwest::Client,
    relay: String,
    ds: String,
    /// In the order of the list.
    configs: Vec<Vec<u8>>,
}

impl OtherClient {
    async fn of(stack: &Stack) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let relay = format!("http://{}/", stack.ports().of(Service::Relay));
        let list = http.get(format!("{relay}ohttp-keys")).send().await.unwrap();
        let list = list.bytes().await.unwrap();
        let mut rest = &list[..];
        let mut configs = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (config, next) = after.split_at(u16::from_be_bytes(*length).into());
            configs.push(config.to_vec());
            rest = next;
        }
        Self {
            http,
            relay,
            ds: stack.ports().of(Service::Ds).to_string(),
            configs,
        }
    }

    /// The configuration of a KEM with one suite: the crate takes the first of them otherwise.
    fn config(&self, kem: u16, aead: u8) -> Vec<u8> {
        let mut configs = self.configs.iter();
        let config = configs.find(|config| config[1..3] == kem.to_be_bytes());
        let config = config.expect("every KEM is offered");
        [&config[..config.len() - 10], &[0, 4, 0, 1, 0, aead]].concat()
    }

    fn request(&self, mode: Mode, is_padded: bool) -> Vec<u8> {
        let mut message = Message::request(
            b"GET".to_vec(),
            b"http".to_vec(),
            self.ds.clone().into_bytes(),
            b"/v1/directory".to_vec(),
        );
        #[allow(
            clippy::disallowed_methods,
            reason = "the services' clock is the real one"
        )]
        let now = std::time::SystemTime::now();
        message.put_header("date", httpdate::fmt_http_date(now));
        let mut encoded = Vec::new();
        message.write_bhttp(mode, &mut encoded).unwrap();
        if is_padded {
            encoded.resize(1024, 0);
        }
        encoded
    }

    async fn post(&self, media_type: &str, body: Vec<u8>) -> Vec<u8> {
        let request = self
            .http
            .post(&self.relay)
            .header("content-type", media_type);
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().to_vec()
    }
}

fn check(opened: &[u8]) {
    let message = Message::read_bhttp(&mut Cursor::new(opened)).unwrap();
    assert_eq!(message.control().status().unwrap().code(), 200);
    let directory: Directory = serde_json::from_slice(message.content()).unwrap();
    assert_eq!(directory.domain, "ds.localhost");
}

#[tokio::test]
async fn the_ohttp_crate_is_answered_with_every_kem_aead_form_and_padding() {
    let stack = Stack::start(LogLevel::Info).await;
    let client = OtherClient::of(&stack).await;
    assert_eq!(client.configs.len(), KEMS.len());
    for kem in KEMS {
        for aead in [AES_128_GCM, CHACHA20_POLY1305] {
            for mode in [Mode::KnownLength, Mode::IndeterminateLength] {
                for is_padded in [false, true] {
                    let config = client.config(kem, aead);
                    let request = ClientRequest::from_encoded_config(&config).unwrap();
                    let inner = client.request(mode, is_padded);
                    let (sealed, response) = request.encapsulate(&inner).unwrap();
                    let answer = client.post("message/ohttp-req", sealed).await;
                    check(&response.decapsulate(&answer).unwrap());

                    let request = ClientRequest::from_encoded_config(&config).unwrap();
                    let written = Collected::default();
                    let mut chunks = request.encapsulate_stream(written.clone()).unwrap();
                    chunks.write_all(&inner).await.unwrap();
                    chunks.close().await.unwrap();
                    let sealed = written.0.lock().unwrap().clone();
                    let answer = client.post("message/ohttp-chunked-req", sealed).await;
                    // The crate panics on a response in chunks with the other AEAD.
                    if aead == AES_128_GCM {
                        let mut opened = Vec::new();
                        let mut reader = chunks.response(&answer[..]).unwrap();
                        reader.read_to_end(&mut opened).await.unwrap();
                        check(&opened);
                    }
                }
            }
        }
    }
}
