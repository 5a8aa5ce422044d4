//! Certificates and introductions.

use crypto::reporting::{
    Expected, OwnCertificate, introduce, verify_certificate, verify_introduction,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::reporting::{Occasion, Padded, ReportingCertificate, SignedIntroduction};
use rusqlite::Connection;

use crate::error::{Error, LocalError, UsageError};
use crate::store::database::{change, first, key32, value};
use crate::store::profile::Profile;
use crate::store::{contacts, sync_outbox};
use crate::sync_message::SyncMessage;

/// Which connection requests are shown to the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestPolicy {
    /// As the issuer asks: all, or those with a certificate.
    #[default]
    Announced,
    All,
    /// Those whose sender can be reported; others are forgotten unseen.
    Reportable,
}

/// Forgets what belongs to another account or issuer.
pub(crate) fn start_anew(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM certificate_keys", ())?;
    change(
        db,
        "UPDATE reporting SET required = 0, due_ms = 0, certificate = NULL, salt = NULL",
        (),
    )
}

pub(crate) fn certificate_keys(db: &Connection) -> Result<Vec<[u8; 32]>, Error> {
    let mut statement = db.prepare_cached("SELECT public_key FROM certificate_keys")?;
    let keys = statement.query_map((), |row| row.get::<_, [u8; 32]>(0))?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// The own certificate, if it is one over this identity and valid today; and the day that it came.
pub(crate) fn own_certificate(
    db: &Connection,
    identity_key: &[u8; 32],
    today: u32,
) -> Result<Option<(OwnCertificate, u32)>, Error> {
    let row: Option<(Vec<u8>, Vec<u8>, u32)> = first(
        db,
        "SELECT certificate, salt, certificate_day FROM reporting WHERE certificate IS NOT NULL",
        (),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
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

/// Keeps a verified introduction, in the caller's transaction.
pub(crate) fn keep(db: &Connection, name: &str, signed: &SignedIntroduction) -> Result<(), Error> {
    let introduction = &signed.introduction;
    change(
        db,
        "INSERT OR REPLACE INTO introductions (signature_key, name, introduction, not_after_day)
         VALUES (?, ?, ?, ?)",
        (
            introduction.holder_key,
            name,
            signed.encode(),
            introduction.certificate.not_after_day,
        ),
    )
}

/// Whether requests without a good introduction are to be forgotten.
pub(crate) fn is_required(db: &Connection, policy: RequestPolicy) -> Result<bool, Error> {
    Ok(match policy {
        RequestPolicy::All => false,
        RequestPolicy::Reportable => true,
        RequestPolicy::Announced => db
            .prepare_cached("SELECT required FROM reporting")?
            .query_row((), |row| row.get(0))?,
    })
}

/// What the owner of a real key can be reported with today.
pub(crate) fn evidence(
    db: &Connection,
    key: &[u8],
    today: u32,
) -> Result<Option<SignedIntroduction>, Error> {
    let row: Option<Vec<u8>> = value(
        db,
        "SELECT introduction FROM introductions WHERE signature_key = ? AND not_after_day >= ?",
        (key, today),
    )?;
    row.map(|row| SignedIntroduction::decode(&row).map_err(|_| LocalError::Damaged.into()))
        .transpose()
}

/// The key of whom the user means: a contact, somebody whose request waits, or somebody who was one
/// of them.
pub(crate) fn key_of(db: &Connection, who: &str) -> Result<Vec<u8>, Error> {
    if let Ok(contact) = contacts::by_name(db, who) {
        return Ok(contact.signature_key);
    }
    let key = value(
        db,
        "SELECT signature_key FROM incoming_requests WHERE CAST(id AS TEXT) = ?1 OR name = ?1
             ORDER BY id DESC LIMIT 1",
        [who],
    )?;
    let known = || -> Result<Option<Vec<u8>>, Error> {
        value(
            db,
            "SELECT signature_key FROM introductions WHERE name = ? ORDER BY rowid DESC LIMIT 1",
            [who],
        )
    };
    match key {
        Some(key) => Ok(key),
        None => known()?.ok_or_else(|| UsageError::UnknownContact(who.to_owned()).into()),
    }
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
pub(crate) fn is_current(signed: &SignedIntroduction, today: u32) -> bool {
    let introduction = &signed.introduction;
    introduction.day <= today.saturating_add(1) && today <= introduction.certificate.not_after_day
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
        sync_outbox::enqueue(db, SyncMessage::Introduction(opaque(introduction)))?;
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

/// Whoever was reported is so once.
pub(crate) fn reported(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "UPDATE introductions SET reported = 1 WHERE signature_key = ?",
        [signature_key],
    )
}

/// When the issuer is asked next.
pub(crate) fn due_ms(db: &Connection) -> Result<i64, Error> {
    Ok(db
        .prepare_cached("SELECT due_ms FROM reporting")?
        .query_row((), |row| row.get(0))?)
}

pub(crate) fn set_due_ms(db: &Connection, due_ms: i64) -> Result<(), Error> {
    change(db, "UPDATE reporting SET due_ms = ?", [due_ms])
}

pub(crate) fn forget_expired(db: &Connection, today: u32) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM introductions WHERE not_after_day < ?",
        [today],
    )
}

/// Whether requests need a certificate.
pub(crate) fn set_required(db: &Connection, required: bool) -> Result<(), Error> {
    change(db, "UPDATE reporting SET required = ?", [required])
}

/// The keys under which certificates are signed, in the caller's transaction.
pub(crate) fn set_certificate_keys(db: &Connection, keys: &[[u8; 32]]) -> Result<(), Error> {
    change(db, "DELETE FROM certificate_keys", ())?;
    for key in keys {
        change(
            db,
            "INSERT OR IGNORE INTO certificate_keys (public_key) VALUES (?)",
            [key],
        )?;
    }
    Ok(())
}

/// The own certificate, which came today.
pub(crate) fn set_certificate(
    db: &Connection,
    own: &OwnCertificate,
    today: u32,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE reporting SET certificate = ?, salt = ?, certificate_day = ?",
        (own.certificate.encode(), own.salt, today),
    )
}
