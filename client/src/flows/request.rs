//! Signed requests and what it takes to get them through: the right time, tokens, retries.

use std::sync::Arc;
use std::time::Duration;

use crypto::sign::LeafKeyPair;
use protocol::Wire;
use protocol::codec::opaque;
use protocol::ids::GroupId;
use protocol::journal::{ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;

use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::{Error, LocalError, Refusal};
use crate::issuance::Token;
use crate::net::allowance::{Relief, relief, worth_waiting};
use crate::net::transport::patience::Met;
use crate::store::{Pending, profile, tokens};

/// Most tokens for one request, whatever the service says that it costs.
const MOST_FOR_ONE: usize = 16;
/// So often a request is signed again by the time that the service says. Its clock can step in
/// between.
const MOST_SIGNED_AGAIN: u32 = 2;

pub(crate) fn read_answer<R: Wire>(answer: &[u8]) -> Result<R, Error> {
    R::decode(answer).map_err(|_| Error::Protocol("an answer is malformed"))
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
        tokens::discard(&self.db, &envelope.tokens)?;
        read_answer(&sent?)
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
        tokens::discard(&self.db, &envelope.tokens)?;
        read_answer(&sent?)
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
            tokens::discard(&self.db, &taken)?;
        }
        read_answer(&answer?)
    }

    /// As [`Self::read`], of a group's journal in a slot: with one request. Whoever uses an
    /// allowance up would see who asks again. Where one is used up the next request pays.
    pub(crate) async fn read_in_place(
        &mut self,
        group: &GroupId,
        body: &ReadJournalRequest,
    ) -> Result<ReadJournalResponse, Error> {
        let pays = self.between_slots.to_pay.remove(group) && self.spendable()? > 0;
        let tokens = match pays {
            true => self.take_tokens_again(1)?.unwrap_or_default(),
            false => Vec::new(),
        };
        let read = self.read_once(body, &tokens).await;
        tokens::discard(&self.db, &tokens)?;
        if let Err(Error::Refused(refusal)) = &read
            && refusal.problem == ProblemType::TooManyRequests
            && refusal.token_helps
        {
            self.between_slots.to_pay.insert(*group);
        }
        read
    }

    /// One request, whatever it meets.
    pub(crate) async fn read_once(
        &mut self,
        body: &ReadJournalRequest,
        tokens: &[Token],
    ) -> Result<ReadJournalResponse, Error> {
        let answer = self
            .transport
            .post(Operation::ReadJournal, &body.encode(), tokens)
            .await;
        self.keep_transport_state()?;
        read_answer(&answer?)
    }

    /// Sends the kept request of a group. It stays kept until its outcome has been stored.
    pub(crate) async fn send_pending(&mut self, group: &GroupId) -> Result<Vec<u8>, Error> {
        let Some(mut pending) = Pending::read(&self.db, group)? else {
            return Err(LocalError::Damaged.into());
        };
        let sent = self.send(&mut pending.envelope, Some(group)).await;
        if !matches!(sent, Err(Error::Unreachable(_))) {
            tokens::discard(&self.db, &pending.envelope.tokens)?;
        }
        sent
    }

    /// Sends an envelope; signs again if the clock was wrong, and pays again, once, if a token was
    /// refused. If the allowance is used up it waits or pays, once, whichever is better;
    /// and gives up when patience ends.
    pub(crate) async fn send(
        &mut self,
        envelope: &mut Envelope,
        kept: Option<&GroupId>,
    ) -> Result<Vec<u8>, Error> {
        let (mut signed_again, mut paid_again) = (0, false);
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
                } if signed_again < MOST_SIGNED_AGAIN => {
                    signed_again += 1;
                    self.transport.time.learn(now);
                    self.keep_transport_state()?;
                    envelope.sign(now)?;
                }
                Refusal {
                    problem: ProblemType::TokenRejected | ProblemType::TokenRequired,
                    ..
                } if !paid_again => {
                    paid_again = true;
                    tokens::discard(&self.db, &envelope.tokens)?;
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
                Pending::renew(&self.db, group, envelope)?;
            }
        }
    }

    fn worth_waiting(&self, operation: Operation) -> Result<Duration, Error> {
        let announced = self.stored_directory()?.and_then(|it| it.allowances);
        Ok(worth_waiting(announced.as_ref(), operation))
    }

    /// What the transport has learned is worth keeping for the next process.
    pub(crate) fn keep_transport_state(&mut self) -> Result<(), Error> {
        let (config, offset) = (self.transport.key_config(), self.transport.time.offset_ms());
        if config != self.profile.ohttp_key_config.as_deref()
            || offset != self.profile.clock_offset_ms
        {
            profile::set_transport(&self.db, config, offset)?;
            self.profile.ohttp_key_config = config.map(<[u8]>::to_vec);
            self.profile.clock_offset_ms = offset;
        }
        let views = self.transport.views();
        if *views != self.profile.views {
            let text = serde_json::to_string(views).map_err(|_| LocalError::Damaged)?;
            profile::set_views(&self.db, &text)?;
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
    use crate::envelope::sign;
    use crate::store::pending::TOKEN_LENGTH;
    use crypto::sign::Scheme;
    use protocol::request::REQUEST_LABEL;

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
        let db = crate::store::database::in_memory().unwrap();
        crate::store::groups::tests::group(7, "team")
            .insert(&db)
            .unwrap();
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
