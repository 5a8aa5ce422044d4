//! What tests of decisions share: a service with keys and a clock of the test's own, signed
//! requests.

use crypto::secret::Secret;
use crypto::service_keys::ServiceKeys;
use crypto::sign::SignatureKeyPair;
use protocol::codec::opaque;
use protocol::ids::Minute;
use protocol::operation::Operation as Number;
use protocol::request::{REQUEST_LABEL, RequestTbs, Sender, SignedRequest};
use protocol::{WIRE_VERSION, Wire};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

use crate::engine::{Batch, Engine};
use crate::env::{Env, Settings};
use crate::execution::{Execution, Failure, Input, Outcome, Step};
use crate::memory::MemoryEngine;
use crate::operation::Operation;
use crate::tokens::VerifiedToken;

/// A service in memory.
pub struct Service {
    pub engine: MemoryEngine,
    pub now_ms: u64,
    /// Of the store.
    pub generation: u64,
    pub settings: Settings,
    /// Chunks that there is room for.
    pub blob_room: u64,
    keys: ServiceKeys,
    /// Where its randomness has got to.
    pub rng: ChaCha12Rng,
    /// All that was applied, in this order.
    pub applied: Vec<Batch>,
    nonce: u16,
}

/// 2027-01-15, at noon.
pub const NOON_MS: u64 = 1_800_014_400_000;
pub const DAY_MS: u64 = 86_400_000;

/// The service's key file: version, storage key, one sender.
#[must_use]
pub fn key_file() -> Vec<u8> {
    [&[1][..], &[3; 32], &[1], &[4; 32]].concat()
}

impl Service {
    /// A generation of keys more.
    pub fn rotate_keys(&mut self) {
        let file = ServiceKeys::rotate_file(&key_file()).unwrap();
        self.keys = ServiceKeys::from_file(&file).unwrap();
    }

    pub fn new(seed: u64) -> Self {
        let file = key_file();
        Self {
            engine: MemoryEngine::default(),
            now_ms: NOON_MS,
            generation: 0,
            settings: Settings {
                self_check: true,
                ..Settings::default()
            },
            blob_room: u64::MAX,
            keys: ServiceKeys::from_file(&file).unwrap(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            applied: Vec::new(),
            nonce: 0,
        }
    }

    pub fn env(&mut self) -> (Env<'_>, &mut MemoryEngine) {
        let env = Env {
            now_ms: self.now_ms,
            generation: self.generation,
            rng: &mut self.rng,
            keys: &self.keys,
            settings: &self.settings,
            blob_room: self.blob_room,
        };
        (env, &mut self.engine)
    }

    pub fn keys(&self) -> &ServiceKeys {
        &self.keys
    }

    /// A fresh token.
    pub fn token(&mut self) -> VerifiedToken {
        self.nonce += 1;
        VerifiedToken::of_test(self.nonce)
    }

    pub fn tokens(&mut self, count: usize) -> Vec<VerifiedToken> {
        (0..count).map(|_| self.token()).collect()
    }

    /// Carries out a request that came with these tokens.
    pub fn run<O: Operation>(
        &mut self,
        bytes: &[u8],
        tokens: Vec<VerifiedToken>,
    ) -> Result<O::Response, Failure> {
        let answer = self.answer::<O>(bytes, tokens)?;
        Ok(O::Response::decode(&answer).unwrap())
    }

    /// As [`Service::run`]: the answer as it is sent.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn answer<O: Operation>(
        &mut self,
        bytes: &[u8],
        tokens: Vec<VerifiedToken>,
    ) -> Result<Vec<u8>, Failure> {
        let mut applied = Vec::new();
        let (mut env, engine) = self.env();
        let mut execution = Execution::<O>::new(bytes, tokens, &env).map_err(Failure::Refused)?;
        let mut step = execution.start();
        let answer = loop {
            let input = match step {
                Step::Read(reads) => Input::Found(engine.read(&reads)),
                Step::Charge(_) => Input::Charged(Ok(())),
                Step::Apply(batch) => {
                    let result = engine.apply(batch.clone());
                    applied.extend(result.is_ok().then_some(batch));
                    Input::Applied(result)
                }
                Step::Done(outcome) => break outcome.answer,
            };
            step = execution.next(input, &mut env);
        };
        self.applied.extend(applied);
        answer
    }

    /// As [`Service::answer`], on another engine than its own; and the transition that was tried
    /// last.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn answer_on<O: Operation>(
        &mut self,
        engine: &dyn Engine,
        bytes: &[u8],
        tokens: Vec<VerifiedToken>,
    ) -> (Option<&'static str>, Result<Vec<u8>, Failure>) {
        let (mut env, _) = self.env();
        let mut execution = match Execution::<O>::new(bytes, tokens, &env) {
            Ok(execution) => execution,
            Err(refusal) => return (None, Err(Failure::Refused(refusal))),
        };
        let mut tried = None;
        let mut step = execution.start();
        loop {
            let input = match step {
                Step::Read(reads) => match engine.read(reads).await {
                    Ok(found) => Input::Found(found),
                    Err(error) => Input::Failed(error),
                },
                Step::Charge(_) => Input::Charged(Ok(())),
                Step::Apply(batch) => {
                    tried = execution.transition();
                    Input::Applied(engine.apply(batch).await)
                }
                Step::Done(outcome) => return (tried, outcome.answer),
            };
            step = execution.next(input, &mut env);
        }
    }

    /// Carries out a request of this key, with as many tokens as are needed for most.
    pub fn call<O: Operation>(
        &mut self,
        key: &SignatureKeyPair,
        body: &O::Request,
    ) -> Result<O::Response, Failure> {
        let bytes = self.signed(O::OPERATION, key, body);
        let tokens = self.tokens(8);
        self.run::<O>(&bytes, tokens)
    }

    pub fn signed(
        &mut self,
        operation: Number,
        key: &SignatureKeyPair,
        body: &impl Wire,
    ) -> Vec<u8> {
        let sender = Sender::Key(opaque(key.public()));
        let (mut env, _) = self.env();
        let nonce = env.random();
        let minute = Minute::of(self.now_ms);
        signed(operation, minute, nonce, sender, body, |content| {
            key.sign(REQUEST_LABEL, content)
        })
    }

    /// Carries a request out up to the point where it would be applied.
    pub fn until_apply<O: Operation>(
        &mut self,
        bytes: &[u8],
        tokens: Vec<VerifiedToken>,
    ) -> (Execution<O>, Step) {
        let (mut env, engine) = self.env();
        let mut execution = Execution::<O>::new(bytes, tokens, &env).unwrap();
        let mut step = execution.start();
        loop {
            let input = match step {
                Step::Read(reads) => Input::Found(engine.read(&reads)),
                Step::Charge(_) => Input::Charged(Ok(())),
                Step::Apply(_) | Step::Done(_) => return (execution, step),
            };
            step = execution.next(input, &mut env);
        }
    }

    /// Goes on from there.
    pub fn finish<O: Operation>(
        &mut self,
        (mut execution, mut step): (Execution<O>, Step),
    ) -> Outcome {
        let (mut env, engine) = self.env();
        loop {
            let input = match step {
                Step::Read(reads) => Input::Found(engine.read(&reads)),
                Step::Charge(_) => Input::Charged(Ok(())),
                Step::Apply(batch) => Input::Applied(engine.apply(batch)),
                Step::Done(outcome) => return outcome,
            };
            step = execution.next(input, &mut env);
        }
    }
}

/// A token that is presented again.
pub fn same(token: &VerifiedToken) -> VerifiedToken {
    let [high, low, ..] = *token.nonce_digest();
    VerifiedToken::of_test(u16::from_be_bytes([high, low]))
}

/// A signed request.
pub fn signed(
    operation: Number,
    minute: Minute,
    nonce: [u8; 16],
    sender: Sender,
    body: &impl Wire,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    use tls_codec::Serialize as _;
    let body = opaque(body.encode());
    let tbs = RequestTbs {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        sender: &sender,
        body: &body,
    }
    .tls_serialize_detached()
    .unwrap();
    SignedRequest {
        version: WIRE_VERSION,
        operation,
        minute,
        nonce,
        signature: opaque(sign(&tbs)),
        sender,
        body,
    }
    .encode()
}

pub fn key(seed: u8) -> SignatureKeyPair {
    SignatureKeyPair::from_seed(&Secret::new([seed; 32]))
}
