//! With `fetch`: TLS, authorities and connections are the browser's. Nothing is sent along: no
//! cookies, no referrer, and nothing comes out of a cache.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use js_sys::{Array, Reflect, Uint8Array};
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, Headers, ReadableStreamDefaultReader, ReferrerPolicy, Request, RequestCache,
    RequestCredentials, RequestInit, RequestMode, RequestRedirect, WorkerGlobalScope,
};

use super::Body;
use crate::endpoints::Endpoints;
use crate::error::UsageError;
use crate::runtime;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Error {
    url: String,
    reason: String,
    is_timeout: bool,
}

impl Error {
    fn of(url: &str, thrown: &JsValue) -> Self {
        let message = Reflect::get(thrown, &"message".into()).ok();
        let message = message.and_then(|message| message.as_string());
        Self {
            url: url.to_owned(),
            reason: message.unwrap_or_else(|| "the browser does not say why".to_owned()),
            is_timeout: false,
        }
    }

    pub(crate) fn is_timeout(&self) -> bool {
        self.is_timeout
    }

    /// A browser does not tell how far it came.
    pub(crate) fn is_connect(&self) -> bool {
        !self.is_timeout
    }

    pub(crate) fn url(&self) -> Option<&str> {
        Some(&self.url)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

/// A way to the services.
#[derive(Clone)]
pub(crate) struct Client {
    attempt: Duration,
}

/// As its native counterpart. The browser chooses its connections itself.
///
/// # Errors
/// [`UsageError::InvalidStack`] where the endpoints choose authorities: a browser lets no page do
/// so.
pub(crate) fn client(
    endpoints: &Endpoints,
    attempt: Duration,
    _: bool,
    _: bool,
) -> Result<Client, crate::error::Error> {
    if endpoints.authorities.is_some() {
        return Err(UsageError::InvalidStack("a browser chooses the authorities itself").into());
    }
    Ok(Client { attempt })
}

impl Client {
    pub(crate) fn get(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request("GET", url.as_ref())
    }

    pub(crate) fn post(&self, url: impl AsRef<str>) -> RequestBuilder {
        self.request("POST", url.as_ref())
    }

    fn request(&self, method: &'static str, url: &str) -> RequestBuilder {
        RequestBuilder {
            method,
            url: url.to_owned(),
            headers: Vec::new(),
            body: None,
            timeout: self.attempt,
        }
    }
}

/// A request that is being made.
pub(crate) struct RequestBuilder {
    method: &'static str,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    timeout: Duration,
}

impl RequestBuilder {
    pub(crate) fn header(mut self, name: impl ToString, value: impl ToString) -> Self {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// For the answer with its body.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) async fn send(self) -> Result<Response, Error> {
        let Self {
            method,
            url,
            headers,
            body,
            timeout,
        } = self;
        let failed = |thrown: JsValue| Error::of(&url, &thrown);
        let abort = Abort(AbortController::new().map_err(failed)?);
        let init = RequestInit::new();
        init.set_method(method);
        init.set_mode(RequestMode::Cors);
        init.set_credentials(RequestCredentials::Omit);
        init.set_cache(RequestCache::NoStore);
        // It would lead an encapsulated request elsewhere.
        init.set_redirect(RequestRedirect::Error);
        init.set_referrer_policy(ReferrerPolicy::NoReferrer);
        init.set_signal(Some(&abort.0.signal()));
        if let Some(body) = body {
            init.set_body(&Uint8Array::from(body.as_slice()));
        }
        let given = Headers::new().map_err(failed)?;
        for (name, value) in &headers {
            given.append(name, value).map_err(failed)?;
        }
        init.set_headers(&given);
        let request = Request::new_with_str_and_init(&url, &init).map_err(failed)?;
        let worker: WorkerGlobalScope = js_sys::global().unchecked_into();
        let fetched = JsFuture::from(worker.fetch_with_request(&request));
        let mut timer = runtime::sleep(timeout);
        let Some(fetched) = before(&mut timer, fetched).await else {
            return Err(Error {
                url,
                reason: "no answer came in time".to_owned(),
                is_timeout: true,
            });
        };
        let answer: web_sys::Response = fetched.map_err(failed)?.unchecked_into();
        let body = answer.body().map(|body| body.get_reader().unchecked_into());
        Ok(Response {
            status: StatusCode::from_u16(answer.status()).unwrap_or_default(),
            headers: headers_of(&answer.headers()),
            body,
            reading: None,
            timer,
            url,
            _abort: abort,
        })
    }
}

/// None if the timer rings before.
async fn before<T>(timer: &mut runtime::Sleep, work: impl Future<Output = T>) -> Option<T> {
    let work = std::pin::pin!(work);
    match futures::future::select(work, timer).await {
        futures::future::Either::Left((done, _)) => Some(done),
        futures::future::Either::Right(_) => None,
    }
}

/// Of what the browser shows of them.
fn headers_of(shown: &Headers) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for entry in shown.entries().into_iter().flatten() {
        let entry: Array = entry.unchecked_into();
        let part = |at| -> Option<String> { entry.get(at).as_string() };
        let (name, value) = (part(0), part(1));
        let name = name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whoever waits no more for an answer wants none.
struct Abort(AbortController);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body comes in pieces.
pub(crate) struct Response {
    status: StatusCode,
    headers: HeaderMap,
    /// None: there is none, or it was read to its end.
    body: Option<ReadableStreamDefaultReader>,
    /// A read that was begun, and that nobody has waited for to its end.
    reading: Option<JsFuture>,
    /// Rings when all must be over.
    timer: runtime::Sleep,
    url: String,
    _abort: Abort,
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// As the service says it.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.headers
            .get("content-length")?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// The next piece of the body; nothing at its end. A future that is dropped takes none away.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(body) = &self.body else {
            return Ok(None);
        };
        let reading = self.reading.get_or_insert_with(|| body.read().into());
        let Some(read) = before(&mut self.timer, reading).await else {
            return Err(Error {
                url: self.url.clone(),
                reason: "the answer did not end in time".to_owned(),
                is_timeout: true,
            });
        };
        self.reading = None;
        let read = read.map_err(|thrown| Error::of(&self.url, &thrown))?;
        let member = |name: &str| Reflect::get(&read, &name.into()).unwrap_or_default();
        if member("done").is_truthy() {
            self.body = None;
            return Ok(None);
        }
        let piece: Uint8Array = member("value").unchecked_into();
        Ok(Some(piece.to_vec()))
    }
}

pub(crate) async fn bounded_body(mut response: Response, limit: usize) -> Body {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => return Body::Whole(body),
            Err(_) => return Body::Broken,
        }
        if body.len() > limit {
            return Body::TooLong;
        }
    }
}
