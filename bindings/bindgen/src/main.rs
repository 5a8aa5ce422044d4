//! Writes the bindings for a language from the metadata that UniFFI left in the library. maturin
//! calls it as it calls UniFFI's own program:
//!
//! ```text
//! uniffi-bindgen generate --language python --out-dir DIR --library FILE [--config FILE]
//! uniffi-bindgen fields --library FILE
//! ```
//!
//! That program brings features of crates that ours share, so that much would be built anew. And it
//! leaves out of Python what is said of fields.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, bail};
use uniffi_bindgen::bindings::{GenerateOptions, TargetLanguage, generate};
use uniffi_bindgen::{BindgenLoader, BindgenPaths, GlobalConfig};

fn main() -> anyhow::Result<()> {
    let mut options = GenerateOptions::default();
    let mut only_fields = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| argument.clone());
        match argument.as_str() {
            // No formatter is asked for in any case.
            "generate" | "--no-format" => {}
            "fields" => only_fields = true,
            "--language" => options.languages.push(language(&value()?)?),
            "--out-dir" => options.out_dir = value()?.into(),
            "--config" => options.config_override = Some(value()?.into()),
            "--library" => options.source = value()?.into(),
            _ => bail!("{argument} is not known here"),
        }
    }
    match only_fields {
        true => Ok(writeln!(std::io::stdout(), "{}", fields(&options)?)?),
        false => generate(options),
    }
}

/// The documentation of fields by type, variant and name, in JSON.
fn fields(options: &GenerateOptions) -> anyhow::Result<String> {
    let loader = BindgenLoader::new(BindgenPaths::default(), GlobalConfig::default());
    let mut documented = BTreeMap::new();
    for interface in loader.load_cis(loader.load_metadata(&options.source)?)? {
        let records = interface.record_definitions().iter();
        let records = records.map(|it| (it.name().to_owned(), it.fields()));
        let enums = interface.enum_definitions().iter();
        let variants = enums.flat_map(|of| of.variants().iter().map(move |it| (of, it)));
        let variants =
            variants.map(|(of, it)| (format!("{}.{}", of.name(), it.name()), it.fields()));
        for (of, fields) in records.chain(variants) {
            for field in fields {
                if let Some(text) = field.docstring() {
                    let name = format!("{of}.{}", field.name());
                    documented.insert(name, text.trim().to_owned());
                }
            }
        }
    }
    Ok(serde_json::to_string(&documented)?)
}

fn language(name: &str) -> anyhow::Result<TargetLanguage> {
    Ok(match name {
        "kotlin" => TargetLanguage::Kotlin,
        "python" => TargetLanguage::Python,
        "swift" => TargetLanguage::Swift,
        _ => bail!("there are no bindings for {name}"),
    })
}
