//! Tokens by the letter of RFC 9577 and RFC 9578: an HTTP client with nothing of ours but the way through
//! relay and gateway gets a challenge, a token and one redemption; what issuer and service have seen of
//! many users does not match.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use blind_rsa_signatures::reexports::rand::rng as csprng;
use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384};
use client::issuance::PendingToken;
use crypto::sign::{LeafKeyPair, Scheme};
use ds::tokens::{Challenge, IssuerKeys, PresentedToken};
use end_to_end::{LogLevel, Outer, Service, Stack};
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::public_tokens::{PublicKey, TokenRequest, TokenResponse};
use privacypass::{Deserialize as _, Serialize as _};
use protocol::codec::opaque;
use protocol::envelope::Sender;
use protocol::groups::ReserveGroupIdRequest;
use protocol::{Operation, Wire as _};
use rand::seq::SliceRandom as _;
use sha2::{Digest as _, Sha256};

/// A request that costs one token, of a sender of its own.
fn reservation() -> Vec<u8> {
    let key = LeafKeyPair::random(Scheme::Ed25519).unwrap();
    let sender = Sender::Key(opaque(key.public()));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let body = ReserveGroupIdRequest {}.encode();
    client::sign(Operation::ReserveGroupId, now, &sender, &body, &key).encode()
}

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

    // RFC 9577 §2.2: redeemed once, in either form of the parameter, with what the future may bring.
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

const USERS: usize = 1_000;
const TOKENS_EACH: usize = 2;
/// Keys of a user's own are slow to make; fewer do to show what they do.
const USERS_WITH_KEYS: usize = 20;
/// Right guesses of a matching that knows nothing are Poisson distributed with mean 2 (2,000 tokens, each
/// with one chance in a thousand): 15 or more come up once in 2.9e8 runs.
const MOST_BY_GUESSING: usize = 14;

/// What the issuer has of one token, and whose it is.
struct Issued {
    user: usize,
    /// Which of its keys signed: SHA-256 of the SPKI.
    key: Vec<u8>,
    request: Vec<u8>,
    response: Vec<u8>,
}

/// What the service has of one token. Whose it is only the test knows.
struct Redeemed {
    user: usize,
    token: Vec<u8>,
}

/// Bits in which two byte strings agree, over the shorter one.
fn agreement(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_zeros()).sum()
}

/// Every issued token is held against a redeemed one: a key of its own decides; else the best agreement of
/// any part of the one with any part of the other, from either end, so that an unblinded message, signature
/// or nonce would win by far. Answers how many tokens are given to the user they are of.
fn matched_by_bytes(issued: &[Issued], redeemed: &[Redeemed]) -> usize {
    let score = |issued: &Issued, redeemed: &Redeemed| {
        let (nonce, authenticator) = (&redeemed.token[2..34], &redeemed.token[98..]);
        let mut best = 0;
        for seen in [&issued.request[3..], &issued.response[..]] {
            best = best.max(agreement(seen, authenticator));
            for part in seen.chunks(nonce.len()) {
                best = best.max(8 * agreement(part, nonce));
            }
        }
        (issued.key == redeemed.token[66..98], best)
    };
    redeemed
        .iter()
        .filter(|redeemed| {
            let guess = issued.iter().max_by_key(|issued| score(issued, redeemed));
            guess.unwrap().user == redeemed.user
        })
        .count()
}

/// The one who got a token first spends first.
fn matched_by_order(issued: &[Issued], redeemed: &[Redeemed]) -> usize {
    let pairs = issued.iter().zip(redeemed);
    pairs
        .filter(|(issued, redeemed)| issued.user == redeemed.user)
        .count()
}

fn verified(redeemed: &[Redeemed], keys: &IssuerKeys, challenge: &Challenge) {
    for redeemed in redeemed {
        let token = PresentedToken::from_bytes(&redeemed.token).unwrap();
        keys.verify(&token, challenge).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_issuer_and_service_see_of_a_thousand_users_does_not_match() {
    let stack = Stack::start(LogLevel::Error).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let issuer = IssuerOverHttp::of(&stack, &http).await;
    let challenge = Challenge::new("issuer.localhost", "ds.example").unwrap();
    let for_clients = TokenChallenge::tls_deserialize_exact(challenge.as_bytes()).unwrap();
    let spki = issuer.keys.first().unwrap();
    let key = PublicKey::from_spki(spki).unwrap();

    let (mut issued, mut redeemed) = (Vec::new(), Vec::new());
    for number in 0..USERS * TOKENS_EACH {
        let user = number % USERS;
        let (request, pending) = PendingToken::request(key.clone(), &for_clients).unwrap();
        let response = issuer.sign(request.clone()).await;
        let token = pending.finish(&response).unwrap();
        redeemed.push(Redeemed { user, token });
        issued.push(Issued {
            user,
            key: Sha256::digest(spki).to_vec(),
            request,
            response,
        });
    }
    // Wallets fill at times of their own, hours before anything is spent: within that, any order.
    redeemed.shuffle(&mut rand::rng());
    let keys = IssuerKeys::from_directory_keys([spki]).unwrap();
    verified(&redeemed, &keys, &challenge);

    let by_bytes = matched_by_bytes(&issued, &redeemed);
    assert!(by_bytes <= MOST_BY_GUESSING, "{by_bytes} of 2000 by bytes");
    let by_order = matched_by_order(&issued, &redeemed);
    assert!(by_order <= MOST_BY_GUESSING, "{by_order} of 2000 by order");
    // All that a token shows of its issuance is the key, and that is everybody's.
    let shown: BTreeMap<&[u8], usize> = redeemed.iter().fold(BTreeMap::new(), |mut seen, token| {
        *seen.entry(&token.token[34..98]).or_default() += 1;
        seen
    });
    assert_eq!(shown.len(), 1);
}

#[test]
fn an_issuer_with_a_key_for_each_user_matches_all_of_them_and_so_would_one_that_does_not_blind() {
    type Pair = KeyPair<Sha384, PSS, Deterministic>;
    let challenge = Challenge::new("issuer.localhost", "ds.example").unwrap();
    let for_clients = TokenChallenge::tls_deserialize_exact(challenge.as_bytes()).unwrap();
    let pairs: Vec<Pair> = (0..USERS_WITH_KEYS)
        .map(|_| Pair::generate(&mut csprng(), 2048).unwrap())
        .collect();
    let (mut issued, mut redeemed) = (Vec::new(), Vec::new());
    for (user, pair) in pairs.iter().enumerate() {
        let (request, pending) = PendingToken::request(pair.pk.clone(), &for_clients).unwrap();
        let response = pair.sk.blind_sign(&request[3..]).unwrap().0;
        let token = pending.finish(&response).unwrap();
        redeemed.push(Redeemed { user, token });
        issued.push(Issued {
            user,
            key: Sha256::digest(pair.pk.to_spki().unwrap()).to_vec(),
            request,
            response,
        });
    }
    redeemed.shuffle(&mut rand::rng());
    let spkis = pairs.iter().map(|pair| pair.pk.to_spki().unwrap());
    let keys = IssuerKeys::from_directory_keys(spkis).unwrap();
    verified(&redeemed, &keys, &challenge);
    assert_eq!(matched_by_bytes(&issued, &redeemed), USERS_WITH_KEYS);

    // One key again, but the signature is seen as it is spent.
    for issued in &mut issued {
        issued.key.clear();
        let own = redeemed.iter().find(|token| token.user == issued.user);
        issued.response = own.unwrap().token[98..].to_vec();
    }
    assert_eq!(matched_by_bytes(&issued, &redeemed), USERS_WITH_KEYS);
}
