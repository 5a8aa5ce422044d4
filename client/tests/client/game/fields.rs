//! Structure without content: numbers, lengths, kinds and short lists by their place in a message.
//! They are read off the `Debug` form of the decoded types, so a field that is added to one is here
//! as well.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Fields by place and value, both hashed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    values: BTreeSet<(u32, u32)>,
    /// Lengths once more, as numbers; none where there are several.
    lengths: BTreeMap<u32, Option<u32>>,
}

/// The same, to be gone through often.
#[derive(Debug, Default, Clone)]
pub(crate) struct Listed {
    /// By place and then by value.
    pub(crate) values: Vec<(u32, u32)>,
    /// By place.
    pub(crate) lengths: Vec<(u32, u32)>,
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[allow(clippy::cast_possible_truncation)]
fn short(of: u64) -> u32 {
    of as u32
}

/// Lists up to this length are known by what is in them.
const SHORT_LIST: usize = 16;

impl Fields {
    /// A number, somewhere.
    pub(crate) fn number(&mut self, place: &str, value: usize) {
        self.values.insert((short(hash(place)), short(hash(value))));
    }

    /// A length, somewhere.
    pub(crate) fn length(&mut self, place: &str, length: usize) {
        self.push_length(hash(place), length);
    }

    fn push_length(&mut self, place: u64, length: usize) {
        self.push(place, "length", length);
        let length = u32::try_from(length).ok();
        let kept = self.lengths.entry(short(place)).or_insert(length);
        if *kept != length {
            *kept = None;
        }
    }

    /// All of a decoded message.
    pub(crate) fn add(&mut self, place: &str, message: &impl std::fmt::Debug) {
        let text = format!("{message:?}");
        Parser {
            text: text.as_bytes(),
            fields: self,
        }
        .value(hash(place));
    }

    fn push(&mut self, place: u64, kind: &str, value: impl Hash) {
        self.values
            .insert((short(hash((place, kind))), short(hash(value))));
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.values.extend(&other.values);
        for (place, length) in &other.lengths {
            let kept = self.lengths.entry(*place).or_insert(*length);
            if kept != length {
                *kept = None;
            }
        }
    }

    pub(crate) fn listed(&self) -> Listed {
        let lengths = self.lengths.iter();
        Listed {
            values: self.values.iter().copied().collect(),
            lengths: lengths
                .filter_map(|(place, length)| Some((*place, (*length)?)))
                .collect(),
        }
    }
}

struct Parser<'t, 'f> {
    text: &'t [u8],
    fields: &'f mut Fields,
}

impl Parser<'_, '_> {
    fn peek(&mut self) -> Option<u8> {
        while let [b' ' | b',', rest @ ..] = self.text {
            self.text = rest;
        }
        self.text.first().copied()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &[u8] {
        let end = self.text.iter().position(|byte| !wanted(*byte));
        let (taken, rest) = self.text.split_at(end.unwrap_or(self.text.len()));
        self.text = rest;
        taken
    }

    fn skip(&mut self) {
        self.text = self.text.get(1..).unwrap_or_default();
    }

    fn value(&mut self, place: u64) {
        match self.peek() {
            Some(b'[') => self.list(place),
            Some(b'{' | b'(') => self.inner(place),
            Some(b'"') => self.string(place),
            Some(byte) if byte.is_ascii_digit() || byte == b'-' => {
                let token = self.take_while(|it| it.is_ascii_alphanumeric() || it == b'-');
                let (hex, token) = (token.starts_with(b"0x"), token.to_vec());
                if hex {
                    self.fields.push_length(place, token.len() / 2 - 1);
                } else {
                    self.fields.push(place, "number", token);
                }
            }
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
                let name = self.take_while(|it| it.is_ascii_alphanumeric() || it == b'_');
                let name = name.to_vec();
                self.fields.push(place, "is", &name);
                if matches!(self.text, [b'(', ..] | [b' ', b'{', ..]) {
                    self.peek();
                    self.inner(hash((place, name)));
                }
            }
            Some(_) => self.skip(),
            None => {}
        }
    }

    fn string(&mut self, place: u64) {
        self.skip();
        let mut length = 0usize;
        loop {
            match self.text {
                [b'\\', _, rest @ ..] => self.text = rest,
                [b'"', rest @ ..] => {
                    self.text = rest;
                    break;
                }
                [_, rest @ ..] => self.text = rest,
                [] => break,
            }
            length += 1;
        }
        self.fields.push_length(place, length);
    }

    /// What stands in brackets of the other two kinds.
    fn inner(&mut self, place: u64) {
        self.skip();
        let mut number = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'}' | b')' => {
                    self.skip();
                    return;
                }
                b'.' => self.skip(),
                _ => {}
            }
            let rest = self.text;
            let name = self
                .take_while(|it| it.is_ascii_alphanumeric() || it == b'_')
                .to_vec();
            if matches!(self.text, [b':', b' ', ..]) && !name.is_empty() {
                self.skip();
                self.value(hash((place, name)));
            } else {
                self.text = rest;
                self.value(hash((place, number)));
                number += 1;
            }
        }
    }

    fn list(&mut self, place: u64) {
        self.skip();
        let start = self.text;
        let numbers = self.take_while(|it| it.is_ascii_digit() || it == b',' || it == b' ');
        if numbers.is_empty() || !matches!(start.get(numbers.len()), Some(b']')) {
            self.text = start;
            let mut length = 0usize;
            while let Some(byte) = self.peek() {
                if byte == b']' {
                    break;
                }
                let left = self.text.len();
                // In their order, which may be somebody's own.
                let at = hash((place, length.min(SHORT_LIST)));
                self.value(at);
                if self.text.len() == left {
                    self.skip();
                }
                length += 1;
            }
            self.skip();
            self.fields.push_length(place, length);
            return;
        }
        let numbers = numbers.to_vec();
        self.skip();
        let length = numbers.split(|byte| *byte == b',').count();
        self.fields.push_length(place, length);
        if length <= SHORT_LIST {
            self.fields.push(place, "list", numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[allow(dead_code)]
    struct Message {
        number: u64,
        kind: Kind,
        bytes: Vec<u8>,
        order: [u16; 3],
        inner: Vec<Inner>,
        text: &'static str,
    }

    #[derive(Debug)]
    #[allow(dead_code)]
    enum Kind {
        Plain,
        With(u32),
    }

    #[derive(Debug)]
    #[allow(dead_code)]
    struct Inner {
        of: Option<u8>,
    }

    fn message() -> Message {
        Message {
            number: 5,
            kind: Kind::With(7),
            bytes: vec![9; 40],
            order: [1, 2, 3],
            inner: vec![Inner { of: None }, Inner { of: Some(3) }],
            text: "a \"name\" {",
        }
    }

    fn fields(message: &Message) -> Fields {
        let mut fields = Fields::default();
        fields.add("message", message);
        fields
    }

    #[test]
    fn numbers_lengths_kinds_and_orders_are_fields_and_long_contents_are_not() {
        let usual = fields(&message());
        let other = |change: fn(&mut Message)| {
            let mut other = message();
            change(&mut other);
            fields(&other)
        };
        assert_eq!(other(|it| it.bytes = vec![8; 40]), usual);
        assert_ne!(other(|it| it.bytes.push(8)), usual);
        assert_ne!(other(|it| it.number = 6), usual);
        assert_ne!(other(|it| it.kind = Kind::With(8)), usual);
        assert_ne!(other(|it| it.kind = Kind::Plain), usual);
        assert_ne!(other(|it| it.order.swap(0, 1)), usual);
        assert_ne!(other(|it| it.inner.swap(0, 1)), usual);
        assert_ne!(other(|it| it.text = "another"), usual);
    }
}
