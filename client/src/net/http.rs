//! HTTP. Natively it is done here, with TLS; in a browser, the browser does it.

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(not(target_arch = "wasm32"))]
mod tls;

#[cfg(target_arch = "wasm32")]
pub(crate) use browser::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;

/// A body as far as it was read.
pub(crate) enum Body {
    Whole(Vec<u8>),
    Broken,
    TooLong,
}
