//! The start-up kit of every mimimi binary: configuration, tracing, metrics and the admin listener,
//! graceful shutdown, the HTTP server, connections to other operators, TLS, problem documents,
//! secret files, how a store is founded and recognised again ([`founding`], [`high_water`]), and
//! the clock.
//!
//! It knows nothing of messaging, so that the operator of the relay can audit it in one sitting.
//!
//! Two rules are enforced here rather than asked for: only our own crates can log ([`logging`]),
//! and what is observed of a request is its route template, its method and its status class
//! ([`http`]), never its URI or its peer, whose address no handler sees ([`addresses`]).

pub mod addresses;
mod admin;
pub mod alloc;
pub mod body;
pub mod bound_files;
pub mod config;
mod connection;
mod connector;
pub mod cors;
pub mod directory;
pub mod feed;
mod floods;
pub mod founding;
pub mod gateway_auth;
mod gathered;
pub mod high_water;
pub mod http;
mod limits;
pub mod logging;
pub mod mirror;
mod observe;
pub mod outgoing;
pub mod outward;
pub mod probe;
pub mod problem;
mod process;
mod proxy;
pub mod rate;
mod room;
pub mod secret_file;
pub mod shutdown;
pub mod sparse;
pub mod start;
pub mod stream_limits;
mod taking;
pub mod tls;
mod uploads;

pub use basis::{Clock, MovedClock, SharedClock, SystemClock};
pub use basis::{clock, hex, http_date};
pub use problem::Problem;
pub use shutdown::{Shutdown, ShutdownTrigger};
