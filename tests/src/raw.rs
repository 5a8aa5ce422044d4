//! Requests that no client makes: by hand, through relay and gateway or past them.

use std::io::Cursor;
use std::path::Path;

use bhttp::{Message, Mode};
use crypto::hpke::HpkeKeyPair;
use crypto::schedule::recovery_row_id;
use crypto::secret::Secret;
use protocol::ids::{GroupId, RecoveryRowId};
use protocol::operation::Operation;
use xtask::stack::Service;

use crate::device::database;
use crate::stack::Stack;

/// What is put inside the encapsulation.
pub struct Envelope<'a> {
    /// `host:port` of the target.
    pub authority: String,
    /// Path at the target.
    pub path: &'a str,
    pub body: &'a [u8],
}

/// What came out of the encapsulation.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names and values, `date` left out.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The last part of the problem's type.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let document: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let kind = document["type"].as_str()?;
        kind.rsplit(['/', ':', '#']).next().map(str::to_owned)
    }
}

/// The row by which the client in a home directory would come back into a group of the usual
/// ciphersuite.
#[must_use]
pub fn recovery_row_of(home: &Path, group: &str) -> RecoveryRowId {
    let database = database(home);
    let query = "SELECT group_id, recovery_seed FROM groups WHERE name = ?";
    let (id, seed): ([u8; 16], [u8; 32]) = database
        .query_row(query, [group], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a group");
    let key = HpkeKeyPair::from_seed(&Secret::new(seed)).expect("a key");
    recovery_row_id(&GroupId(id), key.public())
}

/// The connection group that somebody was asked into last, by the client in a home directory.
#[must_use]
pub fn asked_into(home: &Path) -> GroupId {
    let database = database(home);
    let query = "SELECT group_id FROM outgoing_requests ORDER BY rowid DESC LIMIT 1";
    let id = database.query_row(query, (), |row| row.get(0));
    GroupId(id.expect("a request"))
}

/// A plain HTTP client of a stack.
pub struct Outer {
    http: reqwest::Client,
    relay: String,
    keys: Vec<u8>,
    ds: String,
}

impl Outer {
    /// Fetches the gateway's key configuration through the relay.
    pub async fn of(stack: &Stack) -> Self {
        let relay = format!("http://{}", stack.ports().of(Service::Relay));
        Self::at(stack, &relay).await
    }

    /// As [`Outer::of`], with what stands at this URL in the relay's place.
    pub async fn at(stack: &Stack, relay: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        let relay = format!("{relay}/");
        let list = http
            .get(format!("{relay}ohttp-keys"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(list.status().as_u16(), 200);
        let list = list.bytes().await.expect("a body");
        // RFC 9458 §3.2: each configuration after its length.
        let length = usize::from(u16::from_be_bytes([list[0], list[1]]));
        Self {
            http,
            relay,
            keys: list[2..2 + length].to_vec(),
            ds: stack.ports().of(Service::Ds).to_string(),
        }
    }

    /// The plain client.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Posts an operation's request to the delivery service.
    pub async fn post(&self, operation: Operation, request: &[u8]) -> Answer {
        self.exchange(&Envelope {
            authority: self.ds.clone(),
            path: operation.path(),
            body: request,
        })
        .await
    }

    /// Through relay and gateway.
    pub async fn exchange(&self, envelope: &Envelope<'_>) -> Answer {
        self.exchange_with(envelope, &[]).await
    }

    /// Posts an operation's request with these inner header fields.
    pub async fn post_with(
        &self,
        operation: Operation,
        request: &[u8],
        fields: &[(&str, &str)],
    ) -> Answer {
        let envelope = Envelope {
            authority: self.ds.clone(),
            path: operation.path(),
            body: request,
        };
        self.exchange_with(&envelope, fields).await
    }

    async fn exchange_with(&self, envelope: &Envelope<'_>, fields: &[(&str, &str)]) -> Answer {
        let mut message = Message::request(
            b"POST".to_vec(),
            b"http".to_vec(),
            envelope.authority.clone().into_bytes(),
            envelope.path.as_bytes().to_vec(),
        );
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        message.put_header("date", date);
        message.put_header("content-type", protocol::REQUEST_MEDIA_TYPE);
        for (name, value) in fields {
            message.put_header(*name, *value);
        }
        message.write_content(envelope.body);
        let mut encoded = Vec::new();
        message
            .write_bhttp(Mode::KnownLength, &mut encoded)
            .expect("binary HTTP");
        let request =
            ohttp::ClientRequest::from_encoded_config(&self.keys).expect("a configuration");
        let (encapsulated, response) = request.encapsulate(&encoded).expect("an encapsulation");
        let answer = self
            .http
            .post(&self.relay)
            .header("content-type", "message/ohttp-req")
            .body(encapsulated)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        let body = answer.bytes().await.expect("a body");
        let opened = response.decapsulate(&body).expect("an answer that opens");
        let message = Message::read_bhttp(&mut Cursor::new(&opened)).expect("binary HTTP");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.header().iter();
        Answer {
            status: message.control().status().expect("a status").code(),
            headers: headers
                .map(|field| (text(field.name()), text(field.value())))
                .filter(|(name, _)| name != "date")
                .collect(),
            body: message.content().to_vec(),
        }
    }
}
