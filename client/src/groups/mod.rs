//! What is said in groups, and what waits to be sent there.

pub(crate) mod message;
pub(crate) mod outbox;
