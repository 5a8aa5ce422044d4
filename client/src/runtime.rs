//! What the SDK runs in: tasks, timers, and what goes on beside the application. Natively that is a
//! thread of its own with a runtime of its own; in a browser, the event loop of a worker.

#[cfg(target_arch = "wasm32")]
mod browser;
#[cfg(not(target_arch = "wasm32"))]
mod native;

#[cfg(target_arch = "wasm32")]
pub(crate) use browser::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
