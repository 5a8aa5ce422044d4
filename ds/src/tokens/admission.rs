//! From `Authorization` fields to tokens that may pay: in the order of what each step costs.
//!
//! Nobody has proved anything yet, so what a request can make us do is bounded by what it can pay: of
//! the tokens that it brings, only as many are looked at as its operation may cost. Of those, a
//! read tells the spent ones before any signature is verified; an honest request needs that read
//! anyway.

use std::collections::BTreeSet;

use http::{HeaderMap, header};
use protocol::directory::Prices;
use protocol::key_packages::{
    ClaimKeyPackagesRequest, MAX_CLAIMS, MAX_SETS, PublishKeyPackagesRequest,
};
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};

use ds_domain::tokens::authorization;

use super::{IdentifiedToken, TokenError, VerifiedToken, count_refused};
use crate::error::DsError;
use crate::service_state::DeliveryService;
use crate::store::Spend;

/// Tokens that could pay for a request: of keys that are accepted, for this service, none of them twice. Whether
/// the issuer has signed them is not known, nor whether they are spent.
pub struct Offered(Vec<IdentifiedToken>);

impl Offered {
    /// Reads what the request brings.
    ///
    /// # Errors
    /// [`ProblemType::TokenRejected`].
    pub fn read(
        service: &DeliveryService,
        operation: Operation,
        body: &[u8],
        headers: &HeaderMap,
    ) -> Result<Self, DsError> {
        let presented =
            authorization::parse(headers.get_all(header::AUTHORIZATION)).map_err(|_| {
                count_refused("malformed");
                ProblemType::TokenRejected
            })?;
        let useful = match presented.len() {
            0 => 0,
            _ => most_useful(&service.settings.prices, operation, body),
        };
        let (keys, challenge) = (service.issuer_keys(), &service.settings.challenge);
        let mut seen = BTreeSet::new();
        presented
            .into_iter()
            .take(useful)
            .map(|token| {
                let token = keys.identify(token, challenge)?;
                if seen.insert(*token.nonce_digest()) {
                    Ok(token)
                } else {
                    Err(TokenError::PresentedTwice)
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(refused)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is spent.
    ///
    /// # Errors
    /// [`DsError::Storage`].
    pub async fn is_spent(&self, service: &DeliveryService) -> Result<bool, DsError> {
        let spend = |token: &IdentifiedToken| Spend {
            issuer_key_id: *token.issuer_key_id(),
            row: service.rows().spent(token.nonce_digest()),
        };
        let spends: Vec<Spend> = self.0.iter().map(spend).collect();
        Ok(!spends.is_empty() && service.store.is_spent(spends).await?)
    }

    /// Verifies the issuer's signatures.
    ///
    /// # Errors
    /// [`ProblemType::TokenRejected`].
    pub fn verify(self, service: &DeliveryService) -> Result<Vec<VerifiedToken>, DsError> {
        let keys = service.issuer_keys();
        self.0
            .into_iter()
            .map(|token| keys.verify(token))
            .collect::<Result<_, _>>()
            .map_err(refused)
    }
}

fn refused(error: TokenError) -> DsError {
    count_refused(error.reason());
    ProblemType::TokenRejected.into()
}

/// How many tokens a request could spend: its price, or one where an allowance pays.
fn most_useful(prices: &Prices, operation: Operation, body: &[u8]) -> usize {
    match operation {
        Operation::PublishKeyPackages => {
            let sets = PublishKeyPackagesRequest::decode(body).map_or(0, |body| body.sets.len());
            prices.of(operation, sets.min(MAX_SETS))
        }
        Operation::ClaimKeyPackages => {
            let claims = ClaimKeyPackagesRequest::decode(body).map_or(0, |body| body.claims.len());
            prices.of(operation, claims.min(MAX_CLAIMS))
        }
        Operation::Propose => usize::from(prices.external_join),
        Operation::ReserveGroupId
        | Operation::RegisterHandle
        | Operation::LookupHandle
        | Operation::RequestConnection
        | Operation::CreateQueue
        | Operation::ExternalJoin => prices.of(operation, 1),
        // An allowance may be used up.
        Operation::AddUsers
        | Operation::RemoveUsers
        | Operation::UpdateClient
        | Operation::AddClients
        | Operation::RemoveClients
        | Operation::SetRole
        | Operation::DeleteGroup
        | Operation::ReInitializeGroup
        | Operation::SendMessage
        | Operation::SelfRemove
        | Operation::SetRecoverySecret
        | Operation::SetJoinCode
        | Operation::UpdateQueueReference
        | Operation::InspectGroup
        | Operation::FetchQueue => 1,
        // These are free.
        Operation::CreateGroup
        | Operation::JoinRecord
        | Operation::RecoveryRecord
        | Operation::ExternalCommitInfo
        | Operation::OwnLeaf
        | Operation::CountKeyPackages
        | Operation::DeleteKeyPackages
        | Operation::DeleteHandle
        | Operation::AcknowledgeQueue
        | Operation::DeleteQueue
        | Operation::BlockGroup => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operation_has_more_tokens_looked_at_than_it_may_cost() {
        let prices = Prices {
            reserve_group_id: 2,
            publish_key_packages: 3,
            key_package_sets_per_token: 1,
            claim_key_package: 4,
            register_handle: 5,
            lookup_handle: 6,
            request_connection: 7,
            create_queue: 8,
            external_join: 9,
        };
        let useful = |operation| most_useful(&prices, operation, b"no body");
        for operation in Operation::ALL {
            let price = prices.of(*operation, 0);
            assert!(useful(*operation) >= price, "{operation:?}");
            if price > 0 {
                assert_eq!(useful(*operation), price, "{operation:?}");
            }
        }
        let others = [
            Operation::Propose,
            Operation::SendMessage,
            Operation::JoinRecord,
        ];
        assert_eq!(others.map(useful), [9, 1, 0]);
        assert_eq!(useful(Operation::ClaimKeyPackages), 0);
    }
}
