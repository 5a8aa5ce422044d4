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

/// The text with its HTML escaped, as a sender must (§7.1.1): readers see it as it was written.
/// Code in backticks shows it anyway, and autolinks of URIs are none.
#[must_use]
pub fn without_html(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut escaped = String::with_capacity(text.len());
    let (mut copied, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        let next = at.saturating_add(1);
        at = match byte {
            b'\\' => next.saturating_add(1),
            b'`' => code_end(text, at),
            b'<' if begins_html(bytes, next) => {
                escaped.push_str(text.get(copied..at).unwrap_or_default());
                escaped.push('\\');
                copied = at;
                next
            }
            _ => next,
        };
    }
    escaped.push_str(text.get(copied..).unwrap_or_default());
    escaped
}

/// Whether a tag, a comment or the like begins before this.
fn begins_html(bytes: &[u8], at: usize) -> bool {
    let begins = matches!(bytes.get(at), Some(b'/' | b'!' | b'?'))
        || bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
    let link = enclosed(bytes, at, b'>').and_then(|target| bytes.get(target));
    begins && !link.is_some_and(is_uri)
}

/// Behind the code that begins with the backticks at `at`; behind these where it does not end. What
/// stands at the beginning of a line, three or more, encloses paragraphs, and nothing else does.
fn code_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let run = |text: &str| {
        text.len()
            .saturating_sub(text.trim_start_matches('`').len())
    };
    let length = run(rest);
    let begin = at.saturating_add(length);
    let line = text.get(..at).unwrap_or_default();
    let line = line.rsplit('\n').next().unwrap_or_default();
    let encloses_paragraphs = length >= 3 && line.len() <= 3 && line.trim_start().is_empty();
    let mut inside = text.get(begin..).unwrap_or_default();
    if !encloses_paragraphs {
        inside = inside.split("\n\n").next().unwrap_or_default();
    }
    let mut ahead = 0;
    while let Some(found) = inside.get(ahead..).and_then(|rest| rest.find('`')) {
        let found = ahead.saturating_add(found);
        let other = run(inside.get(found..).unwrap_or_default());
        ahead = found.saturating_add(other);
        if other == length {
            return begin.saturating_add(ahead);
        }
    }
    begin
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

    #[test]
    fn html_is_escaped_and_what_only_looks_like_it_is_not() {
        for (text, sent) in [
            ("<b>bold</b>", r"\<b>bold\</b>"),
            ("<!-- x --><?php", r"\<!-- x -->\<?php"),
            (r"\<b>", r"\<b>"),
            (r"\\<b>", r"\\\<b>"),
            ("1 < 2, a <3", "1 < 2, a <3"),
            ("<https://example.org/>", "<https://example.org/>"),
            ("`<b>` <b>", r"`<b>` \<b>"),
            ("``a ` <b>`` <b>", r"``a ` <b>`` \<b>"),
            ("```\n<b>\n\n<b>\n```\n<b>", "```\n<b>\n\n<b>\n```\n\\<b>"),
            // No code: it does not end, or not in its paragraph.
            ("` <b>", r"` \<b>"),
            ("` a\n\n<b> `", "` a\n\n\\<b> `"),
            ("x ``` a\n\n<b> ```", "x ``` a\n\n\\<b> ```"),
        ] {
            assert_eq!(without_html(text), sent);
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_once_is_escaped(text in r"[<>/!`\\ab:\né ]{0,40}") {
            let once = without_html(&text);
            prop_assert_eq!(&without_html(&once), &once);
        }

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
