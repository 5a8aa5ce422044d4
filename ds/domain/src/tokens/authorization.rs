//! `Authorization: PrivateToken token="…"` (RFC 9577 §2.2).

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::TOKEN_TYPE;

/// Longest field value with this scheme in it that is looked at; a token takes 472 characters, and
/// what a listener takes in all its headers is shorter than this.
pub const MAX_VALUE_LENGTH: usize = 32 * 1024;
/// Most tokens that one request may present.
pub const MAX_TOKENS: usize = 64;

const SCHEME: &[u8] = b"PrivateToken";
/// Token type ‖ nonce ‖ challenge digest ‖ token key id: what the authenticator signs.
const AUTHENTICATOR_INPUT_LENGTH: usize = 2 + 32 + 32 + 32;
const AUTHENTICATOR_LENGTH: usize = 256;
const TOKEN_LENGTH: usize = AUTHENTICATOR_INPUT_LENGTH + AUTHENTICATOR_LENGTH;

/// RFC 9577 asks for padding; clients that leave it out are understood.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A well-formed token of type 0x0002 as it came in: nothing about it has been verified.
pub struct PresentedToken {
    authenticator_input: [u8; AUTHENTICATOR_INPUT_LENGTH],
    authenticator: [u8; AUTHENTICATOR_LENGTH],
}

impl PresentedToken {
    /// Reads the `Token` structure of RFC 9577 §2.2 (354 bytes for type 0x0002, no more, no less).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorizationError> {
        let (token_type, _) = bytes
            .split_first_chunk::<2>()
            .ok_or(AuthorizationError::MalformedToken)?;
        if u16::from_be_bytes(*token_type) != TOKEN_TYPE {
            return Err(AuthorizationError::UnsupportedTokenType);
        }
        if bytes.len() != TOKEN_LENGTH {
            return Err(AuthorizationError::MalformedToken);
        }
        let (input, rest) = bytes
            .split_first_chunk::<AUTHENTICATOR_INPUT_LENGTH>()
            .ok_or(AuthorizationError::MalformedToken)?;
        let authenticator = rest
            .try_into()
            .map_err(|_| AuthorizationError::MalformedToken)?;
        Ok(Self {
            authenticator_input: *input,
            authenticator,
        })
    }

    pub fn nonce(&self) -> &[u8] {
        &self.authenticator_input[2..34]
    }

    pub fn challenge_digest(&self) -> &[u8] {
        &self.authenticator_input[34..66]
    }

    pub fn token_key_id(&self) -> &[u8] {
        &self.authenticator_input[66..]
    }

    /// The bytes that the authenticator signs, as they arrived.
    pub fn authenticator_input(&self) -> &[u8] {
        &self.authenticator_input
    }

    pub fn authenticator(&self) -> &[u8] {
        &self.authenticator
    }
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            authenticator_input: _,
            authenticator: _,
        } = self;
        f.write_str("PresentedToken(…)")
    }
}

/// The client sent an `Authorization` field that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizationError {
    #[error("a PrivateToken field is longer than {MAX_VALUE_LENGTH} bytes")]
    TooLong,
    #[error("more than {MAX_TOKENS} tokens in one request")]
    TooManyTokens,
    #[error("a PrivateToken field does not follow the syntax of RFC 9110 section 11.4")]
    Syntax,
    #[error("PrivateToken credentials without a token parameter")]
    MissingToken,
    #[error("PrivateToken credentials with more than one token parameter")]
    RepeatedToken,
    #[error("a token is not a token structure in base64url")]
    MalformedToken,
    #[error("a token is not of type 0x0002")]
    UnsupportedTokenType,
}

/// Reads every `Authorization` field value of a request. Several tokens come in several fields, or,
/// where an intermediary has joined those (RFC 9110 §5.3), in one, with a comma between the
/// credentials. Other schemes are not ours to judge and are passed over. No token at all is an
/// empty list, not an error.
pub fn parse<V: AsRef<[u8]>>(
    values: impl IntoIterator<Item = V>,
) -> Result<Vec<PresentedToken>, AuthorizationError> {
    let mut tokens = Vec::new();
    for value in values {
        let value = value.as_ref();
        if !mentions_our_scheme(value) {
            continue;
        }
        if value.len() > MAX_VALUE_LENGTH {
            return Err(AuthorizationError::TooLong);
        }
        read_credentials(value, &mut tokens)?;
    }
    Ok(tokens)
}

/// A field without the name of our scheme has no token of ours, well-formed or not.
fn mentions_our_scheme(value: &[u8]) -> bool {
    value
        .windows(SCHEME.len())
        .any(|window| window.eq_ignore_ascii_case(SCHEME))
}

/// Credentials whose parameters are being read.
enum Credentials {
    /// Of another scheme.
    Foreign,
    /// Of ours, with its `token` parameter once that was seen.
    Ours(Option<Vec<u8>>),
}

impl Credentials {
    fn parameter(&mut self, name: &[u8], value: Vec<u8>) -> Result<(), AuthorizationError> {
        if let Self::Ours(token) = self
            && name.eq_ignore_ascii_case(b"token")
            && token.replace(value).is_some()
        {
            return Err(AuthorizationError::RepeatedToken);
        }
        Ok(())
    }

    fn end(self, tokens: &mut Vec<PresentedToken>) -> Result<(), AuthorizationError> {
        let Self::Ours(token) = self else {
            return Ok(());
        };
        if tokens.len() == MAX_TOKENS {
            return Err(AuthorizationError::TooManyTokens);
        }
        let bytes = BASE64URL
            .decode(token.ok_or(AuthorizationError::MissingToken)?)
            .map_err(|_| AuthorizationError::MalformedToken)?;
        tokens.push(PresentedToken::from_bytes(&bytes)?);
        Ok(())
    }
}

/// `#credentials` (RFC 9110 §11.4): every element of the list is a scheme with what follows it, or
/// one more parameter of the credentials before it. What reads both ways does not exist: a
/// parameter's name is followed by `=`, a scheme's by a space or nothing.
fn read_credentials(
    value: &[u8],
    tokens: &mut Vec<PresentedToken>,
) -> Result<(), AuthorizationError> {
    let mut scanner = Scanner { rest: value };
    let mut current: Option<Credentials> = None;
    loop {
        scanner.skip(|byte| is_whitespace(byte) || byte == b',');
        if scanner.rest.is_empty() {
            break;
        }
        let name = scanner.take(is_token_character);
        if name.is_empty() {
            return Err(AuthorizationError::Syntax);
        }
        scanner.skip(is_whitespace);
        if scanner.advance_over(b'=') {
            let credentials = current.as_mut().ok_or(AuthorizationError::Syntax)?;
            credentials.parameter(name, scanner.parameter_value()?)?;
        } else {
            if let Some(credentials) = current.take() {
                credentials.end(tokens)?;
            }
            let ours = name.eq_ignore_ascii_case(SCHEME);
            let credentials = current.insert(if ours {
                Credentials::Ours(None)
            } else {
                Credentials::Foreign
            });
            match scanner.first_of_credentials()? {
                First::Nothing => {}
                First::Parameter(name, value) => credentials.parameter(name, value)?,
                First::Token68 if ours => return Err(AuthorizationError::Syntax),
                First::Token68 => {}
            }
        }
        scanner.skip(is_whitespace);
        if !scanner.at_end_of_element() {
            return Err(AuthorizationError::Syntax);
        }
    }
    current.map_or(Ok(()), |credentials| credentials.end(tokens))
}

/// What stands behind the name of a scheme.
enum First<'a> {
    Nothing,
    Token68,
    Parameter(&'a [u8], Vec<u8>),
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn take(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self
            .rest
            .iter()
            .position(|byte| !accept(*byte))
            .unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip(&mut self, accept: impl Fn(u8) -> bool) {
        self.take(accept);
    }

    fn advance_over(&mut self, expected: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == expected => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn at_end_of_element(&self) -> bool {
        self.rest.first().is_none_or(|byte| *byte == b',')
    }

    /// `token68` or the first parameter (RFC 9110 §11.4): with nothing behind its `=`, or another
    /// `=`, it is a token68.
    fn first_of_credentials(&mut self) -> Result<First<'a>, AuthorizationError> {
        if self.at_end_of_element() {
            return Ok(First::Nothing);
        }
        let begin = self.rest;
        let name = self.take(is_token_character);
        self.skip(is_whitespace);
        if !name.is_empty() && self.advance_over(b'=') {
            self.skip(is_whitespace);
            if !self.at_end_of_element() && self.rest.first() != Some(&b'=') {
                return Ok(First::Parameter(name, self.parameter_value()?));
            }
        }
        self.rest = begin;
        self.skip(|byte| is_token_character(byte) || matches!(byte, b'/' | b'='));
        Ok(First::Token68)
    }

    /// A quoted string, or a bare value. The bare form admits `=` and `/` beyond RFC 9110's token
    /// characters, since clients send padded base64 without quotes.
    fn parameter_value(&mut self) -> Result<Vec<u8>, AuthorizationError> {
        self.skip(is_whitespace);
        if self.advance_over(b'"') {
            return self.quoted_string_tail();
        }
        let value = self.take(|byte| is_token_character(byte) || byte == b'=' || byte == b'/');
        if value.is_empty() {
            Err(AuthorizationError::Syntax)
        } else {
            Ok(value.to_vec())
        }
    }

    fn quoted_string_tail(&mut self) -> Result<Vec<u8>, AuthorizationError> {
        let mut value = Vec::new();
        loop {
            let (byte, rest) = self.rest.split_first().ok_or(AuthorizationError::Syntax)?;
            self.rest = rest;
            match *byte {
                b'"' => return Ok(value),
                b'\\' => {
                    let (escaped, rest) =
                        self.rest.split_first().ok_or(AuthorizationError::Syntax)?;
                    self.rest = rest;
                    value.push(*escaped);
                }
                byte => value.push(byte),
            }
        }
    }
}

fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    fn token_bytes() -> Vec<u8> {
        let mut bytes = vec![0, 2];
        bytes.extend((0..TOKEN_LENGTH - 2).map(|i| (i * 7) as u8));
        bytes
    }

    fn encoded() -> String {
        URL_SAFE.encode(token_bytes())
    }

    fn parse_one(value: &str) -> Result<PresentedToken, AuthorizationError> {
        let mut tokens = parse([value])?;
        assert_eq!(tokens.len(), 1);
        Ok(tokens.remove(0))
    }

    #[test]
    fn quoted_and_bare_tokens_are_read_alike() {
        for value in [
            format!("PrivateToken token=\"{}\"", encoded()),
            format!("PrivateToken token={}", encoded()),
            format!("privatetoken   Token = \"{}\"  ", encoded()),
            format!(
                "PrivateToken ,, future=1, token=\"{}\",other=\"a, \\\"b\\\"\" ,",
                encoded()
            ),
            format!("PrivateToken token={},future=x==", encoded()),
        ] {
            let token = parse_one(&value).expect(&value);
            assert_eq!(token.authenticator_input(), &token_bytes()[..98]);
            assert_eq!(token.authenticator(), &token_bytes()[98..]);
            assert_eq!(token.nonce(), &token_bytes()[2..34]);
            assert_eq!(token.challenge_digest(), &token_bytes()[34..66]);
            assert_eq!(token.token_key_id(), &token_bytes()[66..98]);
        }
    }

    #[test]
    fn padding_may_be_there_or_not() {
        // A type 0x0002 token needs none (354 is a multiple of three), so the engine is asked.
        assert_eq!(
            BASE64URL.decode("AAI=").unwrap(),
            BASE64URL.decode("AAI").unwrap()
        );
        let unpadded = URL_SAFE_NO_PAD.encode(token_bytes());
        assert!(parse_one(&format!("PrivateToken token={unpadded}")).is_ok());
    }

    #[test]
    fn several_fields_carry_one_token_each_and_other_schemes_are_passed_over() {
        let ours = format!("PrivateToken token={}", encoded());
        let long_bearer = format!("Bearer {}", "x".repeat(2 * MAX_VALUE_LENGTH));
        let tokens = parse([ours.as_str(), long_bearer.as_str(), "", ours.as_str()]).unwrap();
        assert_eq!(tokens.len(), 2);
        assert!(parse(["Basic QTpC"]).unwrap().is_empty());
        assert!(parse::<&str>([]).unwrap().is_empty());
    }

    #[test]
    fn fields_that_an_intermediary_has_joined_are_read_as_they_were() {
        let ours = format!("PrivateToken token=\"{}\"", encoded());
        for (joined, count) in [
            (format!("{ours}, {ours}"), 2),
            (format!("Bearer abc/+==, {ours}"), 1),
            (
                format!("{ours}, x=1,y=\"2\" , Bearer abc,{ours}, future=a"),
                2,
            ),
            (format!("Negotiate, {ours}"), 1),
            (
                format!("Digest username=\"a, PrivateToken b\", nc=1, {ours}"),
                1,
            ),
            // Not a scheme of its own: a word in somebody else's string.
            ("Digest username=\"PrivateToken token=a\"".to_owned(), 0),
        ] {
            let tokens = parse([&joined]).expect(&joined);
            assert_eq!(tokens.len(), count, "{joined}");
        }
        // As many as one may bring fit into one field.
        let all = vec![ours; MAX_TOKENS].join(",");
        assert_eq!(parse([all]).unwrap().len(), MAX_TOKENS);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let token = encoded();
        for value in [
            // Whose parameter is it?
            format!("token={token}, PrivateToken"),
            format!("PrivateToken a=b, PrivateToken token={token}"),
            format!("PrivateToken token={token}; PrivateToken"),
            format!("PrivateToken token={token} Bearer x"),
            format!("Bearer \"PrivateToken token={token}"),
            format!("Bearer a b, PrivateToken token={token}"),
        ] {
            assert!(parse([&value]).is_err(), "{value}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_reason() {
        use AuthorizationError as E;
        let token = encoded();
        for (value, expected) in [
            ("PrivateToken".to_owned(), E::MissingToken),
            ("PrivateToken a=b".to_owned(), E::MissingToken),
            (format!("PrivateToken {token}"), E::Syntax),
            (format!("PrivateToken token={token} a=b"), E::Syntax),
            (format!("PrivateToken token=\"{token}"), E::Syntax),
            // A token68 of other schemes, none of ours.
            ("PrivateToken token=".to_owned(), E::Syntax),
            ("PrivateToken token==".to_owned(), E::Syntax),
            ("PrivateToken token=\"\\".to_owned(), E::Syntax),
            (
                format!("PrivateToken token={token}, token={token}"),
                E::RepeatedToken,
            ),
            (
                format!("PrivateToken token={token}, TOKEN=x"),
                E::RepeatedToken,
            ),
            ("PrivateToken token=AAI".to_owned(), E::MalformedToken),
            ("PrivateToken token=\"\"".to_owned(), E::MalformedToken),
            (format!("PrivateToken token={token}AAAA"), E::MalformedToken),
            (
                format!("PrivateToken token=\"{}+/\"", &token[..470]),
                E::MalformedToken,
            ),
            (
                "PrivateToken token=AAEBAQ".to_owned(),
                E::UnsupportedTokenType,
            ),
            (
                format!("PrivateToken token={}", "A".repeat(MAX_VALUE_LENGTH)),
                E::TooLong,
            ),
        ] {
            assert_eq!(parse_one(&value).map(|_| ()), Err(expected), "{value}");
        }
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let value = format!("PrivateToken token={}", encoded());
        assert_eq!(parse(vec![&value; MAX_TOKENS]).unwrap().len(), MAX_TOKENS);
        let one_more = parse(vec![&value; MAX_TOKENS + 1]);
        assert_eq!(one_more.map(|_| ()), Err(AuthorizationError::TooManyTokens));
    }

    #[test]
    fn debug_output_shows_nothing_of_the_token() {
        let token = PresentedToken::from_bytes(&token_bytes()).unwrap();
        assert_eq!(format!("{token:?}"), "PresentedToken(…)");
    }

    proptest! {
        #[test]
        fn no_field_value_makes_the_parser_fail_otherwise_than_by_an_error(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..4)
        ) {
            let _ = parse(values);
        }

        #[test]
        fn no_parameter_list_makes_the_parser_fail_otherwise_than_by_an_error(
            parameters in "[a-z=\",\\\\ \t_-]{0,80}"
        ) {
            let _ = parse([format!("PrivateToken {parameters}")]);
        }

        #[test]
        fn joined_or_apart_fields_hold_the_same_tokens(
            parts in proptest::collection::vec(
                (0_usize..5, any::<u8>(), "[ \t]{0,2}"), 0..12)
        ) {
            let mut sent = Vec::new();
            let fields: Vec<String> = parts
                .iter()
                .map(|(kind, fill, space)| {
                    let mut bytes = token_bytes();
                    bytes[10] = *fill;
                    let token = URL_SAFE.encode(&bytes);
                    match kind {
                        0 => return "Bearer PrivateToken==".to_owned(),
                        1 => return "Digest a=\"PrivateToken, \\\"x\", b=c".to_owned(),
                        _ => {}
                    }
                    sent.push(*fill);
                    match kind {
                        2 => format!("PrivateToken token={space}\"{token}\""),
                        3 => format!("privatetoken  a=b,{space}TOKEN{space}={token}"),
                        _ => format!("{space}PrivateToken token={token},{space}z=\",\""),
                    }
                })
                .collect();
            let fills = |tokens: Vec<PresentedToken>| -> Vec<u8> {
                tokens.iter().map(|token| token.authenticator_input()[10]).collect()
            };
            prop_assert_eq!(&fills(parse(&fields).unwrap()), &sent);
            prop_assert_eq!(&fills(parse([fields.join(", ")]).unwrap()), &sent);
        }

        #[test]
        fn every_token_survives_the_way_through_the_header(
            body in proptest::collection::vec(any::<u8>(), TOKEN_LENGTH - 2),
            quoted in any::<bool>(),
        ) {
            let bytes = [&[0, 2][..], &body].concat();
            let encoded = URL_SAFE.encode(&bytes);
            let value = if quoted {
                format!("PrivateToken token=\"{encoded}\"")
            } else {
                format!("PrivateToken token={encoded}")
            };
            let token = parse_one(&value).unwrap();
            prop_assert_eq!([token.authenticator_input(), token.authenticator()].concat(), bytes);
        }
    }
}
