//! The identifier game: what the best matcher links of what gateway and service see and store.

pub(crate) mod attribution;
pub(crate) mod fields;
mod later;
pub(crate) mod links;
pub(crate) mod matcher;
pub(crate) mod plants;
pub(crate) mod play;
mod slots;
