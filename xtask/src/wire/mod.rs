//! The wire structures of the documents, generated from the types.
//!
//! A line `<!-- wire: NAME NAME -->` stands before a block, and the block has the structures that
//! it names, in the presentation language (RFC 8446 §3). What derives its codec is described from
//! its fields. A codec that is written by hand has its description beside it, in a constant whose
//! name ends with `_PRESENTATION`; the tests of its crate hold both together. Every structure
//! stands in one block, and `<!-- wire index -->` lists where.

mod constants;
mod print;
mod source;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use source::Sources;

/// The crates whose structures leave a process, or are sealed by a client.
const CRATES: &[&str] = &["protocol/src", "crypto/src", "client/src"];

/// Structures of RFC 9420 that the SDK reads beside its MLS library.
const OF_MLS: &[&str] = &[
    "Capabilities",
    "EncryptedGroupSecrets",
    "GroupInfoMessage",
    "KdfLabel",
    "LeafNode",
    "LeafSource",
    "Node",
    "ParentNode",
    "SenderDataAad",
    "WelcomeMessage",
];
/// Where these are.
const MLS: &str = "client/src/mls";

/// Declarations that others are made of.
const OF_THE_LANGUAGE: &[&str] = &["Bytes", "Padded"];

const MARK: &str = "<!-- wire: ";
const VECTORS: &str = "vectors";
const INDEX: &str = "<!-- wire index -->\n";
const DOCUMENTS: &str = "docs";
/// The document with the index.
const FIRST: &str = "docs/protocol.md";

/// Writes the structures into the documents.
///
/// # Errors
/// What cannot be described, or is in no document.
pub fn write() -> Result<()> {
    for (path, _, new) in documents()? {
        fs::write(&path, new).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Compares the documents with the types.
///
/// # Errors
/// As [`write()`], and for a document that says something else.
pub fn check() -> Result<usize> {
    for (path, old, new) in documents()? {
        let differs = old.lines().zip(new.lines()).find(|(old, new)| old != new);
        if old != new {
            let (old, new) = differs.unwrap_or(("the end", "more"));
            bail!(
                "{} says `{old}` and the types `{new}`: `cargo xtask wire` writes the structures anew",
                path.display()
            );
        }
    }
    let sources = Sources::read(Path::new(""))?;
    let vectors = names_of_vectors()?;
    let has_none = |name: &&str| !OF_THE_LANGUAGE.contains(name) && !vectors.contains(*name);
    let missing: Vec<_> = sources.names().filter(has_none).collect();
    if !missing.is_empty() {
        bail!("no test vector has {}", missing.join(" "));
    }
    Ok(sources.names().count())
}

/// The sections of all vectors.
fn names_of_vectors() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(VECTORS)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "json") {
            let text = fs::read_to_string(&path)?;
            let sections: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            names.extend(sections.into_keys());
        }
    }
    Ok(names)
}

/// Each document as it is, and as it should be.
fn documents() -> Result<Vec<(PathBuf, String, String)>> {
    let sources = Sources::read(Path::new(""))?;
    let mut paths: Vec<PathBuf> = fs::read_dir(DOCUMENTS)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let mut placed = Placed::default();
    let mut documents = Vec::new();
    for path in paths
        .into_iter()
        .filter(|it| it.extension().is_some_and(|it| it == "md"))
    {
        let old = fs::read_to_string(&path)?;
        let new = filled(&old, &path, &sources, &mut placed)
            .with_context(|| path.display().to_string())?;
        documents.push((path, old, new));
    }
    let missing: Vec<_> = sources
        .names()
        .filter(|name| !placed.names.contains(*name))
        .collect();
    if !missing.is_empty() {
        bail!("in no document: {}", missing.join(" "));
    }
    for (path, _, new) in &mut documents {
        if path == Path::new(FIRST) {
            *new = with_index(new, &placed)?;
        }
    }
    Ok(documents)
}

/// What stands where.
#[derive(Default)]
struct Placed {
    names: BTreeSet<String>,
    /// By document and heading, in their order.
    sections: Vec<(String, String, Vec<String>)>,
}

/// A document with its blocks as the types want them.
fn filled(text: &str, path: &Path, sources: &Sources, placed: &mut Placed) -> Result<String> {
    let file = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut new = String::new();
    let mut rest = text;
    let mut heading = String::new();
    while let Some((before, marked)) = rest.split_once(MARK) {
        let last = before.lines().rfind(|line| line.starts_with('#'));
        if let Some(last) = last {
            last.trim_start_matches('#').trim().clone_into(&mut heading);
        }
        let (names, marked) = marked
            .split_once(" -->\n")
            .context("a mark that does not end")?;
        let fenced = marked
            .strip_prefix("```text\n")
            .context("no block behind its mark")?;
        let (_, after) = fenced
            .split_once("```")
            .context("a block that does not end")?;
        new.push_str(before);
        new.push_str(&format!("{MARK}{names} -->\n```text\n"));
        let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        for (at, name) in names.iter().enumerate() {
            if !placed.names.insert(name.clone()) {
                bail!("{name} stands twice");
            }
            let printed = print::structure(sources, name)?;
            // Short ones stand together.
            if at > 0 && printed.contains('\n') {
                new.push('\n');
            }
            new.push_str(&printed);
            new.push('\n');
        }
        new.push_str("```");
        placed.sections.push((file.clone(), heading.clone(), names));
        rest = after;
    }
    new.push_str(rest);
    Ok(new)
}

/// The list of all structures behind its mark, up to the next blank line.
fn with_index(text: &str, placed: &Placed) -> Result<String> {
    let (before, behind) = text.split_once(INDEX).context("there is no index")?;
    let (_, after) = behind
        .split_once("\n\n")
        .context("the index does not end")?;
    let mut rows: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut order = Vec::new();
    for (file, heading, names) in &placed.sections {
        let key = (file.as_str(), heading.as_str());
        if !rows.contains_key(&key) {
            order.push(key);
        }
        rows.entry(key)
            .or_default()
            .extend(names.iter().map(String::as_str));
    }
    // This document first.
    order.sort_by_key(|(file, _)| !FIRST.ends_with(file));
    let rows = order.iter().map(|key| {
        let (file, heading) = key;
        let file = if FIRST.ends_with(file) { "" } else { file };
        let anchor = crate::headings::anchor(heading);
        let names = rows
            .get(key)
            .map(|names| names.join("`, `"))
            .unwrap_or_default();
        format!("| [{heading}]({file}#{anchor}) | `{names}` |")
    });
    let rows: Vec<String> = rows.collect();
    Ok(format!(
        "{before}{INDEX}| section | structures |\n|---|---|\n{}\n\n{after}",
        rows.join("\n")
    ))
}
