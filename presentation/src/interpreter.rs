//! From bytes to fields and back, by what the documents say.
//!
//! Numbers up to 32 bits are numbers in JSON, those of 64 bits are decimal strings, since not every
//! reader of JSON keeps them whole. Bytes are in hexadecimal, choices have their names.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{Member, Structures, Type, hex, unhex};

impl Structures {
    /// The fields of a structure that is encoded in exactly these bytes.
    ///
    /// # Errors
    /// When they are not.
    pub fn decode(&self, name: &str, bytes: &[u8]) -> Result<Value> {
        let mut rest = bytes;
        let value = self
            .read(&Type::Named(name.to_owned()), &mut rest)
            .with_context(|| format!("in {name}"))?;
        ensure!(rest.is_empty(), "{} bytes after {name}", rest.len());
        Ok(value)
    }

    /// The bytes of a structure with these fields.
    ///
    /// # Errors
    /// When they are not its fields.
    pub fn encode(&self, name: &str, fields: &Value) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write(&Type::Named(name.to_owned()), fields, &mut bytes)
            .with_context(|| format!("in {name}"))?;
        Ok(bytes)
    }

    /// The structures within one with these fields, each with its own fields.
    ///
    /// # Errors
    /// When they are not its fields.
    pub fn parts(&self, name: &str, fields: &Value) -> Result<Vec<(String, Value)>> {
        let mut parts = Vec::new();
        self.find_parts(self.named(name)?, fields, &mut parts)?;
        Ok(parts)
    }

    fn find_parts(&self, of: &Type, value: &Value, parts: &mut Vec<(String, Value)>) -> Result<()> {
        match of {
            Type::Named(name) => {
                parts.push((name.clone(), value.clone()));
                self.find_parts(self.named(name)?, value, parts)
            }
            Type::Optional(_) if value.is_null() => Ok(()),
            Type::Optional(of) => self.find_parts(of, value, parts),
            Type::Vector(of) => {
                let mut items = value.as_array().context("no list")?.iter();
                items.try_for_each(|item| self.find_parts(of, item, parts))
            }
            Type::Struct(members) => {
                let fields = value.as_object().context("no fields")?;
                self.find_in_members(members, fields, parts)
            }
            _ => Ok(()),
        }
    }

    fn find_in_members(
        &self,
        members: &[Member],
        fields: &Map<String, Value>,
        parts: &mut Vec<(String, Value)>,
    ) -> Result<()> {
        for member in members {
            match member {
                Member::Field(name, of) => {
                    let value = field(fields, name)?;
                    self.find_parts(of, value, parts)?;
                }
                Member::Select(on, cases) => {
                    self.find_in_members(chosen(on, cases, fields)?, fields, parts)?;
                }
            }
        }
        Ok(())
    }

    fn named(&self, name: &str) -> Result<&Type> {
        self.0
            .get(name)
            .with_context(|| format!("{name} is in no document"))
    }

    fn read(&self, of: &Type, rest: &mut &[u8]) -> Result<Value> {
        Ok(match of {
            Type::Number(width) => number(*width, read_number(*width, rest)?),
            Type::Opaque(length) => hex(take(rest, *length)?).into(),
            Type::Bytes => hex(read_vector(rest)?).into(),
            Type::Padded(size) => {
                let mut slot = take(rest, *size)?;
                let length = usize::try_from(read_number(2, &mut slot)?)?;
                let content = take(&mut slot, length)?;
                ensure!(
                    slot.iter().all(|byte| *byte == 0),
                    "padding that is not zero"
                );
                hex(content).into()
            }
            Type::Vector(of) => {
                let mut items = read_vector(rest)?;
                let mut values = Vec::new();
                while !items.is_empty() {
                    values.push(self.read(of, &mut items)?);
                }
                values.into()
            }
            Type::Optional(of) => match read_number(1, rest)? {
                0 => Value::Null,
                1 => self.read(of, rest)?,
                _ => bail!("an optional value is neither there nor absent"),
            },
            Type::Struct(members) => {
                let mut fields = Map::new();
                self.read_members(members, rest, &mut fields)?;
                fields.into()
            }
            Type::Enum(width, names) => {
                let number = read_number(*width, rest)?;
                let known = names.iter().find(|(_, of)| *of == number);
                known
                    .with_context(|| format!("{number} is no choice"))?
                    .0
                    .clone()
                    .into()
            }
            Type::Named(name) => self
                .read(self.named(name)?, rest)
                .with_context(|| name.clone())?,
        })
    }

    fn read_members(
        &self,
        members: &[Member],
        rest: &mut &[u8],
        fields: &mut Map<String, Value>,
    ) -> Result<()> {
        for member in members {
            match member {
                Member::Field(name, of) => {
                    let value = self.read(of, rest).with_context(|| name.clone())?;
                    fields.insert(name.clone(), value);
                }
                Member::Select(on, cases) => {
                    self.read_members(chosen(on, cases, fields)?, rest, fields)?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, of: &Type, value: &Value, to: &mut Vec<u8>) -> Result<()> {
        match of {
            Type::Number(width) => write_number(*width, number_of(value)?, to),
            Type::Opaque(length) => {
                let bytes = bytes_of(value)?;
                ensure!(
                    bytes.len() == *length,
                    "{} bytes instead of {length}",
                    bytes.len()
                );
                to.extend(bytes);
                Ok(())
            }
            Type::Bytes => write_vector(&bytes_of(value)?, to),
            Type::Padded(size) => {
                let content = bytes_of(value)?;
                let end = to.len() + size;
                write_number(2, u64::try_from(content.len())?, to)?;
                to.extend(content);
                ensure!(to.len() <= end, "content that is too long");
                to.resize(end, 0);
                Ok(())
            }
            Type::Vector(of) => {
                let mut items = Vec::new();
                for value in value.as_array().context("no list")? {
                    self.write(of, value, &mut items)?;
                }
                write_vector(&items, to)
            }
            Type::Optional(_) if value.is_null() => write_number(1, 0, to),
            Type::Optional(of) => {
                write_number(1, 1, to)?;
                self.write(of, value, to)
            }
            Type::Struct(members) => {
                let fields = value.as_object().context("no fields")?;
                self.write_members(members, fields, to)
            }
            Type::Enum(width, names) => {
                let known = names.iter().find(|(name, _)| *value == json!(name));
                write_number(*width, known.context("no choice")?.1, to)
            }
            Type::Named(name) => self
                .write(self.named(name)?, value, to)
                .with_context(|| name.clone()),
        }
    }

    fn write_members(
        &self,
        members: &[Member],
        fields: &Map<String, Value>,
        to: &mut Vec<u8>,
    ) -> Result<()> {
        for member in members {
            match member {
                Member::Field(name, of) => {
                    let value = field(fields, name)?;
                    self.write(of, value, to).with_context(|| name.clone())?;
                }
                Member::Select(on, cases) => {
                    self.write_members(chosen(on, cases, fields)?, fields, to)?;
                }
            }
        }
        Ok(())
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value> {
    fields.get(name).with_context(|| format!("without {name}"))
}

fn chosen<'a>(
    on: &str,
    cases: &'a [(String, Vec<Member>)],
    fields: &Map<String, Value>,
) -> Result<&'a [Member]> {
    let choice = fields.get(on).and_then(Value::as_str);
    let case = cases.iter().find(|(name, _)| Some(name.as_str()) == choice);
    Ok(&case.with_context(|| format!("no case for {choice:?}"))?.1)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length).context("too few bytes")?;
    *rest = behind;
    Ok(taken)
}

fn read_number(width: usize, rest: &mut &[u8]) -> Result<u64> {
    let bytes = take(rest, width)?.iter();
    Ok(bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// RFC 9420 §2.1.2: two bits say how many bytes the length has, in its shortest form.
fn read_vector<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let first = *rest.first().context("too few bytes")?;
    let width = match first >> 6 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => bail!("no length"),
    };
    let all = read_number(width, rest)?;
    let length = all & ((1 << (8 * width - 2)) - 1);
    ensure!(
        width == width_of(length),
        "a length that is not in its shortest form"
    );
    take(rest, usize::try_from(length)?)
}

const fn width_of(length: u64) -> usize {
    match length {
        0..64 => 1,
        64..16_384 => 2,
        _ => 4,
    }
}

fn write_number(width: usize, number: u64, to: &mut Vec<u8>) -> Result<()> {
    let bytes = number.to_be_bytes();
    let (above, kept) = bytes.split_at(bytes.len() - width);
    ensure!(
        above.iter().all(|byte| *byte == 0),
        "{number} has no room in {width} bytes"
    );
    to.extend(kept);
    Ok(())
}

fn write_vector(bytes: &[u8], to: &mut Vec<u8>) -> Result<()> {
    let length = u64::try_from(bytes.len())?;
    let width = width_of(length);
    let mark = match width {
        1 => 0,
        2 => 1,
        _ => 2,
    };
    write_number(width, length | mark << (8 * width - 2), to)?;
    to.extend(bytes);
    Ok(())
}

fn number(width: usize, number: u64) -> Value {
    match width {
        8 => number.to_string().into(),
        _ => number.into(),
    }
}

fn number_of(value: &Value) -> Result<u64> {
    match value {
        Value::String(digits) => Ok(digits.parse()?),
        other => other.as_u64().context("no number"),
    }
}

fn bytes_of(value: &Value) -> Result<Vec<u8>> {
    unhex(value.as_str().context("no bytes")?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = "
        opaque Id[2];
        enum { one(1), other(7), (255) } Kind;
        // A comment; with { marks.
        struct {
            uint16 number;            // and one here
            Kind kind;
            select (Choice.kind) {
                case one: Id id; uint64 large;
                case other: struct {};
            };
            optional<Id> maybe;
            Id ids<V>;
            opaque bytes<V>;
            Padded<5> slot;
        } Choice;";

    #[test]
    fn bytes_are_read_as_the_text_says_and_written_again() {
        let structures = Structures::parse(TEXT).unwrap();
        let one = "0102 01 aabb 0000000000000009 01 ccdd 04 01020304 01 ff 0001 ee 0000";
        let other = "0102 07 00 00 00 0000 000000";
        for (text, fields) in [
            (
                one,
                json!({
                    "number": 258, "kind": "one", "id": "aabb", "large": "9", "maybe": "ccdd",
                    "ids": ["0102", "0304"], "bytes": "ff", "slot": "ee",
                }),
            ),
            (
                other,
                json!({
                    "number": 258, "kind": "other", "maybe": null, "ids": [], "bytes": "",
                    "slot": "",
                }),
            ),
        ] {
            let bytes = unhex(&text.replace(' ', "")).unwrap();
            assert_eq!(structures.decode("Choice", &bytes).unwrap(), fields);
            assert_eq!(structures.encode("Choice", &fields).unwrap(), bytes);
        }
    }

    #[test]
    fn the_structures_within_one_are_found() {
        let structures = Structures::parse(TEXT).unwrap();
        let bytes = unhex("010201aabb000000000000000901ccdd040102030401ff0001ee0000").unwrap();
        let fields = structures.decode("Choice", &bytes).unwrap();
        let parts = structures.parts("Choice", &fields).unwrap();
        let ids = parts.iter().filter(|(name, _)| name == "Id");
        let ids: Vec<_> = ids.map(|(_, value)| value.as_str().unwrap()).collect();
        assert_eq!(ids, ["aabb", "ccdd", "0102", "0304"]);
        assert!(parts.contains(&("Kind".to_owned(), json!("one"))));
    }

    #[test]
    fn what_the_text_does_not_say_is_refused() {
        let structures = Structures::parse(TEXT).unwrap();
        for text in [
            "",
            "0102 02 00 00 00 0000 000000",        // no such kind
            "0102 07 02 00 00 0000 000000",        // no such option
            "0102 07 00 03 010203 00 0000 000000", // half an id
            "0102 07 00 00 4000 0000 000000",      // a length in two bytes
            "0102 07 00 00 00 0004 000000",        // content beyond its slot
            "0102 07 00 00 00 0000 000001",        // not padded with zeros
            "0102 07 00 00 00 0000 000000 00",     // more behind it
        ] {
            let bytes = unhex(&text.replace(' ', "")).unwrap();
            assert!(structures.decode("Choice", &bytes).is_err(), "{text}");
        }
    }

    #[test]
    fn a_length_takes_more_bytes_where_it_must() {
        let structures = Structures::parse("opaque Bytes<V>;").unwrap();
        for (length, head) in [(63, "3f"), (64, "4040"), (16_384, "80004000")] {
            let fields = json!(hex(&vec![7; length]));
            let bytes = structures.encode("Bytes", &fields).unwrap();
            assert!(hex(&bytes).starts_with(head));
            assert_eq!(structures.decode("Bytes", &bytes).unwrap(), fields);
        }
    }

    #[test]
    fn a_name_is_declared_once_and_in_the_language() {
        for text in [
            "opaque Id[2]; opaque Id[3];",
            "struct { opaque id; } X;",
            "struct { uint8 id",
            "enum { one(1) } X;",
        ] {
            assert!(Structures::parse(text).is_err(), "{text}");
        }
    }
}
