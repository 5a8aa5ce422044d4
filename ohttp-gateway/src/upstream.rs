//! The gateway's side towards the delivery service.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use service::body::{BodyError, read_at_most};
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GATEWAY_CHALLENGE};
use service::mirror::{Document, Fetched};
use service::outgoing::{Pool, PoolSettings, Running};
use service::tls::{ClientTls, ClientTlsSettings};

use crate::GatewayError;
use crate::binary_http::{InnerRequest, InnerResponse};
use crate::config::Config;
use crate::problems::Failure;

/// What of a request reaches the delivery service; a field may occur several times.
const REQUEST_FIELDS: [HeaderName; 3] = [AUTHORIZATION, CONTENT_TYPE, ACCEPT];
/// What of a response reaches the client.
const RESPONSE_FIELDS: [HeaderName; 4] =
    [CONTENT_TYPE, WWW_AUTHENTICATE, RETRY_AFTER, CACHE_CONTROL];

/// To all targets.
pub(crate) struct Upstream {
    pools: Vec<(Uri, Pool<Full<Bytes>>)>,
    tls: Arc<ClientTls>,
    gateway_authorization: HeaderValue,
    patience: Duration,
    max_response_bytes: usize,
}

impl Upstream {
    pub(crate) fn new(
        config: &Config,
        bases: impl Iterator<Item = Uri>,
        gateway_authorization: HeaderValue,
    ) -> Result<Self, GatewayError> {
        let tls = ClientTls::load(&ClientTlsSettings {
            ca_file: config.target_ca_file.clone(),
            ..ClientTlsSettings::default()
        });
        let tls = tls.map_err(GatewayError::Authorities)?;
        let settings = PoolSettings {
            addresses: Vec::new(),
            http: config.target_http,
            connect: Duration::from_secs(config.connect_seconds),
            idle_connections: config.idle_connections,
            http2_connections: config.http2_connections,
        };
        let pool = |base: Uri| {
            let pool = Pool::new(&settings, &base, &tls);
            (base, pool)
        };
        Ok(Self {
            pools: bases.map(pool).collect(),
            tls,
            gateway_authorization,
            patience: Duration::from_secs(config.forward_seconds),
            max_response_bytes: config.max_response_bytes,
        })
    }

    pub(crate) fn tls(&self) -> Arc<ClientTls> {
        Arc::clone(&self.tls)
    }

    /// Asks the delivery service at `url`, in the gateway's name.
    pub(crate) async fn forward(
        &self,
        request: InnerRequest,
        url: Uri,
    ) -> Result<InnerResponse, Failure> {
        let exchange = async {
            let (response, _by) = self.send(request, url, false).await?;
            self.read_response(response).await
        };
        tokio::time::timeout(self.patience, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    /// The same, but an answer of unknown length is handed over with its content still to come.
    pub(crate) async fn begin(&self, request: InnerRequest, url: Uri) -> Result<Begun, Failure> {
        let exchange = async {
            let (response, by) = self.send(request, url, true).await?;
            if response.body().size_hint().exact().is_some() {
                return self.read_response(response).await.map(Begun::Whole);
            }
            let (status, fields) = read_head(&response)?;
            Ok(Begun::Stream(Streamed {
                status,
                fields,
                content: response.into_body(),
                by,
            }))
        };
        tokio::time::timeout(self.patience, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    /// A public document of the delivery service. `None`: it does not show it now.
    pub(crate) async fn document(&self, url: Uri, document: &Document) -> Option<Fetched> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = url;
        let (response, _by) = self.exchange(request, false).await.ok()?;
        document.read(response).await
    }

    async fn send(
        &self,
        request: InnerRequest,
        url: Uri,
        is_stream: bool,
    ) -> Result<(Response<Incoming>, Running), Failure> {
        let mut outer = Request::new(Full::new(request.content));
        *outer.method_mut() = request.method;
        *outer.uri_mut() = url;
        *outer.headers_mut() = pick(&request.fields, &REQUEST_FIELDS);
        self.exchange(outer, is_stream).await
    }

    /// In the gateway's name.
    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        is_stream: bool,
    ) -> Result<(Response<Incoming>, Running), Failure> {
        let headers = request.headers_mut();
        headers.insert(GATEWAY_AUTHORIZATION, self.gateway_authorization.clone());
        let to = request.uri();
        let pool = self
            .pools
            .iter()
            .find(|(base, _)| base.scheme() == to.scheme() && base.authority() == to.authority());
        let (_, pool) = pool.ok_or(Failure::Unreachable)?;
        let by = pool.take(is_stream).ok_or(Failure::Busy)?;
        let answer = pool.send(&by, request).await;
        answer
            .map(|response| (response, by))
            .map_err(|_| Failure::Unreachable)
    }

    async fn read_response(&self, response: Response<Incoming>) -> Result<InnerResponse, Failure> {
        let (status, fields) = read_head(&response)?;
        let content = read_at_most(response.into_body(), self.max_response_bytes)
            .await
            .map_err(|error| match error {
                BodyError::TooLong => Failure::BadAnswer,
                BodyError::Broken(_) => Failure::Unreachable,
            })?;
        Ok(InnerResponse {
            status,
            fields,
            content,
        })
    }
}

/// An answer of the delivery service.
pub(crate) enum Begun {
    Whole(InnerResponse),
    Stream(Streamed),
}

/// An answer whose content is still to come.
pub(crate) struct Streamed {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) content: Incoming,
    pub(crate) by: Running,
}

fn read_head<B>(response: &Response<B>) -> Result<(StatusCode, HeaderMap), Failure> {
    let status = response.status();
    if status.is_redirection() || status.is_informational() || status.as_u16() > 599 {
        tracing::warn!("the delivery service gave an answer that is not passed on");
        return Err(Failure::BadAnswer);
    }
    if status == StatusCode::UNAUTHORIZED && is_meant_for_us(response) {
        tracing::error!("the delivery service does not accept the gateway secret");
        return Err(Failure::BadAnswer);
    }
    Ok((status, pick(response.headers(), &RESPONSE_FIELDS)))
}

fn is_meant_for_us<B>(response: &Response<B>) -> bool {
    response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(|challenge| challenge.as_bytes() == GATEWAY_CHALLENGE.as_bytes())
}

fn pick(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in names {
        for value in from.get_all(name) {
            picked.append(name.clone(), value.clone());
        }
    }
    picked
}
