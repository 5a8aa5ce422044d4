//! What issuer and service have seen of a thousand users for a month, together: whose a token is
//! they cannot tell better than by guessing.
//!
//! When wallets are filled, and by how much, is decided by the client's own code ([`Schedule`],
//! [`Levels`]), at times that are simulated ([`end_to_end::month`]); a sample of the tokens is made
//! by a real issuer and verified as the service does. The attack has learned from half of the users
//! whose tokens are whose. It is shown to find what there is to be found where wallets are worse:
//! filled for each use, or soon after they fell low, or from issuers with keys for each user.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use blind_rsa_signatures::reexports::rand::rng as csprng;
use blind_rsa_signatures::{Deterministic, KeyPair, PSS, SecretKey, Sha384};
use client::issuance::PendingToken;
use ds_domain::tokens::{Challenge, IssuerKeys, PresentedToken};
use end_to_end::month::{
    DAY, Issuance, LEVELS, MINUTE, Month, Presence, Redemption, USERS, Wallet,
};
use end_to_end::{LogLevel, Service, Stack};
use privacypass::Deserialize as _;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::public_tokens::PublicKey;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rsa::{BoxedUint, RsaPrivateKey};
use sha2::{Digest as _, Sha256};

/// So many standard deviations above what the best guess gives: chance comes so far once in
/// millions of runs.
const SIGMAS: f64 = 5.0;

/// What can be said of a redemption at some time if it was this user's: bins of the time since the
/// issuance before, until the one after, between them, and the sizes of both.
fn traits(issued: &[Issuance], at: u64) -> [usize; TRAITS] {
    let next = issued.partition_point(|issuance| issuance.at <= at);
    let before = next.checked_sub(1).map(|index| issued[index]);
    let after = issued.get(next).copied();
    let since = before.map_or(0, |it| 1 + logarithmic(at - it.at));
    let until = after.map_or(0, |it| 1 + logarithmic(it.at - at));
    let between = match (before, after) {
        (Some(before), Some(after)) => 1 + logarithmic(after.at - before.at),
        _ => 0,
    };
    // How many tokens came within the minute of the issuance before and of the one after.
    let around = |it: Option<Issuance>| {
        let it = it.unwrap_or(Issuance {
            user: 0,
            at: 0,
            size: 0,
        });
        let beside = |index: usize| {
            issued
                .get(index)
                .filter(|other| other.at.abs_diff(it.at) < MINUTE)
                .map_or(0, |other| other.size)
        };
        (beside(next.wrapping_sub(2)) + beside(next + 1) + it.size).min(BINS - 1) / 50
    };
    [since, until, between, around(before), around(after)]
}

const TRAITS: usize = 5;
const BINS: usize = 160;

/// Four bins for each doubling, from a tenth of a second on.
fn logarithmic(ms: u64) -> usize {
    ((ms as f64 / 100.0 + 1.0).log2() * 4.0) as usize
}

/// How much more often each trait is seen of the right user than of any.
struct Learned {
    weights: Vec<[f64; BINS]>,
}

impl Learned {
    /// From redemptions of which it is known whose they are.
    fn from(month: &Month, known: &[Redemption], rng: &mut StdRng) -> Self {
        let mut right = vec![[1.0_f64; BINS]; TRAITS];
        let mut any = right.clone();
        for redemption in known {
            let own = traits(&month.issued[redemption.user], redemption.at);
            for (seen, bin) in right.iter_mut().zip(own) {
                seen[bin] += 1.0;
            }
            let other = rng.random_range(0..USERS);
            let other = traits(&month.issued[other], redemption.at);
            for (seen, bin) in any.iter_mut().zip(other) {
                seen[bin] += 1.0;
            }
        }
        let weights = right
            .iter()
            .zip(&any)
            .map(|(right, any)| std::array::from_fn(|bin| (right[bin] / any[bin]).ln()))
            .collect();
        Self { weights }
    }

    fn score(&self, issued: &[Issuance], at: u64) -> f64 {
        let weights = self.weights.iter().zip(traits(issued, at));
        weights.map(|(weights, bin)| weights[bin]).sum()
    }
}

/// Hits of an attack, and the most that guessing explains.
#[derive(Debug)]
struct Outcome {
    attacked: usize,
    hits: usize,
    by_guessing: usize,
}

/// By time, order, rate and sizes: each redemption of one half of the users is given to the user
/// among them of whom it is the most likely, by what was learned from the other half.
fn attack_by_time(month: &Month, rng: &mut StdRng) -> Outcome {
    let learned = Learned::from(month, &month.attacked(0), rng);
    let attacked = month.attacked(1);
    let hits = attacked
        .iter()
        .filter(|redemption| {
            let mut candidates: Vec<usize> = (1..USERS).step_by(2).collect();
            // Among equals anybody.
            candidates.shuffle(rng);
            let score = |user: usize| learned.score(&month.issued[user], redemption.at);
            let guess = candidates
                .into_iter()
                .map(|user| (user, score(user)))
                .max_by(|(_, a), (_, b)| a.total_cmp(b));
            guess.unwrap().0 == redemption.user
        })
        .count();
    let best = best_guess(&attacked) as f64;
    Outcome {
        attacked: attacked.len(),
        hits,
        by_guessing: (best + SIGMAS * best.sqrt()) as usize,
    }
}

/// Hits of somebody who knows exactly how often each user comes in every span of time that a batch
/// lasts, and nothing else, and always names the one who comes most. The issuer learns that much
/// from giving out tokens at all.
fn best_guess(attacked: &[Redemption]) -> usize {
    let mut sessions = BTreeMap::<u64, BTreeMap<usize, usize>>::new();
    for redemption in attacked {
        let span = sessions.entry(redemption.at / (5 * DAY)).or_default();
        *span.entry(redemption.user).or_default() += 1;
    }
    let most = sessions.values().filter_map(|span| span.values().max());
    most.sum()
}

/// What the issuer has of one token: whose, when, under which of its keys (SHA-256 of the SPKI),
/// and all bytes.
struct IssuedToken {
    user: usize,
    key: Vec<u8>,
    request: Vec<u8>,
    response: Vec<u8>,
}

/// What the service has of it. Whose it is only the test knows.
struct RedeemedToken {
    user: usize,
    at: u64,
    token: Vec<u8>,
}

/// Bits in which two byte strings agree, over the shorter one.
fn agreement(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_zeros()).sum()
}

/// The best agreement of any part of what the issuer has with any part of a token, from either end,
/// so that an unblinded message, signature or nonce would win by far: bits of 2048.
fn alike(issued: &IssuedToken, redeemed: &RedeemedToken) -> u32 {
    let (nonce, authenticator) = (&redeemed.token[2..34], &redeemed.token[98..]);
    let mut best = 0;
    for seen in [&issued.request[3..], &issued.response[..]] {
        best = best.max(agreement(seen, authenticator));
        for part in seen.chunks(nonce.len()) {
            best = best.max(8 * agreement(part, nonce));
        }
    }
    best
}

/// By everything: a key of its own decides, then bytes that agree more than chance would have them,
/// then time, order and sizes as learned, then what is left of the bytes. Answers how many tokens
/// are given to whom they are of.
fn attack_by_everything(
    issued: &[IssuedToken],
    redeemed: &[RedeemedToken],
    time: impl Fn(usize, u64) -> f64,
) -> usize {
    let by_chance = 8 * 224;
    redeemed
        .iter()
        .filter(|redeemed| {
            let score = |issued: &IssuedToken| {
                let alike = alike(issued, redeemed);
                let key = issued.key == redeemed.token[66..98];
                (
                    key,
                    alike > by_chance,
                    time(issued.user, redeemed.at),
                    alike,
                )
            };
            let guess = issued
                .iter()
                .map(|issued| (issued.user, score(issued)))
                .max_by(|(_, a), (_, b)| {
                    (a.0, a.1)
                        .cmp(&(b.0, b.1))
                        .then(a.2.total_cmp(&b.2))
                        .then(a.3.cmp(&b.3))
                });
            guess.unwrap().0 == redeemed.user
        })
        .count()
}

fn without_times(_: usize, _: u64) -> f64 {
    0.0
}

fn verified(redeemed: &[RedeemedToken], keys: &IssuerKeys, challenge: &Challenge) {
    for redeemed in redeemed {
        let token = PresentedToken::from_bytes(&redeemed.token).unwrap();
        keys.verify(keys.identify(token, challenge).unwrap())
            .unwrap();
    }
}

/// The issuer of a stack, as an account.
struct RealIssuer {
    http: reqwest::Client,
    url: String,
    account: String,
    spki: Vec<u8>,
}

impl RealIssuer {
    async fn of(stack: &Stack) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}", stack.ports().of(Service::Issuer));
        let directory = format!("{url}/.well-known/private-token-issuer-directory");
        let answer = http.get(directory).send().await.unwrap();
        let directory: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let token = std::fs::read_to_string(stack.account_token(0)).unwrap();
        let key = directory["token-keys"][0]["token-key"].as_str().unwrap();
        Self {
            http,
            url: format!("{url}/token-request"),
            account: format!("Bearer {}", token.trim()),
            spki: URL_SAFE.decode(key).unwrap(),
        }
    }

    async fn sign(&self, request: Vec<u8>) -> Vec<u8> {
        let answer = self
            .http
            .post(&self.url)
            .header("authorization", &self.account)
            .header("content-type", "application/private-token-request")
            .body(request)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        answer.bytes().await.unwrap().to_vec()
    }
}

fn challenges() -> (Challenge, TokenChallenge) {
    let challenge = Challenge::new("issuer.localhost", "ds.example").unwrap();
    let for_clients = TokenChallenge::tls_deserialize_exact(challenge.as_bytes()).unwrap();
    (challenge, for_clients)
}

#[test]
fn times_order_and_sizes_of_a_month_do_not_tell_whose_a_token_is() {
    let mut rng = StdRng::seed_from_u64(1);
    let month = Month::of(Wallet::AsBuilt, Presence::Always, 2);
    let sizes = month.issued.iter().flatten().map(|issuance| issuance.size);
    assert!(sizes.into_iter().all(|size| size == LEVELS.batch));
    let outcome = attack_by_time(&month, &mut rng);
    assert!(outcome.attacked > 20_000, "{outcome:?}");
    assert!(outcome.hits <= outcome.by_guessing, "{outcome:?}");
}

#[test]
fn nor_do_they_where_clients_run_for_minutes_only_though_they_would_if_wallets_were_filled_at_once()
{
    let mut rng = StdRng::seed_from_u64(8);
    let month = Month::of(Wallet::AsBuilt, Presence::Sessions, 9);
    let outcome = attack_by_time(&month, &mut rng);
    assert!(outcome.attacked > 10_000, "{outcome:?}");
    assert!(outcome.hits <= outcome.by_guessing, "{outcome:?}");
    let at_once = Month::of(Wallet::AtOnce, Presence::Sessions, 10);
    let at_once = attack_by_time(&at_once, &mut rng);
    assert!(2 * at_once.hits > 3 * at_once.by_guessing, "{at_once:?}");
}

#[test]
fn the_same_attack_finds_whose_tokens_are_fetched_for_each_use_or_soon_after_a_wallet_falls_low() {
    let mut rng = StdRng::seed_from_u64(3);
    let each = attack_by_time(
        &Month::of(Wallet::ForEachUse, Presence::Always, 4),
        &mut rng,
    );
    assert!(each.hits > each.attacked / 2, "{each:?}");
    let soon = attack_by_time(
        &Month::of(Wallet::SoonAfterLow, Presence::Always, 5),
        &mut rng,
    );
    assert!(soon.hits > 3 * soon.by_guessing, "{soon:?}");
}

const TOKENS_EACH: usize = 2;
/// Right guesses of a matching that knows nothing are Poisson distributed with mean 2 (2,000
/// tokens, each with one chance in a thousand): 15 or more come up once in 2.9e8 runs.
const MOST_BY_GUESSING: usize = 14;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_issuer_and_service_see_of_a_thousand_users_does_not_match() {
    let stack = Stack::start(LogLevel::Error).await;
    let issuer = RealIssuer::of(&stack).await;
    let (challenge, for_clients) = challenges();
    let key = PublicKey::from_spki(&issuer.spki).unwrap();
    let mut rng = StdRng::seed_from_u64(6);
    let month = Month::of(Wallet::AsBuilt, Presence::Always, 7);
    let mut of_users = vec![Vec::new(); USERS];
    for redemption in &month.redeemed {
        of_users[redemption.user].push(*redemption);
    }

    // Some tokens of everybody, with the times at which they were issued and spent.
    let (mut issued, mut redeemed) = (Vec::new(), Vec::new());
    for (user, own) in of_users.iter().enumerate() {
        for redemption in own.choose_multiple(&mut rng, TOKENS_EACH) {
            let (request, pending) = PendingToken::request(key.clone(), &for_clients).unwrap();
            let response = issuer.sign(request.clone()).await;
            let token = pending.finish(&response).unwrap();
            let at = redemption.at;
            redeemed.push(RedeemedToken { user, at, token });
            let record = IssuedToken {
                user,
                key: Sha256::digest(&issuer.spki).to_vec(),
                request,
                response,
            };
            issued.push((month.issued[user][redemption.from].at, record));
        }
    }
    issued.sort_by_key(|(at, _)| *at);
    let issued: Vec<_> = issued.into_iter().map(|(_, record)| record).collect();
    redeemed.sort_by_key(|redeemed| redeemed.at);
    let keys = IssuerKeys::from_directory_keys([&issuer.spki]).unwrap();
    verified(&redeemed, &keys, &challenge);
    assert_eq!(redeemed.len(), USERS * TOKENS_EACH);

    let learned = Learned::from(&month, &month.attacked(0), &mut rng);
    let by_time = |user: usize, at| learned.score(&month.issued[user], at);
    let hits = attack_by_everything(&issued, &redeemed, by_time);
    assert!(hits <= MOST_BY_GUESSING, "{hits} of 2000 by everything");
    let hits = attack_by_everything(&issued, &redeemed, without_times);
    assert!(hits <= MOST_BY_GUESSING, "{hits} of 2000 by bytes");
    // Who got a token first spends first.
    let pairs = issued.iter().zip(&redeemed);
    let hits = pairs.filter(|(issued, redeemed)| issued.user == redeemed.user);
    let hits = hits.count();
    assert!(hits <= MOST_BY_GUESSING, "{hits} of 2000 by order");
    // All that a token shows of its issuance is the key, and that is everybody's.
    let shown: BTreeMap<&[u8], usize> = redeemed.iter().fold(BTreeMap::new(), |mut seen, token| {
        *seen.entry(&token.token[34..98]).or_default() += 1;
        seen
    });
    assert_eq!(shown.len(), 1);
}

type Pair = KeyPair<Sha384, PSS, Deterministic>;

/// Keys for everybody out of few primes, which are slow to find: every pair of them is another
/// modulus. Good for nothing but this.
fn keys_for_everybody() -> Vec<SecretKey<Sha384, PSS, Deterministic>> {
    let mut primes = Vec::new();
    while primes.len() * primes.len().saturating_sub(1) / 2 < USERS {
        let pair = Pair::generate(&mut csprng(), 2048).unwrap();
        for prime in pair.sk.components().primes() {
            primes.push(BoxedUint::from_be_slice(&prime, 1024).unwrap());
        }
    }
    let mut keys = Vec::new();
    for (index, p) in primes.iter().enumerate() {
        for q in &primes[..index] {
            let exponent = BoxedUint::from(65_537_u64);
            let key = RsaPrivateKey::from_p_q(p.clone(), q.clone(), exponent).unwrap();
            keys.push(SecretKey::new(key));
        }
    }
    keys.truncate(USERS);
    keys
}

#[test]
fn an_issuer_with_a_key_for_each_user_matches_all_of_them_and_so_would_one_that_does_not_blind() {
    let (challenge, for_clients) = challenges();
    let (mut issued, mut redeemed) = (Vec::new(), Vec::new());
    let mut spkis = Vec::new();
    for (user, secret) in keys_for_everybody().iter().enumerate() {
        let public = secret.public_key().unwrap();
        let spki = public.to_spki().unwrap();
        let (request, pending) = PendingToken::request(public, &for_clients).unwrap();
        let response = secret.blind_sign(&request[3..]).unwrap().0;
        let token = pending.finish(&response).unwrap();
        redeemed.push(RedeemedToken { user, at: 0, token });
        issued.push(IssuedToken {
            user,
            key: Sha256::digest(&spki).to_vec(),
            request,
            response,
        });
        spkis.push(spki);
    }
    assert_eq!(issued.len(), USERS);
    redeemed.shuffle(&mut rand::rng());
    let keys = IssuerKeys::from_directory_keys(&spkis).unwrap();
    verified(&redeemed, &keys, &challenge);
    let hits = attack_by_everything(&issued, &redeemed, without_times);
    assert_eq!(hits, USERS);

    // One key again, but the signature is seen as it is spent.
    for issued in &mut issued {
        issued.key.clear();
        let own = redeemed.iter().find(|token| token.user == issued.user);
        issued.response = own.unwrap().token[98..].to_vec();
    }
    let hits = attack_by_everything(&issued, &redeemed, without_times);
    assert_eq!(hits, USERS);
}
