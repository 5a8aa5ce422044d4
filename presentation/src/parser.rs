//! From text to types.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Member, Type};

pub(crate) fn declarations(text: &str) -> Result<BTreeMap<String, Type>> {
    let mut tokens = Tokens(tokens(text));
    let mut declared = BTreeMap::new();
    while !tokens.0.is_empty() {
        let of = tokens.of()?;
        let name = tokens.take()?;
        // How `Padded` is made is for people: sizes that depend on others are built in here.
        if tokens.is_next("<") && tokens.0.get(1).is_some_and(|it| it == "N") {
            tokens.0.drain(..4.min(tokens.0.len()));
            continue;
        }
        let of = tokens.sized(of)?;
        tokens.expect(";")?;
        ensure!(
            declared.insert(name.clone(), of).is_none(),
            "{name} is declared twice"
        );
    }
    Ok(declared)
}

/// Words, numbers and marks, without comments.
fn tokens(text: &str) -> VecDeque<String> {
    let mut tokens = VecDeque::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        let mut word = String::new();
        for letter in code.chars().chain([' ']) {
            if letter.is_alphanumeric() || letter == '_' {
                word.push(letter);
                continue;
            }
            if !word.is_empty() {
                tokens.push_back(std::mem::take(&mut word));
            }
            if !letter.is_whitespace() {
                tokens.push_back(letter.to_string());
            }
        }
    }
    tokens
}

struct Tokens(VecDeque<String>);

impl Tokens {
    fn is_next(&self, token: &str) -> bool {
        self.0.front().is_some_and(|it| it == token)
    }

    fn take(&mut self) -> Result<String> {
        let token = self.0.pop_front();
        token.context("the text ends within a declaration")
    }

    fn take_if(&mut self, token: &str) -> bool {
        let is_next = self.is_next(token);
        if is_next {
            self.0.pop_front();
        }
        is_next
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        let found = self.take()?;
        ensure!(
            found == token,
            "{found} instead of {token}, before {:?}",
            self.0.front()
        );
        Ok(())
    }

    fn number(&mut self) -> Result<usize> {
        let token = self.take()?;
        token
            .parse()
            .with_context(|| format!("{token} is no number"))
    }

    /// A number, or the length of a frame, which an answer says, less something.
    fn size(&mut self) -> Result<usize> {
        if !self.take_if("frame_len") {
            return self.number();
        }
        self.expect("-")?;
        Ok(crate::FRAME_LEN - self.number()?)
    }

    /// What stands before a name.
    fn of(&mut self) -> Result<Type> {
        let word = self.take()?;
        Ok(match word.as_str() {
            "uint8" => Type::Number(1),
            "uint16" => Type::Number(2),
            "uint32" => Type::Number(4),
            "uint64" => Type::Number(8),
            "opaque" => Type::Opaque(1),
            "optional" => {
                self.expect("<")?;
                let of = self.of()?;
                self.expect(">")?;
                Type::Optional(Box::new(of))
            }
            "Padded" => {
                self.expect("<")?;
                let size = self.size()?;
                self.expect(">")?;
                Type::Padded(size)
            }
            "struct" => {
                self.expect("{")?;
                Type::Struct(self.members()?)
            }
            "enum" => self.enumeration()?,
            _ => Type::Named(word),
        })
    }

    /// What stands behind a name.
    fn sized(&mut self, of: Type) -> Result<Type> {
        if self.take_if("[") {
            let size = self.number();
            self.expect("]")?;
            return match of {
                Type::Opaque(_) => size.map(Type::Opaque),
                _ => bail!("only bytes have fixed lengths"),
            };
        }
        if self.take_if("<") {
            self.expect("V")?;
            self.expect(">")?;
            return Ok(match of {
                Type::Opaque(_) => Type::Bytes,
                of => Type::Vector(Box::new(of)),
            });
        }
        ensure!(of != Type::Opaque(1), "bytes without a length");
        Ok(of)
    }

    fn enumeration(&mut self) -> Result<Type> {
        self.expect("{")?;
        let (mut names, mut largest) = (Vec::new(), 0);
        while !self.take_if("}") {
            let name = if self.is_next("(") {
                None
            } else {
                Some(self.take()?)
            };
            self.expect("(")?;
            let number = u64::try_from(self.number()?)?;
            self.expect(")")?;
            self.take_if(",");
            match name {
                Some(name) => names.push((name, number)),
                None => largest = number,
            }
        }
        let width = match largest {
            0xff => 1,
            0xffff => 2,
            other => bail!("an enum up to {other}"),
        };
        Ok(Type::Enum(width, names))
    }

    fn members(&mut self) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        while !self.take_if("}") {
            if self.take_if("select") {
                members.push(self.select()?);
            } else {
                members.extend(self.field()?);
            }
        }
        Ok(members)
    }

    /// A field, or none where `struct {}` stands for nothing.
    fn field(&mut self) -> Result<Option<Member>> {
        let of = self.of()?;
        if of == Type::Struct(Vec::new()) && self.take_if(";") {
            return Ok(None);
        }
        let name = self.take()?;
        // A size that depends on another field: only in what is built in.
        let size = self.0.get(1).filter(|_| self.is_next("["));
        if size.is_some_and(|it| it.parse::<usize>().is_err()) {
            while !self.take_if(";") {
                self.take()?;
            }
            return Ok(None);
        }
        let of = self.sized(of)?;
        self.expect(";")?;
        Ok(Some(Member::Field(name, of)))
    }

    fn select(&mut self) -> Result<Member> {
        self.expect("(")?;
        self.take()?;
        self.expect(".")?;
        let field = self.take()?;
        self.expect(")")?;
        self.expect("{")?;
        let mut cases = Vec::new();
        while self.take_if("case") {
            let name = self.take()?;
            self.expect(":")?;
            let mut members = Vec::new();
            while !self.is_next("case") && !self.is_next("}") {
                members.extend(self.field()?);
            }
            cases.push((name, members));
        }
        self.expect("}")?;
        self.expect(";")?;
        Ok(Member::Select(field, cases))
    }
}
