//! Bodies of messages (draft-ietf-mimi-content §4.4 and §4.5).

use crate::cbor::{Reader, Writer};
use crate::error::ContentError;
use crate::{MAX_DEPTH, MAX_PARTS};

const NULL: u8 = 0;
const SINGLE: u8 = 1;
const EXTERNAL: u8 = 2;
const MULTI: u8 = 3;

/// What a part is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disposition {
    /// No hint.
    Unspecified,
    /// To be shown as the reader likes.
    #[default]
    Render,
    /// A reaction to another message.
    Reaction,
    /// The profile of somebody or of a room.
    Profile,
    /// To be shown in the conversation.
    Inline,
    /// An icon or avatar.
    Icon,
    /// To be fetched by the reader.
    Attachment,
    /// A session to be joined.
    Session,
    /// A preview of something, made by the sender.
    Preview,
    /// 9 to 255: to be treated as [`Disposition::Render`].
    Unknown(u8),
}

impl Disposition {
    const KNOWN: [Self; 9] = [
        Self::Unspecified,
        Self::Render,
        Self::Reaction,
        Self::Profile,
        Self::Inline,
        Self::Icon,
        Self::Attachment,
        Self::Session,
        Self::Preview,
    ];

    fn of(number: u8) -> Self {
        let known = Self::KNOWN.get(usize::from(number));
        known.copied().unwrap_or(Self::Unknown(number))
    }

    fn number(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::Render => 1,
            Self::Reaction => 2,
            Self::Profile => 3,
            Self::Inline => 4,
            Self::Icon => 5,
            Self::Attachment => 6,
            Self::Session => 7,
            Self::Preview => 8,
            Self::Unknown(number) => number,
        }
    }
}

/// How the parts of a part belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantics {
    /// The reader picks one of them.
    ChooseOne,
    /// All of them or none.
    SingleUnit,
    /// Each by itself.
    ProcessAll,
}

/// A body, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedPart {
    /// What it is meant for.
    pub disposition: Disposition,
    /// Empty, or language tags (RFC 5646) with commas between them.
    pub language: String,
    /// What it is.
    pub part: Part,
}

/// What a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Nothing: what it replaces is deleted or taken back.
    Null,
    /// Bytes of a media type.
    Single {
        /// A media type with its parameters.
        content_type: String,
        /// The bytes.
        content: Vec<u8>,
    },
    /// Something elsewhere.
    External(Box<ExternalPart>),
    /// Two parts or more.
    Multi {
        /// How they belong together.
        semantics: Semantics,
        /// The parts.
        parts: Vec<NestedPart>,
    },
}

/// Something that lies elsewhere, encrypted if it is private.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ExternalPart {
    /// A media type with its parameters.
    pub content_type: String,
    /// Where it can be fetched.
    pub url: String,
    /// Until when: seconds since 1970; 0 for no end.
    pub expires: u32,
    /// Its length in bytes; 0 if it is not said.
    pub size: u64,
    /// IANA's number of the AEAD algorithm; 0 for none.
    pub encryption: u16,
    /// Key of the AEAD algorithm.
    pub key: Vec<u8>,
    /// Nonce of the AEAD algorithm.
    pub nonce: Vec<u8>,
    /// Additional authenticated data.
    pub aad: Vec<u8>,
    /// Number of the hash algorithm (named information); 0 for none.
    pub hash_algorithm: u8,
    /// Hash of what lies at the URL.
    pub content_hash: Vec<u8>,
    /// What it is, in words.
    pub description: String,
    /// How a file of it may be called.
    pub filename: String,
}

/// Its key opens what it points to: neither is shown.
impl std::fmt::Debug for ExternalPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            content_type,
            url: _,
            expires,
            size,
            encryption,
            key: _,
            nonce: _,
            aad: _,
            hash_algorithm,
            content_hash: _,
            description: _,
            filename: _,
        } = self;
        f.debug_struct("ExternalPart")
            .field("content_type", content_type)
            .field("expires", expires)
            .field("size", size)
            .field("encryption", encryption)
            .field("hash_algorithm", hash_algorithm)
            .finish_non_exhaustive()
    }
}

impl NestedPart {
    /// Bytes of a media type, to be shown.
    #[must_use]
    pub fn single(content_type: &str, content: &[u8]) -> Self {
        Self {
            disposition: Disposition::Render,
            language: String::new(),
            part: Part::Single {
                content_type: content_type.to_owned(),
                content: content.to_vec(),
            },
        }
    }

    /// Nothing.
    #[must_use]
    pub fn null(disposition: Disposition) -> Self {
        Self {
            disposition,
            language: String::new(),
            part: Part::Null,
        }
    }

    /// All of its parts, itself first, each with its part index: depth first.
    #[must_use]
    pub fn flat(&self) -> Vec<&Self> {
        let mut all = vec![self];
        if let Part::Multi { parts, .. } = &self.part {
            all.extend(parts.iter().flat_map(Self::flat));
        }
        all
    }

    /// `level` is 1 for the body of a message; `count` is of the parts so far.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        level: usize,
        count: &mut usize,
    ) -> Result<Self, ContentError> {
        one_more(level, count)?;
        let items = reader.array()?;
        let disposition = Disposition::of(reader.u8()?);
        let language = reader.text()?.to_owned();
        let cardinality = reader.u8()?;
        let length = match cardinality {
            NULL => 3,
            SINGLE | MULTI => 5,
            EXTERNAL => 15,
            _ => return Err(ContentError::UnknownCardinality),
        };
        if items != length {
            return Err(ContentError::Schema);
        }
        let part = match cardinality {
            NULL => Part::Null,
            SINGLE => Part::Single {
                content_type: reader.text()?.to_owned(),
                content: reader.bytes()?.to_vec(),
            },
            EXTERNAL => Part::External(Box::new(ExternalPart::read(reader)?)),
            _ => {
                let semantics = match reader.u8()? {
                    0 => Semantics::ChooseOne,
                    1 => Semantics::SingleUnit,
                    2 => Semantics::ProcessAll,
                    _ => return Err(ContentError::UnknownSemantics),
                };
                let length = reader.array()?;
                if length < 2 {
                    return Err(ContentError::TooFewParts);
                }
                let mut parts = Vec::new();
                for _ in 0..length {
                    parts.push(Self::read(reader, level.saturating_add(1), count)?);
                }
                Part::Multi { semantics, parts }
            }
        };
        Ok(Self {
            disposition,
            language,
            part,
        })
    }

    pub(crate) fn write(
        &self,
        writer: &mut Writer,
        level: usize,
        count: &mut usize,
    ) -> Result<(), ContentError> {
        one_more(level, count)?;
        let mut head = |length, cardinality| {
            writer.array(length);
            writer.number(self.disposition.number());
            writer.text(&self.language);
            writer.number(cardinality);
        };
        match &self.part {
            Part::Null => head(3, NULL),
            Part::Single {
                content_type,
                content,
            } => {
                head(5, SINGLE);
                writer.text(content_type);
                writer.bytes(content);
            }
            Part::External(external) => {
                head(15, EXTERNAL);
                external.write(writer);
            }
            Part::Multi { semantics, parts } => {
                if parts.len() < 2 {
                    return Err(ContentError::TooFewParts);
                }
                head(5, MULTI);
                writer.number(match semantics {
                    Semantics::ChooseOne => 0u8,
                    Semantics::SingleUnit => 1,
                    Semantics::ProcessAll => 2,
                });
                writer.array(parts.len());
                for part in parts {
                    part.write(writer, level.saturating_add(1), count)?;
                }
            }
        }
        Ok(())
    }
}

fn one_more(level: usize, count: &mut usize) -> Result<(), ContentError> {
    if level > MAX_DEPTH {
        return Err(ContentError::TooDeep);
    }
    *count = count.saturating_add(1);
    if *count > MAX_PARTS {
        return Err(ContentError::TooManyParts);
    }
    Ok(())
}

impl ExternalPart {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ContentError> {
        Ok(Self {
            content_type: reader.text()?.to_owned(),
            url: reader.text()?.to_owned(),
            expires: reader.u32()?,
            size: reader.u64()?,
            encryption: reader.u16()?,
            key: reader.bytes()?.to_vec(),
            nonce: reader.bytes()?.to_vec(),
            aad: reader.bytes()?.to_vec(),
            hash_algorithm: reader.u8()?,
            content_hash: reader.bytes()?.to_vec(),
            description: reader.text()?.to_owned(),
            filename: reader.text()?.to_owned(),
        })
    }

    fn write(&self, writer: &mut Writer) {
        writer.text(&self.content_type);
        writer.text(&self.url);
        writer.number(self.expires);
        writer.number(self.size);
        writer.number(self.encryption);
        writer.bytes(&self.key);
        writer.bytes(&self.nonce);
        writer.bytes(&self.aad);
        writer.number(self.hash_algorithm);
        writer.bytes(&self.content_hash);
        writer.text(&self.description);
        writer.text(&self.filename);
    }
}
