//! The devices of one user.
//!
//! They share the identity key, the connection key and what others know the user by; each has its
//! own leaves and KeyPackages. What one learns it tells the others through a group that only they
//! are in (`GroupKind::SingleUser`). Every device brings the others into the groups that it is in.

pub(crate) mod exchange;
mod invitations;
pub(crate) mod link;
mod remove;

pub use link::LinkCode;
