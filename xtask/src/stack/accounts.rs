//! Accounts that a pretended account service vouches for.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::json;

/// `iss` of the account tokens.
pub(super) const ISSUER: &str = "https://accounts.localhost";
/// `aud` of the account tokens.
pub(super) const AUDIENCE: &str = "privacy-pass-issuer";

const YEARS_10: u64 = 10 * 366 * 86_400;

/// What the issuer is told and what users are given.
pub(super) struct Accounts {
    /// Base64 of the Ed25519 public key.
    pub(super) public_key: String,
    /// Files with one JWT each.
    pub(super) tokens: Vec<PathBuf>,
}

/// The account that the token with this number (from 1) is for.
#[must_use]
pub(super) fn account_name(number: usize) -> String {
    format!("stack-account-{number:02}")
}

/// Makes the signing key and the tokens that are missing in `directory`.
pub(super) fn prepare(directory: &Path, count: usize) -> Result<Accounts> {
    let key = signing_key(&directory.join("signing.key"))?;
    let mut tokens = Vec::with_capacity(count);
    for number in 1..=count {
        let path = directory.join(format!("account-{number:02}.jwt"));
        if !path.exists() {
            write_new(
                &path,
                account_token(&key, &account_name(number))?.as_bytes(),
            )?;
        }
        tokens.push(path);
    }
    Ok(Accounts {
        public_key: STANDARD.encode(key.verifying_key().as_bytes()),
        tokens,
    })
}

fn signing_key(path: &Path) -> Result<SigningKey> {
    let mut seed = [0; 32];
    match File::open(path) {
        Ok(mut file) => file
            .read_exact(&mut seed)
            .context("the account key is cut short")?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            getrandom::fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness"))?;
            write_new(path, &seed)?;
        }
        Err(error) => return Err(error).context("the account key cannot be read"),
    }
    Ok(SigningKey::from_bytes(&seed))
}

/// A JWT signed with EdDSA (RFC 8037 §3.1).
fn account_token(key: &SigningKey, account: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let header = json!({"alg": "EdDSA", "typ": "JWT"}).to_string();
    let claims = json!({
        "sub": account, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + YEARS_10,
    });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes());
    Ok(format!("{signed}.{signature}"))
}

/// Writes a new file with mode 0600 that is there whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fs::rename(&beside, path)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ed25519_dalek::{Signature, Verifier, VerifyingKey};
    use serde_json::Value;

    use super::*;

    #[test]
    fn tokens_are_made_once_and_verify() {
        let directory = tempfile::tempdir().unwrap();
        let accounts = prepare(directory.path(), 10).unwrap();
        assert_eq!(accounts.tokens.len(), 10);
        let token = fs::read_to_string(&accounts.tokens[2]).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let key: [u8; 32] = STANDARD
            .decode(&accounts.public_key)
            .unwrap()
            .try_into()
            .unwrap();
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let key = VerifyingKey::from_bytes(&key).unwrap();
        key.verify(signed.as_bytes(), &signature).unwrap();
        let claims = URL_SAFE_NO_PAD
            .decode(signed.split_once('.').unwrap().1)
            .unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["sub"], "stack-account-03");

        let again = prepare(directory.path(), 10).unwrap();
        assert_eq!(again.public_key, accounts.public_key);
        assert_eq!(fs::read_to_string(&again.tokens[2]).unwrap(), token);
    }
}
