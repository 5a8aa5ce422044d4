//! Signed requests and what it takes to get them through: the right time, tokens, retries.

use std::sync::Arc;

use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, Scheme, sign_content};
use protocol::codec::opaque;
use protocol::ids::GroupId;
use protocol::ids::Minute;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{WIRE_VERSION, Wire};
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::Serialize as _;
use zeroize::Zeroizing;

use crate::allowance::{Relief, relief};
use crate::database::key32;
use crate::engine::Engine;
use crate::error::{Error, LocalError, Refusal};
use crate::transport::Met;
use crate::wallet::{self, Token};

/// Most tokens for one request, whatever the service says that it costs.
const MOST_FOR_ONE: usize = 16;
/// Bytes of a token of type 0x0002.
const TOKEN_LENGTH: usize = 354;

/// A request with everything that is needed to send it, and to send it again.
pub(crate) struct Envelope {
    pub(crate) operation: Operation,
    pub(crate) sender: Sender,
    pub(crate) signer: LeafKeyPair,
    pub(crate) body: Zeroizing<Vec<u8>>,
    pub(crate) request: Zeroizing<Vec<u8>>,
    pub(crate) minute: Minute,
    pub(crate) tokens: Vec<Token>,
    /// What is sold by number: claims, sets to publish. Not kept: nothing that is has any.
    pub(crate) units: usize,
}

impl Envelope {
    pub(crate) fn new(
        operation: Operation,
        sender: Sender,
        signer: impl Into<LeafKeyPair>,
        body: Vec<u8>,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let mut envelope = Self {
            operation,
            sender,
            signer: signer.into(),
            body: Zeroizing::new(body),
            request: Zeroizing::default(),
            minute: Minute(0),
            tokens: Vec::new(),
            units: 1,
        };
        envelope.sign(now_ms)?;
        Ok(envelope)
    }

    /// With the signer's public key as sender.
    pub(crate) fn by_key(
        operation: Operation,
        signer: impl Into<LeafKeyPair>,
        body: Vec<u8>,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let signer = signer.into();
        let sender = Sender::Key(opaque(signer.public()));
        Self::new(operation, sender, signer, body, now_ms)
    }

    fn sign(&mut self, now_ms: u64) -> Result<(), Error> {
        self.minute = Minute::of(now_ms);
        let signed = sign(
            self.operation,
            now_ms,
            &self.sender,
            &self.body,
            &self.signer,
        )?;
        self.request = Zeroizing::new(signed.encode());
        Ok(())
    }
}

/// Signs a request.
///
/// # Errors
/// [`Error::Local`] without randomness.
pub fn sign(
    operation: Operation,
    now_ms: u64,
    sender: &Sender,
    body: &[u8],
    signer: &LeafKeyPair,
) -> Result<SignedRequest, Error> {
    let body = opaque(body);
    let (minute, nonce) = (Minute::of(now_ms), crypto::random()?);
    let tbs = RequestTbs {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender,
        body: &body,
    }
    .tls_serialize_detached()
    .unwrap_or_default();
    Ok(SignedRequest {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender: sender.clone(),
        signature: opaque(signer.sign_bytes(&sign_content(REQUEST_LABEL, &tbs))),
        body,
    })
}

/// First byte of a stored P-256 key; an Ed25519 key is its seed alone.
const P256: u8 = 2;

fn stored_key(key: &LeafKeyPair) -> Zeroizing<Vec<u8>> {
    let seed = key.seed();
    let mut bytes = Zeroizing::new(Vec::with_capacity(33));
    if key.scheme() == Scheme::EcdsaP256 {
        bytes.push(P256);
    }
    bytes.extend_from_slice(seed.expose());
    bytes
}

fn key_of(stored: &[u8]) -> Result<LeafKeyPair, Error> {
    let (scheme, seed) = match stored {
        [P256, seed @ ..] if seed.len() == 32 => (Scheme::EcdsaP256, seed),
        seed => (Scheme::Ed25519, seed),
    };
    Ok(LeafKeyPair::from_seed(scheme, &Secret::new(key32(seed)?))?)
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
        db.execute(
            "INSERT OR REPLACE INTO pending_requests
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
        )?;
        Ok(())
    }

    pub(crate) fn read(db: &Connection, group: &GroupId) -> Result<Option<Self>, Error> {
        let row = db
            .query_row(
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
            )
            .optional()?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (operation, body, sender, seed, request, minute, tokens, aad, contact, recovery) = row;
        let operation = Operation::ALL
            .iter()
            .copied()
            .find(|known| known.number() == operation)
            .ok_or(LocalError::Damaged)?;
        Ok(Some(Self {
            envelope: Envelope {
                operation,
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

    pub(crate) fn delete(db: &Connection, group: &GroupId) -> Result<(), Error> {
        db.execute("DELETE FROM pending_requests WHERE group_id = ?", [group.0])?;
        Ok(())
    }
}

impl Engine {
    /// Sends a request that is not kept: if the process ends, it is forgotten.
    pub(crate) async fn call<R: Wire>(
        &mut self,
        operation: Operation,
        signer: impl Into<LeafKeyPair>,
        body: &impl Wire,
    ) -> Result<R, Error> {
        self.call_for(operation, signer, body, 1).await
    }

    /// As [`Client::call`], for something that is sold by number.
    pub(crate) async fn call_for<R: Wire>(
        &mut self,
        operation: Operation,
        signer: impl Into<LeafKeyPair>,
        body: &impl Wire,
        units: usize,
    ) -> Result<R, Error> {
        let signer = signer.into();
        let sender = Sender::Key(opaque(signer.public()));
        self.call_as(operation, sender, signer, body.encode(), units)
            .await
    }

    /// As [`Client::call`], for what costs what the service said a moment ago, if that is more than
    /// usual.
    pub(crate) async fn call_at_price<R: Wire>(
        &mut self,
        operation: Operation,
        signer: impl Into<LeafKeyPair>,
        body: &impl Wire,
        price: usize,
    ) -> Result<R, Error> {
        let now = self.transport.time.now_unix_ms();
        let mut envelope = Envelope::by_key(operation, signer, body.encode(), now)?;
        let usual = self.directory().await?.prices.of(operation, 1);
        envelope.tokens = self.take_tokens(price.max(usual).min(MOST_FOR_ONE))?;
        let sent = self.send(&mut envelope, None).await;
        wallet::discard(&self.db, &envelope.tokens)?;
        R::decode(&sent?).map_err(|_| Error::Protocol("an answer is malformed"))
    }

    /// As [`Client::call`], as any sender; `units` go into the price.
    pub(crate) async fn call_as<R: Wire>(
        &mut self,
        operation: Operation,
        sender: Sender,
        signer: impl Into<LeafKeyPair>,
        body: Vec<u8>,
        units: usize,
    ) -> Result<R, Error> {
        let now = self.transport.time.now_unix_ms();
        let mut envelope = Envelope::new(operation, sender, signer, body, now)?;
        envelope.units = units;
        let price = self.directory().await?.prices.of(operation, units);
        envelope.tokens = self.take_tokens(price)?;
        let sent = self.send(&mut envelope, None).await;
        wallet::discard(&self.db, &envelope.tokens)?;
        R::decode(&sent?).map_err(|_| Error::Protocol("an answer is malformed"))
    }

    /// Reads something that whoever knows its name may read: nothing is signed, and the bytes are
    /// the same whoever reads. Where the allowance of all readers is used up it waits, or pays for
    /// this read.
    pub(crate) async fn read<R: Wire>(
        &mut self,
        operation: Operation,
        body: &impl Wire,
    ) -> Result<R, Error> {
        let body = body.encode();
        let mut taken: Option<Vec<Token>> = None;
        let mut tokens = Vec::new();
        let answer = loop {
            let answer = self.transport.post(operation, &body, &tokens).await;
            self.keep_transport_state()?;
            let refusal = match answer {
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::TooManyRequests => {
                    refusal
                }
                // An answer that it has paid for was lost, perhaps. It pays once.
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::TokenRejected && !tokens.is_empty() =>
                {
                    tokens.clear();
                    continue;
                }
                other => break other,
            };
            let budget = Arc::clone(self.transport.budget());
            let worth = self.worth_waiting(operation)?;
            let can_pay = taken.is_none() && self.spendable()? > 0;
            match relief(&refusal, worth, budget.left(), can_pay) {
                Relief::Wait(wait) => {
                    budget.meets(Met::NoAnswer("the service asks to wait".into()));
                    budget.pause(wait).await;
                }
                Relief::Pay => match self.take_tokens_again(1)? {
                    Some(own) => {
                        tokens.clone_from(&own);
                        taken = Some(own);
                    }
                    None => break Err(Error::Refused(refusal)),
                },
                Relief::None => break Err(Error::Refused(refusal)),
            }
        };
        if let Some(taken) = taken {
            wallet::discard(&self.db, &taken)?;
        }
        R::decode(&answer?).map_err(|_| Error::Protocol("an answer is malformed"))
    }

    /// Sends the kept request of a group. It stays kept until its outcome has been stored.
    pub(crate) async fn send_pending(&mut self, group: &GroupId) -> Result<Vec<u8>, Error> {
        let Some(mut pending) = Pending::read(&self.db, group)? else {
            return Err(LocalError::Damaged.into());
        };
        let sent = self.send(&mut pending.envelope, Some(group)).await;
        if !matches!(sent, Err(Error::Unreachable(_))) {
            wallet::discard(&self.db, &pending.envelope.tokens)?;
        }
        sent
    }

    /// Sends an envelope; signs again if the clock was wrong, and pays again if a token was
    /// refused: once each. If the allowance is used up it waits or pays, once, whichever is better;
    /// and gives up when patience ends.
    pub(crate) async fn send(
        &mut self,
        envelope: &mut Envelope,
        kept: Option<&GroupId>,
    ) -> Result<Vec<u8>, Error> {
        let (mut signed_again, mut paid_again) = (false, false);
        loop {
            let answer = self
                .transport
                .post(envelope.operation, &envelope.request, &envelope.tokens)
                .await;
            self.keep_transport_state()?;
            let Err(Error::Refused(refusal)) = answer else {
                return answer;
            };
            match refusal {
                Refusal {
                    problem: ProblemType::StaleTimestamp,
                    now_ms: Some(now),
                    ..
                } if !signed_again => {
                    signed_again = true;
                    self.transport.time.learn(now);
                    self.keep_transport_state()?;
                    envelope.sign(now)?;
                }
                Refusal {
                    problem: ProblemType::TokenRejected | ProblemType::TokenRequired,
                    ..
                } if !paid_again => {
                    paid_again = true;
                    wallet::discard(&self.db, &envelope.tokens)?;
                    // Keys or prices may have changed since the views were compared.
                    self.doubt_directory().await?;
                    let prices = self.directory().await?.prices;
                    let price = prices.of(envelope.operation, envelope.units);
                    // What everybody is told to be free is free, whatever one answer says.
                    if price == 0 {
                        return Err(Error::Refused(refusal));
                    }
                    let Some(tokens) = self.take_tokens_again(price)? else {
                        return Err(Error::Refused(refusal));
                    };
                    envelope.tokens = tokens;
                }
                Refusal {
                    problem: ProblemType::TooManyRequests,
                    ..
                } => {
                    let budget = Arc::clone(self.transport.budget());
                    let left = budget.left();
                    let worth = self.worth_waiting(envelope.operation)?;
                    let can_pay =
                        !paid_again && envelope.tokens.is_empty() && self.spendable()? > 0;
                    match relief(&refusal, worth, left, can_pay) {
                        Relief::Wait(wait) => {
                            budget.meets(Met::NoAnswer("the service asks to wait".into()));
                            budget.pause(wait).await;
                        }
                        Relief::Pay => {
                            paid_again = true;
                            let Some(tokens) = self.take_tokens_again(1)? else {
                                return Err(Error::Refused(refusal));
                            };
                            envelope.tokens = tokens;
                        }
                        Relief::None => return Err(Error::Refused(refusal)),
                    }
                }
                refusal => return Err(Error::Refused(refusal)),
            }
            if let Some(group) = kept {
                self.db.execute(
                    "UPDATE pending_requests SET request = ?, minute = ?, tokens = ? WHERE group_id = ?",
                    (
                        &*envelope.request,
                        envelope.minute.0,
                        envelope.tokens.concat(),
                        group.0,
                    ),
                )?;
            }
        }
    }

    /// What the transport has learned is worth keeping for the next process.
    pub(crate) fn keep_transport_state(&mut self) -> Result<(), Error> {
        let (config, offset) = (self.transport.key_config(), self.transport.time.offset_ms());
        if config != self.profile.ohttp_key_config.as_deref()
            || offset != self.profile.clock_offset_ms
        {
            self.db.execute(
                "UPDATE profile SET ohttp_key_config = ?, clock_offset_ms = ?",
                (config, offset),
            )?;
            self.profile.ohttp_key_config = config.map(<[u8]>::to_vec);
            self.profile.clock_offset_ms = offset;
        }
        let views = self.transport.views();
        if *views != self.profile.views {
            let text = serde_json::to_string(views).map_err(|_| LocalError::Damaged)?;
            self.db.execute("UPDATE profile SET views = ?", [text])?;
            self.profile.views = views.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::ids::LeafIndex;
    use protocol::request::ReceivedRequest;

    use super::*;

    #[test]
    fn a_signed_request_verifies_over_the_bytes_that_were_sent() {
        let signer = LeafKeyPair::random(Scheme::Ed25519).unwrap();
        let sender = Sender::Key(opaque(signer.public()));
        let bytes = sign(Operation::SendMessage, 5, &sender, b"body", &signer)
            .unwrap()
            .encode();
        let received = ReceivedRequest::decode(&bytes).unwrap();
        let signature = received.request.signature.as_slice();
        let verify = |content: &[u8]| {
            crypto::sign::verify(&signer.public(), REQUEST_LABEL, content, signature)
        };
        assert!(verify(received.signed_bytes).is_ok());
        assert!(verify(b"other").is_err());
    }

    #[test]
    fn a_request_says_its_minute_and_nothing_finer_and_is_another_one_each_time() {
        let signer = LeafKeyPair::random(Scheme::Ed25519).unwrap();
        let sender = Sender::Key(opaque(signer.public()));
        let at = |now_ms| sign(Operation::SendMessage, now_ms, &sender, b"body", &signer).unwrap();
        let (first, last) = (at(600_000), at(659_999));
        assert_eq!(first.minute, last.minute);
        assert_ne!(first.nonce, last.nonce);
        assert_ne!(at(660_000).minute, last.minute);
    }

    #[test]
    fn a_kept_request_is_the_same_bytes_after_a_restart() {
        let db = crate::database::in_memory().unwrap();
        crate::groups::tests::group(7, "team").insert(&db).unwrap();
        let group = GroupId([7; 16]);
        let signer = LeafKeyPair::random(Scheme::EcdsaP256).unwrap();
        let public_key = signer.public();
        let mut envelope = Envelope::new(
            Operation::AddUsers,
            Sender::Leaf(LeafIndex(3)),
            signer,
            vec![1, 2],
            9,
        )
        .unwrap();
        envelope.tokens = vec![vec![1; TOKEN_LENGTH], vec![2; TOKEN_LENGTH]];
        let request = envelope.request.clone();
        let pending = Pending {
            envelope,
            aad: vec![4],
            contact: None,
            recovery: None,
        };
        pending.write(&db, &group).unwrap();
        let read = Pending::read(&db, &group).unwrap().unwrap();
        assert_eq!(read.envelope.request, request);
        assert_eq!(read.envelope.signer.public(), public_key);
        assert_eq!(read.envelope.operation, Operation::AddUsers);
        assert_eq!(read.envelope.sender, Sender::Leaf(LeafIndex(3)));
        assert_eq!(read.envelope.tokens, pending.envelope.tokens);
        Pending::delete(&db, &group).unwrap();
        assert!(Pending::read(&db, &group).unwrap().is_none());
    }
}
