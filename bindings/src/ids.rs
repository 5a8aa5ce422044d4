//! Ids: texts in other languages.

pub use client::{GroupId, MessageId, UserId};

use crate::error::ClientError;

uniffi::custom_type!(
    /// A group: the same on every device.
    GroupId,
    String,
    {
        remote,
        try_lift: |text| Ok(text.parse().map_err(ClientError::from)?),
        lower: |id| id.to_string(),
    }
);

uniffi::custom_type!(
    /// A message: the same for everybody who reads it.
    MessageId,
    String,
    {
        remote,
        try_lift: |text| Ok(text.parse().map_err(ClientError::from)?),
        lower: |id| id.to_string(),
    }
);

uniffi::custom_type!(
    /// A user, as this device has authenticated it: the same in all groups, and no service sees it.
    UserId,
    String,
    {
        remote,
        try_lift: |text| Ok(text.parse().map_err(ClientError::from)?),
        lower: |id| id.to_string(),
    }
);
