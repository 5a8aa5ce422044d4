//! The delivery service: orders handshake messages, validates them as a member would, fans messages
//! out into queues and helps joiners, while everything at rest is sealed.
//!
//! Domain modules decide; they know neither HTTP (`http`) nor an engine (`store`).

pub mod config;
pub mod connections;
pub mod error;
pub mod expiry_day;
pub mod groups;
pub mod http;
mod init;
pub mod issuer_directory;
pub mod key_packages;
pub mod limits;
pub mod load;
pub mod queues;
pub mod request;
pub mod results;
pub mod run;
pub mod service_state;
pub mod store;
pub mod tokens;

pub use error::DsError;
pub use init::{command, init};
pub use run::run;
pub use service_state::DeliveryService;
