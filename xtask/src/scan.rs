//! Looks for plaintext where only ciphertext should be.
//!
//! A needle is looked for as it is, as hex (either case) and as base64 (standard and URL-safe
//! alphabet) at each of the three places that it can have in a base64 group. What is split over two
//! files or compressed is not found: the stores must be told not to compress.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;

/// The shortest needle: anything shorter would be found in random bytes, too.
pub const SHORTEST_NEEDLE: usize = 5;

/// How much of a file is searched at once.
const CHUNK: usize = 4 << 20;

/// How a needle was written down where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    Raw,
    Hex,
    Base64,
}

/// What to look for.
pub struct Needles {
    forms: Vec<Form>,
    longest: usize,
    count: usize,
}

struct Form {
    needle: usize,
    encoding: Encoding,
    finder: memmem::Finder<'static>,
    text: String,
}

/// A needle in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: PathBuf,
    pub encoding: Encoding,
    /// The number of the needle in the list that was given.
    pub needle: usize,
    /// The needle as text.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            encoding,
            needle: _,
            text,
        } = self;
        write!(f, "{}: {text} ({encoding:?})", path.display())
    }
}

/// What a scan went through and found.
#[derive(Debug, Default)]
pub struct Report {
    pub files: u64,
    pub bytes: u64,
    pub findings: BTreeSet<Finding>,
}

impl Needles {
    /// Texts or keys to look for.
    ///
    /// # Errors
    /// There is none, or one is shorter than [`SHORTEST_NEEDLE`] bytes.
    pub fn new<N: AsRef<[u8]>>(needles: impl IntoIterator<Item = N>) -> Result<Self> {
        let mut forms = Vec::new();
        let mut count = 0;
        for (number, needle) in needles.into_iter().enumerate() {
            let needle = needle.as_ref();
            if needle.len() < SHORTEST_NEEDLE {
                bail!("needle {number} is shorter than {SHORTEST_NEEDLE} bytes");
            }
            let text = String::from_utf8_lossy(needle).into_owned();
            for (encoding, bytes) in encodings(needle) {
                forms.push(Form {
                    needle: number,
                    encoding,
                    finder: memmem::Finder::new(&bytes).into_owned(),
                    text: text.clone(),
                });
            }
            count = number + 1;
        }
        let longest = forms.iter().map(|form| form.finder.needle().len()).max();
        let longest = longest.context("there is nothing to look for")?;
        Ok(Self {
            forms,
            longest,
            count,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// What stands in `bytes`: encoding, number and text of each needle.
    fn search(&self, bytes: &[u8]) -> impl Iterator<Item = &Form> {
        self.forms
            .iter()
            .filter(|form| form.finder.find(bytes).is_some())
    }
}

fn encodings(needle: &[u8]) -> BTreeSet<(Encoding, Vec<u8>)> {
    let hex: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = BTreeSet::from([
        (Encoding::Raw, needle.to_vec()),
        (Encoding::Hex, hex.to_uppercase().into_bytes()),
        (Encoding::Hex, hex.into_bytes()),
    ]);
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        for before in 0..3 {
            forms.insert((Encoding::Base64, inner_base64(&engine, needle, before)));
        }
    }
    forms
}

/// The characters that stand for `needle` and nothing else when `before` (mod 3) bytes precede it.
/// A character that also holds bits of a neighbour is left out.
fn inner_base64(engine: &impl Engine, needle: &[u8], before: usize) -> Vec<u8> {
    let padded = [&vec![0; before], needle].concat();
    let text = engine.encode(&padded).into_bytes();
    let first = (before * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    text[first..end].to_vec()
}

/// Searches every file under `root`, links not followed.
///
/// # Errors
/// A file or directory cannot be read. One that goes away meanwhile is passed over: stores do that.
pub fn directory(root: &Path, needles: &Needles) -> Result<Report> {
    let mut report = Report::default();
    if !root.is_dir() {
        bail!("{} is not a directory", root.display());
    }
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).with_context(|| format!("{}", path.display()))? {
            let entry = entry?;
            // Names are written to disk like contents.
            record(
                &mut report,
                &entry.path(),
                needles,
                entry.file_name().as_encoded_bytes(),
            );
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                file(&entry.path(), needles, &mut report)?;
            }
        }
    }
    Ok(report)
}

fn file(path: &Path, needles: &Needles, report: &mut Report) -> Result<()> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.with_context(|| format!("{}", path.display()))?,
    };
    report.files += 1;
    // Each chunk begins with the end of the one before, so that nothing hides on the border.
    let mut window = Vec::with_capacity(CHUNK + needles.longest);
    loop {
        let kept = window.len();
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut window)?;
        if read == 0 {
            return Ok(());
        }
        report.bytes += read as u64;
        record(report, path, needles, &window);
        window.drain(..(kept + read).saturating_sub(needles.longest - 1));
    }
}

fn record(report: &mut Report, path: &Path, needles: &Needles, bytes: &[u8]) {
    for form in needles.search(bytes) {
        report.findings.insert(Finding {
            path: path.to_owned(),
            encoding: form.encoding,
            needle: form.needle,
            text: form.text.clone(),
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    const NEEDLE: &str = "meet at noon";

    fn found(contents: &[u8]) -> Vec<Encoding> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("below")).unwrap();
        fs::write(directory.path().join("below/file"), contents).unwrap();
        let report = scan_of(directory.path());
        assert_eq!((report.files, report.bytes), (1, contents.len() as u64));
        report
            .findings
            .iter()
            .map(|finding| finding.encoding)
            .collect()
    }

    fn scan_of(path: &Path) -> Report {
        super::directory(path, &Needles::new([NEEDLE]).unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(found(b"meet at moon"), []);
        assert_eq!(found(b""), []);
    }

    #[test]
    fn a_planted_text_is_found_raw() {
        assert_eq!(found(b"\0\x01meet at noon\xff"), [Encoding::Raw]);
    }

    #[test]
    fn a_planted_text_is_found_as_hex_of_either_case() {
        let hex: String = NEEDLE.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found(format!("x{hex}y").as_bytes()), [Encoding::Hex]);
        assert_eq!(found(hex.to_uppercase().as_bytes()), [Encoding::Hex]);
    }

    #[test]
    fn a_planted_text_is_found_as_base64_at_every_alignment() {
        for before in 0..7 {
            for after in 0..4 {
                let whole = [&vec![0xfb; before], NEEDLE.as_bytes(), &vec![0xef; after]].concat();
                for text in [STANDARD.encode(&whole), URL_SAFE.encode(&whole)] {
                    assert_eq!(
                        found(text.as_bytes()),
                        [Encoding::Base64],
                        "{before} {after}"
                    );
                }
            }
        }
    }

    #[test]
    fn bytes_that_the_two_base64_alphabets_write_differently_are_found_in_both() {
        let needle = [0xfb, 0xff, 0xbf, 0xfe, 0xff, 0xfa];
        let needles = Needles::new([needle]).unwrap();
        for text in [STANDARD.encode(needle), URL_SAFE.encode(needle)] {
            assert_eq!(needles.search(text.as_bytes()).count(), 1);
        }
    }

    #[test]
    fn a_text_on_the_border_of_two_chunks_is_found() {
        for before in [CHUNK - NEEDLE.len() + 1, CHUNK - 5, CHUNK - 1, CHUNK] {
            let whole = [&vec![0; before], NEEDLE.as_bytes()].concat();
            assert_eq!(found(&whole), [Encoding::Raw], "{before}");
        }
    }

    #[test]
    fn a_file_name_is_searched_too() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NEEDLE), b"").unwrap();
        assert_eq!(scan_of(directory.path()).findings.len(), 1);
    }

    #[test]
    fn each_needle_is_reported_by_its_number() {
        let needles = Needles::new(["first needle", "second needle"]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), b"a second needle").unwrap();
        let report = super::directory(directory.path(), &needles).unwrap();
        let numbers: Vec<_> = report
            .findings
            .iter()
            .map(|finding| finding.needle)
            .collect();
        assert_eq!((needles.count(), numbers), (2, vec![1]));
    }

    #[test]
    fn a_needle_that_chance_would_find_and_an_empty_list_are_refused() {
        assert!(Needles::new(["bob"]).is_err());
        assert!(Needles::new(Vec::<String>::new()).is_err());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_and_not_a_clean_scan() {
        let needles = Needles::new([NEEDLE]).unwrap();
        assert!(super::directory(Path::new("/nonexistent"), &needles).is_err());
    }
}
