//! What a group says of itself: name, description and picture, the same for all of its members.

use protocol::Wire as _;
use protocol::codec::opaque;
use serde::{Deserialize, Serialize};
use tls_codec::{DeserializeBytes as _, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::encoding::base64url;
use crate::error::UsageError;
use crate::ids::GroupId;
use crate::text::{self, is_control_but_line};

/// Longest description of a group in bytes.
pub const MAX_DESCRIPTION: usize = 1_024;
/// Largest picture of a group in bytes.
pub const MAX_PICTURE: usize = 4_096;
/// Longest media type of a picture in bytes.
const MAX_MEDIA_TYPE: usize = 64;
/// Longest name of a group in bytes.
pub(crate) const MAX_NAME: usize = 256;
/// A profile has one of these sizes.
const SIZES: [usize; 3] = [256, 1_024, 6_144];

/// A small picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Picture {
    /// Its media type, `image/` and something.
    pub media_type: String,
    /// The image, at most [`MAX_PICTURE`] bytes. Others choose it: decode it as what a stranger
    /// sends.
    #[serde(with = "base64url")]
    pub image: Vec<u8>,
}

/// What a group says of itself. Its members agree on it, as on roles, and the service cannot read
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupProfile {
    /// Its name; empty if none was agreed on.
    pub name: String,
    /// What it is about, at most [`MAX_DESCRIPTION`] bytes; may have several lines.
    pub description: String,
    /// What it is shown by.
    pub picture: Option<Picture>,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct GroupProfileContent {
    name: VLBytes,
    description: VLBytes,
    media_type: VLBytes,
    image: VLBytes,
}

/// A name as a user wants it, in its one form. None is written like an id, which means another
/// group.
///
/// # Errors
/// [`UsageError::InvalidGroupName`].
pub(crate) fn chosen_name(wanted: &str) -> Result<String, UsageError> {
    text::chosen(wanted, MAX_NAME)
        .filter(|name| name.parse::<GroupId>().is_err())
        .ok_or(UsageError::InvalidGroupName)
}

impl GroupProfile {
    /// With a name, and nothing else: fill in the rest.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// As a user wants it, with the name in its one form.
    ///
    /// # Errors
    /// [`UsageError::InvalidGroupName`], [`UsageError::InvalidGroupProfile`].
    pub(crate) fn chosen(mut self) -> Result<Self, UsageError> {
        if !self.name.is_empty() {
            self.name = chosen_name(&self.name)?;
        }
        let picture = self.picture.as_ref();
        let is_sound = self.description.len() <= MAX_DESCRIPTION
            && !self.description.chars().any(is_control_but_line)
            && picture.is_none_or(Picture::is_sound);
        is_sound
            .then_some(self)
            .ok_or(UsageError::InvalidGroupProfile)
    }

    /// In one of a few sizes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        if *self == Self::default() {
            return Vec::new();
        }
        let picture = self.picture.as_ref();
        let content = GroupProfileContent {
            name: opaque(self.name.as_bytes()),
            description: opaque(self.description.as_bytes()),
            media_type: opaque(picture.map_or(&b""[..], |it| it.media_type.as_bytes())),
            image: opaque(picture.map_or(&b""[..], |it| it.image.as_slice())),
        };
        let mut encoded = content.encode();
        let size = SIZES.into_iter().find(|size| *size >= encoded.len());
        encoded.resize(size.unwrap_or(encoded.len()), 0);
        encoded
    }

    /// As a member has set it: what does not fit is cut or left out. `None` for what is no profile.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, zeros) = GroupProfileContent::tls_deserialize_bytes(bytes).ok()?;
        let is_padded = zeros.iter().all(|byte| *byte == 0);
        let text = |bytes: &VLBytes| String::from_utf8(bytes.as_slice().to_vec()).ok();
        let picture = Picture {
            media_type: text(&content.media_type)?,
            image: content.image.into(),
        };
        let description = text(&content.description)?;
        let is_fit =
            description.len() <= MAX_DESCRIPTION && !description.chars().any(is_control_but_line);
        is_padded.then_some(Self {
            name: text::received(&text(&content.name)?, MAX_NAME),
            description: if is_fit { description } else { String::new() },
            picture: picture.is_sound().then_some(picture),
        })
    }
}

impl Picture {
    /// An image in this media type.
    #[must_use]
    pub fn new(media_type: impl Into<String>, image: Vec<u8>) -> Self {
        Self {
            media_type: media_type.into(),
            image,
        }
    }

    fn is_sound(&self) -> bool {
        let kind = self.media_type.strip_prefix("image/");
        let is_token = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '+' | '-');
        kind.is_some_and(|kind| !kind.is_empty() && kind.chars().all(is_token))
            && self.media_type.len() <= MAX_MEDIA_TYPE
            && (1..=MAX_PICTURE).contains(&self.image.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn profile() -> GroupProfile {
        GroupProfile {
            name: "garden".to_owned(),
            description: "Roses,\nand whatever else grows".to_owned(),
            picture: Some(Picture {
                media_type: "image/webp".to_owned(),
                image: vec![7; MAX_PICTURE],
            }),
        }
    }

    #[test]
    fn a_profile_is_read_as_it_was_written_and_has_few_sizes() {
        let mut sizes = Vec::new();
        let longest = GroupProfile {
            name: "é".repeat(MAX_NAME / 2),
            description: "d".repeat(MAX_DESCRIPTION),
            ..profile()
        };
        let short = GroupProfile {
            picture: None,
            ..profile()
        };
        let shorter = GroupProfile {
            description: String::new(),
            ..short.clone()
        };
        for profile in [profile(), longest, short, shorter] {
            let profile = profile.chosen().unwrap();
            let encoded = profile.encode();
            assert_eq!(GroupProfile::decode(&encoded), Some(profile));
            sizes.push(encoded.len());
        }
        assert_eq!(sizes, [6_144, 6_144, 256, 256]);
        assert!(GroupProfile::default().encode().is_empty());
    }

    #[test]
    fn what_a_user_may_not_choose_is_refused_and_what_a_member_sets_is_shown_without_it() {
        let invalid = Err(UsageError::InvalidGroupProfile);
        let with = |change: fn(&mut GroupProfile)| {
            let mut profile = profile();
            change(&mut profile);
            profile
        };
        let long = with(|it| it.description = "d".repeat(MAX_DESCRIPTION + 1));
        let acting = with(|it| it.description = "\u{1b}[2J".to_owned());
        let no_image = |it: &mut GroupProfile| {
            it.picture.as_mut().unwrap().media_type = "text/html".to_owned();
        };
        let (no_image, large) = (
            with(no_image),
            with(|it| it.picture.as_mut().unwrap().image.push(7)),
        );
        for profile in [&long, &acting] {
            assert_eq!(profile.clone().chosen(), invalid);
            let shown = GroupProfile::decode(&profile.encode()).unwrap();
            assert_eq!(shown.description, "");
            assert!(shown.picture.is_some());
        }
        for profile in [&no_image, &large] {
            assert_eq!(profile.clone().chosen(), invalid);
            let shown = GroupProfile::decode(&profile.encode()).unwrap();
            assert_eq!(shown.picture, None);
        }
        let hidden = with(|it| it.name = "gar\u{202e}den".to_owned());
        assert_eq!(hidden.clone().chosen(), Err(UsageError::InvalidGroupName));
        let shown = GroupProfile::decode(&hidden.encode()).unwrap();
        assert_eq!(shown.name, "garden");
        let mut as_id = profile();
        as_id.name = crate::ids::GroupId([9; 16]).to_string();
        assert_eq!(as_id.chosen(), Err(UsageError::InvalidGroupName));
        let mut damaged = profile().encode();
        damaged.pop();
        damaged.push(1);
        assert_eq!(GroupProfile::decode(&damaged), None);
        assert_eq!(GroupProfile::decode(b"\xff"), None);
    }
}
