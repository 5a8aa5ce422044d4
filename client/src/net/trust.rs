//! What is said of an operator that cannot be reached.

use crate::net::http as web;

/// That an operator did not answer: whose address it is, and why, in the words of the last cause.
pub(crate) fn unreached(who: &str, url: &str, error: &web::Error) -> String {
    let url = without_secrets(url);
    if error.is_timeout() && !error.is_connect() {
        return format!("{who} at {url} takes requests and does not answer them");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_connect() {
        format!("{who} at {url} cannot be reached: {cause}")
    } else {
        format!("{who} at {url} breaks off before it answers: {cause}")
    }
}

/// A configured URL as it may be shown: without user, password, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return "its address".to_owned();
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!(
        "{}://{host}{}",
        uri.scheme_str().unwrap_or_default(),
        uri.path()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret_in_it() {
        for (url, shown) in [
            (
                "https://user:pass@a.example:1/b?c=d",
                "https://a.example:1/b",
            ),
            ("http://127.0.0.1:4200/", "http://127.0.0.1:4200/"),
            ("no url", "its address"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
