//! What the sources say of the wire: types with a derived codec, and descriptions of those by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Fields, Ident, Item, Lit, LitInt, LitStr, Meta, Token, Type};

use super::constants::Constants;
use super::{CRATES, MLS, OF_MLS};

/// A type of the wire, as it is encoded.
pub(super) struct Structure {
    pub(super) file: String,
    pub(super) doc: String,
    pub(super) shape: Shape,
}

pub(super) enum Shape {
    /// One value under a name of its own.
    Alias(Type),
    Struct(Vec<Field>),
    /// Names and numbers, of so many bits.
    Enum(u32, Vec<Variant>),
    /// As it was written down.
    Described(String),
}

pub(super) struct Field {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) of: Type,
}

pub(super) struct Variant {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) doc: String,
    pub(super) content: Option<Type>,
}

/// Everything that was read.
#[derive(Default)]
pub(super) struct Sources {
    structures: BTreeMap<String, Structure>,
    pub(super) constants: Constants,
}

impl Sources {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut sources = Self::default();
        let mut files = Vec::new();
        for directory in CRATES {
            collect(&root.join(directory), &mut files)?;
        }
        files.sort();
        for path in files {
            let text = fs::read_to_string(&path)?;
            let name = path.display().to_string();
            sources.file(&name, &text).with_context(|| name.clone())?;
        }
        Ok(sources)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.structures.keys().map(String::as_str)
    }

    pub(super) fn of(&self, name: &str) -> Result<&Structure> {
        let known = self.structures.get(name);
        known.with_context(|| format!("there is no wire structure {name}"))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.structures.contains_key(name)
    }

    pub(super) fn file(&mut self, file: &str, text: &str) -> Result<()> {
        for item in syn::parse_file(text)?.items {
            self.constants.take(file, &item);
            match item {
                Item::Struct(item) if is_ours(file, &item.ident, &item.attrs) => {
                    let fields = item.fields;
                    self.add(file, item.ident, &item.attrs, of_struct(fields)?)?;
                }
                Item::Enum(item) if is_ours(file, &item.ident, &item.attrs) => {
                    let variants = item.variants.into_iter().map(of_variant);
                    let shape = Shape::Enum(bits(&item.attrs)?, variants.collect::<Result<_>>()?);
                    self.add(file, item.ident, &item.attrs, shape)?;
                }
                // A name for bytes of one length.
                Item::Type(item)
                    if file.starts_with("protocol") && matches!(*item.ty, Type::Array(_)) =>
                {
                    self.add(file, item.ident, &item.attrs, Shape::Alias(*item.ty))?;
                }
                Item::Const(item) if item.ident.to_string().ends_with("_PRESENTATION") => {
                    self.described(file, &item.expr)?;
                }
                Item::Macro(item) => self.declared_by_macro(file, &item.mac)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &str, name: Ident, attrs: &[Attribute], shape: Shape) -> Result<()> {
        self.insert(&name.to_string(), file, doc(attrs), shape)
    }

    fn insert(&mut self, name: &str, file: &str, doc: String, shape: Shape) -> Result<()> {
        let file = file.to_owned();
        let structure = Structure { file, doc, shape };
        match self.structures.insert(name.to_owned(), structure) {
            Some(other) => bail!("{name} is a structure of {} too", other.file),
            None => Ok(()),
        }
    }

    /// A description that stands beside a codec by hand. It is named by its last word.
    fn described(&mut self, file: &str, expr: &Expr) -> Result<()> {
        let Expr::Lit(literal) = expr else {
            bail!("a description is a text");
        };
        let Lit::Str(text) = &literal.lit else {
            bail!("a description is a text");
        };
        let text = text.value();
        let last = text.trim().trim_end_matches(';').rsplit(' ').next();
        let name = last
            .unwrap_or_default()
            .split('<')
            .next()
            .unwrap_or_default();
        let shape = Shape::Described(text.trim().to_owned());
        self.insert(name, file, String::new(), shape)
    }

    /// Ids, numbers and operations are declared by macros of their own.
    fn declared_by_macro(&mut self, file: &str, mac: &syn::Macro) -> Result<()> {
        let name = mac
            .path
            .get_ident()
            .map(ToString::to_string)
            .unwrap_or_default();
        match name.as_str() {
            "fixed_ids" => {
                for declared in mac.parse_body::<Many<Tuple<LitInt>>>()?.0 {
                    let length = &declared.of;
                    let of = syn::parse_quote!([u8; #length]);
                    self.add(file, declared.name, &declared.attrs, Shape::Alias(of))?;
                }
            }
            "numbers" => {
                for declared in mac.parse_body::<Many<Tuple<Type>>>()?.0 {
                    let shape = Shape::Alias(declared.of);
                    self.add(file, declared.name, &declared.attrs, shape)?;
                }
            }
            "operations" => {
                let variants = mac.parse_body::<Many<Operation>>()?.0.into_iter();
                let variants = variants.map(|it| {
                    Ok(Variant {
                        name: snake(&it.name.to_string()),
                        number: it.number.base10_parse()?,
                        doc: String::new(),
                        content: None,
                    })
                });
                let shape = Shape::Enum(16, variants.collect::<Result<_>>()?);
                let doc = "What a request asks for; its paths are in *Operations*.".to_owned();
                self.insert("Operation", file, doc, shape)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a type has a derived codec and is no structure of RFC 9420.
fn is_ours(file: &str, name: &Ident, attrs: &[Attribute]) -> bool {
    let is_of_mls = file.starts_with(MLS) && OF_MLS.iter().any(|it| name == it);
    is_encoded(attrs) && !is_of_mls
}

/// Whether it derives the half of the codec that writes: all has that, also what is only signed.
fn is_encoded(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| {
        let derived = attr.path().is_ident("derive").then(|| {
            attr.parse_args_with(Punctuated::<syn::Path, Token![,]>::parse_terminated)
                .ok()
        });
        derived.flatten().is_some_and(|paths| {
            let last = |path: &syn::Path| path.segments.last().map(|it| it.ident.to_string());
            paths
                .iter()
                .any(|path| last(path).as_deref() == Some("TlsSerialize"))
        })
    })
}

fn of_struct(fields: Fields) -> Result<Shape> {
    Ok(match fields {
        Fields::Unnamed(fields) => {
            let mut fields = fields.unnamed.into_iter();
            match (fields.next(), fields.next()) {
                (Some(one), None) => Shape::Alias(one.ty),
                _ => bail!("fields without names"),
            }
        }
        fields => {
            let fields = fields.into_iter().map(|field| Field {
                name: field.ident.map(|it| it.to_string()).unwrap_or_default(),
                doc: doc(&field.attrs),
                of: field.ty,
            });
            Shape::Struct(fields.collect())
        }
    })
}

fn of_variant(variant: syn::Variant) -> Result<Variant> {
    let given = variant
        .attrs
        .iter()
        .filter(|it| it.path().is_ident("tls_codec"));
    let mut number = None;
    for attr in given {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("discriminant") {
                number = Some(meta.value()?.parse::<LitInt>()?.base10_parse()?);
            }
            Ok(())
        })?;
    }
    if let Some((_, Expr::Lit(literal))) = &variant.discriminant
        && let Lit::Int(written) = &literal.lit
    {
        number = Some(written.base10_parse()?);
    }
    let mut content = variant.fields.into_iter().map(|field| field.ty);
    Ok(Variant {
        name: snake(&variant.ident.to_string()),
        number: number.with_context(|| format!("{} has no number", variant.ident))?,
        doc: doc(&variant.attrs),
        content: content.next(),
    })
}

fn bits(attrs: &[Attribute]) -> Result<u32> {
    let repr = attrs.iter().find(|it| it.path().is_ident("repr"));
    let of: Ident = repr
        .context("an enum without a representation")?
        .parse_args()?;
    match of.to_string().as_str() {
        "u8" => Ok(8),
        "u16" => Ok(16),
        other => bail!("an enum of {other}"),
    }
}

/// A comment as one line.
fn doc(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// As the presentation language writes names of choices.
pub(super) fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

struct Many<T>(Vec<T>);

impl<T: Parse> Parse for Many<T> {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut all = Vec::new();
        while !input.is_empty() {
            all.push(input.parse()?);
            input.parse::<Token![;]>()?;
        }
        Ok(Self(all))
    }
}

/// `Name(16)`.
struct Tuple<T> {
    attrs: Vec<Attribute>,
    name: Ident,
    of: T,
}

impl<T: Parse> Parse for Tuple<T> {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let name = input.parse()?;
        let content;
        syn::parenthesized!(content in input);
        let of = content.parse()?;
        Ok(Self { attrs, name, of })
    }
}

/// `Name = 1, "/path"`.
struct Operation {
    name: Ident,
    number: LitInt,
}

impl Parse for Operation {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.call(Attribute::parse_outer)?;
        let name = input.parse()?;
        input.parse::<Token![=]>()?;
        let number = input.parse()?;
        input.parse::<Token![,]>()?;
        input.parse::<LitStr>()?;
        Ok(Self { name, number })
    }
}
