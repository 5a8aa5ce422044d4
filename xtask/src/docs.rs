//! What a reader of the documents stumbles over: links that lead nowhere, numbers of decisions that
//! there are not, lines that do not fit, sentences that have to be read twice. And comments of the
//! code that do not fit.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::headings::anchor;

/// Columns of a line outside tables and code.
const COLUMNS: usize = 100;
/// Words of a sentence. Longer ones are listed, and do not fail the check.
const WORDS: usize = 40;

/// Something to mend.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: PathBuf,
    line: usize,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    TooWide(usize),
    NoFile(String),
    NoAnchor(String),
    NoDecision(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, what } = self;
        write!(f, "{}:{line}: ", file.display())?;
        match what {
            What::TooWide(columns) => write!(f, "{columns} columns, of {COLUMNS}"),
            What::NoFile(target) => write!(f, "there is no file {target}"),
            What::NoAnchor(target) => write!(f, "there is no heading {target}"),
            What::NoDecision(number) => write!(f, "there is no decision {number}"),
        }
    }
}

/// A document, and what links can lead to in it.
struct Document {
    path: PathBuf,
    text: String,
    anchors: BTreeSet<String>,
}

impl Document {
    fn new(path: PathBuf, text: String) -> Self {
        let anchors = prose(&text)
            .filter(|(_, line)| line.starts_with('#'))
            .map(|(_, line)| anchor(line.trim_start_matches('#').trim()))
            .chain(between(&text, "<a id=\"", "\"").map(str::to_owned))
            .collect();
        Self {
            path,
            text,
            anchors,
        }
    }
}

/// Checks every document of the repository.
///
/// # Errors
/// What has to be mended.
pub fn check() -> Result<()> {
    let mut paths = Vec::new();
    collect(Path::new(""), &mut paths)?;
    paths.sort();
    let is_code = |path: &PathBuf| path.extension().is_some_and(|it| it == "rs");
    let (code, paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_code);
    let documents = paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(Document::new(path, text))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut findings = find(&documents, &|path| path.exists());
    for path in code {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let wide = wide_comments(&text).map(|(line, columns)| Finding {
            file: path.clone(),
            line,
            what: What::TooWide(columns),
        });
        findings.extend(wide);
    }
    let structures = crate::wire::check()?;
    let long: usize = documents.iter().map(|it| long_sentences(it).len()).sum();
    for document in &documents {
        for (line, words) in long_sentences(document) {
            println!(
                "{}:{line}: a sentence of {words} words",
                document.path.display()
            );
        }
    }
    if findings.is_empty() {
        let number = documents.len();
        println!(
            "check-docs: {number} documents with {structures} structures; {long} sentences of more \
             than {WORDS} words"
        );
        return Ok(());
    }
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    bail!("{}", findings.join("\n       "))
}

/// The documents and the code below a directory, without what is built and what is hidden.
fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let place = if directory == Path::new("") {
        Path::new(".")
    } else {
        directory
    };
    for entry in fs::read_dir(place).with_context(|| place.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = directory.join(&*name);
        if entry.file_type()?.is_dir() {
            if name != "target" && name != "node_modules" && !name.starts_with('.') {
                collect(&path, paths)?;
            }
        } else if name.ends_with(".md") || name.ends_with(".rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Lines of comments that do not fit, also in tables: numbers and columns.
fn wide_comments(code: &str) -> impl Iterator<Item = (usize, usize)> {
    let comments = code
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.trim_start().starts_with("//"));
    comments
        .map(|(line, number)| (number, line.chars().count()))
        .filter(|(_, columns)| *columns > COLUMNS)
}

fn find(documents: &[Document], exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for document in documents {
        let mut found = |line, what| {
            findings.push(Finding {
                file: document.path.clone(),
                line,
                what,
            });
        };
        for (number, line) in prose(&document.text) {
            let columns = line.chars().count();
            let is_table = line.trim_start().starts_with('|');
            // A link alone cannot be broken.
            if columns > COLUMNS && !is_table && line.trim().contains(' ') {
                found(number, What::TooWide(columns));
            }
            for target in between(line, "](", ")") {
                if let Some(what) = leads_nowhere(document, target, documents, exists) {
                    found(number, what);
                }
            }
        }
    }
    findings
}

fn leads_nowhere(
    from: &Document,
    target: &str,
    documents: &[Document],
    exists: &dyn Fn(&Path) -> bool,
) -> Option<What> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => from.path.clone(),
        file => plain(&from.path.parent()?.join(file)),
    };
    if !exists(&path) && documents.iter().all(|it| it.path != path) {
        return Some(What::NoFile(target.to_owned()));
    }
    if anchor.is_empty() {
        return None;
    }
    let document = documents.iter().find(|it| it.path == path)?;
    if document.anchors.contains(anchor) {
        return None;
    }
    Some(match anchor.parse::<u32>() {
        Ok(_) => What::NoDecision(anchor.to_owned()),
        Err(_) => What::NoAnchor(target.to_owned()),
    })
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Lines outside code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        (!is_code).then_some((at + 1, line))
    })
}

/// What stands between two marks.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin)
        .skip(1)
        .filter_map(move |rest| rest.split_once(end).map(|(found, _)| found))
}

/// Sentences of more than [`WORDS`] words, outside tables: line of the paragraph, words.
fn long_sentences(document: &Document) -> Vec<(usize, usize)> {
    let mut paragraphs: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in prose(&document.text) {
        let line = line.trim();
        let is_text = !line.is_empty() && !line.starts_with(['|', '#']);
        let begins = line.starts_with("* ") || line.starts_with("<a id");
        if is_text && goes_on && !begins {
            if let Some((_, paragraph)) = paragraphs.last_mut() {
                paragraph.push(' ');
                paragraph.push_str(line);
            }
        } else if is_text {
            paragraphs.push((number, line.to_owned()));
        }
        goes_on = is_text;
    }
    paragraphs
        .iter()
        .flat_map(|(number, paragraph)| {
            paragraph
                .split(". ")
                .map(|sentence| (*number, sentence.split_whitespace().count()))
        })
        .filter(|(_, words)| *words > WORDS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(documents: &[(&str, &str)]) -> Vec<(usize, What)> {
        let documents: Vec<Document> = documents
            .iter()
            .map(|(path, text)| Document::new(PathBuf::from(path), (*text).to_owned()))
            .collect();
        find(&documents, &|path| path == Path::new("src/lib.rs"))
            .into_iter()
            .map(|finding| (finding.line, finding.what))
            .collect()
    }

    #[test]
    fn links_to_files_headings_and_decisions_lead_somewhere() {
        let decisions = "# Decisions\n\n<a id=\"7\"></a>**7.** Because.\n";
        let page = "# A page: `x`, and more\n\
                    [a](decisions.md#7) [b](../src/lib.rs) [c](#a-page-x-and-more) [d](https://x.y/#z)\n";
        let documents = [("docs/decisions.md", decisions), ("docs/page.md", page)];
        assert_eq!(findings(&documents), []);
        let page = "# A page\n[a](decisions.md#8) [b](../src/gone.rs)\n[c](#another-page)\n";
        let documents = [("docs/decisions.md", decisions), ("docs/page.md", page)];
        let gone = What::NoFile("../src/gone.rs".to_owned());
        let other = What::NoAnchor("#another-page".to_owned());
        let wanted = [(2, What::NoDecision("8".to_owned())), (2, gone), (3, other)];
        assert_eq!(findings(&documents), wanted);
    }

    #[test]
    fn lines_have_a_hundred_columns_outside_tables_and_code() {
        let wide = "wide words ".repeat(10);
        let text = format!("| {wide}\n```text\n{wide}\n```\n\n{wide}\n");
        assert_eq!(findings(&[("page.md", &text)]), [(6, What::TooWide(110))]);
    }

    #[test]
    fn comments_have_a_hundred_columns_and_code_what_it_needs() {
        let wide = "wide words ".repeat(10);
        let code = format!("let a = \"{wide}\";\n    //! | {wide}\n// narrow\n");
        assert_eq!(wide_comments(&code).collect::<Vec<_>>(), [(2, 120)]);
    }

    #[test]
    fn a_sentence_ends_at_its_full_stop_and_a_paragraph_at_a_blank_line() {
        let long = "word ".repeat(41);
        let text = format!(
            "Short. {long}\nand on.\n\n* {}.\n* word.\n",
            "word ".repeat(30)
        );
        let document = Document::new(PathBuf::from("page.md"), text);
        assert_eq!(long_sentences(&document), [(1, 43)]);
    }
}
