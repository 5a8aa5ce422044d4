//! Texts and names that people write: what in them cannot be seen, and when two names are the same.

use unicode_normalization::UnicodeNormalization as _;

/// Longest text of a message in bytes: with what MLS, a signature and the padding in steps of 64
/// KiB add, the service takes it (256 KiB by default).
pub const MAX_TEXT: usize = 3 * 64 * 1024 - 4096;

/// Whether a character, between its neighbours, acts or hides instead of being seen: control
/// characters, those that reorder text (UAX #9), and those that are ignored by default (UAX #44,
/// `Default_Ignorable_Code_Point`) where no script needs them. Show such a one by its number or not
/// at all; line feeds and tabs are among them.
#[must_use]
pub fn is_hidden(before: Option<char>, character: char, after: Option<char>) -> bool {
    character.is_control() || is_invisible(character) && !is_in_use(before, character, after)
}

/// Of a text with lines: what acts on a terminal and is no line feed or tab.
pub(crate) fn is_control_but_line(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\t')
}

fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn is_selector(character: char) -> bool {
    matches!(character, '\u{fe0e}' | '\u{fe0f}')
}

/// Persian, Indic scripts and emoji need joiners between two of their characters, and a selector
/// after one.
fn is_in_use(before: Option<char>, character: char, after: Option<char>) -> bool {
    let is_shaped = |it: char| !it.is_ascii() && !it.is_control() && !it.is_whitespace();
    let is_letter = |it: Option<char>| it.is_some_and(|it| is_shaped(it) && !is_invisible(it));
    match character {
        '\u{200c}' | '\u{200d}' => {
            (is_letter(before) || before.is_some_and(is_selector)) && is_letter(after)
        }
        // A keycap too: a digit, the selector, the box around them.
        it if is_selector(it) => is_letter(before) || after == Some('\u{20e3}'),
        _ => false,
    }
}

fn hidden(text: &str) -> impl Iterator<Item = (char, bool)> {
    let mut before = None;
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        let character = rest.next()?;
        let hidden = is_hidden(before, character, rest.peek().copied());
        before = Some(character);
        Some((character, hidden))
    })
}

/// Whether nothing in it acts or hides ([`is_hidden`]).
pub(crate) fn is_all_seen(text: &str) -> bool {
    !hidden(text).any(|(_, hidden)| hidden)
}

/// The one form of a name: two names that look the same for this are the same. NFC, single spaces.
pub(crate) fn canonical(name: &str) -> String {
    let name: String = name.nfc().collect();
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A name that this user wants to give, in its one form: of 1 to `longest` bytes, all of it to be
/// seen.
pub(crate) fn chosen(name: &str, longest: usize) -> Option<String> {
    let name: String = name.nfc().collect();
    if !is_all_seen(&name) {
        return None;
    }
    let name = canonical(&name);
    (!name.is_empty() && name.len() <= longest).then_some(name)
}

/// A name that somebody else has given, in its one form: without what cannot be seen or is too
/// long. It may be empty.
pub(crate) fn received(name: &str, longest: usize) -> String {
    let spaced = name
        .chars()
        .map(|it| if it.is_whitespace() { ' ' } else { it })
        .nfc()
        .collect::<String>();
    let mut end = longest.min(spaced.len());
    while !spaced.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let mut seen = spaced;
    seen.truncate(end);
    // Until nothing is left that was in use only beside what has been taken out.
    while hidden(&seen).any(|(_, hidden)| hidden) {
        seen = hidden(&seen)
            .filter(|(_, hidden)| !hidden)
            .map(|(character, _)| character)
            .nfc()
            .collect();
    }
    canonical(&seen)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_look_the_same_are_the_same() {
        let composed = chosen("Ca\u{301}fe\u{301}", 64).unwrap();
        assert_eq!(composed, "C\u{e1}f\u{e9}");
        assert_eq!(canonical(" the\u{a0} lab "), "the lab");
        assert_eq!(canonical("Ca\u{301}fe\u{301}"), composed);
    }

    #[test]
    fn a_name_with_something_that_cannot_be_seen_is_refused() {
        for name in [
            "",
            " ",
            "a\nb",
            "a\tb",
            "\u{1b}[2J",
            "x\u{202e}y",
            "lab\u{200b}",
            "lab\u{200d}",
            "\u{feff}lab",
            "a\u{ad}b",
            "\u{85}",
            "a\u{2028}b",
            "\u{e0041}",
        ] {
            assert_eq!(chosen(name, 64), None, "{name:?}");
        }
        assert_eq!(chosen("aaa", 2), None);
        for name in [
            "team",
            "garden & roses",
            "می\u{200c}خواهم",
            "👩\u{200d}🚀",
            "❤\u{fe0f}",
        ] {
            assert_eq!(chosen(name, 64).unwrap(), name);
        }
    }

    #[test]
    fn what_others_hide_in_a_name_is_taken_out() {
        for (name, left) in [
            ("lab\u{200b}", "lab"),
            ("\u{202e}bal", "bal"),
            ("lab\n[x] y: z", "lab [x] y: z"),
            ("a\u{1b}[31mb", "a[31mb"),
            ("\u{200b}", ""),
            ("\u{e9}\u{200d}\u{200b}x", "\u{e9}x"),
        ] {
            assert_eq!(received(name, 64), left);
        }
        assert_eq!(received("ééé", 3), "é");
    }

    proptest! {
        #[test]
        fn what_is_left_of_any_name_may_be_chosen(name: String, longest in 1usize..40) {
            let left = received(&name, longest);
            prop_assert!(left.is_empty() || chosen(&left, longest) == Some(left.clone()), "{left:?}");
            prop_assert_eq!(canonical(&left), left);
        }
    }
}
