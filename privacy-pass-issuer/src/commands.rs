//! What an operator can have the running issuer do: `POST /commands/NAME` on the admin listener.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use service::start::Commands;
use tokio::task::spawn_blocking;

use crate::accounts::Account;
use crate::issuance::Issuer;
use crate::token_keys::{KeyState, RotationError, TokenKeyError};

/// Offers `keys`, `rotate`, `reload-keys`, `block` and `unblock`.
pub(crate) fn offer(commands: &Commands, issuer: &Arc<Issuer>) {
    let this = Arc::clone(issuer);
    commands.offer_report("keys", move |_| {
        let report = keys(&this);
        async move { Ok(report) }
    });
    let this = Arc::clone(issuer);
    commands.offer("rotate", move |_| {
        let (keys, now) = (Arc::clone(this.token_keys()), this.now_unix_s());
        async move {
            let rotated = spawn_blocking(move || keys.rotate(now)).await;
            match rotated.map_err(|_| "the next key was not made")? {
                Err(TokenKeyError::Rotation(RotationError::NextIsPublished)) => {
                    Err("the next key is already published")
                }
                Err(TokenKeyError::Rotation(RotationError::TooMany)) => {
                    Err("clients take no more keys than are published: wait until one expires")
                }
                rotated => rotated.map_err(|_| "the next key cannot be made or written"),
            }
        }
    });
    let this = Arc::clone(issuer);
    commands.offer("reload-keys", move |_| {
        let keys = Arc::clone(this.token_keys());
        async move {
            let reloaded = spawn_blocking(move || keys.reload()).await;
            match reloaded.map_err(|_| "the keys were not read")? {
                Ok(()) => Ok(()),
                Err(TokenKeyError::TruncatedIdCollision) => {
                    Err("two keys have the same truncated id; nothing was changed")
                }
                Err(TokenKeyError::NoKey) => Err("there is no key; nothing was changed"),
                Err(TokenKeyError::File { error, .. })
                    if matches!(*error, TokenKeyError::Exposed { .. }) =>
                {
                    Err("a key file may be read by others; nothing was changed")
                }
                Err(_) => Err("a key file cannot be used; nothing was changed"),
            }
        }
    });
    let this = Arc::clone(issuer);
    commands.offer("block", move |argument| {
        let issuer = Arc::clone(&this);
        async move {
            let account = Account::new(argument, None).ok_or("not an account name")?;
            let blocked = issuer.block(&account).await;
            blocked.map_err(|_| "the database failed; the account is not blocked")
        }
    });
    let this = Arc::clone(issuer);
    commands.offer("unblock", move |argument| {
        let issuer = Arc::clone(&this);
        async move {
            let account = Account::new(argument, None).ok_or("not an account name")?;
            match issuer.unblock(&account).await {
                Ok(true) => Ok(()),
                Ok(false) => Err("the account is not blocked"),
                Err(_) => Err("the database failed; the account is still blocked"),
            }
        }
    });
}

/// One line per key, oldest first: id, not before, state, when it expires.
fn keys(issuer: &Issuer) -> String {
    let mut report = String::new();
    for (key, state, expires) in issuer.token_keys().current().states(issuer.now_unix_s()) {
        let state = match state {
            KeyState::Next => "next",
            KeyState::Current => "current",
            KeyState::Previous => "previous",
            KeyState::Expired => "expired",
        };
        let expires = expires.map_or_else(|| "-".to_owned(), |expires| expires.to_string());
        let id = URL_SAFE.encode(key.id());
        let not_before = key.not_before_unix_s();
        let _ = writeln!(
            report,
            "{id} not-before={not_before} {state} expires={expires}"
        );
    }
    report
}
