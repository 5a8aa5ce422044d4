//! Tokens by the letter of RFC 9577 and RFC 9578: an HTTP client with nothing of ours but the way
//! through relay and gateway gets a challenge, a token and one redemption.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use blind_rsa_signatures::reexports::rand::rng as csprng;
use end_to_end::{LogLevel, Outer, Service, Stack, reservation};
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::public_tokens::{PublicKey, TokenRequest, TokenResponse};
use privacypass::{Deserialize as _, Serialize as _};
use protocol::operation::Operation;
use sha2::{Digest as _, Sha256};

/// The value of a quoted parameter of a `PrivateToken` challenge (RFC 9577 §2.1), decoded.
fn parameter(challenge: &str, name: &str) -> Vec<u8> {
    let parameters = challenge.strip_prefix("PrivateToken ").unwrap();
    let value = parameters
        .split(", ")
        .find_map(|parameter| parameter.strip_prefix(&format!("{name}=\"")))
        .unwrap();
    URL_SAFE.decode(value.strip_suffix('"').unwrap()).unwrap()
}

/// The issuer as anybody sees it (RFC 9578 §4).
struct IssuerOverHttp {
    http: reqwest::Client,
    request_url: String,
    account: String,
    keys: Vec<Vec<u8>>,
}

impl IssuerOverHttp {
    async fn of(stack: &Stack, http: &reqwest::Client) -> Self {
        let url = format!("http://{}", stack.ports().of(Service::Issuer));
        let answer = http
            .get(format!("{url}/.well-known/private-token-issuer-directory"))
            .send()
            .await
            .unwrap();
        let media_type = answer.headers()["content-type"].to_str().unwrap();
        assert_eq!(media_type, "application/private-token-issuer-directory");
        let directory: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let keys = directory["token-keys"].as_array().unwrap();
        let token = std::fs::read_to_string(stack.account_token(0)).unwrap();
        let uri = directory["issuer-request-uri"].as_str().unwrap();
        Self {
            http: http.clone(),
            request_url: match uri.strip_prefix('/') {
                Some(path) => format!("{url}/{path}"),
                None => uri.to_owned(),
            },
            account: format!("Bearer {}", token.trim()),
            keys: keys
                .iter()
                .filter(|key| key["token-type"] == 2)
                .map(|key| URL_SAFE.decode(key["token-key"].as_str().unwrap()).unwrap())
                .collect(),
        }
    }

    async fn sign(&self, request: Vec<u8>) -> Vec<u8> {
        let answer = self
            .http
            .post(&self.request_url)
            .header("authorization", &self.account)
            .header("content-type", "application/private-token-request")
            .body(request)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let media_type = answer.headers()["content-type"].to_str().unwrap();
        assert_eq!(media_type, "application/private-token-response");
        answer.bytes().await.unwrap().to_vec()
    }
}

#[tokio::test]
async fn a_client_that_knows_the_standards_only_gets_a_token_and_redeems_it_once() {
    let stack = Stack::start(LogLevel::Info).await;
    let outer = Outer::of(&stack).await;
    let issuer = IssuerOverHttp::of(&stack, outer.http()).await;

    // RFC 9577 §2.1: the challenge, and the key to use.
    let request = reservation();
    let answer = outer.post(Operation::ReserveGroupId, &request).await;
    assert_eq!(answer.status, 401);
    let (_, challenge) = answer
        .headers
        .iter()
        .find(|(name, _)| name == "www-authenticate")
        .unwrap();
    let encoded = parameter(challenge, "challenge");
    let token_key = parameter(challenge, "token-key");
    assert_eq!(encoded[..2], [0, 2], "token type");
    assert!(issuer.keys.contains(&token_key));

    // RFC 9578 §6: one token for it.
    let parsed = TokenChallenge::tls_deserialize_exact(&encoded).unwrap();
    let key = PublicKey::from_spki(&token_key).unwrap();
    let (token_request, state) = TokenRequest::new(&mut csprng(), key, &parsed).unwrap();
    let token_request = token_request.tls_serialize_detached().unwrap();
    assert_eq!(token_request.len(), 2 + 1 + 256);
    assert_eq!(token_request[2], Sha256::digest(&token_key)[31]);
    let response = issuer.sign(token_request).await;
    let token = TokenResponse::tls_deserialize_exact(&response)
        .unwrap()
        .issue_token(&state)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    assert_eq!(token[34..66], *Sha256::digest(&encoded));
    assert_eq!(token[66..98], *Sha256::digest(&token_key));

    // RFC 9577 §2.2: redeemed once, in either form of the parameter, with what the future may
    // bring.
    let encoded = URL_SAFE.encode(&token);
    let presented = format!("PrivateToken token=\"{encoded}\", extensions=\"AAAA\"");
    let redeem = async |request: &[u8], value: &str| {
        let fields = [("authorization", value)];
        outer
            .post_with(Operation::ReserveGroupId, request, &fields)
            .await
    };
    let redeemed = redeem(&request, &presented).await;
    assert_eq!(redeemed.status, 200);
    let second = redeem(&reservation(), &format!("PrivateToken token={encoded}")).await;
    assert_eq!(second.status, 401);
    assert_eq!(second.problem().as_deref(), Some("token-rejected"));
    // The same request again is no second redemption.
    assert_eq!(redeem(&request, &presented).await, redeemed);
}
