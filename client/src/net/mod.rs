//! The way to the services: what is sent, to whom, and what comes back.

pub(crate) mod allowance;
pub(crate) mod clock;
pub(crate) mod directory;
pub(crate) mod feed;
pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod key_config;
pub(crate) mod streams;
pub(crate) mod transport;
pub(crate) mod trust;
pub(crate) mod waits;
