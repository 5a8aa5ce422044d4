//! Certificates, introductions and reports of abuse (`docs/abuse.md`).
//!
//! The issuer is asked for its keys once a day at a time of its own, and for a new certificate when
//! half of the old one's life is over: nothing that the user does makes the client ask.

mod issuer;

use protocol::reporting::{ReportReason, day_of_unix_s};

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::store::reporting::{self, evidence, key_of, own_certificate};

const HOUR_MS: u64 = 60 * 60 * 1000;

impl Engine {
    pub(crate) fn today(&self) -> u32 {
        day_of_unix_s(self.transport.time.now_unix_ms() / 1000)
    }

    /// Reports a contact, or the sender of a connection request (by name or by the request's id),
    /// to the token issuer: with what they signed for this user, and nothing else. Again: nothing
    /// more happens.
    ///
    /// # Errors
    /// [`UsageError::UnknownContact`]; [`UsageError::NotReportable`] for somebody who has shown no
    /// certificate, or whose certificate has expired; [`Error::Issuer`].
    pub(crate) async fn report(&mut self, who: &str, reason: ReportReason) -> Result<(), Error> {
        let _held = self.hold().await?;
        let key = key_of(&self.db, who)?;
        let evidence = evidence(&self.db, &key, self.today())?
            .ok_or_else(|| UsageError::NotReportable(who.to_owned()))?;
        let report = crypto::reporting::report(
            &self.profile.identity,
            &self.profile.account_token,
            evidence,
            reason,
        )?;
        self.reporting_issuer().report(&report).await?;
        reporting::reported(&self.db, &key)
    }

    /// Fetches the issuer's keys and, when its time has come, a certificate. What fails is tried
    /// again later: nothing waits for it.
    pub(crate) async fn refresh_reporting(&mut self) -> Result<(), Error> {
        if self.transport.service().is_some() {
            return Ok(());
        }
        let now_ms = self.transport.time.now_unix_ms();
        let due_ms: i64 = reporting::due_ms(&self.db)?;
        let due_ms = u64::try_from(due_ms).unwrap_or(0);
        // A clock that was set back does not put it off for longer than it ever is.
        if now_ms < due_ms && due_ms < now_ms.saturating_add(25 * HOUR_MS) {
            return Ok(());
        }
        let asked = self.ask_for_certificate().await;
        let jitter = u64::from_be_bytes(crypto::random()?);
        let wait_ms = match asked {
            Ok(()) | Err(Error::Issuer(_)) => 12 * HOUR_MS + jitter % (12 * HOUR_MS),
            Err(Error::Unreachable(_)) => HOUR_MS / 2 + jitter % HOUR_MS,
            // What the issuer answers keeps nobody from their messages.
            Err(error) => {
                error.of_content()?;
                12 * HOUR_MS + jitter % (12 * HOUR_MS)
            }
        };
        let due_ms = i64::try_from(now_ms.saturating_add(wait_ms)).unwrap_or(i64::MAX);
        reporting::set_due_ms(&self.db, due_ms)?;
        reporting::forget_expired(&self.db, self.today())
    }

    async fn ask_for_certificate(&mut self) -> Result<(), Error> {
        let issuer = self.reporting_issuer();
        let directory = issuer.directory().await?;
        self.transact(|db, _| {
            reporting::set_certificate_keys(db, &directory.keys)?;
            reporting::set_required(db, directory.required)
        })?;
        let identity = self.profile.identity.public();
        let today = self.today();
        let fresh = own_certificate(&self.db, &identity, today)?.is_some_and(|(own, day)| {
            let not_after = own.certificate.not_after_day;
            today < day.saturating_add(not_after.saturating_sub(day) / 2)
        });
        if fresh || directory.keys.is_empty() {
            return Ok(());
        }
        let own = issuer.certify(&identity, &directory.keys, today).await?;
        reporting::set_certificate(&self.db, &own, today)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use crypto::sign::SignatureKeyPair;
    use protocol::codec::sign_content;
    use protocol::reporting::{CERTIFICATE_LABEL, REQUEST_SLOT, VERSION};

    use super::*;
    use crate::store::profile::Profile;
    use crate::store::reporting::RequestPolicy;
    use crate::store::reporting::{admits, introduction, keep, keep_shared, verify};
    use crate::store::reporting::{is_required, start_anew};
    use crate::sync_message;
    use protocol::Wire as _;
    use protocol::codec::opaque;
    use protocol::reporting::ReportingCertificate;
    use protocol::reporting::{Occasion, Padded};
    use rusqlite::Connection;

    const TODAY: u32 = 20_000;

    /// Gives the user of a database the issuer's keys and a certificate.
    pub(crate) fn certify(db: &Connection, issuer: &SignatureKeyPair, identity: &SignatureKeyPair) {
        let (request, salt) = crypto::reporting::request_certificate(&identity.public()).unwrap();
        let mut certificate = ReportingCertificate {
            version: VERSION,
            key_id: crypto::reporting::key_id(&issuer.public()),
            commitment: request.commitment,
            account_handle: crypto::random().unwrap(),
            not_after_day: TODAY + 28,
            signature: [0; 64],
        };
        let content = sign_content(CERTIFICATE_LABEL, &certificate.to_be_signed());
        certificate.signature = issuer.sign_bytes(&content).try_into().unwrap();
        db.execute(
            "INSERT OR IGNORE INTO certificate_keys VALUES (?)",
            [issuer.public()],
        )
        .unwrap();
        db.execute(
            "UPDATE reporting SET certificate = ?, salt = ?, certificate_day = ?",
            (certificate.encode(), salt, TODAY),
        )
        .unwrap();
    }

    fn user() -> (Connection, Profile) {
        let db = crate::store::database::in_memory().unwrap();
        let profile = crate::store::profile::tests::profile(&db);
        (db, profile)
    }

    #[test]
    fn whoever_introduced_himself_can_be_reported_until_the_certificate_ends() {
        let issuer = SignatureKeyPair::random().unwrap();
        let ((alices, alice), (bobs, bob)) = (user(), user());
        certify(&alices, &issuer, &alice.identity);
        certify(&bobs, &issuer, &bob.identity);
        let (alices_key, bobs_key) = (alice.identity.public(), bob.identity.public());
        let said: Padded<REQUEST_SLOT> = introduction(
            &alices,
            &alice,
            Occasion::Request,
            &bobs_key,
            TODAY,
            "hello",
        )
        .unwrap();
        assert!(admits(&bobs, &bob, &alices_key, said.content(), TODAY).unwrap());
        assert!(!admits(&bobs, &bob, &alices_key, said.content(), TODAY + 29).unwrap());
        assert!(!admits(&bobs, &bob, &bobs_key, said.content(), TODAY).unwrap());
        assert!(!admits(&alices, &alice, &alices_key, said.content(), TODAY).unwrap());
        let signed = verify(&bobs, &bob, Occasion::Request, &alices_key, said.content())
            .unwrap()
            .unwrap();
        keep(&bobs, "alice", &signed).unwrap();
        assert!(evidence(&bobs, &alices_key, TODAY + 28).unwrap().is_some());
        assert!(evidence(&bobs, &alices_key, TODAY + 29).unwrap().is_none());
        assert_eq!(key_of(&bobs, "alice").unwrap(), alices_key);
        assert!(key_of(&bobs, "carol").is_err());
    }

    #[test]
    fn what_a_contact_signed_reaches_the_other_devices_and_what_nobody_signed_is_not_kept() {
        use protocol::codec::WireSecret;
        use protocol::connections::ClientCredential;

        let issuer = SignatureKeyPair::random().unwrap();
        let ((alices, alice), (bobs, bob)) = (user(), user());
        certify(&alices, &issuer, &alice.identity);
        certify(&bobs, &issuer, &bob.identity);
        let alices_key = alice.identity.public();
        let said: Padded<REQUEST_SLOT> = introduction(
            &alices,
            &alice,
            Occasion::Answer,
            &bob.identity.public(),
            TODAY,
            "",
        )
        .unwrap();
        // Of nobody who is a contact here.
        keep_shared(&bobs, &bob, said.content()).unwrap();
        assert!(evidence(&bobs, &alices_key, TODAY).unwrap().is_none());
        sync_message::NewContact {
            credential: ClientCredential {
                name: opaque(*b"alice"),
                signature_public_key: opaque(alices_key),
            },
            connection_key: WireSecret::new([1; 32]),
            connection_token: WireSecret::new([2; 32]),
            pool: crate::sync_message::PoolKeys::fresh().unwrap(),
            given: crate::sync_message::GivenName::none(),
        }
        .keep(&bobs)
        .unwrap();
        let mut forged = said.content().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        keep_shared(&bobs, &bob, &forged).unwrap();
        assert!(evidence(&bobs, &alices_key, TODAY).unwrap().is_none());
        keep_shared(&bobs, &bob, said.content()).unwrap();
        assert!(evidence(&bobs, &alices_key, TODAY).unwrap().is_some());
    }

    #[test]
    fn without_a_certificate_or_with_one_of_another_identity_nothing_is_said() {
        let issuer = SignatureKeyPair::random().unwrap();
        let (db, profile) = user();
        let say = || -> Padded<REQUEST_SLOT> {
            introduction(&db, &profile, Occasion::Request, &[1; 32], TODAY, "").unwrap()
        };
        assert_eq!(say(), Padded::empty());
        certify(&db, &issuer, &SignatureKeyPair::random().unwrap());
        assert_eq!(say(), Padded::empty());
        certify(&db, &issuer, &profile.identity);
        assert_ne!(say(), Padded::empty());
        start_anew(&db).unwrap();
        assert_eq!(say(), Padded::empty());
    }

    #[test]
    fn requests_without_a_certificate_are_taken_unless_issuer_or_user_want_none() {
        let (db, _) = user();
        assert!(!is_required(&db, RequestPolicy::Announced).unwrap());
        assert!(is_required(&db, RequestPolicy::Reportable).unwrap());
        db.execute("UPDATE reporting SET required = 1", ()).unwrap();
        assert!(is_required(&db, RequestPolicy::Announced).unwrap());
        assert!(!is_required(&db, RequestPolicy::All).unwrap());
    }
}
