//! From bytes to a request that may be decided on. A request that was not authenticated has another
//! type. That type shows only the part of the body that leads to the key to authenticate it with.

use std::cell::OnceCell;

use crypto::sign;
use protocol::codec::WireSecret;
use protocol::group::GroupKey;
use protocol::ids::{LeafIndex, Minute};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::{REQUEST_LABEL, ReceivedRequest, Sender, SignedRequest, WINDOW_MINUTES};
use protocol::{WIRE_VERSION, Wire};

use crate::refusal::Refusal;

/// A request whose envelope is in order and whose body is decoded. Nobody has signed it yet.
///
/// A decision takes one of whom it says it is:
///
/// ```
/// use ds_domain::{env::Env, operation::Operation, refusal::Stop};
/// use ds_domain::{request::Unauthenticated, view::View};
///
/// fn decide<O: Operation>(
///     request: &Unauthenticated<O::Request>,
///     view: &View,
///     env: &mut Env<'_>,
/// ) -> Result<(), Stop> {
///     let request = O::authenticate(request, view, env)?;
///     O::decide(&request, view, env).map(drop)
/// }
/// ```
///
/// And no other:
///
/// ```compile_fail
/// use ds_domain::{env::Env, operation::Operation, refusal::Stop};
/// use ds_domain::{request::Unauthenticated, view::View};
///
/// fn decide<O: Operation>(
///     request: &Unauthenticated<O::Request>,
///     view: &View,
///     env: &mut Env<'_>,
/// ) -> Result<(), Stop> {
///     O::decide(request, view, env).map(drop)
/// }
/// ```
///
/// Its body is not to be had before:
///
/// ```compile_fail
/// fn body<T>(request: &ds_domain::request::Unauthenticated<T>) -> &T {
///     request.body()
/// }
/// ```
#[derive(Debug)]
pub struct Unauthenticated<T> {
    body: T,
    sender: Sender,
    minute: Minute,
    /// What was signed: the received bytes, never re-encoded ones.
    signed_bytes: Vec<u8>,
    signature: Vec<u8>,
    /// The key that the signature was verified with: a decision that is made again verifies nothing
    /// again.
    verified_by: OnceCell<Vec<u8>>,
}

/// A body that names the group that it is about.
pub trait NamesGroup {
    /// The group, and the key that opens its state.
    fn group(&self) -> &GroupKey;

    /// The state key that its commit tells, which opens the group's state once the commit has won.
    fn next_key(&self) -> Option<&WireSecret> {
        None
    }

    /// Its commit: who has won and lost the answer is known again by it.
    fn commit(&self) -> Option<&[u8]> {
        None
    }
}

impl<T: Wire> Unauthenticated<T> {
    /// Decodes envelope and body, and checks version, operation and time.
    ///
    /// # Errors
    /// [`ProblemType::UnsupportedVersion`], [`ProblemType::Malformed`],
    /// [`Refusal::StaleTimestamp`].
    pub fn decode(bytes: &[u8], operation: Operation, now_ms: u64) -> Result<Self, Refusal> {
        match ReceivedRequest::version_of(bytes) {
            Some(WIRE_VERSION) => {}
            Some(_) => return Err(ProblemType::UnsupportedVersion.into()),
            None => return Err(ProblemType::Malformed.into()),
        }
        let received = ReceivedRequest::decode(bytes).map_err(|_| ProblemType::Malformed)?;
        let SignedRequest {
            version: _,
            operation: claimed,
            minute,
            nonce: _,
            sender,
            body,
            signature,
        } = received.request;
        if claimed != operation {
            return Err(ProblemType::Malformed.into());
        }
        if minute.0.abs_diff(Minute::of(now_ms).0) > WINDOW_MINUTES {
            return Err(Refusal::StaleTimestamp { now_ms });
        }
        Ok(Self {
            body: T::decode(body.as_slice()).map_err(|_| ProblemType::Malformed)?,
            sender,
            minute,
            signed_bytes: received.signed_bytes.to_vec(),
            signature: signature.as_slice().to_vec(),
            verified_by: OnceCell::new(),
        })
    }
}

impl<T> Unauthenticated<T> {
    /// When the client says that it is.
    #[must_use]
    pub fn minute(&self) -> Minute {
        self.minute
    }

    /// The leaf that the sender claims to be, for looking its key up.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`] when a key has signed.
    pub fn claimed_leaf(&self) -> Result<LeafIndex, Refusal> {
        match self.sender {
            Sender::Leaf(index) => Ok(index),
            Sender::Key(_) => Err(ProblemType::BadSignature.into()),
        }
    }

    /// The request, signed by the key that it names itself.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`], also when the sender is a leaf.
    pub fn by_its_key(&self) -> Result<Authenticated<'_, T, SignedBy>, Refusal> {
        let Sender::Key(key) = &self.sender else {
            return Err(ProblemType::BadSignature.into());
        };
        self.verify(key.as_slice())?;
        Ok(Authenticated {
            body: &self.body,
            who: SignedBy(key.as_slice().to_vec()),
        })
    }

    /// Verifies the request under the key that the roster has for the claimed leaf. `who` is the
    /// caller's knowledge of that leaf.
    ///
    /// # Errors
    /// [`ProblemType::BadSignature`].
    pub fn by_leaf<Who>(
        &self,
        signature_key: &[u8],
        who: Who,
    ) -> Result<Authenticated<'_, T, Who>, Refusal> {
        self.claimed_leaf()?;
        self.verify(signature_key)?;
        Ok(Authenticated {
            body: &self.body,
            who,
        })
    }

    fn verify(&self, key: &[u8]) -> Result<(), Refusal> {
        if self.verified_by.get().is_some_and(|by| by == key) {
            return Ok(());
        }
        sign::verify(key, REQUEST_LABEL, &self.signed_bytes, &self.signature)
            .map_err(|_| ProblemType::BadSignature)?;
        // Another key than the one before: its leaf has changed meanwhile, and each time it is
        // verified.
        let _ = self.verified_by.set(key.to_vec());
        Ok(())
    }
}

impl<T: NamesGroup> Unauthenticated<T> {
    /// The group that the request is about, and the key that opens its state. The signer's key is
    /// found by them.
    #[must_use]
    pub fn group(&self) -> &GroupKey {
        self.body.group()
    }

    /// As [`NamesGroup::next_key`].
    #[must_use]
    pub fn next_key(&self) -> Option<&WireSecret> {
        self.body.next_key()
    }

    /// As [`NamesGroup::commit`].
    #[must_use]
    pub fn commit(&self) -> Option<&[u8]> {
        self.body.commit()
    }
}

/// A request whose signer was verified. Only [`Unauthenticated`] makes one.
///
/// ```compile_fail
/// fn forge<T>(body: &T) -> ds_domain::request::Authenticated<'_, T, ()> {
///     ds_domain::request::Authenticated { body, who: () }
/// }
/// ```
#[derive(Debug)]
pub struct Authenticated<'r, T, Who> {
    body: &'r T,
    who: Who,
}

impl<T, Who> Authenticated<'_, T, Who> {
    /// The decoded body of the request.
    #[must_use]
    pub fn body(&self) -> &T {
        self.body
    }

    /// The verified signer.
    #[must_use]
    pub fn who(&self) -> &Who {
        &self.who
    }
}

impl<'r, T, Who> Authenticated<'r, T, Who> {
    /// The same request, with more knowledge of its signer.
    #[must_use]
    pub fn map<Other>(self, known: impl FnOnce(Who) -> Other) -> Authenticated<'r, T, Other> {
        Authenticated {
            body: self.body,
            who: known(self.who),
        }
    }
}

/// Who was found to ask, between the steps of one execution: the request that it was found of is
/// the one that it is put together with again.
#[derive(Debug)]
pub(crate) struct Known<Who>(Who);

impl<T, Who> Authenticated<'_, T, Who> {
    /// What is known, without the request.
    pub(crate) fn known(self) -> Known<Who> {
        Known(self.who)
    }
}

impl<T> Unauthenticated<T> {
    /// This request, of which that is known; nothing for one whose own signature was not verified.
    pub(crate) fn again<Who>(&self, Known(who): Known<Who>) -> Option<Authenticated<'_, T, Who>> {
        self.verified_by.get()?;
        Some(Authenticated {
            body: &self.body,
            who,
        })
    }
}

/// A public key whose signature over the request was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy(Vec<u8>);

impl SignedBy {
    /// The public key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0
    }
}
