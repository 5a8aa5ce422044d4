//! Ids that applications keep: they stay what they are when names change. As text they are
//! base64url without padding.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::UsageError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(
            /// Its bytes.
            pub [u8; $length],
        );

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl FromStr for $name {
            type Err = UsageError;

            fn from_str(text: &str) -> Result<Self, UsageError> {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok();
                bytes
                    .and_then(|bytes| Some(Self(bytes.try_into().ok()?)))
                    .ok_or(UsageError::InvalidId)
            }
        }

        impl TryFrom<String> for $name {
            type Error = UsageError;

            fn try_from(text: String) -> Result<Self, UsageError> {
                text.parse()
            }
        }
    };
}

id! {
    /// A message (draft-ietf-mimi-content §3.3): a hash over it, its sender and its group. It is
    /// the same for everybody who reads the message, and nobody else can tell it.
    MessageId, 32
}

id! {
    /// A user, as this device has authenticated it: the user's public identity key. It is the same
    /// in all groups, and no service sees it.
    UserId, 32
}

id! {
    /// A group: the same on every device.
    GroupId, 16
}

/// A group: by its id, which never changes, or by the name that it has on this device when the call
/// begins. Others can rename it: an application that acts on what it has shown takes the id. A text
/// that is written like an id is one, and no group has such a name here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupRef {
    /// The same on every device.
    Id(GroupId),
    /// As [`Client::groups`](crate::Client::groups) shows it.
    Name(String),
}

impl From<GroupId> for GroupRef {
    fn from(id: GroupId) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for GroupRef {
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(id) => Self::Id(id),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

impl From<&String> for GroupRef {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<protocol::ids::GroupId> for GroupRef {
    fn from(id: protocol::ids::GroupId) -> Self {
        Self::Id(id.into())
    }
}

impl UserId {
    pub(crate) fn of(signature_key: &[u8]) -> Option<Self> {
        signature_key.try_into().ok().map(Self)
    }
}

impl From<protocol::ids::GroupId> for GroupId {
    fn from(id: protocol::ids::GroupId) -> Self {
        Self(id.0)
    }
}

impl From<GroupId> for protocol::ids::GroupId {
    fn from(id: GroupId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_written_like_the_id_of_a_group_is_that_and_any_other_is_a_name() {
        let id = GroupId([7; 16]);
        assert_eq!(GroupRef::from(&id.to_string()), GroupRef::Id(id));
        for name in ["team", "", " BwcHBwcHBwcHBwcHBwcHBw"] {
            assert_eq!(GroupRef::from(name), GroupRef::Name(name.to_owned()));
        }
    }

    #[test]
    fn an_id_is_read_from_what_it_is_written_as_and_from_nothing_else() {
        let id = MessageId([0xfb; 32]);
        let text = id.to_string();
        assert_eq!(text.parse::<MessageId>().unwrap(), id);
        assert_eq!(text.parse::<GroupId>(), Err(UsageError::InvalidId));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<MessageId>(&json).unwrap(), id);
        for wrong in ["", "=", &format!("{text}="), "%%"] {
            assert!(wrong.parse::<MessageId>().is_err(), "{wrong}");
        }
    }
}
