//! The relay's side towards its gateway.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use reqwest::{Client, Response, Url};
use service::gateway_auth::{GatewaySecret, RELAY_AUTHORIZATION};
use service::problem::PROBLEM_JSON;

use crate::config::Config;
use crate::{DATE_PROBLEM, OHTTP_KEY_PROBLEM, OHTTP_REQ, OHTTP_RES, RelayError, keys};

/// A problem document that is longer than this is not looked at.
const MAX_PROBLEM_BYTES: usize = 4096;
/// 255 key configurations of the longest kind would fit.
const MAX_KEYS_BYTES: usize = 512 * 1024;
/// Key configurations are there at once or not at all.
const KEYS_EXCHANGE: Duration = Duration::from_secs(10);
/// Less than the idle time of our gateway's listener, so that no request meets a closing
/// connection.
const IDLE: Duration = Duration::from_secs(15);

/// What came of a request.
pub(crate) enum Answer {
    /// The encapsulated response.
    Encapsulated(Bytes),
    KeyProblem,
    DateProblem,
    /// Anything else, with a reason for the metrics.
    Failed(&'static str),
}

impl Answer {
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Encapsulated(_) => "encapsulated",
            Self::KeyProblem => "key_problem",
            Self::DateProblem => "date_problem",
            Self::Failed(reason) => reason,
        }
    }
}

pub(crate) struct Upstream {
    client: Client,
    gateway: Url,
    keys: Url,
    exchange: Duration,
    max_response_bytes: usize,
}

impl Upstream {
    pub(crate) fn new(config: &Config) -> Result<Self, RelayError> {
        let gateway = Url::parse(&config.gateway).map_err(|_| RelayError::GatewayUrl)?;
        if !matches!(gateway.scheme(), "http" | "https") {
            return Err(RelayError::GatewayUrl);
        }
        let keys = gateway
            .join("ohttp-keys")
            .map_err(|_| RelayError::GatewayUrl)?;
        let secret = config
            .relay_secret_file
            .as_deref()
            .map(GatewaySecret::load_or_create)
            .transpose()?;
        // The same for every client.
        let own_headers = secret
            .iter()
            .map(|secret| (RELAY_AUTHORIZATION, secret.header_value()))
            .collect();
        // No user agent, no cookies, no proxy from the environment, no referer: the gateway gets
        // the same header set for every client.
        let client = Client::builder()
            .http1_only()
            .default_headers(own_headers)
            .no_proxy()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(config.connect_seconds))
            .pool_max_idle_per_host(config.idle_connections)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .build()
            .map_err(|_| RelayError::Client)?;
        Ok(Self {
            client,
            gateway,
            keys,
            exchange: Duration::from_secs(config.forward_seconds),
            max_response_bytes: config.max_response_bytes,
        })
    }

    /// Sends `request` to the gateway. Only the body and its media type go along.
    pub(crate) async fn forward(&self, request: Bytes) -> Answer {
        let exchange = async {
            let response = self
                .client
                .post(self.gateway.clone())
                .header(CONTENT_TYPE, OHTTP_REQ)
                .body(request)
                .send()
                .await
                .map_err(|error| failure(&error))?;
            self.read_answer(response).await
        };
        match tokio::time::timeout(self.exchange, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => Answer::Failed(reason),
            Err(_) => Answer::Failed("timeout"),
        }
    }

    async fn read_answer(&self, response: Response) -> Result<Answer, &'static str> {
        let status = response.status();
        if status == StatusCode::OK && has_content_type(&response, OHTTP_RES) {
            let body = read_at_most(response, self.max_response_bytes).await?;
            return Ok(Answer::Encapsulated(body));
        }
        if status.is_client_error() && has_content_type(&response, PROBLEM_JSON) {
            let document = read_at_most(response, MAX_PROBLEM_BYTES).await?;
            return match service::Problem::from_json(status, &document)
                .as_ref()
                .map(service::Problem::type_uri)
            {
                Some(OHTTP_KEY_PROBLEM) => Ok(Answer::KeyProblem),
                Some(DATE_PROBLEM) => Ok(Answer::DateProblem),
                _ => Err("refused"),
            };
        }
        Err("not_ohttp")
    }

    /// The gateway's key configurations and for how many seconds they may be kept. `None`: it has
    /// none for us now.
    pub(crate) async fn key_configs(&self) -> Option<(Bytes, u64)> {
        let exchange = async {
            let response = self.client.get(self.keys.clone()).send().await.ok()?;
            if response.status() != StatusCode::OK || !has_content_type(&response, keys::OHTTP_KEYS)
            {
                return None;
            }
            let max_age = response
                .headers()
                .get(CACHE_CONTROL)
                .and_then(|value| value.to_str().ok())
                .map_or(keys::DEFAULT_MAX_AGE, keys::max_age);
            Some((read_at_most(response, MAX_KEYS_BYTES).await.ok()?, max_age))
        };
        tokio::time::timeout(KEYS_EXCHANGE, exchange).await.ok()?
    }
}

/// A failure as a metric label: the error's own text holds the URL and is not used.
fn failure(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "connect"
    } else if error.is_timeout() {
        "timeout"
    } else {
        "broken"
    }
}

fn has_content_type(response: &Response, expected: &str) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
}

async fn read_at_most(mut response: Response, limit: usize) -> Result<Bytes, &'static str> {
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err("too_large");
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        if body.len() + chunk.len() > limit {
            return Err("too_large");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
