//! Structures in the presentation language.

use anyhow::{Context as _, Result, bail};
use syn::{GenericArgument, PathArguments, Type};

use super::source::{Shape, Sources, Structure, Variant, snake};

const COLUMNS: usize = 100;

/// One structure, without a line break at its end.
pub(super) fn structure(sources: &Sources, name: &str) -> Result<String> {
    let of = sources.of(name)?;
    let printer = Printer { sources, of };
    let described = match &of.shape {
        Shape::Described(text) => return Ok(text.clone()),
        Shape::Alias(value) => return printer.alias(name, value),
        Shape::Struct(fields) => {
            let mut members = String::new();
            for field in fields {
                let declared = printer.declared(&field.of, &field.name)?;
                members.push_str(&printer.line("    ", &format!("{declared};"), &field.doc));
            }
            match members.is_empty() {
                true => format!("struct {{}} {name};"),
                false => format!("struct {{\n{members}}} {name};"),
            }
        }
        Shape::Enum(bits, variants) if variants.iter().all(|it| it.content.is_none()) => {
            enumeration(&printer, name, *bits, variants)
        }
        Shape::Enum(bits, variants) => printer.choice(name, *bits, variants)?,
    };
    Ok(format!("{}{described}", printer.comment("", &of.doc)))
}

struct Printer<'a> {
    sources: &'a Sources,
    of: &'a Structure,
}

impl Printer<'_> {
    /// A value under a name of its own.
    fn alias(&self, name: &str, value: &Type) -> Result<String> {
        let declared = format!("{};", self.declared(value, name)?);
        Ok(self.line("", &declared, &self.of.doc).trim_end().to_owned())
    }

    /// A value that depends on a choice: first the choice, then what it brings.
    fn choice(&self, name: &str, bits: u32, variants: &[Variant]) -> Result<String> {
        let choices = format!("{name}Type");
        let mut text = enumeration(self, &choices, bits, variants);
        text.push_str(&format!(
            "\nstruct {{\n    {choices} type;\n    select ({name}.type) {{\n"
        ));
        for variant in variants {
            let content = match &variant.content {
                Some(of) => self.declared(of, &variant.name)?,
                None => "struct {}".to_owned(),
            };
            let case = format!("case {}: {content};", variant.name);
            text.push_str(&format!("        {case}\n"));
        }
        text.push_str(&format!("    }};\n}} {name};"));
        Ok(text)
    }

    /// `uint8 name`, `opaque name[32]`, `LeafExtras name<V>`, and so on.
    fn declared(&self, of: &Type, name: &str) -> Result<String> {
        Ok(match of {
            Type::Reference(reference) => self.declared(&reference.elem, name)?,
            Type::Array(array) => {
                let constants = &self.sources.constants;
                let length = constants.number(&self.of.file, &array.len);
                let length = length.with_context(|| format!("the length of {name}"))?;
                match self.value(&array.elem)?.as_str() {
                    "uint8" => format!("opaque {name}[{length}]"),
                    other => bail!("{length} of {other}"),
                }
            }
            of => {
                let (outer, argument) = generic(of)?;
                match (outer.as_str(), argument) {
                    ("VLBytes", None) => format!("opaque {name}<V>"),
                    ("WireSecret", None) => format!("opaque {name}[32]"),
                    ("Vec", Some(GenericArgument::Type(item))) => {
                        format!("{} {name}<V>", self.value(item)?)
                    }
                    _ => format!("{} {name}", self.value(of)?),
                }
            }
        })
    }

    /// A type that stands alone.
    fn value(&self, of: &Type) -> Result<String> {
        let (name, argument) = generic(of)?;
        Ok(match (name.as_str(), argument) {
            ("u8", None) => "uint8".to_owned(),
            ("u16", None) => "uint16".to_owned(),
            ("u32", None) => "uint32".to_owned(),
            ("u64", None) => "uint64".to_owned(),
            ("VLBytes", None) => "Bytes".to_owned(),
            ("Option", Some(GenericArgument::Type(of))) => {
                format!("optional<{}>", self.value(of)?)
            }
            ("Padded", Some(size)) => {
                let size = match size {
                    GenericArgument::Const(expr) => Some(expr.clone()),
                    GenericArgument::Type(Type::Path(path)) => {
                        let path = &path.path;
                        Some(syn::parse_quote!(#path))
                    }
                    _ => None,
                };
                let size = size.context("padded to no size")?;
                let number = self.sources.constants.number(&self.of.file, &size);
                format!("Padded<{}>", number.context("padded to an unknown size")?)
            }
            (other, None) if self.sources.has(other) => other.to_owned(),
            (other, _) => bail!("{other} has no description"),
        })
    }

    /// A declaration with its comment: behind it if there is room, else before it.
    fn line(&self, indent: &str, declared: &str, doc: &str) -> String {
        let doc = self.readable(doc);
        let line = format!("{indent}{declared}");
        if doc.is_empty() {
            return format!("{line}\n");
        }
        let room = line.len().max(36) + 4 + doc.chars().count();
        let short = doc.trim_end_matches('.');
        if room <= COLUMNS && !short.contains(". ") {
            return format!("{line:<34}  // {short}\n");
        }
        format!("{}{line}\n", wrapped(indent, &doc))
    }

    fn comment(&self, indent: &str, doc: &str) -> String {
        wrapped(indent, &self.readable(doc))
    }

    /// A comment of the sources for those who do not have them: constants are their values, and
    /// links to types are names.
    fn readable(&self, doc: &str) -> String {
        let mut text = String::new();
        let mut rest = doc;
        while let Some((before, link)) = rest.split_once("[`") {
            let Some((path, after)) = link.split_once("`]") else {
                break;
            };
            text.push_str(before);
            text.push_str(&self.name(path));
            rest = after;
        }
        text.push_str(rest);
        text
    }

    fn name(&self, path: &str) -> String {
        if let Some(shown) = self.sources.constants.shown(&self.of.file, path) {
            return shown;
        }
        let segments: Vec<&str> = path.split("::").collect();
        let is_type = |it: &&str| it.starts_with(char::is_uppercase);
        match segments.as_slice() {
            [.., of, last] if is_type(of) && is_type(last) => format!("{of}.{}", snake(last)),
            [.., of, last] if is_type(of) => format!("{of}.{last}"),
            [.., last] => (*last).to_owned(),
            [] => String::new(),
        }
    }
}

/// The name of a type, and what stands in its angle brackets.
fn generic(of: &Type) -> Result<(String, Option<&GenericArgument>)> {
    let Type::Path(path) = of else {
        bail!("a type that is no name");
    };
    let last = path.path.segments.last().context("a type without a name")?;
    let argument = match &last.arguments {
        PathArguments::AngleBracketed(all) => all.args.first(),
        _ => None,
    };
    Ok((last.ident.to_string(), argument))
}

fn enumeration(printer: &Printer<'_>, name: &str, bits: u32, variants: &[Variant]) -> String {
    let most = (1u64 << bits) - 1;
    let has_docs = variants.iter().any(|it| !it.doc.is_empty());
    if has_docs {
        let mut text = "enum {\n".to_owned();
        for variant in variants {
            let declared = format!("{}({}),", variant.name, variant.number);
            text.push_str(&printer.line("    ", &declared, &variant.doc));
        }
        return format!("{text}    ({most})\n}} {name};");
    }
    let names = variants
        .iter()
        .map(|it| format!("{}({}), ", it.name, it.number));
    let mut text = "enum {".to_owned();
    let mut column = COLUMNS;
    for name in names.chain([format!("({most})")]) {
        if column + name.len() > COLUMNS {
            text = format!("{}\n    ", text.trim_end());
            column = 4;
        }
        column += name.len();
        text.push_str(&name);
    }
    format!("{text}\n}} {name};")
}

/// A comment in lines that fit.
fn wrapped(indent: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty()
            && indent.len() + 4 + line.chars().count() + word.chars().count() > COLUMNS
        {
            lines.push_str(&format!("{indent}//{line}\n"));
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push_str(&format!("{indent}//{line}\n"));
    }
    lines
}
