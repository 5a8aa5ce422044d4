//! What the SDK answers, with the names and in the shapes of `types.ts`.

use client::{Attachment, StoredEvent};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, given};

/// Members whose texts are names of variants.
const NAMES: [&str; 7] = [
    "type", "why", "change", "stopped", "format", "state", "gone",
];

/// `rolled_back` becomes `rolledBack`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The name of a variant.
pub(crate) fn name(of: impl Serialize) -> Result<Value, Failure> {
    Ok(match shown(of)? {
        Value::String(name) => Value::String(camel(&name)),
        other => other,
    })
}

/// Anything.
pub(crate) fn shown(of: impl Serialize) -> Result<Value, Failure> {
    let written = serde_json::to_string(&of).unwrap_or_default();
    reshaped(given(&written)?)
}

fn reshaped(value: Value) -> Result<Value, Failure> {
    Ok(match value {
        Value::Array(all) => Value::Array(all.into_iter().map(reshaped).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let mut shaped = Map::new();
            for (key, value) in members {
                let value = match value {
                    Value::String(text) if NAMES.contains(&key.as_str()) && is_name(&text) => {
                        Value::String(camel(&text))
                    }
                    value @ Value::Object(_) if key == "attachment" => {
                        attachment(&given(&value.to_string())?)?
                    }
                    value => reshaped(value)?,
                };
                shaped.insert(camel(&key), value);
            }
            Value::Object(shaped)
        }
        other => other,
    })
}

/// An attachment: what is to be shown, and all of it for the SDK.
pub(crate) fn attachment(of: &Attachment) -> Result<Value, Failure> {
    let sealed = serde_json::to_string(of).unwrap_or_default();
    Ok(json!({
        "mediaType": of.media_type,
        "size": of.size,
        "expires": of.expires,
        "description": of.description,
        "fileName": of.file_name(),
        "thumbnail": shown(&of.thumbnail)?,
        "sealed": sealed,
    }))
}

pub(crate) fn stored(of: &StoredEvent) -> Result<Value, Failure> {
    Ok(json!({ "id": of.id, "event": shown(&of.event)? }))
}
