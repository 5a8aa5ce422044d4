//! KeyPackage pools: the service hands out what it cannot read, each set once.

mod claim;
mod owned;
mod pool;
mod publish;

pub use self::claim::ClaimKeyPackages;
pub use self::owned::{CountKeyPackages, DeleteKeyPackages};
pub use self::publish::PublishKeyPackages;
