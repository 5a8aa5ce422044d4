//! With hyper and rustls.

use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
pub(crate) use reqwest::{Client, Error, RequestBuilder, Response};

use super::Body;
use super::tls;
use crate::endpoints::Endpoints;
use crate::error::LocalError;

/// A way to the services of these endpoints, of which an attempt may take so long. `keeps_none`: no
/// connection is used twice, and whoever is asked knows none again.
pub(crate) fn client(
    endpoints: &Endpoints,
    attempt: Duration,
    is_loopback: bool,
    keeps_none: bool,
) -> Result<Client, crate::error::Error> {
    // A redirect would lead an encapsulated request elsewhere; and a stack on loopback is never
    // behind a proxy, whatever the environment says.
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .timeout(attempt);
    if is_loopback {
        builder = builder.no_proxy();
    }
    if keeps_none {
        builder = builder.pool_max_idle_per_host(0);
    }
    tls::apply(builder, endpoints)?
        .build()
        .map_err(|_| LocalError::Http.into())
}

pub(crate) async fn bounded_body(response: Response, limit: usize) -> Body {
    let body = http::Response::from(response).into_body();
    match Limited::new(body, limit).collect().await {
        Ok(read) => Body::Whole(read.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Body::TooLong,
        Err(_) => Body::Broken,
    }
}
