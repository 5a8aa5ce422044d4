//! Groups. Each request opens the sealed state with the key that it brings, acts, seals what
//! changes; nothing that was opened outlives it.
//!
//! ```text
//! short      under the state key: epoch, entry key, data key, versions of the rest
//! roster     in pages of 64 leaves ┐
//! control    commits, codes, waits │
//! marks      nine bytes for a leaf ├ under the data key, which is new in each segment
//! tree       openmls' public group │
//! changes    of the tree, since   │
//! proposals  what is pending       ┘
//! ```

mod attempt;
mod checks;
pub mod commit;
mod control;
pub mod create;
mod decide;
pub mod external;
pub mod extras;
pub mod handles;
pub mod inspect;
#[cfg(any(test, feature = "conformance"))]
#[cfg_attr(not(test), allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod kit;
#[cfg(feature = "conformance")]
pub mod laid_open;
mod marks;
pub mod member;
pub mod message;
pub mod open;
mod parts;
mod proposals;
pub mod propose;
pub mod records;
mod removals;
mod roster;
#[cfg(any(test, feature = "conformance"))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
pub mod scenes;
pub mod short;
mod sizes;
mod splices;
mod state;
mod succession;
mod tree;

pub use self::member::Member;
pub use self::open::OpenedGroup;

/// Epochs that a message may lag behind, within a segment; and that a winner who lost the answer
/// may.
pub const MESSAGE_LAG: u64 = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;
