//! Certificates, introductions and reports of abuse (`docs/abuse.md`).
//!
//! The issuer is asked for its keys once a day at a time of its own, and for a new certificate when
//! half of the old one's life is over: nothing that the user does makes the client ask.

mod issuer;

use crypto::reporting::{
    Expected, OwnCertificate, introduce, verify_certificate, verify_introduction,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::reporting::{
    Occasion, Padded, ReportReason, ReportingCertificate, SignedIntroduction, day_of_unix_s,
};
use rusqlite::{Connection, OptionalExtension as _};

use crate::contacts;
use crate::database::key32;
use crate::devices;
use crate::devices::sync::SyncMessage;
use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError};
use crate::profile::Profile;

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Which connection requests are shown to the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestPolicy {
    /// As the issuer asks: all, or those with a certificate.
    #[default]
    Announced,
    /// All.
    All,
    /// Those whose sender can be reported; others are forgotten unseen.
    Reportable,
}

/// Forgets what belongs to another account or issuer.
pub(crate) fn start_anew(db: &Connection) -> Result<(), Error> {
    db.execute("DELETE FROM certificate_keys", ())?;
    db.execute(
        "UPDATE reporting SET required = 0, due_ms = 0, certificate = NULL, salt = NULL",
        (),
    )?;
    Ok(())
}

fn certificate_keys(db: &Connection) -> Result<Vec<[u8; 32]>, Error> {
    let mut statement = db.prepare("SELECT public_key FROM certificate_keys")?;
    let keys = statement.query_map((), |row| row.get::<_, [u8; 32]>(0))?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// The own certificate, if it is one over this identity and valid today; and the day that it came.
fn own_certificate(
    db: &Connection,
    identity_key: &[u8; 32],
    today: u32,
) -> Result<Option<(OwnCertificate, u32)>, Error> {
    let row: Option<(Vec<u8>, Vec<u8>, u32)> = db
        .query_row(
            "SELECT certificate, salt, certificate_day FROM reporting WHERE certificate IS NOT NULL",
            (),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((certificate, salt, day)) = row else {
        return Ok(None);
    };
    let own = OwnCertificate {
        certificate: ReportingCertificate::decode(&certificate).map_err(|_| LocalError::Damaged)?,
        salt: key32(&salt)?,
    };
    let keys = certificate_keys(db)?;
    Ok(verify_certificate(&own, identity_key, &keys, today)
        .is_ok()
        .then_some((own, day)))
}

/// What this user says of himself to the owner of a real key; nothing without a certificate.
pub(crate) fn introduction<const N: usize>(
    db: &Connection,
    profile: &Profile,
    occasion: Occasion,
    recipient_key: &[u8],
    today: u32,
    greeting: &str,
) -> Result<Padded<N>, Error> {
    let Some((own, _)) = own_certificate(db, &profile.identity.public(), today)? else {
        return Ok(Padded::empty());
    };
    let recipient = key32(recipient_key)?;
    let signed = introduce(
        &profile.identity,
        &own,
        occasion,
        &recipient,
        today,
        greeting,
    )
    .map_err(|_| UsageError::InvalidGreeting)?;
    Ok(Padded::new(signed.encode()).ok_or(UsageError::InvalidGreeting)?)
}

/// Verifies what came with a request or an answer; on the day that it names itself, since what is
/// over can be seen to be so later.
pub(crate) fn verify(
    db: &Connection,
    profile: &Profile,
    occasion: Occasion,
    holder_key: &[u8],
    introduction: &[u8],
) -> Result<Option<SignedIntroduction>, Error> {
    let Ok(said) = SignedIntroduction::decode(introduction) else {
        return Ok(None);
    };
    let expected = Expected {
        occasion,
        holder_key,
        recipient_key: &profile.identity.public(),
        certificate_keys: &certificate_keys(db)?,
        today: said.introduction.day,
    };
    Ok(verify_introduction(introduction, &expected).ok())
}

/// Whether it can be reported today.
fn is_current(signed: &SignedIntroduction, today: u32) -> bool {
    let introduction = &signed.introduction;
    introduction.day <= today.saturating_add(1) && today <= introduction.certificate.not_after_day
}

/// Keeps a verified introduction, in the caller's transaction.
pub(crate) fn keep(db: &Connection, name: &str, signed: &SignedIntroduction) -> Result<(), Error> {
    let introduction = &signed.introduction;
    db.execute(
        "INSERT OR REPLACE INTO introductions (signature_key, name, introduction, not_after_day)
         VALUES (?, ?, ?, ?)",
        (
            introduction.holder_key,
            name,
            signed.encode(),
            introduction.certificate.not_after_day,
        ),
    )?;
    Ok(())
}

/// Keeps the introduction of somebody who answered our request, if it holds, and tells the other
/// devices.
pub(crate) fn keep_answer(
    db: &Connection,
    profile: &Profile,
    name: &str,
    holder_key: &[u8],
    introduction: &[u8],
) -> Result<(), Error> {
    if let Some(signed) = verify(db, profile, Occasion::Answer, holder_key, introduction)? {
        keep(db, name, &signed)?;
        devices::enqueue(db, SyncMessage::Introduction(opaque(introduction)))?;
    }
    Ok(())
}

/// Keeps what another device got from a contact.
pub(crate) fn keep_shared(
    db: &Connection,
    profile: &Profile,
    introduction: &[u8],
) -> Result<(), Error> {
    let Ok(said) = SignedIntroduction::decode(introduction) else {
        return Ok(());
    };
    let key = said.introduction.holder_key;
    let name = contacts::name_of_key(db, &key)?;
    let signed = verify(db, profile, Occasion::Answer, &key, introduction)?;
    match (name, signed) {
        (Some(name), Some(signed)) => keep(db, &name, &signed),
        _ => Ok(()),
    }
}

/// Whether requests without a good introduction are to be forgotten.
pub(crate) fn is_required(db: &Connection, policy: RequestPolicy) -> Result<bool, Error> {
    Ok(match policy {
        RequestPolicy::All => false,
        RequestPolicy::Reportable => true,
        RequestPolicy::Announced => {
            db.query_row("SELECT required FROM reporting", (), |row| row.get(0))?
        }
    })
}

/// Whether the request that carries this may be shown where introductions are required.
pub(crate) fn admits(
    db: &Connection,
    profile: &Profile,
    holder_key: &[u8],
    introduction: &[u8],
    today: u32,
) -> Result<bool, Error> {
    let signed = verify(db, profile, Occasion::Request, holder_key, introduction)?;
    Ok(signed.is_some_and(|signed| is_current(&signed, today)))
}

/// What the owner of a real key can be reported with today.
pub(crate) fn evidence(
    db: &Connection,
    key: &[u8],
    today: u32,
) -> Result<Option<SignedIntroduction>, Error> {
    let row: Option<Vec<u8>> = db
        .query_row(
            "SELECT introduction FROM introductions WHERE signature_key = ? AND not_after_day >= ?",
            (key, today),
            |row| row.get(0),
        )
        .optional()?;
    row.map(|row| SignedIntroduction::decode(&row).map_err(|_| LocalError::Damaged.into()))
        .transpose()
}

/// The key of whom the user means: a contact, somebody whose request waits, or somebody who was one
/// of them.
fn key_of(db: &Connection, who: &str) -> Result<Vec<u8>, Error> {
    if let Ok(contact) = contacts::by_name(db, who) {
        return Ok(contact.signature_key);
    }
    let key = db
        .query_row(
            "SELECT signature_key FROM incoming_requests WHERE CAST(id AS TEXT) = ?1 OR name = ?1
             ORDER BY id DESC LIMIT 1",
            [who],
            |row| row.get(0),
        )
        .optional()?;
    let known = || -> Result<Option<Vec<u8>>, Error> {
        Ok(db
            .query_row(
                "SELECT signature_key FROM introductions WHERE name = ? ORDER BY rowid DESC LIMIT 1",
                [who],
                |row| row.get(0),
            )
            .optional()?)
    };
    match key {
        Some(key) => Ok(key),
        None => known()?.ok_or_else(|| UsageError::UnknownContact(who.to_owned()).into()),
    }
}

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
        self.db.execute(
            "UPDATE introductions SET reported = 1 WHERE signature_key = ?",
            [key],
        )?;
        Ok(())
    }

    /// Fetches the issuer's keys and, when its time has come, a certificate. What fails is tried
    /// again later: nothing waits for it.
    pub(crate) async fn refresh_reporting(&mut self) -> Result<(), Error> {
        if self.transport.service().is_some() {
            return Ok(());
        }
        let now_ms = self.transport.time.now_unix_ms();
        let due_ms: i64 = self
            .db
            .query_row("SELECT due_ms FROM reporting", (), |row| row.get(0))?;
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
        self.db
            .execute("UPDATE reporting SET due_ms = ?", [due_ms])?;
        self.db.execute(
            "DELETE FROM introductions WHERE not_after_day < ?",
            [self.today()],
        )?;
        Ok(())
    }

    async fn ask_for_certificate(&mut self) -> Result<(), Error> {
        let issuer = self.reporting_issuer();
        let directory = issuer.directory().await?;
        self.transact(|db, _| {
            db.execute("DELETE FROM certificate_keys", ())?;
            for key in &directory.keys {
                db.execute(
                    "INSERT OR IGNORE INTO certificate_keys (public_key) VALUES (?)",
                    [key],
                )?;
            }
            db.execute("UPDATE reporting SET required = ?", [directory.required])?;
            Ok(())
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
        self.db.execute(
            "UPDATE reporting SET certificate = ?, salt = ?, certificate_day = ?",
            (own.certificate.encode(), own.salt, today),
        )?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use crypto::sign::SignatureKeyPair;
    use protocol::codec::sign_content;
    use protocol::reporting::{CERTIFICATE_LABEL, REQUEST_SLOT, VERSION};

    use super::*;

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
        let db = crate::database::in_memory().unwrap();
        let profile = crate::profile::tests::profile(&db);
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
        contacts::NewContact {
            credential: ClientCredential {
                name: opaque(*b"alice"),
                signature_public_key: opaque(alices_key),
            },
            connection_key: WireSecret::new([1; 32]),
            connection_token: WireSecret::new([2; 32]),
            pool: crate::contacts::PoolKeys::fresh().unwrap(),
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
