//! Handles and their inboxes: for those who are no contacts yet. Nobody is added to anything before
//! having agreed.

mod handle;
mod records;
mod request;
mod requests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;

pub use self::handle::{DeleteHandle, LookupHandle, RegisterHandle};
pub use self::request::RequestConnection;
pub use self::requests::{DeleteFromInbox, ReadInbox};
