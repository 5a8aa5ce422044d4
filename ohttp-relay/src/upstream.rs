//! The relay's side towards a gateway.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use service::addresses::AddressPlace;
use service::body::{BodyError, read_at_most};
use service::feed::Asked;
use service::gateway_auth::{GatewaySecret, RELAY_AUTHORIZATION};
use service::mirror::{DIRECTORY, Document, FEED, Fetched, KEYS};
use service::outgoing::{NoAnswer, Pool, PoolSettings, Running, beside};
use service::problem::PROBLEM_JSON;
use service::tls::ClientTls;
use service::{Problem, Shutdown};
use tokio::sync::Semaphore;

use crate::answer::{
    self, Answer, Bounds, DATE_PROBLEM, INCREMENTAL, IS_INCREMENTAL, Live, OHTTP_CHUNKED_RES,
    OHTTP_KEY_PROBLEM, OHTTP_RES,
};
use crate::config::{Config, GatewaySettings};
use crate::request::Upload;
use crate::slots::{Slot, Slots};
use crate::{Form, OHTTP_CHUNKED_REQ, OHTTP_REQ, RelayError};

/// A problem document that is longer than this is not looked at.
const MAX_PROBLEM_BYTES: usize = 4096;
type Outgoing = Either<Upload, Empty<Bytes>>;

pub(crate) struct Upstream {
    pool: Pool<Outgoing>,
    slots: Slots,
    gateway: Uri,
    keys: Uri,
    directory: Uri,
    /// Ticks are below it.
    feed: Uri,
    authorization: Option<HeaderValue>,
    forward: Duration,
    bounds: Bounds,
    tls: Arc<ClientTls>,
}

impl Upstream {
    pub(crate) fn new(
        settings: &GatewaySettings,
        config: &Config,
        shutdown: Shutdown,
    ) -> Result<Self, RelayError> {
        let gateway = gateway_uri(&settings.url)?;
        let keys = match &settings.keys_url {
            Some(url) => gateway_uri(url)?,
            None => beside(&gateway, KEYS.name).ok_or(RelayError::GatewayUrl)?,
        };
        let directory = beside(&gateway, DIRECTORY.name).ok_or(RelayError::GatewayUrl)?;
        let feed = match &settings.feed_url {
            Some(url) => gateway_uri(url)?,
            None => beside(&gateway, FEED.name).ok_or(RelayError::GatewayUrl)?,
        };
        let secret = settings
            .relay_secret_file
            .as_deref()
            .map(GatewaySecret::load_or_create)
            .transpose()?;
        let tls = ClientTls::load(&settings.tls)?;
        let pool = PoolSettings {
            addresses: settings.addresses.clone(),
            http: settings.http,
            connect: Duration::from_secs(config.connect_seconds),
            idle_connections: config.idle_connections,
            http2_connections: config.http2_connections,
        };
        Ok(Self {
            pool: Pool::new(&pool, &gateway, &tls),
            slots: Slots::new(config.max_requests),
            gateway,
            keys,
            directory,
            feed,
            authorization: secret.map(|secret| secret.header_value()),
            forward: Duration::from_secs(config.forward_seconds),
            bounds: Bounds {
                answer: Duration::from_secs(config.answer_seconds),
                stream: Duration::from_secs(config.stream_seconds),
                drain: Duration::from_secs(config.stream_drain_seconds),
                drains: Arc::new(Semaphore::new(config.max_requests / 4)),
                stream_idle: Duration::from_secs(config.stream_idle_seconds),
                max_bytes: config.max_response_bytes,
                shutdown,
                grace: config.grace(),
            },
            tls,
        })
    }

    pub(crate) fn tls(&self) -> Arc<ClientTls> {
        Arc::clone(&self.tls)
    }

    /// Sends a request. No user agent, no cookies, no `Accept`, no `Forwarded`, no length: the
    /// gateway gets the same head for every client, and only the body is the client's.
    async fn send(
        &self,
        by: &Running,
        method: Method,
        uri: &Uri,
        form: Option<Form>,
        body: Outgoing,
    ) -> Result<Response<Incoming>, &'static str> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        match form {
            Some(Form::Whole) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(OHTTP_REQ));
            }
            Some(Form::Chunked) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(OHTTP_CHUNKED_REQ));
                headers.insert(INCREMENTAL, IS_INCREMENTAL);
            }
            None => {}
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(RELAY_AUTHORIZATION, authorization.clone());
        }
        let answer = self.pool.send(by, request).await;
        answer.map_err(|no_answer| match no_answer {
            NoAnswer::Connect => "connect",
            NoAnswer::Broken => "broken",
        })
    }

    /// Passes `upload` to the gateway, and its answer back.
    pub(crate) async fn forward(
        &self,
        upload: Upload,
        form: Form,
        of_address: Option<AddressPlace>,
    ) -> Answer {
        let by = || self.pool.take(form == Form::Chunked);
        let Some(slot) = self.slots.take(by, of_address) else {
            return Answer::Busy;
        };
        let body = Either::Left(upload);
        let sent = self.send(&slot.by, Method::POST, &self.gateway, Some(form), body);
        let answered = tokio::time::timeout(self.forward, sent)
            .await
            .unwrap_or(Err("timeout"));
        let read = match answered {
            Ok(response) => self.read(response, form, slot).await,
            Err(reason) => Err(reason),
        };
        read.unwrap_or_else(Answer::Failed)
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        form: Form,
        slot: Slot,
    ) -> Result<Answer, &'static str> {
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            let expected = match form {
                Form::Whole => OHTTP_RES,
                Form::Chunked => OHTTP_CHUNKED_RES,
            };
            if !has_content_type(&head.headers, expected) {
                return Err("not_ohttp");
            }
            // What has a length is no stream: no client that takes nothing keeps its slot.
            if form == Form::Chunked && body.size_hint().exact().is_none() {
                return Ok(Answer::Live(Box::new(Live::new(body, &self.bounds, slot))));
            }
            return answer::read(body, form, &self.bounds, slot).await;
        }
        if !head.status.is_client_error() || !has_content_type(&head.headers, PROBLEM_JSON) {
            return Err("not_ohttp");
        }
        let read = read_at_most(body, MAX_PROBLEM_BYTES);
        let document = match tokio::time::timeout(self.bounds.answer, read).await {
            Ok(Ok(document)) => document,
            Ok(Err(BodyError::TooLong)) => return Err("too_large"),
            Ok(Err(BodyError::Broken(_))) => return Err("broken"),
            Err(_) => return Err("answer_timeout"),
        };
        match Problem::from_json(head.status, &document)
            .as_ref()
            .map(Problem::type_uri)
        {
            Some(OHTTP_KEY_PROBLEM) => Ok(Answer::KeyProblem),
            Some(DATE_PROBLEM) => Ok(Answer::DateProblem),
            _ => Err("refused"),
        }
    }

    /// The gateway's key configurations. `None`: it has none for us now.
    pub(crate) async fn key_configs(&self) -> Option<Fetched> {
        self.document(&self.keys, &KEYS).await
    }

    /// The directory of the service behind the gateway, which shows it beside its keys.
    pub(crate) async fn directory(&self) -> Option<Fetched> {
        self.document(&self.directory, &DIRECTORY).await
    }

    /// A part of the activity feed of that service.
    pub(crate) async fn feed(&self, asked: Asked) -> Option<Fetched> {
        let mut parts = self.feed.clone().into_parts();
        let path = format!(
            "{}/{}",
            self.feed.path().trim_end_matches('/'),
            asked.path()
        );
        parts.path_and_query = Some(path.parse().ok()?);
        let uri = Uri::from_parts(parts).ok()?;
        self.document(&uri, asked.document()).await
    }

    async fn document(&self, uri: &Uri, document: &Document) -> Option<Fetched> {
        let empty = Either::Right(Empty::new());
        let by = self.pool.take(false)?;
        let sent = self.send(&by, Method::GET, uri, None, empty);
        document.read(sent.await.ok()?).await
    }
}

fn gateway_uri(url: &str) -> Result<Uri, RelayError> {
    let uri: Uri = url.parse().map_err(|_| RelayError::GatewayUrl)?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_plain = uri
        .authority()
        .is_some_and(|authority| !authority.as_str().contains('@'));
    if is_http && is_plain && uri.query().is_none() {
        Ok(uri)
    } else {
        Err(RelayError::GatewayUrl)
    }
}

fn has_content_type(headers: &HeaderMap, expected: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_beside_the_gateway_unless_something_else_is_said() {
        let keys_of = |url: &str| {
            let uri = gateway_uri(url)?;
            Ok(beside(&uri, "ohttp-keys").unwrap().to_string())
        };
        assert_eq!(
            keys_of("https://g.example").unwrap(),
            "https://g.example/ohttp-keys"
        );
        assert_eq!(
            keys_of("https://g.example/").unwrap(),
            "https://g.example/ohttp-keys"
        );
        assert_eq!(
            keys_of("https://g.example/a/b").unwrap(),
            "https://g.example/a/ohttp-keys"
        );
        for url in [
            "g.example",
            "ftp://g.example/",
            "https://a@g.example/",
            "https://g.example/?a",
        ] {
            assert!(matches!(keys_of(url), Err(RelayError::GatewayUrl)), "{url}");
        }
    }
}
