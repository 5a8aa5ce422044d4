//! What reaches the terminal. Text from others is shown there, never obeyed.
//!
//! Every line goes through [`escape`], whoever has put it together: no control character and
//! nothing invisible passes, and a line feed begins a line that is marked as a continuation. So no
//! message can move the cursor, hide a part of itself, or look like a line of `mimimi`. Names of
//! others stand in a line as [`Name`], so that none can look like the words around it.

use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal as _, Write};

use client::text::is_hidden;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use unicode_width::UnicodeWidthStr as _;

/// What every line but the first of one text begins with.
const CONTINUATION: &str = "  | ";
/// What the SDK calls a member whom it does not know.
const UNVERIFIED: &str = "(unverified)";
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// A name that somebody else has chosen, inside a line: in quotation marks if it could be mistaken
/// for something else.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        let is_plain = *name == UNVERIFIED
            || !name.is_empty()
                && name.trim() == *name
                && !name.contains("  ")
                && !name.contains(|it: char| "[]()<>:;,|\"`\\".contains(it) || it.is_control());
        if is_plain {
            return f.write_str(name);
        }
        f.write_char('"')?;
        for character in name.chars() {
            if character == '"' || character.is_control() {
                visible(character, f)?;
            } else {
                f.write_char(character)?;
            }
        }
        f.write_char('"')
    }
}

/// Several of them.
pub(crate) fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<String> = names
        .into_iter()
        .map(|name| Name(name).to_string())
        .collect();
    names.join(", ")
}

fn visible(character: char, out: &mut impl fmt::Write) -> fmt::Result {
    write!(out, "<U+{:04X}>", u32::from(character))
}

/// One text as it may be shown: without the characters that act on a terminal or cannot be seen,
/// which are named instead, and with every line but its first marked.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut before = None;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\r' if rest.peek() == Some(&'\n') => {}
            '\n' => {
                escaped.push('\n');
                escaped.push_str(CONTINUATION);
            }
            '\t' => escaped.push('\t'),
            _ if is_hidden(before, character, rest.peek().copied()) => {
                // Writing to a string does not fail.
                let _ = visible(character, &mut escaped);
            }
            _ => escaped.push(character),
        }
        before = Some(character);
    }
    escaped
}

/// Breaks lines that a terminal would break: a part of a text that it put at the beginning of a
/// line would look like another line of ours.
pub(crate) fn fold(escaped: &str, columns: usize) -> String {
    let mut folded = String::with_capacity(escaped.len());
    let mut column = 0usize;
    for character in escaped.chars() {
        let width = match character {
            '\n' => {
                folded.push('\n');
                column = 0;
                continue;
            }
            '\t' => 8usize.saturating_sub(column % 8),
            // Nothing is wider than two columns; too early is not wrong.
            it => 1 + usize::from(!it.is_ascii()),
        };
        if column.saturating_add(width) > columns.max(CONTINUATION.len() + 2) {
            folded.push('\n');
            folded.push_str(CONTINUATION);
            column = CONTINUATION.len();
        }
        folded.push(character);
        column = column.saturating_add(width);
    }
    folded
}

/// Rows under heads, for people. A terminal sees columns. A script sees neither heads nor spaces:
/// the cells of a row with tabs between them, without empty ones at its end.
struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// What a terminal sees when there is no row.
    nothing: &'static str,
}

impl Table {
    /// Between two columns.
    const GAP: usize = 2;
    /// A longer cell pushes the rest of its own row only.
    const WIDEST: usize = 32;

    fn for_people(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return vec![self.nothing.to_owned()];
        }
        let heads = self.heads.iter().map(|&head| head.to_owned()).collect();
        let mut rows: Vec<Vec<String>> = vec![heads];
        let escaped = |row: &Vec<String>| row.iter().map(|cell| escape(cell)).collect();
        rows.extend(self.rows.iter().map(escaped));
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|at| {
                let cells = rows.iter().filter_map(|row| row.get(at));
                let widest = cells.map(|cell| cell.width()).max();
                widest.unwrap_or(0).min(Self::WIDEST)
            })
            .collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let missing = width.saturating_sub(cell.width()).saturating_add(Self::GAP);
                line.extend(std::iter::repeat_n(' ', missing));
            }
            line.trim_end().to_owned()
        };
        rows.iter().map(line).collect()
    }

    fn for_scripts(&self) -> Vec<String> {
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
            cells.join("\t").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

enum Lines {
    Plain(Vec<String>),
    Table(Table),
}

/// What a command says: a document for programs, lines or a table for people.
pub(crate) struct Output {
    document: Value,
    lines: Lines,
    folded: bool,
}

impl Output {
    pub(crate) fn new(document: Value, lines: impl IntoIterator<Item = String>) -> Self {
        Self {
            document,
            lines: Lines::Plain(lines.into_iter().collect()),
            folded: false,
        }
    }

    /// Rows under `heads`; `nothing` is what a person reads when there are none.
    pub(crate) fn table<const N: usize>(
        document: Value,
        heads: [&'static str; N],
        rows: impl IntoIterator<Item = [String; N]>,
        nothing: &'static str,
    ) -> Self {
        let rows = rows.into_iter().map(Vec::from).collect();
        let heads = heads.into();
        Self {
            document,
            lines: Lines::Table(Table {
                heads,
                rows,
                nothing,
            }),
            folded: false,
        }
    }

    /// For lines with texts of others in them; codes and keys must stay whole.
    pub(crate) fn with_texts_of_others(self) -> Self {
        Self {
            folded: true,
            ..self
        }
    }

    /// Its lines, as they may be shown to a person.
    pub(crate) fn into_lines(self) -> Vec<String> {
        match self.lines {
            Lines::Plain(lines) => lines.iter().map(|line| escape(line)).collect(),
            Lines::Table(table) => table.for_people(),
        }
    }

    /// Prints all of it and makes sure that it is out.
    pub(crate) fn print(self, json: bool) -> io::Result<()> {
        let out = io::stdout();
        let columns = out.is_terminal().then(columns);
        let text = if json {
            encode(&self.document)
        } else {
            self.text(columns)
        };
        let mut out = out.lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// As a terminal of so many columns shows it, or as a script reads it.
    fn text(self, columns: Option<usize>) -> String {
        let folded = self.folded;
        let lines = match (self.lines, columns) {
            (Lines::Table(table), None) => table.for_scripts(),
            (Lines::Table(table), Some(_)) => table.for_people(),
            (Lines::Plain(lines), _) => lines.iter().map(|line| escape(line)).collect(),
        };
        let mut text = String::new();
        for line in lines {
            match columns.filter(|_| folded) {
                Some(columns) => text.push_str(&fold(&line, columns)),
                None => text.push_str(&line),
            }
            text.push('\n');
        }
        text
    }
}

fn columns() -> usize {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => COLUMNS,
    }
}

/// One line of JSON that a terminal can be shown too: what [`escape`] names is escaped as JSON does
/// it.
pub(crate) fn encode(document: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Visible);
    // Writing to memory does not fail, nor do values with texts as their keys.
    let _ = serde::Serialize::serialize(document, &mut serializer);
    bytes.push(b'\n');
    String::from_utf8(bytes).unwrap_or_default()
}

struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut from = 0;
        for (at, character) in fragment.char_indices() {
            if !is_hidden(None, character, None) {
                continue;
            }
            let whole = fragment.get(from..at).unwrap_or_default();
            CompactFormatter.write_string_fragment(writer, whole)?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            from = at + character.len_utf8();
        }
        let whole = fragment.get(from..).unwrap_or_default();
        CompactFormatter.write_string_fragment(writer, whole)
    }
}

/// Whether standard output was closed by whoever started the program. The runtime then opens
/// `/dev/null` in its place, for reading and writing, which no redirection of a shell does.
pub(crate) fn output_is_closed() -> bool {
    let out = io::stdout();
    let Ok(flags) = rustix::fs::fcntl_getfl(&out) else {
        return true;
    };
    let null = rustix::fs::stat("/dev/null");
    let same = matches!((rustix::fs::fstat(&out), null), (Ok(out), Ok(null)) if out.st_rdev == null.st_rdev
        && rustix::fs::FileType::from_raw_mode(out.st_mode) == rustix::fs::FileType::CharacterDevice);
    same && flags.contains(rustix::fs::OFlags::RDWR)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_named_and_what_a_script_needs_is_left() {
        for (text, shown) in [
            ("\u{1b}[2Jx", "<U+001B>[2Jx"),
            ("a\rb\u{8}\u{7f}", "a<U+000D>b<U+0008><U+007F>"),
            ("\u{9b}31m", "<U+009B>31m"),
            ("x\u{202e}cba", "x<U+202E>cba"),
            ("a\u{200b}b\u{feff}", "a<U+200B>b<U+FEFF>"),
            ("a\u{200d}b", "a<U+200D>b"),
            ("x\u{e0041}", "x<U+E0041>"),
            (
                "one\r\ntwo\n[lab] carol: hi",
                "one\n  | two\n  | [lab] carol: hi",
            ),
            ("one\u{2028}two\u{85}three", "one<U+2028>two<U+0085>three"),
            // Written as people write.
            ("grüß, 日本, می\u{200c}خواهم", "grüß, 日本, می\u{200c}خواهم"),
            (
                "👩\u{200d}🚀 ❤\u{fe0f} 1\u{fe0f}\u{20e3}",
                "👩\u{200d}🚀 ❤\u{fe0f} 1\u{fe0f}\u{20e3}",
            ),
        ] {
            assert_eq!(escape(text), shown, "{text:?}");
        }
    }

    #[test]
    fn a_name_cannot_end_what_it_stands_in() {
        for (name, shown) in [
            ("lab", "lab"),
            ("the lab", "the lab"),
            ("lab] carol: hi", "\"lab] carol: hi\""),
            ("a\"b", "\"a<U+0022>b\""),
            ("a\nb\tc", "\"a<U+000A>b<U+0009>c\""),
            (" lab", "\" lab\""),
            ("", "\"\""),
        ] {
            assert_eq!(Name(name).to_string(), shown);
        }
    }

    #[test]
    fn a_table_has_columns_for_people_and_tabs_for_scripts() {
        let rows = [
            ["lab", "3", ""],
            ["日本", "12", "left"],
            ["\"a, b\"", "1", "\u{1b}x"],
        ];
        let table = || {
            let rows = rows.map(|row| row.map(str::to_owned));
            Output::table(json!([]), ["GROUP", "MEMBERS", "STATE"], rows, "no groups")
        };
        let people = "GROUP   MEMBERS  STATE\n\
                      lab     3\n\
                      日本    12       left\n\
                      \"a, b\"  1        <U+001B>x\n";
        assert_eq!(table().text(Some(80)), people);
        let scripts = "lab\t3\n日本\t12\tleft\n\"a, b\"\t1\t<U+001B>x\n";
        assert_eq!(table().text(None), scripts);

        let empty = || Output::table(json!([]), ["GROUP"], [], "no groups");
        assert_eq!(empty().text(Some(80)), "no groups\n");
        assert_eq!(empty().text(None), "");
    }

    #[test]
    fn a_long_text_does_not_reach_the_beginning_of_a_line() {
        let text = format!("[lab] bob: hi{}[lab] carol: hi", " ".repeat(67));
        let output = || Output::new(Value::Null, [text.clone()]).with_texts_of_others();
        let shown = output().text(Some(80));
        assert!(
            shown.lines().skip(1).all(|it| it.starts_with(CONTINUATION)),
            "{shown}"
        );
        assert!(
            shown.lines().all(|line| line.chars().count() <= 80),
            "{shown}"
        );
        assert_eq!(shown.lines().count(), 2);
        assert_eq!(output().text(None), format!("{text}\n"));
        // What has to be copied stays whole.
        let code = Output::new(Value::Null, ["c".repeat(200)]);
        assert_eq!(code.text(Some(80)).lines().count(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_line_that_is_not_marked_or_acts(text: String, columns in 1usize..200) {
            let line = || Output::new(Value::Null, [format!("[lab] bob: {text}")]).with_texts_of_others();
            let table = || {
                let row = [Name(&text).to_string(), text.clone()];
                Output::table(Value::Null, ["FROM", "TEXT"], [row], "none").with_texts_of_others()
            };
            for (ours, shown) in [
                (1, line().text(None)),
                (1, line().text(Some(columns))),
                (1, table().text(None)),
                (2, table().text(Some(columns))),
            ] {
                let unmarked = shown.lines().filter(|line| !line.starts_with(CONTINUATION));
                prop_assert_eq!(unmarked.count(), ours, "{:?}", shown);
                let acts = |it: char| it.is_control() && it != '\n' && it != '\t';
                prop_assert!(!shown.contains(acts), "{shown:?}");
            }
        }

        #[test]
        fn a_document_is_read_as_it_was_and_has_nothing_that_acts(text in "[\\x00-\\u{e0fff}]{0,40}") {
            let document = json!({ "text": &text, &text: [1] });
            let line = encode(&document);
            let one_line = line.strip_suffix('\n').unwrap();
            prop_assert!(!one_line.contains(|it: char| is_hidden(None, it, None)), "{line:?}");
            prop_assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), document);
        }
    }
}
