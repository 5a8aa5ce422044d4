//! No cycle between the modules of a package, and rooms that stand one on the other.
//!
//! A module needs another one where its code, tests left out, has a path to it that begins with
//! `crate`, `super` or the name of a child. A name that a module only passes on (`pub use`) counts
//! as where it comes from. Left out is what a module and those inside of it need of each other:
//! they are one thing in several files. So what lies in the root of a package is nobody's cycle,
//! and what only macros write is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A package whose modules are kept in rooms, which are modules of its root.
struct House {
    package: &'static str,
    /// From the ground up: a room stands on all that are before it, and knows nothing of one that
    /// is beside it. What is in none of them is below them all; the root is above.
    floors: &'static [&'static [&'static str]],
    /// The one room that has statements of SQL.
    statements: &'static str,
}

const HOUSES: &[House] = &[House {
    package: "mimimi-client",
    floors: &[
        &["store"],
        &["mls", "net"],
        &["options"],
        &["engine"],
        &["flows"],
        &["driver"],
        &["api"],
    ],
    statements: "store",
}];

/// Names of modules from the root of the package, which has none.
type Name = Vec<String>;

/// What modules of all packages, which lie in these directories, need and should not.
///
/// # Errors
/// A source file cannot be read.
pub(crate) fn slips(packages: &BTreeMap<String, PathBuf>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (package, directory) in packages {
        let mut sources = Sources::default();
        for root in ["lib.rs", "main.rs"] {
            let path = directory.join("src").join(root);
            if path.exists() {
                sources.read(&path, &directory.join("src"), Vec::new())?;
                break;
            }
        }
        for cycle in sources.cycles() {
            let names: Vec<_> = cycle.iter().map(|name| name.join("::")).collect();
            all.push(format!(
                "{package}: modules in a circle: {}",
                names.join(", ")
            ));
        }
        for house in HOUSES.iter().filter(|house| house.package == package) {
            let slips = sources.climbs(house).into_iter();
            let slips = slips.chain(sources.statements(house));
            all.extend(slips.map(|slip| format!("{package}: {slip}")));
        }
    }
    Ok(all)
}

impl House {
    /// On which floor a module is.
    fn floor(&self, name: &Name) -> usize {
        let Some(room) = name.first() else {
            return self.floors.len() + 1;
        };
        let mut floors = self.floors.iter();
        let floor = floors.position(|rooms| rooms.contains(&room.as_str()));
        floor.map_or(0, |floor| floor + 1)
    }
}

/// The code of each module, without comments and tests.
#[derive(Default)]
struct Sources(BTreeMap<Name, Vec<String>>);

/// What a path leads to: a module, and the name of an item in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    module: Name,
    item: Option<String>,
}

impl Sources {
    fn read(&mut self, path: &Path, children: &Path, name: Name) -> Result<()> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let tokens = tokens(&text).with_context(|| format!("{} cannot be read", path.display()))?;
        let tokens = without_tests(tokens);
        let mut declared = Vec::new();
        for window in tokens.windows(3) {
            if let [keyword, child, end] = window
                && keyword == "mod"
                && end == ";"
            {
                declared.push(child.clone());
            }
        }
        self.0.insert(name.clone(), tokens);
        for child in declared {
            let inside = children.join(&child);
            let beside = children.join(format!("{child}.rs"));
            let path = if beside.exists() {
                beside
            } else {
                inside.join("mod.rs")
            };
            if path.exists() {
                let name = [&name[..], &[child]].concat();
                self.read(&path, &inside, name)?;
            }
        }
        Ok(())
    }

    /// What each module needs, but those around it and inside of it.
    fn needs(&self) -> BTreeMap<&Name, BTreeSet<Name>> {
        let mut found = BTreeMap::new();
        let mut passed_on: BTreeMap<(Name, String), Target> = BTreeMap::new();
        for (name, tokens) in &self.0 {
            let paths = Paths {
                sources: self,
                tokens,
                module: name,
            };
            let mut targets = Vec::new();
            for at in 0..tokens.len() {
                for (alias, target) in paths.at(at) {
                    if tokens.get(at.wrapping_sub(1)).is_some_and(|it| it == "use") {
                        passed_on.insert((name.clone(), alias), target.clone());
                    }
                    targets.push(target);
                }
            }
            found.insert(name, targets);
        }
        let origin = |target: &Target| {
            let mut target = target.clone();
            // More steps than any name is passed on in.
            for _ in 0..8 {
                let Some(item) = &target.item else { break };
                match passed_on.get(&(target.module.clone(), item.clone())) {
                    Some(next) if *next != target => target = next.clone(),
                    _ => break,
                }
            }
            target.module
        };
        found
            .into_iter()
            .map(|(name, targets)| {
                let needed = targets.iter().map(origin);
                let others = needed
                    .filter(|module| !name.starts_with(module) && !module.starts_with(name))
                    .collect();
                (name, others)
            })
            .collect()
    }

    /// Modules that need each other, directly or through others.
    fn cycles(&self) -> Vec<Vec<Name>> {
        let needs = self.needs();
        let below = |start: &Name| {
            let mut found = BTreeSet::new();
            let mut open = vec![start];
            while let Some(next) = open.pop() {
                for needed in needs.get(next).into_iter().flatten() {
                    if found.insert(needed) {
                        open.push(needed);
                    }
                }
            }
            found
        };
        let below: BTreeMap<_, _> = needs.keys().map(|name| (*name, below(name))).collect();
        let mut cycles = BTreeSet::new();
        for (name, reached) in &below {
            if reached.contains(name) {
                let circle: Vec<Name> = reached
                    .iter()
                    .filter(|other| below.get(**other).is_some_and(|it| it.contains(name)))
                    .map(|other| (*other).clone())
                    .collect();
                cycles.insert(circle);
            }
        }
        cycles.into_iter().collect()
    }
}

impl Sources {
    /// Modules that need one of a room that is above theirs, or beside it.
    fn climbs(&self, house: &House) -> Vec<String> {
        let mut climbs = Vec::new();
        for (name, needed) in self.needs() {
            let own = house.floor(name);
            for other in needed {
                let floor = house.floor(&other);
                let beside = own > 0 && floor == own && other.first() != name.first();
                if floor > own || beside {
                    let (name, other) = (name.join("::"), other.join("::"));
                    climbs.push(format!("{name} needs {other}, which stands no lower"));
                }
            }
        }
        climbs
    }

    /// Statements of SQL outside of the room for them.
    fn statements(&self, house: &House) -> Vec<String> {
        let mut found = Vec::new();
        for (name, tokens) in &self.0 {
            if name.first().is_some_and(|room| room == house.statements) {
                continue;
            }
            for text in tokens.iter().filter(|token| is_statement(token)) {
                let name = name.join("::");
                let room = house.statements;
                found.push(format!("{name} has SQL, which belongs in {room}: {text}"));
            }
        }
        found
    }
}

/// Whether a token is a text that begins as a statement of SQL does.
fn is_statement(token: &str) -> bool {
    let Some(text) = token.trim_start_matches(['r', '#']).strip_prefix('"') else {
        return false;
    };
    // Lines may be joined before the first word.
    let text = text.trim_start_matches(|it: char| it == '\\' || it.is_whitespace());
    let mut words = text.split_whitespace().map(str::to_uppercase);
    let (first, second) = (words.next(), words.next());
    let (first, second) = (first.unwrap_or_default(), second.unwrap_or_default());
    let mut rest = words;
    match (first.as_str(), second.as_str()) {
        ("INSERT", "INTO" | "OR") | ("REPLACE", "INTO") | ("DELETE", "FROM") => true,
        ("CREATE" | "DROP" | "ALTER", "TABLE" | "INDEX" | "TRIGGER" | "VIEW" | "UNIQUE") => true,
        ("PRAGMA" | "ATTACH" | "VACUUM", _) => true,
        ("UPDATE", _) => rest.any(|word| word == "SET"),
        // Also in an `EXISTS`, and of what is no table.
        ("SELECT", _) => text.starts_with("SELECT") || rest.any(|it| it == "FROM"),
        ("WITH", _) => rest.any(|word| word == "SELECT" || word == "(SELECT"),
        _ => false,
    }
}

/// The paths in the code of a module.
struct Paths<'s> {
    sources: &'s Sources,
    tokens: &'s [String],
    module: &'s Name,
}

impl Paths<'_> {
    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", String::as_str)
    }

    /// What the path that begins here leads to, with the names that it gives. None begins here:
    /// none.
    fn at(&self, at: usize) -> Vec<(String, Target)> {
        let mut targets = Vec::new();
        let begins = self.token(at.wrapping_sub(1)) != "::" && self.token(at + 1) == "::";
        let child = [&self.module[..], &[self.token(at).to_owned()]].concat();
        if !begins {
            return targets;
        }
        match self.token(at) {
            "crate" => self.follow(at + 2, Vec::new(), &mut targets),
            "super" | "self" => self.follow(at, self.module.clone(), &mut targets),
            _ if self.sources.0.contains_key(&child) => {
                self.follow(at, self.module.clone(), &mut targets)
            }
            _ => return targets,
        };
        targets
    }

    /// Follows a path or a tree of them from `module`. Returns where it ends.
    fn follow(
        &self,
        mut at: usize,
        mut module: Name,
        targets: &mut Vec<(String, Target)>,
    ) -> usize {
        let mut last = String::new();
        loop {
            match self.token(at) {
                "{" => {
                    at += 1;
                    while !matches!(self.token(at), "}" | "") {
                        at = self.follow(at, module.clone(), targets);
                        if self.token(at) == "," {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                "super" => {
                    module.pop();
                }
                "self" => {}
                segment => {
                    let child = [&module[..], &[segment.to_owned()]].concat();
                    if !self.sources.0.contains_key(&child) {
                        // An item, or all of them; what is inside of an item is no module.
                        let item = (segment != "*").then(|| segment.to_owned());
                        return self.end(at, module, item, targets);
                    }
                    last = segment.to_owned();
                    module = child;
                }
            }
            if self.token(at + 1) != "::" {
                let target = Target { module, item: None };
                let alias = self.alias(at).unwrap_or(last);
                targets.push((alias, target));
                return at + if self.token(at + 1) == "as" { 3 } else { 1 };
            }
            at += 2;
        }
    }

    fn end(
        &self,
        mut at: usize,
        module: Name,
        item: Option<String>,
        targets: &mut Vec<(String, Target)>,
    ) -> usize {
        let alias = self.alias(at).or_else(|| item.clone()).unwrap_or_default();
        targets.push((alias, Target { module, item }));
        while self.token(at + 1) == "::" {
            at += 2;
            if self.token(at) == "{" {
                // Of an enum: nothing in it is a module.
                let mut open = 1;
                while open > 0 && at + 1 < self.tokens.len() {
                    at += 1;
                    open += i32::from(self.token(at) == "{") - i32::from(self.token(at) == "}");
                }
            }
        }
        at + if self.token(at + 1) == "as" { 3 } else { 1 }
    }

    fn alias(&self, at: usize) -> Option<String> {
        (self.token(at + 1) == "as").then(|| self.token(at + 2).to_owned())
    }
}

/// Words, `::`, brackets, other characters, and texts as they are written; of comments nothing.
fn tokens(text: &str) -> Result<Vec<String>> {
    let stream = TokenStream::from_str(text).map_err(|error| anyhow!("no Rust: {error}"))?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<String>) {
    let mut trees = stream.into_iter();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(open.to_owned());
                flatten(group.stream(), tokens);
                tokens.push(close.to_owned());
            }
            TokenTree::Ident(word) => tokens.push(word.to_string()),
            TokenTree::Punct(first)
                if first.as_char() == ':' && first.spacing() == Spacing::Joint =>
            {
                trees.next();
                tokens.push("::".to_owned());
            }
            TokenTree::Punct(other) => tokens.push(other.to_string()),
            TokenTree::Literal(text) => tokens.push(text.to_string()),
        }
    }
}

/// Without what follows `#[cfg(test)]` up to its end.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let is_marked = tokens
            .get(at..at + MARK.len())
            .is_some_and(|some| some.iter().eq(MARK));
        if !is_marked {
            kept.push(token.clone());
            at += 1;
            continue;
        }
        at += MARK.len();
        let mut open = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token.as_str() {
                "{" => open += 1,
                "}" => {
                    open -= 1;
                    if open == 0 {
                        break;
                    }
                }
                ";" if open == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sources(modules: &[(&str, &str)]) -> Sources {
        let sources = modules.iter().map(|(name, text)| {
            let name = name.split("::").filter(|part| !part.is_empty());
            (
                name.map(str::to_owned).collect(),
                without_tests(tokens(text).unwrap()),
            )
        });
        Sources(sources.collect())
    }

    fn cycles_of(modules: &[(&str, &str)]) -> Vec<String> {
        sources(modules)
            .cycles()
            .iter()
            .map(|cycle| {
                let names: Vec<_> = cycle.iter().map(|name| name.join("::")).collect();
                names.join(" ")
            })
            .collect()
    }

    #[test]
    fn modules_that_need_each_other_are_a_cycle_however_they_say_so() {
        for back in [
            "use crate::a::A;",
            "use crate::{c, a::{A, B as C}};",
            "use super::a;",
            "fn f() -> crate::a::A { todo!() }",
            "use crate::a::*;",
        ] {
            let modules = [("", ""), ("a", "use crate::b::B;"), ("b", back), ("c", "")];
            assert_eq!(cycles_of(&modules), ["a b"], "{back}");
        }
        let three = [
            ("", ""),
            ("a", "use crate::b::B;"),
            ("b", "use crate::c::d::D;"),
            ("c", "mod d;"),
            ("c::d", "use super::super::a::A;"),
        ];
        assert_eq!(cycles_of(&three), ["a b c::d"]);
    }

    #[test]
    fn one_direction_is_no_cycle_nor_is_what_comments_texts_and_tests_say() {
        for back in [
            "",
            "// use crate::a::A;",
            "/* crate::a */",
            r##"const TEXT: &str = r#"crate::a::A"#;"##,
            "const TEXT: &str = \"crate::a \\\" crate::a\"; const C: char = '\"';",
            "#[cfg(test)] mod tests { use crate::a::A; fn f() { {} } }",
            "#[cfg(test)] use crate::a::A;",
            "use other::crate_a::a::A;",
        ] {
            let modules = [("", ""), ("a", "use crate::b::B;"), ("b", back)];
            assert_eq!(cycles_of(&modules), Vec::<String>::new(), "{back}");
        }
    }

    #[test]
    fn a_module_and_those_inside_of_it_are_one_thing() {
        let modules = [
            ("", "mod a; pub use a::A; pub struct R;"),
            ("a", "mod b; pub use b::B; pub struct A; use crate::R;"),
            ("a::b", "use super::A; use crate::R; pub struct B;"),
        ];
        assert_eq!(cycles_of(&modules), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_is_passed_on_counts_as_where_it_comes_from() {
        let modules = [
            ("", "mod a; mod b; pub use a::A; use a::C as D;"),
            ("a", "use crate::b::B; pub struct A;"),
            ("b", "use crate::A;"),
        ];
        assert_eq!(cycles_of(&modules), ["a b"]);
        let renamed = [modules[0], modules[1], ("b", "use crate::D;")];
        assert_eq!(cycles_of(&renamed), ["a b"]);
    }

    const HOUSE: House = House {
        package: "",
        floors: &[&["store"], &["mls", "net"], &["flows"]],
        statements: "store",
    };

    #[test]
    fn a_room_stands_on_those_below_it_and_on_none_above_or_beside() {
        let rooms = [
            ("", "mod word; mod store; mod mls; mod net; mod flows;"),
            ("word", ""),
            ("store", "mod table; use crate::word::W;"),
            ("store::table", "use crate::store; use crate::word;"),
            ("mls", "use crate::store::table::T;"),
            ("net", "use crate::{word::W, store};"),
            ("flows", "use crate::{mls, net, store::table, word};"),
        ];
        assert_eq!(sources(&rooms).climbs(&HOUSE), Vec::<String>::new());
        for (room, planted) in [
            ("store::table", "flows"),
            ("store", "mls"),
            ("word", "store::table"),
            ("net", "flows"),
            ("net", "mls"),
            ("mls", "net"),
        ] {
            let code = format!("use crate::{planted}::Planted;");
            let mut rooms = rooms;
            for module in &mut rooms {
                if module.0 == room {
                    module.1 = &code;
                }
            }
            let expected = format!("{room} needs {planted}, which stands no lower");
            assert_eq!(sources(&rooms).climbs(&HOUSE), [expected]);
        }
    }

    #[test]
    fn statements_of_sql_are_in_the_room_for_them_and_in_tests_and_nowhere_else() {
        let found = |module, code: &str| sources(&[(module, code)]).statements(&HOUSE).len();
        for statement in [
            r#""SELECT 1 FROM groups""#,
            r#""SELECT EXISTS (SELECT 1 FROM queue)""#,
            r#""select name from groups""#,
            r#""INSERT OR REPLACE INTO link VALUES (1)""#,
            r#""UPDATE profile SET handle = ?""#,
            r##"r#"DELETE FROM link"#"##,
            "\"\n  DELETE FROM link\"",
            r#""PRAGMA data_version""#,
            r#""WITH known AS (SELECT 1) SELECT * FROM known""#,
        ] {
            let code = format!("fn f(db: &Db) {{ db.execute({statement}, ()); }}");
            assert_eq!(found("flows", &code), 1, "{statement}");
            assert_eq!(found("", &code), 1, "{statement}");
            assert_eq!(found("store::table", &code), 0, "{statement}");
            let test = format!("#[cfg(test)] mod tests {{ {code} }}");
            assert_eq!(found("flows", &test), 0, "{statement}");
        }
        for text in [
            r#""update the client""#,
            r#""select""#,
            r#""a SELECT is in the midst""#,
            "// SELECT 1 FROM groups",
            "b'x'",
        ] {
            assert_eq!(found("flows", text), 0, "{text}");
        }
    }
}
