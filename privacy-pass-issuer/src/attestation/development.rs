//! A fixed list of tokens, for development: whoever knows the configuration file is everybody in
//! it.

use std::collections::HashMap;
use std::net::SocketAddr;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use super::{AccountSettingsError, AttestationError, Attester, MAX_TOKEN_LENGTH};
use crate::accounts::Account;
use crate::config::AccountSettings;

/// Knows accounts by tokens from the configuration file.
pub struct DevelopmentAttester(HashMap<[u8; 32], String>);

impl DevelopmentAttester {
    /// Refuses settings that do not say that this is development, or an issuer that others can
    /// reach.
    pub fn new(
        settings: &AccountSettings,
        listen: SocketAddr,
    ) -> Result<Self, AccountSettingsError> {
        if !settings.development {
            return Err(AccountSettingsError::NotDevelopment);
        }
        if !listen.ip().is_loopback() {
            return Err(AccountSettingsError::DevelopmentInPublic);
        }
        if !settings.keys.is_empty()
            || settings.jwks_file.is_some()
            || settings.jwks_url.is_some()
            || settings.development_tokens.is_empty()
        {
            return Err(AccountSettingsError::MixedDevelopment);
        }
        let accounts = settings.development_tokens.iter().map(|(token, account)| {
            let usable = (1..=MAX_TOKEN_LENGTH).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic())
                && Account::new(account.clone(), None).is_some();
            usable
                .then(|| (digest(token), account.clone()))
                .ok_or(AccountSettingsError::DevelopmentToken)
        });
        Ok(Self(accounts.collect::<Result<_, _>>()?))
    }
}

/// Looked up by digest: how long it takes says nothing about the tokens that are there.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[async_trait]
impl Attester for DevelopmentAttester {
    async fn attest(&self, token: &str, _now_unix_s: u64) -> Result<Account, AttestationError> {
        self.0
            .get(&digest(token))
            .and_then(|account| Account::new(account.clone(), None))
            .ok_or(AttestationError::Invalid)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn settings() -> AccountSettings {
        AccountSettings {
            development: true,
            development_tokens: [("t-1".to_owned(), "alice".to_owned())].into(),
            ..AccountSettings::default()
        }
    }

    #[tokio::test]
    async fn a_listed_token_names_its_account_and_no_other_does() {
        let attester =
            DevelopmentAttester::new(&settings(), "127.0.0.1:1".parse().unwrap()).unwrap();
        let alice = Account::new("alice".into(), None).unwrap();
        assert_eq!(attester.attest("t-1", 0).await, Ok(alice));
        assert_eq!(
            attester.attest("t-2", 0).await,
            Err(AttestationError::Invalid)
        );
    }

    #[test]
    fn it_is_refused_outside_development_in_public_and_beside_real_keys() {
        let refused = |settings: &AccountSettings, listen: &str| {
            DevelopmentAttester::new(settings, listen.parse().unwrap())
                .err()
                .unwrap()
        };
        let mut serious = settings();
        serious.development = false;
        assert_eq!(
            refused(&serious, "127.0.0.1:1"),
            AccountSettingsError::NotDevelopment
        );
        for public in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            assert_eq!(
                refused(&settings(), public),
                AccountSettingsError::DevelopmentInPublic
            );
        }
        let mut mixed = settings();
        mixed.jwks_file = Some("f".into());
        assert_eq!(
            refused(&mixed, "[::1]:1"),
            AccountSettingsError::MixedDevelopment
        );
        let mut spaced = settings();
        spaced
            .development_tokens
            .insert("a b".into(), "alice".into());
        assert_eq!(
            refused(&spaced, "[::1]:1"),
            AccountSettingsError::DevelopmentToken
        );
    }
}
