//! KeyPackage pools: the service hands out what it cannot read, each set once.

mod claim;
mod owned;
mod pool;
mod publish;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;

pub use self::claim::ClaimKeyPackages;
pub use self::owned::{CountKeyPackages, DeleteKeyPackages};
pub use self::publish::PublishKeyPackages;
