//! What stands around an issuer: the account service that vouches, and a client's wallet.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use privacy_pass_issuer::AccountSettings;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::generic_tokens::{GenericBatchTokenRequest, TokenStates};
use privacypass::public_tokens::{PublicKey, TokenRequest, TokenState};
use privacypass::{Deserialize as _, Serialize as _, TokenType};
use serde_json::{Value, json};

const ISSUER: &str = "https://accounts.example";
const AUDIENCE: &str = "privacy-pass-issuer";

pub(crate) struct AccountService {
    signing: EncodingKey,
    public: String,
}

impl AccountService {
    pub(crate) fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        Self {
            signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
            public: STANDARD.encode(pair.public_key()),
        }
    }

    pub(crate) fn settings(&self) -> AccountSettings {
        AccountSettings {
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
            keys: vec![self.public.clone()],
            ..AccountSettings::default()
        }
    }

    pub(crate) fn token(&self, account: &str, expires_unix_s: u64) -> String {
        self.token_with_plan(account, expires_unix_s, None)
    }

    pub(crate) fn token_with_plan(
        &self,
        account: &str,
        expires_unix_s: u64,
        plan: Option<&str>,
    ) -> String {
        let claims = json!({
            "sub": account, "iss": ISSUER, "aud": AUDIENCE, "exp": expires_unix_s, "plan": plan,
        });
        encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing).unwrap()
    }
}

/// The SPKI of the preferred key of a directory.
pub(crate) fn issuer_public_key(directory: &[u8]) -> Vec<u8> {
    let directory: Value = serde_json::from_slice(directory).unwrap();
    URL_SAFE
        .decode(directory["token-keys"][0]["token-key"].as_str().unwrap())
        .unwrap()
}

/// Several tokens on their way.
pub(crate) struct BatchWallet {
    pub(crate) request: Vec<u8>,
    pub(crate) states: TokenStates,
}

impl BatchWallet {
    pub(crate) fn new(issuer_public_key: &[u8], count: usize) -> Self {
        let mut builder = GenericBatchTokenRequest::builder();
        for _ in 0..count {
            let wallet = Wallet::new(issuer_public_key);
            let request = TokenRequest::tls_deserialize_exact(&wallet.request).unwrap();
            builder = builder.add_token_request(request.into(), wallet.state.into());
        }
        let (request, states) = builder.build();
        Self {
            request: request.tls_serialize_detached().unwrap(),
            states,
        }
    }
}

/// One token on its way: what is sent, and what is needed to finalize the answer.
pub(crate) struct Wallet {
    pub(crate) challenge: TokenChallenge,
    pub(crate) request: Vec<u8>,
    pub(crate) state: TokenState,
}

impl Wallet {
    pub(crate) fn new(issuer_public_key: &[u8]) -> Self {
        let challenge = TokenChallenge::new(
            TokenType::Public,
            "issuer.example",
            None,
            &["ds.example".to_owned()],
        );
        let key = PublicKey::from_spki(issuer_public_key).unwrap();
        let mut rng = blind_rsa_signatures::reexports::rand::rng();
        let (request, state) = TokenRequest::new(&mut rng, key, &challenge).unwrap();
        Self {
            challenge,
            request: request.tls_serialize_detached().unwrap(),
            state,
        }
    }
}
