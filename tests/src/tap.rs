//! A listener between the gateway and the delivery service: keeps everything that the service is
//! told and says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Where the gateway is sent to, and what passed.
#[derive(Clone)]
pub struct Tap {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let tap = Self {
            address: listener.local_addr().expect("an address"),
            target: Arc::default(),
            heard: Arc::default(),
        };
        let this = tap.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let target = *this.target.lock().expect("a lock");
                let target = target.expect("the stack is starting");
                let Ok(onward) = TcpStream::connect(target).await else {
                    continue;
                };
                let (from, to) = (stream.into_split(), onward.into_split());
                tokio::spawn(this.clone().pass(from.0, to.1));
                tokio::spawn(this.clone().pass(to.0, from.1));
            }
        });
        tap
    }

    async fn pass(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let passed = &buffer[..length];
            self.heard.lock().expect("a lock").extend_from_slice(passed);
            if to.write_all(passed).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().expect("a lock") = Some(target);
    }

    /// Everything, in both directions.
    #[must_use]
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().expect("a lock").clone()
    }
}
