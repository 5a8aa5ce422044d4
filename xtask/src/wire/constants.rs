//! Constants of the sources: lengths of fields, and what comments speak of.

use std::collections::BTreeMap;

use syn::{BinOp, Expr, ImplItem, Item, Lit};

/// Constants by file and name; those of a type as `Type::NAME`.
#[derive(Default)]
pub(super) struct Constants(BTreeMap<(String, String), Expr>);

impl Constants {
    pub(super) fn take(&mut self, file: &str, item: &Item) {
        match item {
            Item::Const(item) => {
                let name = item.ident.to_string();
                self.0.insert((file.to_owned(), name), (*item.expr).clone());
            }
            Item::Impl(block) if block.trait_.is_none() => {
                let of = path_of(&block.self_ty);
                for item in &block.items {
                    if let (ImplItem::Const(item), Some(of)) = (item, &of) {
                        let name = format!("{of}::{}", item.ident);
                        self.0.insert((file.to_owned(), name), item.expr.clone());
                    }
                }
            }
            _ => {}
        }
    }

    /// What a constant is, for people. The path is as it is written in this file.
    pub(super) fn shown(&self, file: &str, path: &str) -> Option<String> {
        let (file, expr) = self.find(file, path)?;
        self.text(file, expr)
    }

    /// A length.
    pub(super) fn number(&self, file: &str, expr: &Expr) -> Option<u64> {
        match expr {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse().ok(),
                _ => None,
            },
            Expr::Path(path) => {
                let segments = path.path.segments.iter().map(|it| it.ident.to_string());
                let path = segments.collect::<Vec<_>>().join("::");
                let (file, expr) = self.find(file, &path)?;
                self.number(file, expr)
            }
            Expr::Binary(binary) => {
                let left = self.number(file, &binary.left)?;
                let right = self.number(file, &binary.right)?;
                match binary.op {
                    BinOp::Add(_) => left.checked_add(right),
                    BinOp::Sub(_) => left.checked_sub(right),
                    BinOp::Mul(_) => left.checked_mul(right),
                    BinOp::Div(_) => left.checked_div(right),
                    BinOp::Shl(_) => left.checked_shl(u32::try_from(right).ok()?),
                    _ => None,
                }
            }
            Expr::Cast(cast) => self.number(file, &cast.expr),
            Expr::Paren(inner) => self.number(file, &inner.expr),
            _ => None,
        }
    }

    fn text(&self, file: &str, expr: &Expr) -> Option<String> {
        if let Some(number) = self.number(file, expr) {
            return Some(grouped(number));
        }
        match expr {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(format!("\"{}\"", text.value())),
                _ => None,
            },
            // An id or a number in its type.
            Expr::Call(call) => self.text(file, call.args.first()?),
            Expr::Repeat(repeat) => {
                let length = self.number(file, &repeat.len)?;
                (self.number(file, &repeat.expr)? == 0).then(|| format!("{length} zeros"))
            }
            Expr::Path(path) => {
                let last = path.path.segments.last()?.ident.to_string();
                (last == "MAX").then(|| "2^64 - 1".to_owned())
            }
            _ => None,
        }
    }

    /// In the same file, else in the module that the path names, else wherever there is just one.
    fn find(&self, file: &str, path: &str) -> Option<(&str, &Expr)> {
        let segments: Vec<&str> = path.split("::").filter(|it| *it != "crate").collect();
        let (last, before) = segments.split_last()?;
        let owner = before.last().copied().unwrap_or_default();
        let name = match owner.chars().next() {
            Some(letter) if letter.is_uppercase() => format!("{owner}::{last}"),
            _ => (*last).to_owned(),
        };
        let named = || self.0.iter().filter(|((_, it), _)| *it == name);
        let in_file = named().find(|((of, _), _)| of == file && before.is_empty());
        let in_module = || named().find(|((of, _), _)| of.ends_with(&format!("/{owner}.rs")));
        let found = in_file.or_else(in_module).or_else(|| {
            let mut all = named();
            all.next().filter(|_| all.next().is_none())
        });
        found.map(|((file, _), expr)| (file.as_str(), expr))
    }
}

fn path_of(of: &syn::Type) -> Option<String> {
    match of {
        syn::Type::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}

/// `65,536`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
