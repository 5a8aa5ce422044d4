//! Reports of abuse, without linking anybody to an account before somebody is reported
//! (`docs/abuse.md`).
//!
//! An account gets certificates over keys that the issuer does not see. A user who is approached by
//! the owner of such a key can show the certificate, with what the owner signed, to the issuer, and
//! to nobody else's gain: the issuer alone reads from it which account it is.

mod commands;
mod evidence;
pub mod http;
pub mod keys;
mod problem;
mod records;

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use protocol::Wire as _;
use protocol::reporting::{
    AbuseReport, CertificateRequest, Occasion, ReportingCertificate, VERSION,
};
use service::SharedClock;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

pub use commands::offer as offer_commands;

use crate::accounts::{Account, Service};
use crate::config::ReportingSettings;
use crate::issuance::{IssuanceError, Issuer};
use crate::store::reports::{Automatic, Decision, Filed, NewReport, ReportId, ReportStore};
use crate::store::{Charge, ChargeOutcome, Day, IssuerStore, StoreError};
use evidence::EvidenceError;
use keys::{CertificateKeyError, CertificateKeys};
use records::ReportContent;

/// Why no certificate is given, or a report not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportingError {
    #[error("the body is not declared as what is taken here")]
    MediaType,
    #[error(transparent)]
    Issuance(#[from] IssuanceError),
    #[error("the body is not what is taken here")]
    Malformed,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("an account does not report itself")]
    OwnAccount,
    #[error("the account has used up its allowance of the day")]
    Exhausted { retry_after_s: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] CertificateKeyError),
    #[error("a worker thread ended early")]
    Worker,
}

/// What reporting is made of.
pub struct ReportingParts {
    pub issuer: Arc<Issuer>,
    pub keys: CertificateKeys,
    /// Encrypts reports at rest: from a file of its own.
    pub report_key: [u8; 32],
    pub charges: Arc<dyn IssuerStore>,
    pub reports: Arc<dyn ReportStore>,
    pub clock: SharedClock,
    pub settings: ReportingSettings,
}

/// Certificates out, reports in.
pub struct Reporting {
    parts: ReportingParts,
    seal: LessSafeKey,
}

impl Reporting {
    /// # Errors
    /// [`CertificateKeyError::Generation`] never in practice.
    pub fn new(parts: ReportingParts) -> Result<Self, CertificateKeyError> {
        let seal = UnboundKey::new(&AES_256_GCM, &parts.report_key)
            .map(LessSafeKey::new)
            .map_err(|_| CertificateKeyError::Generation)?;
        Ok(Self { parts, seal })
    }

    fn settings(&self) -> &ReportingSettings {
        &self.parts.settings
    }

    fn now_unix_s(&self) -> u64 {
        self.parts.clock.now_unix_ms() / 1000
    }

    /// Who asks, by the request's account token.
    async fn authenticate(&self, token: &str) -> Result<Account, ReportingError> {
        Ok(self.parts.issuer.authenticate(token).await?)
    }

    /// Certifies that the account stands behind the key of a commitment. The request says nothing
    /// of the key; whoever claims it later has to sign with it.
    pub(crate) async fn certify(
        &self,
        account: &Account,
        body: &[u8],
    ) -> Result<ReportingCertificate, ReportingError> {
        let request = CertificateRequest::decode(body)
            .ok()
            .filter(|request| request.version == VERSION)
            .ok_or(ReportingError::Malformed)?;
        let now = self.now_unix_s();
        let tag = self.parts.issuer.hasher().tag(account);
        self.parts.issuer.require_good_standing(account).await?;
        let limit = self.settings().certificates_per_account_per_day.get();
        self.charge(Service::Certificates, account, body, limit, now)
            .await?;
        let not_after = self.last_day(Day::of_unix_s(now));
        let key = self.parts.keys.signing(now)?;
        Ok(key.certify(&request.commitment, &tag, not_after)?)
    }

    /// A certificate's last day: at the end of a week, so that it says little of when it was given.
    fn last_day(&self, today: Day) -> Day {
        let day = today.0.saturating_add(self.settings().certificate_days);
        Day(day.div_ceil(7).saturating_mul(7))
    }

    /// Takes a report. What is refused changes nothing but the reporter's allowance; the same
    /// evidence is one report however often it comes.
    pub(crate) async fn take(
        &self,
        account: &Account,
        account_token_digest: &[u8; 32],
        body: &[u8],
    ) -> Result<Filed, ReportingError> {
        let report = AbuseReport::decode(body).map_err(|_| ReportingError::Malformed)?;
        // Whoever is blocked or withheld has no say about others: their reports count for automatic
        // withholding.
        self.parts.issuer.require_good_standing(account).await?;
        let now = self.now_unix_s();
        let limit = self.settings().reports_per_account_per_day.get();
        self.charge(Service::Reports, account, body, limit, now)
            .await?;
        let today = Day::of_unix_s(now);
        let verified = evidence::verify(&report, account_token_digest, &self.parts.keys, today)?;
        let hasher = self.parts.issuer.hasher();
        if verified.account == hasher.tag(account) {
            return Err(ReportingError::OwnAccount);
        }
        let evidence: [u8; 32] = Sha256::digest(report.evidence.introduction.encode()).into();
        let id = hasher.report_id(&evidence);
        let content = ReportContent::of(&report);
        let unasked = report.evidence.introduction.occasion == Occasion::Request;
        let new = NewReport {
            id,
            account: verified.account,
            reporter: hasher.reporter(&verified.account, account),
            day: today,
            unasked,
            sealed: content.seal(&self.seal, &id)?,
        };
        let automatic = self.automatic(today);
        let store = Arc::clone(&self.parts.reports);
        Ok(spawn_blocking(move || store.file(&new, automatic.as_ref()))
            .await
            .map_err(|_| ReportingError::Worker)??)
    }

    fn automatic(&self, today: Day) -> Option<Automatic> {
        let settings = self.settings();
        (settings.automatic_reporters > 0).then(|| Automatic {
            reporters: settings.automatic_reporters,
            since: Day(today.0.saturating_sub(settings.automatic_within_days)),
            until: Day(today.0.saturating_add(settings.withhold_days)),
        })
    }

    async fn charge(
        &self,
        service: Service,
        account: &Account,
        body: &[u8],
        limit: u32,
        now_unix_s: u64,
    ) -> Result<(), ReportingError> {
        let day = Day::of_unix_s(now_unix_s);
        let hasher = self.parts.issuer.hasher();
        let digest: [u8; 32] = Sha256::digest(body).into();
        let charge = Charge {
            account: hasher.other_of_day(service, account, day),
            day,
            request: hasher.other_request(service, account, &digest),
            tokens: 1,
            limit,
        };
        let store = Arc::clone(&self.parts.charges);
        let outcome = spawn_blocking(move || store.charge(&charge))
            .await
            .map_err(|_| ReportingError::Worker)??;
        match outcome {
            ChargeOutcome::LimitReached { left: _ } => Err(ReportingError::Exhausted {
                retry_after_s: Day::seconds_left(now_unix_s),
            }),
            ChargeOutcome::Charged | ChargeOutcome::AlreadyIssued => Ok(()),
        }
    }

    async fn decide(&self, id: ReportId, decision: Decision) -> Result<bool, ReportingError> {
        let store = Arc::clone(&self.parts.reports);
        Ok(spawn_blocking(move || store.decide(&id, decision))
            .await
            .map_err(|_| ReportingError::Worker)??)
    }

    /// Drops reports that were kept long enough, and makes the next certificate key when its time
    /// has come.
    ///
    /// # Errors
    /// [`ReportingError::Store`] or [`ReportingError::Key`].
    pub async fn tidy(&self) -> Result<(), ReportingError> {
        let now = self.now_unix_s();
        let today = Day::of_unix_s(now);
        let keep = Day(today.0.saturating_sub(self.settings().keep_reports_days));
        let store = Arc::clone(&self.parts.reports);
        spawn_blocking(move || store.forget_reports(keep, today))
            .await
            .map_err(|_| ReportingError::Worker)??;
        let settings = self.settings();
        self.parts
            .keys
            .tidy(now, settings.key_days, settings.certificate_days)?;
        Ok(())
    }
}
