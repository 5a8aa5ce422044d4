//! Handles and their inboxes: for those who are no contacts yet. Nobody is added to anything before
//! having agreed.

mod handle;
mod records;
mod request;
mod requests;

pub use self::handle::{DeleteHandle, LookupHandle, RegisterHandle};
pub use self::request::RequestConnection;
pub use self::requests::{DeleteFromInbox, ReadInbox};
