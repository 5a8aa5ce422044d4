//! The service's public directory, as it is written and bounded.

use std::collections::BTreeSet;

use base64::Engine as _;
use privacypass::TokenType;
use privacypass::auth::authenticate::TokenChallenge;
use protocol::directory::Directory;
use serde_json::Value;

use crate::encoding::BASE64URL;
use crate::endpoints::Endpoints;
use crate::error::{DirectoryError, Error, LocalError};
use crate::leaf::CIPHERSUITE;

/// Tokens that one operation may cost, whatever the service says: a price of its own marks a
/// client, and a high one makes it ask the issuer.
pub(crate) const HIGHEST_PRICE: u8 = 16;

/// Keys of the issuer that are taken: the one before, the one in use and the next, and one more by
/// hand.
pub(crate) const MAX_TOKEN_KEYS: usize = 4;

/// Former keys of the service, of both kinds.
pub(crate) const MAX_FORMER_KEYS: usize = 64;

pub(crate) const LONGEST_DOMAIN: usize = 255;

/// The challenge that every token of this client answers (RFC 9577 §2.1.1). It follows from
/// configuration: with a redemption context of somebody else's making all tokens of a client would
/// be known for its own.
pub(crate) fn challenge(endpoints: &Endpoints) -> TokenChallenge {
    TokenChallenge::new(
        TokenType::Public,
        &endpoints.issuer_name(),
        None,
        &[endpoints.token_origin()],
    )
}

pub(crate) fn check_challenge(
    announced: &str,
    ours: &TokenChallenge,
) -> Result<(), DirectoryError> {
    const WHOLE: &str = "issuer.challenge";
    let bytes = BASE64URL
        .decode(announced)
        .map_err(|_| DirectoryError::Challenge(WHOLE))?;
    if ours.serialize().is_ok_and(|ours| ours == bytes) {
        return Ok(());
    }
    let theirs =
        TokenChallenge::deserialize(&bytes).map_err(|_| DirectoryError::Challenge(WHOLE))?;
    Err(DirectoryError::Challenge(
        if theirs.token_type() != ours.token_type() {
            "token_type"
        } else if theirs.issuer_name() != ours.issuer_name() {
            "issuer_name"
        } else if theirs.origin_info() != ours.origin_info() {
            "origin_info"
        } else {
            "redemption_context"
        },
    ))
}

/// That one view of the directory is such as a client takes at all.
pub(crate) fn check(directory: &Directory, endpoints: &Endpoints) -> Result<(), Error> {
    if !directory.wire_versions.contains(&protocol::WIRE_VERSION) {
        return Err(Error::Protocol("the service does not speak this version"));
    }
    if !directory.ciphersuites.contains(&(CIPHERSUITE as u16)) {
        return Err(Error::Protocol("the service does not take our ciphersuite"));
    }
    if directory.domain.is_empty() || directory.domain.len() > LONGEST_DOMAIN {
        return Err(DirectoryError::Member("domain").into());
    }
    if directory.issuer.name != endpoints.issuer_name() {
        return Err(DirectoryError::Member("issuer.name").into());
    }
    check_challenge(&directory.issuer.challenge, &challenge(endpoints))?;
    let keys = &directory.issuer;
    if keys.token_key_ids.len() > MAX_TOKEN_KEYS {
        return Err(DirectoryError::TooManyKeys("issuer.token_key_ids").into());
    }
    if keys.token_keys_not_before_s.len() != keys.token_key_ids.len() {
        return Err(DirectoryError::Member("issuer.token_keys_not_before_s").into());
    }
    if directory.former_external_sender_keys.len() > MAX_FORMER_KEYS {
        return Err(DirectoryError::TooManyKeys("former_external_sender_keys").into());
    }
    let prices = &directory.prices;
    for (name, price) in [
        ("prices.reserve_group_id", prices.reserve_group_id),
        ("prices.publish_key_packages", prices.publish_key_packages),
        ("prices.claim_key_package", prices.claim_key_package),
        ("prices.register_handle", prices.register_handle),
        ("prices.lookup_handle", prices.lookup_handle),
        ("prices.request_connection", prices.request_connection),
        ("prices.external_join", prices.external_join),
    ] {
        if price > HIGHEST_PRICE {
            return Err(DirectoryError::Price(name).into());
        }
    }
    Ok(())
}

/// Members whose lists change while operators are behind each other: what is in all of them counts.
pub(crate) const LISTS: [&str; 3] = [
    "issuer.token_key_ids",
    "issuer.token_keys_not_before_s",
    "former_external_sender_keys",
];

/// Where two documents differ first.
pub(crate) fn difference(one: &Value, other: &Value, at: &str) -> Option<String> {
    if LISTS.contains(&at) || one == other {
        return None;
    }
    let (Value::Object(one), Value::Object(other)) = (one, other) else {
        return Some(at.to_owned());
    };
    one.keys().chain(other.keys()).find_map(|name| {
        let path = if at.is_empty() {
            name.clone()
        } else {
            format!("{at}.{name}")
        };
        let member = |of: &serde_json::Map<String, Value>| of.get(name).cloned();
        difference(
            &member(one).unwrap_or_default(),
            &member(other).unwrap_or_default(),
            &path,
        )
    })
}

pub(crate) fn token_keys(directory: &Directory) -> BTreeSet<(u64, String)> {
    let issuer = &directory.issuer;
    let times = issuer.token_keys_not_before_s.iter().copied();
    times.zip(issuer.token_key_ids.iter().cloned()).collect()
}

/// The directory that all views agree on. Each must pass for itself; members must be the same
/// everywhere, and of keys that rotate those are taken that everybody shows, in an order that is
/// nobody's choice.
pub(crate) fn agree(views: &[Directory], endpoints: &Endpoints) -> Result<Directory, Error> {
    let differs = |field: &str| Error::from(DirectoryError::Differs(field.to_owned()));
    let (first, others) = views.split_first().ok_or_else(|| differs(""))?;
    let document = |view| serde_json::to_value(view).map_err(|_| LocalError::Damaged);
    let mut agreed = first.clone();
    let mut keys = token_keys(first);
    check(first, endpoints)?;
    for other in others {
        check(other, endpoints)?;
        if let Some(field) = difference(&document(first)?, &document(other)?, "") {
            return Err(differs(&field));
        }
        let theirs = token_keys(other);
        keys.retain(|key| theirs.contains(key));
        let former = &other.former_external_sender_keys;
        let common = &mut agreed.former_external_sender_keys;
        common.retain(|key| former.contains(key));
    }
    if keys.is_empty() {
        return Err(differs("issuer.token_key_ids"));
    }
    (
        agreed.issuer.token_keys_not_before_s,
        agreed.issuer.token_key_ids,
    ) = keys.into_iter().rev().unzip();
    Ok(agreed)
}

/// Where a mirror shows the directory: beside its key configurations.
pub(crate) fn beside_keys(keys_url: &str) -> String {
    let parent = keys_url.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/service-directory")
}

pub(crate) fn parse(document: &[u8]) -> Result<Directory, Error> {
    serde_json::from_slice(document).map_err(|_| Error::Protocol("the directory is malformed"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::encoding::BASE64URL;
    use crate::endpoints::Endpoints;
    use crate::flows::wallet::tests::directory;
    use crate::net::directory::{HIGHEST_PRICE, beside_keys, challenge};
    use crate::store::profile::tests::endpoints;
    use privacypass::TokenType;
    use privacypass::auth::authenticate::TokenChallenge;

    fn endpoints_of_tests() -> Endpoints {
        Endpoints {
            issuer_name: Some("i".into()),
            token_origin: Some("d".into()),
            ..endpoints("http://ds:3")
        }
    }

    fn honest() -> Directory {
        let mut directory = directory(&[b"one", b"two"]);
        directory.issuer.token_keys_not_before_s = vec![1, 2];
        directory
    }

    fn refused(views: &[Directory]) -> String {
        match agree(views, &endpoints_of_tests()) {
            Err(Error::Directory(error)) => error.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_challenge_that_is_not_the_configured_one_is_refused_by_the_field_that_differs() {
        assert!(agree(&[honest()], &endpoints_of_tests()).is_ok());
        let context = Some([7; 32]);
        let origin = ["d".to_owned()];
        let two = ["d".to_owned(), "e".to_owned()];
        let new = TokenChallenge::new;
        for (challenge, field) in [
            (
                new(TokenType::Public, "i", context, &origin),
                "redemption_context",
            ),
            (new(TokenType::Public, "j", None, &origin), "issuer_name"),
            (new(TokenType::Public, "i", None, &two), "origin_info"),
            (
                new(TokenType::PrivateP384, "i", None, &origin),
                "token_type",
            ),
        ] {
            let mut shown = honest();
            shown.issuer.challenge = BASE64URL.encode(challenge.serialize().unwrap());
            // In each of the views, and in all of them.
            for views in [
                vec![shown.clone(), honest()],
                vec![honest(), shown.clone()],
                vec![shown.clone(), shown.clone()],
            ] {
                assert!(refused(&views).contains(field), "{}", refused(&views));
            }
        }
        // One more byte, which the library would not see.
        let mut shown = honest();
        let mut longer = challenge(&endpoints_of_tests()).serialize().unwrap();
        longer.push(0);
        shown.issuer.challenge = BASE64URL.encode(longer);
        assert!(agree(&[shown], &endpoints_of_tests()).is_err());
    }

    #[test]
    fn a_service_that_takes_no_groups_with_x_wing_is_no_service() {
        let mut shown = honest();
        shown.ciphersuites = vec![1, 2, 3];
        for views in [vec![shown.clone()], vec![honest(), shown.clone()]] {
            let agreed = agree(&views, &endpoints_of_tests());
            assert!(matches!(agreed, Err(Error::Protocol(_))), "{agreed:?}");
        }
        shown.ciphersuites.push(CIPHERSUITE.into());
        assert!(agree(&[shown], &endpoints_of_tests()).is_ok());
    }

    #[test]
    fn every_member_that_one_view_shows_otherwise_is_named_and_nothing_of_it_is_taken() {
        type Change = (&'static str, fn(&mut Directory));
        let changes: [Change; 12] = [
            ("store.id", |it| it.store.id = "for you".into()),
            ("store.generation", |it| it.store.generation += 1),
            ("domain", |it| it.domain = "for you".into()),
            ("journal_signing_key", |it| {
                it.journal_signing_key = "AAAA".into();
            }),
            ("external_sender_key", |it| {
                it.external_sender_key = "AAAA".into()
            }),
            ("external_sender_key_p256", |it| {
                it.external_sender_key_p256 = "AAAA".into();
            }),
            ("prices.claim_key_package", |it| {
                it.prices.claim_key_package = 2
            }),
            ("prices.key_package_sets_per_token", |it| {
                it.prices.key_package_sets_per_token = 63;
            }),
            ("ciphersuites", |it| it.ciphersuites.push(2)),
            ("wire_versions", |it| it.wire_versions.push(9)),
            ("clock_window_ms", |it| it.clock_window_ms += 1),
            ("max_request_bytes", |it| it.max_request_bytes += 1),
        ];
        for (field, change) in changes {
            let mut other = honest();
            change(&mut other);
            for views in [
                [other.clone(), honest(), honest()],
                [honest(), honest(), other.clone()],
            ] {
                assert!(
                    refused(&views).contains(field),
                    "{field}: {}",
                    refused(&views)
                );
            }
            // What all of them show is no secret mark.
            assert!(agree(&[other.clone(), other], &endpoints_of_tests()).is_ok());
        }
    }

    #[test]
    fn of_keys_that_rotate_those_are_taken_that_all_show_in_nobodys_order() {
        let three = || {
            let mut all = directory(&[b"one", b"two", b"three"]);
            all.issuer.token_keys_not_before_s = vec![1, 2, 3];
            all
        };
        let mut reversed = three();
        reversed.issuer.token_key_ids.reverse();
        reversed.issuer.token_keys_not_before_s.reverse();
        let endpoints = endpoints_of_tests();
        let agreed = agree(&[three(), honest()], &endpoints).unwrap();
        assert_eq!(agreed.issuer.token_keys_not_before_s, [2, 1]);
        let one = agree(&[three(), reversed.clone()], &endpoints).unwrap();
        assert_eq!(one, agree(&[reversed, three()], &endpoints).unwrap());
        // Another time for the same key is another key, and none in common is none.
        let mut moved = honest();
        moved.issuer.token_keys_not_before_s = vec![1, 5];
        let agreed = agree(&[honest(), moved], &endpoints).unwrap();
        assert_eq!(agreed.issuer.token_keys_not_before_s, [1]);
        let mut other = directory(&[b"other"]);
        other.issuer.token_keys_not_before_s = vec![1];
        assert!(refused(&[honest(), other]).contains("issuer.token_key_ids"));
    }

    #[test]
    fn prices_beyond_the_bound_and_more_keys_than_a_rotation_needs_are_refused_whole() {
        let mut dear = honest();
        dear.prices.lookup_handle = HIGHEST_PRICE;
        assert!(agree(&[dear.clone(), dear.clone()], &endpoints_of_tests()).is_ok());
        dear.prices.lookup_handle += 1;
        assert!(refused(&[dear.clone(), dear]).contains("prices.lookup_handle"));
        let names: Vec<[u8; 1]> = (0..5).map(|number| [number]).collect();
        let many: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
        let of = |count: usize| {
            let mut directory = directory(&many[..count]);
            directory.issuer.token_keys_not_before_s = vec![1; count];
            directory
        };
        assert!(agree(&[of(4)], &endpoints_of_tests()).is_ok());
        assert!(refused(&[of(5), of(5)]).contains("issuer.token_key_ids"));
    }

    #[test]
    fn members_that_this_release_does_not_know_mark_nobody() {
        let mut document = serde_json::to_value(honest()).unwrap();
        document["for_you"] = 7.into();
        let parsed = parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(parsed, honest());
    }

    #[test]
    fn a_mirror_shows_the_directory_beside_its_keys() {
        assert_eq!(
            beside_keys("https://relay.example/a/ohttp-keys"),
            "https://relay.example/a/service-directory"
        );
    }
}
