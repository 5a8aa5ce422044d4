//! Links in markdown (GFM §6.6), as far as mentions need them: inline links and autolinks of URIs.

use std::ops::Range;

/// A link, and where its parts are in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where the target is.
    pub target: Range<usize>,
    /// Where the words are; empty for an autolink.
    pub words: Range<usize>,
}

/// The links of a text. What is escaped, or is not closed in its line, is none. Code is not told
/// apart: what stands there as a link counts as one.
#[must_use]
pub fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    // Where each bracket that is open begins.
    let mut open: Vec<usize> = Vec::new();
    let mut at = 0;
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        let next = at.saturating_add(1);
        at = match byte {
            b'\\' => next.saturating_add(1),
            b'\n' => {
                open.clear();
                next
            }
            b'[' => {
                open.push(next);
                next
            }
            b']' => match (open.pop(), target(bytes, next)) {
                (Some(begin), Some(target)) => {
                    // Links do not nest.
                    open.clear();
                    let end = target.end.saturating_add(1);
                    let words = begin..at;
                    found.push(Link { target, words });
                    end
                }
                _ => next,
            },
            b'<' => match enclosed(bytes, next, b'>') {
                Some(target) if is_uri(bytes.get(target.clone()).unwrap_or_default()) => {
                    let end = target.end.saturating_add(1);
                    let words = target.start..target.start;
                    found.push(Link { target, words });
                    end
                }
                _ => next,
            },
            _ => next,
        };
    }
    found
}

/// The target in round brackets that open here.
fn target(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    match bytes.get(at) {
        Some(b'(') => enclosed(bytes, at.saturating_add(1), b')'),
        _ => None,
    }
}

/// From here to the closing byte, if nothing stands between that ends a target.
fn enclosed(bytes: &[u8], begin: usize, close: u8) -> Option<Range<usize>> {
    let rest = bytes.get(begin..)?;
    let ends = |byte: &u8| *byte == close || byte.is_ascii_whitespace() || b"<>()\\".contains(byte);
    let length = rest.iter().position(ends)?;
    let end = begin.saturating_add(length);
    (rest.get(length) == Some(&close) && length > 0).then_some(begin..end)
}

fn is_uri(bytes: &[u8]) -> bool {
    let scheme = bytes.split(|byte| *byte == b':').next().unwrap_or_default();
    bytes.contains(&b':') && scheme.len() > 1 && scheme.iter().all(u8::is_ascii_alphanumeric)
}

/// A link with these words.
#[must_use]
pub fn link(words: &str, target: &str) -> String {
    let mut link = String::from("[");
    for character in words.chars() {
        match character {
            '[' | ']' | '\\' | '<' | '*' | '_' | '`' => link.extend(['\\', character]),
            '\n' | '\r' => link.push(' '),
            _ => link.push(character),
        }
    }
    link.push_str("](");
    link.push_str(target);
    link.push(')');
    link
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets(text: &str) -> Vec<&str> {
        let links = links(text).into_iter();
        links.map(|it| text.get(it.target).unwrap()).collect()
    }

    #[test]
    fn mentions_of_the_draft_are_links() {
        for text in [
            "<mimi://example.com/u/alice-smith>",
            "[mimi://example.com/u/alice-smith](mimi://example.com/u/alice-smith)",
            "Kudos to [@Alice Smith](mimi://example.com/u/alice-smith) for it!",
            "[[x] Alice](mimi://example.com/u/alice-smith)",
        ] {
            assert_eq!(
                targets(text),
                ["mimi://example.com/u/alice-smith"],
                "{text}"
            );
        }
        assert_eq!(targets("[a](x:1) and [b](y:2)"), ["x:1", "y:2"]);
    }

    #[test]
    fn what_is_escaped_or_not_closed_is_no_link() {
        for text in [
            r"\[a](x:1)",
            r"[a\](x:1)",
            "[a](x:1",
            "[a\n](x:1)",
            "[a](x 1)",
            "<b>",
            "a < b > c:",
            "[a]()",
            "](x:1)",
        ] {
            assert_eq!(targets(text), [""; 0], "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_link_is_read_back_whatever_its_words(words: String, target in "[a-z]{2,5}:[a-z0-9/]{0,20}") {
            let text = link(&words, &target);
            prop_assert_eq!(targets(&text), [target.as_str()]);
        }

        #[test]
        fn targets_lie_in_the_text(text in r"[\[\]()<>\\a:\né]{0,60}") {
            for link in links(&text) {
                prop_assert!(text.get(link.target).is_some() && text.get(link.words).is_some());
            }
        }
    }
}
