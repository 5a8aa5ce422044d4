//! The presentation language of the documents (RFC 8446 §3, with `<V>` and `optional<T>` of RFC
//! 9420 §2.1), read and interpreted: a second implementation of every wire structure, made from
//! what a stranger reads. Tests hold the codecs against it.

mod interpreter;
mod parser;
pub mod vectors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What a line before a block of the documents begins with, if the block has structures.
pub const MARK: &str = "<!-- wire: ";

/// What the length of frames is taken to be.
pub const FRAME_LEN: usize = 512;

/// How a value is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Type {
    /// An unsigned number of so many bytes.
    Number(usize),
    /// So many bytes.
    Opaque(usize),
    /// `opaque<V>`.
    Bytes,
    /// A length of two bytes, content, and zeros: so many bytes in all.
    Padded(usize),
    Vector(Box<Self>),
    Optional(Box<Self>),
    Struct(Vec<Member>),
    /// Names with their numbers, which take so many bytes.
    Enum(usize, Vec<(String, u64)>),
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Field(String, Type),
    /// What follows depends on the field of this name.
    Select(String, Vec<(String, Vec<Self>)>),
}

/// The structures of the documents.
#[derive(Debug)]
pub struct Structures(BTreeMap<String, Type>);

impl Structures {
    /// Reads declarations.
    ///
    /// # Errors
    /// Where the text is not in the presentation language, or declares a name twice.
    pub fn parse(text: &str) -> Result<Self> {
        parser::declarations(text).map(Self)
    }

    /// Those of every document of the repository.
    ///
    /// # Errors
    /// As [`Structures::parse`].
    pub fn of_documents() -> Result<Self> {
        let mut text = String::new();
        for entry in std::fs::read_dir(root().join("docs"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|it| it == "md") {
                let document =
                    std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                for block in blocks(&document) {
                    text.push_str(block);
                }
            }
        }
        Self::parse(&text)
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The blocks of a document that have structures.
pub fn blocks(document: &str) -> impl Iterator<Item = &str> {
    document.split(MARK).skip(1).filter_map(|rest| {
        let (_, rest) = rest.split_once("```text\n")?;
        rest.split_once("```").map(|(block, _)| block)
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// In hexadecimal, as everywhere in the vectors.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] has written.
///
/// # Errors
/// For anything else.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    anyhow::ensure!(
        text.len().is_multiple_of(2) && text.is_ascii(),
        "no bytes in hexadecimal"
    );
    let digits = |at| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16);
    let bytes = (0..text.len()).step_by(2).map(digits);
    bytes
        .collect::<Result<_, _>>()
        .context("no bytes in hexadecimal")
}
