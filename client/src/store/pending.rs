//! Requests of groups that wait for their answers.

use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, Scheme};
use protocol::Wire as _;
use protocol::ids::{GroupId, Minute};
use protocol::operation::Operation;
use protocol::request::Sender;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::envelope::Envelope;
use crate::error::{Error, LocalError};
use crate::store::database::{change, first, key32, rows, value};

/// Bytes of a token of type 0x0002.
pub(crate) const TOKEN_LENGTH: usize = 354;

/// First byte of a stored P-256 key; an Ed25519 key is its seed alone.
pub(crate) const P256: u8 = 2;

pub(crate) fn stored_key(key: &LeafKeyPair) -> Zeroizing<Vec<u8>> {
    let seed = key.seed();
    let mut bytes = Zeroizing::new(Vec::with_capacity(33));
    if key.scheme() == Scheme::EcdsaP256 {
        bytes.push(P256);
    }
    bytes.extend_from_slice(seed.expose());
    bytes
}

pub(crate) fn key_of(stored: &[u8]) -> Result<LeafKeyPair, Error> {
    let (scheme, seed) = match stored {
        [P256, seed @ ..] if seed.len() == 32 => (Scheme::EcdsaP256, seed),
        seed => (Scheme::Ed25519, seed),
    };
    Ok(LeafKeyPair::from_seed(scheme, &Secret::new(key32(seed)?))?)
}

fn operation_of(number: u16) -> Result<Operation, Error> {
    let mut all = Operation::ALL.iter().copied();
    let known = all.find(|known| known.number() == number);
    known.ok_or_else(|| LocalError::Damaged.into())
}

/// A request that a group waits for an answer to.
pub(crate) struct Pending {
    pub(crate) envelope: Envelope,
    /// Encoded [`protocol::group::CommitAad`]; empty for a creation.
    pub(crate) aad: Vec<u8>,
    /// An accepted connection join makes this contact.
    pub(crate) contact: Option<Zeroizing<Vec<u8>>>,
    /// Seed of the recovery key pair that the own leaf has when it is accepted.
    pub(crate) recovery: Option<Secret<32>>,
}

impl Pending {
    pub(crate) fn write(&self, db: &Connection, group: &GroupId) -> Result<(), Error> {
        let envelope = &self.envelope;
        change(db, "INSERT OR REPLACE INTO pending_requests
                (group_id, operation, body, sender, signer_seed, request, minute, tokens, aad, contact, recovery_seed)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                group.0,
                envelope.operation.number(),
                &*envelope.body,
                envelope.sender.encode(),
                &*stored_key(&envelope.signer),
                &*envelope.request,
                envelope.minute.0,
                envelope.tokens.concat(),
                &self.aad,
                self.contact.as_ref().map(|contact| contact.as_slice()),
                self.recovery.as_ref().map(Secret::expose),
            ),
        )
    }

    pub(crate) fn read(db: &Connection, group: &GroupId) -> Result<Option<Self>, Error> {
        let row = first(
            db,
            "SELECT operation, body, sender, signer_seed, request, minute, tokens, aad, contact,
                    recovery_seed
                 FROM pending_requests WHERE group_id = ?",
            [group.0],
            |row| {
                Ok((
                    row.get::<_, u16>(0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    row.get::<_, Vec<u8>>(2)?,
                    row.get::<_, Vec<u8>>(3)?,
                    row.get::<_, Vec<u8>>(4)?,
                    row.get::<_, u32>(5)?,
                    row.get::<_, Vec<u8>>(6)?,
                    row.get(7)?,
                    row.get::<_, Option<Vec<u8>>>(8)?,
                    row.get::<_, Option<Vec<u8>>>(9)?,
                ))
            },
        )?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (operation, body, sender, seed, request, minute, tokens, aad, contact, recovery) = row;
        Ok(Some(Self {
            envelope: Envelope {
                operation: operation_of(operation)?,
                sender: Sender::decode(&sender).map_err(|_| LocalError::Damaged)?,
                signer: key_of(&Zeroizing::new(seed))?,
                body: Zeroizing::new(body),
                request: Zeroizing::new(request),
                minute: Minute(minute),
                tokens: tokens.chunks(TOKEN_LENGTH).map(<[u8]>::to_vec).collect(),
                units: 1,
            },
            aad,
            contact: contact.map(Zeroizing::new),
            recovery: recovery
                .map(|seed| Ok::<_, Error>(Secret::new(key32(&Zeroizing::new(seed))?)))
                .transpose()?,
        }))
    }

    /// The groups that wait.
    pub(crate) fn groups(db: &Connection) -> Result<Vec<GroupId>, Error> {
        rows(db, "SELECT group_id FROM pending_requests", (), |row| {
            Ok(GroupId(row.get(0)?))
        })
    }

    /// What a group waits for.
    pub(crate) fn operation(db: &Connection, group: &GroupId) -> Result<Option<Operation>, Error> {
        let number: Option<u16> = value(
            db,
            "SELECT operation FROM pending_requests WHERE group_id = ?",
            [group.0],
        )?;
        number.map(operation_of).transpose()
    }

    /// The request was signed again, or is paid with other tokens.
    pub(crate) fn renew(
        db: &Connection,
        group: &GroupId,
        envelope: &Envelope,
    ) -> Result<(), Error> {
        change(
            db,
            "UPDATE pending_requests SET request = ?, minute = ?, tokens = ? WHERE group_id = ?",
            (
                &*envelope.request,
                envelope.minute.0,
                envelope.tokens.concat(),
                group.0,
            ),
        )
    }

    pub(crate) fn delete(db: &Connection, group: &GroupId) -> Result<(), Error> {
        change(
            db,
            "DELETE FROM pending_requests WHERE group_id = ?",
            [group.0],
        )
    }
}
