//! The gateway's side towards the delivery service.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::{Client, Response, Url};
use service::body::{BodyError, read_at_most};
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GATEWAY_CHALLENGE};
use service::mirror::{Document, Fetched};

use crate::GatewayError;
use crate::binary_http::{InnerRequest, InnerResponse};
use crate::config::Config;
use crate::problems::Failure;

/// What of a request reaches the delivery service; a field may occur several times.
const REQUEST_FIELDS: [HeaderName; 3] = [AUTHORIZATION, CONTENT_TYPE, ACCEPT];
/// What of a response reaches the client.
const RESPONSE_FIELDS: [HeaderName; 4] =
    [CONTENT_TYPE, WWW_AUTHENTICATE, RETRY_AFTER, CACHE_CONTROL];
/// Less than the idle time of the delivery service's listener, so that no request meets a closing
/// connection.
const IDLE: Duration = Duration::from_secs(15);
pub(crate) struct Upstream {
    client: Client,
    gateway_authorization: HeaderValue,
    exchange: Duration,
    max_response_bytes: usize,
}

impl Upstream {
    pub(crate) fn new(
        config: &Config,
        gateway_authorization: HeaderValue,
    ) -> Result<Self, GatewayError> {
        let builder = Client::builder()
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(config.connect_seconds))
            .pool_max_idle_per_host(config.idle_connections)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true);
        let authorities = service::tls::private_authorities(config.target_ca_file.as_deref())
            .map_err(GatewayError::Authorities)?;
        let builder = match authorities {
            Some(authorities) => authorities.iter().try_fold(
                builder.tls_built_in_root_certs(false),
                |builder, authority| {
                    Ok(builder.add_root_certificate(reqwest::Certificate::from_der(authority)?))
                },
            ),
            None => Ok(builder),
        };
        let client = builder
            .and_then(reqwest::ClientBuilder::build)
            .map_err(GatewayError::Client)?;
        Ok(Self {
            client,
            gateway_authorization,
            exchange: Duration::from_secs(config.forward_seconds),
            max_response_bytes: config.max_response_bytes,
        })
    }

    /// Asks the delivery service at `url`, in the gateway's name.
    pub(crate) async fn forward(
        &self,
        request: InnerRequest,
        url: Url,
    ) -> Result<InnerResponse, Failure> {
        let exchange = async { self.read_response(self.send(request, url).await?).await };
        tokio::time::timeout(self.exchange, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    /// The same, but an answer of unknown length is handed over with its content still to come.
    pub(crate) async fn begin(&self, request: InnerRequest, url: Url) -> Result<Begun, Failure> {
        let exchange = async {
            let response = self.send(request, url).await?;
            if response.content_length().is_some() {
                return self.read_response(response).await.map(Begun::Whole);
            }
            let (status, fields) = read_head(&response)?;
            Ok(Begun::Stream(Streamed {
                status,
                fields,
                content: response,
            }))
        };
        tokio::time::timeout(self.exchange, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    /// A public document of the delivery service. `None`: it does not show it now.
    pub(crate) async fn document(&self, url: Url, document: &Document) -> Option<Fetched> {
        let request = self.client.get(url);
        let sent = request
            .header(GATEWAY_AUTHORIZATION, self.gateway_authorization.clone())
            .send();
        document.read(sent.await.ok()?.into()).await
    }

    async fn send(&self, request: InnerRequest, url: Url) -> Result<Response, Failure> {
        let mut fields = pick(&request.fields, &REQUEST_FIELDS);
        fields.insert(GATEWAY_AUTHORIZATION, self.gateway_authorization.clone());
        self.client
            .request(request.method, url)
            .headers(fields)
            .body(request.content)
            .send()
            .await
            .map_err(|error| failure(&error))
    }

    async fn read_response(&self, response: Response) -> Result<InnerResponse, Failure> {
        let (status, fields) = read_head(&response)?;
        let body = http::Response::from(response).into_body();
        let content =
            read_at_most(body, self.max_response_bytes)
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
    content: Response,
}

impl Streamed {
    /// The next piece of the content. `None`: that was all.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        self.content.chunk().await.map_err(|error| failure(&error))
    }
}

fn read_head(response: &Response) -> Result<(StatusCode, HeaderMap), Failure> {
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

fn is_meant_for_us(response: &Response) -> bool {
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

/// The error's own text holds the URL and is not used.
fn failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        Failure::Timeout
    } else {
        Failure::Unreachable
    }
}
