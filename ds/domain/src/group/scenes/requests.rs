//! Requests of keys that are no leaves, and requests that come again.

use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::Minute;
use protocol::request::{REQUEST_LABEL, Sender};

use crate::engine::Engine;
use crate::execution::Failure;
use crate::group::kit::{Sent, World};
use crate::operation::Operation;
use crate::testing::{Service, same, signed};

/// A request of a key that is no leaf, with as many tokens as are needed for most.
pub(super) fn call<O: Operation>(
    world: &mut World,
    key: &SignatureKeyPair,
    body: &O::Request,
) -> Result<O::Response, Failure> {
    let (nonce, minute) = (world.nonce(), Minute::of(world.service.now_ms));
    let sender = Sender::Key(opaque(key.public()));
    let bytes = signed(O::OPERATION, minute, nonce, sender, body, |tbs| {
        key.sign(REQUEST_LABEL, tbs)
    });
    let tokens = world.service.tokens(8);
    world.sent.push(Sent {
        operation: O::OPERATION,
        now_ms: world.service.now_ms,
        bytes: bytes.clone(),
        tokens: tokens.iter().map(same).collect(),
    });
    let answer = world.service.answer::<O>(&bytes, tokens)?;
    Ok(O::Response::decode(&answer).unwrap())
}

/// A request that was sent before, on another engine: the transition that was tried, and the
/// answer.
pub(super) async fn repeat_on(
    service: &mut Service,
    engine: &dyn Engine,
    sent: &Sent,
) -> (Option<&'static str>, Result<Vec<u8>, Failure>) {
    use crate::group::create::{CreateGroup, ReserveGroupId};
    use crate::group::extras::{PutRecoveryRows, SetLeafExtras};
    use crate::{inbox, key_packages};
    let tokens = sent.tokens.iter().map(same).collect();
    service.now_ms = sent.now_ms;
    macro_rules! run {
        ($($operation:ty)+) => {
            match sent.operation {
                $(number if number == <$operation>::OPERATION => {
                    service.answer_on::<$operation>(engine, &sent.bytes, tokens).await
                })+
                other => panic!("{other:?}"),
            }
        };
    }
    run! {
        ReserveGroupId CreateGroup crate::group::message::SendMessage SetLeafExtras PutRecoveryRows
        crate::group::commit::AddUsers crate::group::commit::UpdateClient crate::group::commit::DeleteGroup
        key_packages::PublishKeyPackages key_packages::ClaimKeyPackages key_packages::DeleteKeyPackages
        inbox::RegisterHandle inbox::DeleteHandle inbox::LookupHandle inbox::RequestConnection
        inbox::ReadInbox inbox::DeleteFromInbox crate::blobs::CreateBlob
    }
}
