//! Test vectors: JSON that is checked in, made from what the code does and held against it.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::{Structures, hex, root};

/// Set to write the vectors instead of comparing them.
const WRITE: &str = "WRITE_VECTORS";

/// A file of `vectors/` as it is. Empty if there is none.
#[must_use]
pub fn kept(file: &str) -> BTreeMap<String, Vec<Value>> {
    let text = fs::read_to_string(root().join("vectors").join(file)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Holds a file against the vectors that are made now: all of them, and no others.
///
/// # Panics
/// When they differ.
#[allow(
    clippy::panic,
    clippy::print_stderr,
    reason = "it is what fails a test"
)]
pub fn hold(file: &str, made: &BTreeMap<String, Vec<Value>>) {
    let path = root().join("vectors").join(file);
    let text = written(made);
    if std::env::var_os(WRITE).is_some() {
        if let Err(error) = fs::write(&path, text) {
            panic!("{}: {error}", path.display());
        }
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    for (kept, made) in kept.lines().zip(text.lines()) {
        assert!(
            kept == made,
            "vectors/{file} has\n{kept}\nand the code makes\n{made}\n({WRITE}=1 writes it anew)"
        );
    }
    assert!(
        kept == text,
        "vectors/{file} has more vectors, or fewer, than the code makes ({WRITE}=1 writes it anew)"
    );
}

/// A line for each vector, so that a change shows which ones it is.
fn written(vectors: &BTreeMap<String, Vec<Value>>) -> String {
    let sections = vectors.iter().map(|(name, vectors)| {
        let lines: Vec<String> = vectors.iter().map(|it| format!("    {it}")).collect();
        format!(
            "  {}: [\n{}\n  ]",
            Value::from(name.as_str()),
            lines.join(",\n")
        )
    });
    format!("{{\n{}\n}}\n", sections.collect::<Vec<_>>().join(",\n"))
}

/// A vector of an encoded structure: its fields by the documents, and its bytes. What the documents
/// say makes the same bytes of these fields.
///
/// # Panics
/// When the documents say something else.
#[allow(clippy::panic, reason = "it is what fails a test")]
#[must_use]
pub fn structure(structures: &Structures, name: &str, bytes: &[u8]) -> Value {
    let fields = match structures.decode(name, bytes) {
        Ok(fields) => fields,
        Err(error) => panic!("the documents do not say what {name} is: {error:#}"),
    };
    match structures.encode(name, &fields) {
        Ok(encoded) if encoded == bytes => {}
        other => panic!("the documents say something else of {name}: {other:?}"),
    }
    serde_json::json!({ "fields": fields, "encoded": hex(bytes) })
}
