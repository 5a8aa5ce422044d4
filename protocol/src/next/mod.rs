//! The wire protocol with journals, which takes the place of queues: being built beside it until every
//! operation has moved (`docs/journals.md`).

pub mod directory;
pub mod group;
pub mod ids;
pub mod inbox;
pub mod join;
pub mod journal;
pub mod key_packages;
pub mod operation;
pub mod removal;
pub mod request;
pub mod welcome;
