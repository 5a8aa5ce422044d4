//! What talks to the MLS library: groups, commits, ways in, and the rules that they obey.

pub(crate) mod authenticate;
pub(crate) mod beginning;
pub(crate) mod changes;
pub(crate) mod claimed;
pub(crate) mod commit;
pub(crate) mod contact;
pub(crate) mod content;
pub(crate) mod create;
pub(crate) mod entry;
pub(crate) mod external;
pub(crate) mod further;
pub(crate) mod join;
pub(crate) mod new_leaf;
pub(crate) mod parts;
pub(crate) mod people;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod profile;
pub(crate) mod proposals;
pub(crate) mod removals;
pub(crate) mod returned;
pub(crate) mod rows;
pub(crate) mod settings;
pub(crate) mod unreadable;
pub(crate) mod welcomes;
