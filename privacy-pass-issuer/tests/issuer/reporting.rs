//! Certificates and reports, with the client's own implementation on the other side.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::reporting::{OwnCertificate, introduce, report, request_certificate};
use crypto::sign::SignatureKeyPair;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use privacy_pass_issuer::ReportingSettings;
use privacy_pass_issuer::accounts::{Account, AccountHasher};
use privacy_pass_issuer::attestation::JwtAttester;
use privacy_pass_issuer::http::{REQUEST_MEDIA_TYPE, TOKEN_REQUEST_PATH, router};
use privacy_pass_issuer::issuance::{Issuer, IssuerParts};
use privacy_pass_issuer::plans::{Plan, Plans};
use privacy_pass_issuer::reporting::keys::CertificateKeys;
use privacy_pass_issuer::reporting::{self, Reporting, ReportingParts};
use privacy_pass_issuer::store::reports::{Decision, MemoryReports, ReportStore, Status};
use privacy_pass_issuer::store::{Day, MemoryStore};
use privacy_pass_issuer::token_keys::TokenKeys;
use protocol::Wire as _;
use protocol::reporting::{
    AbuseReport, CERTIFICATE_PATH, CERTIFICATE_REQUEST_MEDIA_TYPE, DIRECTORY_PATH, Occasion,
    REPORT_MEDIA_TYPE, REPORT_PATH, ReportReason, ReportingCertificate, ReportingDirectory,
    SignedIntroduction,
};
use service::{Clock as _, MovedClock, Problem};
use tower::ServiceExt as _;

use crate::support::{AccountService, Wallet, issuer_public_key};

const TODAY: u32 = 20_000;
const NOON_UNIX_S: u64 = TODAY as u64 * 86_400 + 43_200;

static ACCOUNTS: LazyLock<AccountService> = LazyLock::new(AccountService::new);

struct World {
    router: Router,
    issuer: Arc<Issuer>,
    reports: Arc<MemoryReports>,
    clock: Arc<MovedClock>,
    tokens: Vec<u8>,
    _keys: tempfile::TempDir,
}

/// Somebody with an account and an identity key, which the issuer does not know.
struct User {
    account: String,
    token: String,
    identity: SignatureKeyPair,
}

impl World {
    fn new() -> Self {
        Self::with(ReportingSettings::default())
    }

    fn with(settings: ReportingSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = MovedClock::at(NOON_UNIX_S * 1000);
        let store = Arc::new(MemoryStore::default());
        let reports = Arc::new(MemoryReports::default());
        let keys = TokenKeys::load_or_create(directory.path(), 1).unwrap();
        let tokens = keys.current().directory(TOKEN_REQUEST_PATH, 1, NOON_UNIX_S);
        let issuer = Issuer::new(IssuerParts {
            attester: Arc::new(JwtAttester::new(&ACCOUNTS.settings(), clock.clone()).unwrap()),
            hasher: AccountHasher::new(&[5; 32]),
            keys: Arc::new(keys),
            store: store.clone(),
            reports: reports.clone(),
            clock: clock.clone(),
            plans: Plans::new(
                Plan {
                    tokens_per_day: NonZeroU32::new(100).unwrap(),
                    burst: None,
                },
                BTreeMap::new(),
            ),
            max_batch_size: NonZeroUsize::MIN,
        });
        let issuer = Arc::new(issuer.unwrap());
        let reporting = Reporting::new(ReportingParts {
            issuer: Arc::clone(&issuer),
            keys: CertificateKeys::load_or_create(directory.path(), NOON_UNIX_S).unwrap(),
            report_key: [6; 32],
            charges: store,
            reports: reports.clone(),
            clock: clock.clone(),
            settings,
        });
        let reporting = Arc::new(reporting.unwrap());
        Self {
            router: router(Arc::clone(&issuer), TOKEN_REQUEST_PATH, 3600)
                .merge(reporting::http::router(reporting)),
            issuer,
            reports,
            clock,
            tokens,
            _keys: directory,
        }
    }

    fn user(&self, account: &str) -> User {
        User {
            account: account.to_owned(),
            token: ACCOUNTS.token(account, NOON_UNIX_S + 400 * 86_400),
            identity: SignatureKeyPair::random().unwrap(),
        }
    }

    fn today(&self) -> u32 {
        u32::try_from(self.clock.now_unix_ms() / 86_400_000).unwrap()
    }

    fn days_pass(&self, days: u64) {
        self.clock.set(self.clock.now_unix_ms() + days * 86_400_000);
    }

    async fn post(&self, user: &User, path: &str, media_type: &str, body: &[u8]) -> Response<Body> {
        let request = Request::post(path)
            .header(CONTENT_TYPE, media_type)
            .header(AUTHORIZATION, format!("Bearer {}", user.token))
            .body(Body::from(body.to_vec()))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn certify(&self, user: &User) -> OwnCertificate {
        self.certify_key(user, &user.identity.public()).await
    }

    async fn certify_key(&self, user: &User, key: &[u8; 32]) -> OwnCertificate {
        let (request, salt) = request_certificate(key).unwrap();
        let request = request.encode();
        let response = self
            .post(
                user,
                CERTIFICATE_PATH,
                CERTIFICATE_REQUEST_MEDIA_TYPE,
                &request,
            )
            .await;
        assert_eq!(response.status(), 200);
        let certificate = ReportingCertificate::decode(&body(response).await).unwrap();
        OwnCertificate { certificate, salt }
    }

    async fn approach(&self, from: &User, to: &User, occasion: Occasion) -> SignedIntroduction {
        let own = self.certify(from).await;
        let recipient = to.identity.public();
        introduce(
            &from.identity,
            &own,
            occasion,
            &recipient,
            self.today(),
            "buy!",
        )
        .unwrap()
    }

    async fn send(&self, user: &User, report: &AbuseReport) -> Response<Body> {
        self.post(user, REPORT_PATH, REPORT_MEDIA_TYPE, &report.encode())
            .await
    }

    /// Sends a report that must be refused and change nothing.
    async fn refused(&self, user: &User, report: &AbuseReport) -> (u16, String) {
        let before = self.reports.reports(None, usize::MAX).unwrap();
        let refusal = problem(self.send(user, report).await).await;
        assert_eq!(self.reports.reports(None, usize::MAX).unwrap(), before);
        refusal
    }

    async fn token(&self, user: &User) -> Response<Body> {
        let wallet = Wallet::new(&issuer_public_key(&self.tokens));
        self.post(
            user,
            TOKEN_REQUEST_PATH,
            REQUEST_MEDIA_TYPE,
            &wallet.request,
        )
        .await
    }
}

impl User {
    fn report(&self, evidence: &SignedIntroduction) -> AbuseReport {
        report(
            &self.identity,
            &self.token,
            evidence.clone(),
            ReportReason::Spam,
        )
        .unwrap()
    }
}

async fn body(response: Response<Body>) -> Vec<u8> {
    let body = response.into_body().collect().await.unwrap();
    body.to_bytes().to_vec()
}

async fn problem(response: Response<Body>) -> (u16, String) {
    let status = response.status();
    let problem = Problem::from_json(status, &body(response).await).unwrap();
    let slug = problem
        .type_uri()
        .strip_prefix("urn:privacy-pass-issuer:problem:")
        .unwrap();
    (status.as_u16(), slug.to_owned())
}

fn is(status: u16, slug: &str) -> (u16, String) {
    (status, slug.to_owned())
}

#[tokio::test]
async fn an_upheld_report_withholds_the_next_tokens_of_its_account_and_of_no_other() {
    let world = World::new();
    let (mallory, bob) = (world.user("mallory"), world.user("bob"));
    let evidence = world.approach(&mallory, &bob, Occasion::Request).await;
    let report = bob.report(&evidence);
    assert_eq!(
        world.send(&bob, &report).await.status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(
        world.token(&mallory).await.status(),
        200,
        "a report alone does nothing"
    );

    let [filed] = <[_; 1]>::try_from(world.reports.reports(None, usize::MAX).unwrap()).unwrap();
    assert_eq!(filed.status, Status::Open);
    let until = Day(world.today() + 30);
    world
        .reports
        .decide(&filed.id, Decision::Uphold { until })
        .unwrap();
    assert_eq!(
        problem(world.token(&mallory).await).await,
        is(403, "tokens-withheld")
    );
    assert_eq!(world.token(&bob).await.status(), 200);
    // No certificate either: nobody has to take requests from there any more.
    let (request, _) = request_certificate(&mallory.identity.public()).unwrap();
    let refused = world
        .post(
            &mallory,
            CERTIFICATE_PATH,
            CERTIFICATE_REQUEST_MEDIA_TYPE,
            &request.encode(),
        )
        .await;
    assert_eq!(problem(refused).await, is(403, "tokens-withheld"));
    // The same account with other keys is the same account.
    let again = world.user("mallory");
    assert_eq!(
        problem(world.token(&again).await).await,
        is(403, "tokens-withheld")
    );

    world.days_pass(31);
    assert_eq!(
        world.token(&mallory).await.status(),
        200,
        "it ends by itself"
    );
}

#[tokio::test]
async fn the_same_evidence_is_one_report_however_often_it_comes() {
    let world = World::new();
    let (mallory, bob) = (world.user("mallory"), world.user("bob"));
    let evidence = world.approach(&mallory, &bob, Occasion::Request).await;
    for reason in [ReportReason::Spam, ReportReason::Spam, ReportReason::Abuse] {
        let report = report(&bob.identity, &bob.token, evidence.clone(), reason).unwrap();
        assert_eq!(
            world.send(&bob, &report).await.status(),
            StatusCode::ACCEPTED
        );
    }
    assert_eq!(world.reports.reports(None, usize::MAX).unwrap().len(), 1);
    let filed = world.reports.reports(None, usize::MAX).unwrap();
    world
        .reports
        .decide(&filed[0].id, Decision::Dismiss)
        .unwrap();
    world.send(&bob, &bob.report(&evidence)).await;
    let filed = world.reports.reports(None, usize::MAX).unwrap();
    assert_eq!((filed.len(), filed[0].status), (1, Status::Dismissed));
}

#[tokio::test]
async fn a_stolen_report_or_evidence_is_worth_nothing_to_somebody_else() {
    let world = World::new();
    let (mallory, bob, thief) = (
        world.user("mallory"),
        world.user("bob"),
        world.user("thief"),
    );
    let evidence = world.approach(&mallory, &bob, Occasion::Request).await;
    // The whole report, sent by another account.
    let whole = bob.report(&evidence);
    assert_eq!(
        world.refused(&thief, &whole).await,
        is(403, "not-the-recipient")
    );
    // The evidence, signed by another key.
    let signed_anew = thief.report(&evidence);
    assert_eq!(
        world.refused(&thief, &signed_anew).await,
        is(403, "not-the-recipient")
    );
    // The evidence, addressed to the thief.
    let mut readdressed = evidence.clone();
    readdressed.introduction.recipient_key = thief.identity.public();
    let readdressed = thief.report(&readdressed);
    assert_eq!(
        world.refused(&thief, &readdressed).await,
        is(422, "invalid-evidence")
    );
    // It is still good where it belongs.
    assert_eq!(
        world.send(&bob, &whole).await.status(),
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn nobody_is_reported_for_what_they_did_not_sign() {
    let world = World::new();
    let (alice, mallory, bob) = (
        world.user("alice"),
        world.user("mallory"),
        world.user("bob"),
    );
    let evidence = world.approach(&alice, &bob, Occasion::Request).await;
    // Another text.
    let mut other_text = evidence.clone();
    other_text.introduction.greeting = protocol::codec::opaque(*b"I hate you");
    assert_eq!(
        world.refused(&bob, &bob.report(&other_text)).await,
        is(422, "invalid-evidence")
    );
    // Another occasion.
    let mut other_occasion = evidence.clone();
    other_occasion.introduction.occasion = Occasion::Answer;
    assert_eq!(
        world.refused(&bob, &bob.report(&other_occasion)).await,
        is(422, "invalid-evidence")
    );
    // Alice's certificate with words of somebody else, under his own key and under hers.
    let hers = OwnCertificate {
        certificate: evidence.introduction.certificate.clone(),
        salt: evidence.introduction.salt,
    };
    let recipient = bob.identity.public();
    let words = introduce(
        &mallory.identity,
        &hers,
        Occasion::Request,
        &recipient,
        TODAY,
        "x",
    )
    .unwrap();
    assert_eq!(
        world.refused(&bob, &bob.report(&words)).await,
        is(422, "invalid-certificate")
    );
    let mut as_alice = words.clone();
    as_alice.introduction.holder_key = alice.identity.public();
    assert_eq!(
        world.refused(&bob, &bob.report(&as_alice)).await,
        is(422, "invalid-evidence")
    );
    // Alice's words with a certificate over her key that another account got: she did not sign
    // that.
    let foreign = world.certify_key(&mallory, &alice.identity.public()).await;
    let mut swapped = evidence.clone();
    swapped.introduction.certificate = foreign.certificate;
    swapped.introduction.salt = foreign.salt;
    assert_eq!(
        world.refused(&bob, &bob.report(&swapped)).await,
        is(422, "invalid-evidence")
    );
    // Alice's account handle in a certificate that the issuer did not make.
    let mut forged = evidence.clone();
    forged.introduction.certificate.not_after_day += 7;
    assert_eq!(
        world.refused(&bob, &bob.report(&forged)).await,
        is(422, "invalid-certificate")
    );
    forged.introduction.certificate.key_id = [0; 8];
    assert_eq!(
        world.refused(&bob, &bob.report(&forged)).await,
        is(422, "invalid-certificate")
    );
}

#[tokio::test]
async fn any_changed_byte_of_a_report_is_refused() {
    let settings = ReportingSettings {
        reports_per_account_per_day: NonZeroU32::new(10_000).unwrap(),
        ..ReportingSettings::default()
    };
    let world = World::with(settings);
    let (mallory, bob) = (world.user("mallory"), world.user("bob"));
    let evidence = world.approach(&mallory, &bob, Occasion::Request).await;
    let report = bob.report(&evidence).encode();
    for at in 0..report.len() {
        let mut changed = report.clone();
        changed[at] ^= 1;
        let response = world
            .post(&bob, REPORT_PATH, REPORT_MEDIA_TYPE, &changed)
            .await;
        let (status, _) = problem(response).await;
        assert!((400..500).contains(&status), "byte {at}: {status}");
    }
    assert!(world.reports.reports(None, usize::MAX).unwrap().is_empty());
    let longer = [&report[..], &[0]].concat();
    let response = world
        .post(&bob, REPORT_PATH, REPORT_MEDIA_TYPE, &longer)
        .await;
    assert_eq!(problem(response).await, is(400, "malformed-request"));
}

#[tokio::test]
async fn an_expired_certificate_is_no_evidence() {
    let world = World::new();
    let (mallory, bob) = (world.user("mallory"), world.user("bob"));
    let evidence = world.approach(&mallory, &bob, Occasion::Request).await;
    let last = evidence.introduction.certificate.not_after_day;
    assert!(
        (TODAY + 28..TODAY + 35).contains(&last) && last % 7 == 0,
        "{last}"
    );
    world.days_pass(u64::from(last - TODAY) + 1);
    assert_eq!(
        world.refused(&bob, &bob.report(&evidence)).await,
        is(422, "certificate-expired")
    );
}

#[tokio::test]
async fn an_account_does_not_report_itself_and_reports_only_so_often() {
    let settings = ReportingSettings {
        reports_per_account_per_day: NonZeroU32::new(2).unwrap(),
        ..ReportingSettings::default()
    };
    let world = World::with(settings);
    let (mallory, bob) = (world.user("mallory"), world.user("bob"));
    let other_self = User {
        account: mallory.account.clone(),
        token: mallory.token.clone(),
        identity: SignatureKeyPair::random().unwrap(),
    };
    let own = world
        .approach(&mallory, &other_self, Occasion::Request)
        .await;
    assert_eq!(
        world.refused(&other_self, &other_self.report(&own)).await,
        is(422, "own-account")
    );

    // What is refused counts; a repetition does not.
    let evidence = world.approach(&mallory, &bob, Occasion::Request).await;
    let mut forged = evidence.clone();
    forged.signature[0] ^= 1;
    let forged = bob.report(&forged);
    for _ in 0..3 {
        assert_eq!(
            world.refused(&bob, &forged).await,
            is(422, "invalid-evidence")
        );
    }
    assert_eq!(world.send(&bob, &bob.report(&evidence)).await.status(), 202);
    let more = world.approach(&mallory, &bob, Occasion::Answer).await;
    let refused = world.send(&bob, &bob.report(&more)).await;
    assert_eq!(refused.headers()[RETRY_AFTER], "43200");
    assert_eq!(problem(refused).await, is(429, "allowance-exhausted"));
    world.days_pass(1);
    assert_eq!(world.send(&bob, &bob.report(&more)).await.status(), 202);
}

#[tokio::test]
async fn enough_accounts_that_were_asked_withhold_without_an_operator_if_the_operator_wants_it() {
    let settings = ReportingSettings {
        automatic_reporters: 2,
        ..ReportingSettings::default()
    };
    let world = World::with(settings);
    let (mallory, bob, carol) = (
        world.user("mallory"),
        world.user("bob"),
        world.user("carol"),
    );
    // Bob twice, under two identities, and somebody whom mallory has only answered.
    let bob_again = world.user("bob");
    for (user, occasion) in [
        (&bob, Occasion::Request),
        (&bob_again, Occasion::Request),
        (&carol, Occasion::Answer),
    ] {
        let evidence = world.approach(&mallory, user, occasion).await;
        assert_eq!(
            world.send(user, &user.report(&evidence)).await.status(),
            202
        );
    }
    assert_eq!(world.token(&mallory).await.status(), 200);
    let evidence = world.approach(&mallory, &carol, Occasion::Request).await;
    assert_eq!(
        world.send(&carol, &carol.report(&evidence)).await.status(),
        202
    );
    assert_eq!(
        problem(world.token(&mallory).await).await,
        is(403, "tokens-withheld")
    );
}

#[tokio::test]
async fn a_blocked_account_gets_no_certificate_and_has_no_say_about_others() {
    let world = World::new();
    let (mallory, bob) = (world.user("mallory"), world.user("bob"));
    let evidence = world.approach(&bob, &mallory, Occasion::Request).await;
    let account = Account::new(mallory.account.clone(), None).unwrap();
    world.issuer.block(&account).await.unwrap();
    let (request, _) = request_certificate(&mallory.identity.public()).unwrap();
    let media_type = CERTIFICATE_REQUEST_MEDIA_TYPE;
    let refused = world
        .post(&mallory, CERTIFICATE_PATH, media_type, &request.encode())
        .await;
    assert_eq!(problem(refused).await, is(403, "account-blocked"));
    assert_eq!(
        world.refused(&mallory, &mallory.report(&evidence)).await,
        is(403, "account-blocked")
    );
    world.issuer.unblock(&account).await.unwrap();
    let taken = world.send(&mallory, &mallory.report(&evidence)).await;
    assert_eq!(taken.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn certificates_are_limited_and_bad_requests_get_none() {
    let world = World::new();
    let alice = world.user("alice");
    for _ in 0..10 {
        world.certify(&alice).await;
    }
    let (request, _) = request_certificate(&[1; 32]).unwrap();
    let request = request.encode();
    let ask = |media_type, body: Vec<u8>| {
        let (world, alice) = (&world, &alice);
        async move { problem(world.post(alice, CERTIFICATE_PATH, media_type, &body).await).await }
    };
    let media_type = CERTIFICATE_REQUEST_MEDIA_TYPE;
    assert_eq!(
        ask(media_type, request.clone()).await,
        is(429, "allowance-exhausted")
    );
    assert_eq!(
        ask("text/plain", request.clone()).await,
        is(415, "unsupported-media-type")
    );
    let longer = [&request[..], &[0]].concat();
    assert_eq!(ask(media_type, longer).await, is(400, "malformed-request"));
    let mut later = request.clone();
    later[1] = 2;
    assert_eq!(ask(media_type, later).await, is(400, "malformed-request"));
    for path in [CERTIFICATE_PATH, REPORT_PATH] {
        let request = Request::post(path).header(CONTENT_TYPE, media_type);
        let request = request.body(Body::empty()).unwrap();
        let response = world.router.clone().oneshot(request).await.unwrap();
        assert!([401, 415].contains(&response.status().as_u16()));
    }
}

#[tokio::test]
async fn two_certificates_of_one_account_and_key_cannot_be_told_from_those_of_two() {
    let world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let certificates = [
        world.certify(&alice).await.certificate,
        world.certify(&alice).await.certificate,
        world.certify(&bob).await.certificate,
    ];
    // What all have in common is what everybody's have in common; no window of the rest is shared.
    let parts = |certificate: &ReportingCertificate| {
        let mut bytes = certificate.commitment.to_vec();
        bytes.extend_from_slice(&certificate.account_handle);
        bytes.extend_from_slice(&certificate.signature);
        bytes
    };
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let (one, other) = (&certificates[one], &certificates[other]);
        assert_eq!(one.key_id, other.key_id);
        assert_eq!(one.not_after_day, other.not_after_day);
        let (one, other) = (parts(one), parts(other));
        let shared = one
            .windows(4)
            .any(|window| other.windows(4).any(|it| it == window));
        assert!(!shared);
    }
}

#[tokio::test]
async fn the_directory_is_the_same_for_everybody() {
    let world = World::new();
    let fetch = async || {
        let request = Request::get(DIRECTORY_PATH).body(Body::empty()).unwrap();
        body(world.router.clone().oneshot(request).await.unwrap()).await
    };
    let document = fetch().await;
    assert_eq!(document, fetch().await);
    let directory: ReportingDirectory = serde_json::from_slice(&document).unwrap();
    assert!(!directory.required);
    let key = URL_SAFE_NO_PAD
        .decode(&directory.certificate_keys[0])
        .unwrap();
    let certificate = world.certify(&world.user("alice")).await.certificate;
    assert_eq!(crypto::reporting::key_id(&key), certificate.key_id);
}
