//! The service's public directory (`GET /v1/directory`): JSON, the same for everybody.

use serde::{Deserialize, Serialize};

use crate::operation::Operation;

/// The public directory: everything that a client must know of the service before its first
/// request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Domain that qualifies pseudonyms.
    pub domain: String,
    /// Wire versions that are taken.
    pub wire_versions: Vec<u16>,
    /// MLS ciphersuites that are taken.
    pub ciphersuites: Vec<u16>,
    /// base64url of the service's MLS external sender signature key (Ed25519).
    pub external_sender_key: String,
    /// The same for groups whose ciphersuite signs with P-256 (an uncompressed point).
    #[serde(default)]
    pub external_sender_key_p256: String,
    /// base64url of the keys of both kinds before the last rotations, under which groups may still
    /// list the service.
    #[serde(default)]
    pub former_external_sender_keys: Vec<String>,
    /// base64url of the Ed25519 key that the service signs the ends of journals with.
    pub journal_signing_key: String,
    /// Where tokens come from and which keys are accepted.
    pub issuer: AcceptedIssuer,
    /// Tokens that an operation costs.
    pub prices: Prices,
    /// The allowances that requests without a price draw on.
    #[serde(default)]
    pub allowances: Option<AllowanceList>,
    /// Timestamps must be this close to the service's clock, milliseconds.
    pub clock_window_ms: u64,
    /// Largest request body, bytes.
    pub max_request_bytes: usize,
    /// The store that the service serves from.
    pub store: StoreState,
}

/// What may be done without a token, by all nodes of the service together: buckets that tokens
/// refill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowanceList {
    /// Of each leaf in its group.
    pub leaf: Allowance,
    /// Of each group, all its leaves together.
    pub group: Allowance,
    /// Of the readers of each segment.
    pub segment: Allowance,
    /// Of the owner of each pool or inbox.
    pub owner: Allowance,
}

/// Tokens that an operation costs; 0 is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Tokens for a `ReserveGroupId`.
    pub reserve_group_id: u8,
    /// Tokens for a `PublishKeyPackages` of up to as many sets as the price is good for.
    pub publish_key_packages: u8,
    /// Sets that one price of `PublishKeyPackages` is good for; 0 for any number.
    #[serde(default)]
    pub key_package_sets_per_token: u16,
    /// `ClaimKeyPackages`, for each set.
    pub claim_key_package: u8,
    /// Tokens for a `RegisterHandle`.
    pub register_handle: u8,
    /// Tokens for a `LookupHandle`.
    pub lookup_handle: u8,
    /// Tokens for a `RequestConnection` to an inbox that is less than a quarter full.
    pub request_connection: u8,
    /// Tokens for an `ExternalJoin`.
    pub external_join: u8,
    /// Tokens for a `CreateBlob`.
    pub create_blob: u8,
}

impl Prices {
    /// Tokens that a request costs, 0 for one that is free or paid by an allowance. `units` is how
    /// many sets it claims or publishes.
    #[must_use]
    pub fn of(&self, operation: Operation, units: usize) -> usize {
        let times = |price: u8, times: usize| usize::from(price).saturating_mul(times);
        match operation {
            Operation::ReserveGroupId => times(self.reserve_group_id, 1),
            Operation::PublishKeyPackages => {
                let sets = usize::from(self.key_package_sets_per_token);
                let prices = units.checked_div(sets).map_or(1, |_| units.div_ceil(sets));
                times(self.publish_key_packages, prices.max(1))
            }
            Operation::ClaimKeyPackages => times(self.claim_key_package, units),
            Operation::RegisterHandle => times(self.register_handle, 1),
            Operation::LookupHandle => times(self.lookup_handle, 1),
            Operation::RequestConnection => times(self.request_connection, 1),
            Operation::ExternalJoin => times(self.external_join, 1),
            Operation::CreateBlob => times(self.create_blob, 1),
            _ => 0,
        }
    }
}

/// The issuer that the service accepts tokens of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedIssuer {
    /// RFC 9577 issuer name.
    pub name: String,
    /// base64url of the TokenChallenge that tokens must answer.
    pub challenge: String,
    /// base64url of the SHA-256 of each accepted token key (SPKI): compare with the issuer's own
    /// directory.
    pub token_key_ids: Vec<String>,
    /// From when each of these keys is in use, Unix seconds, in the same order. Clients choose
    /// their key by these times, not by the issuer's own: it could tell everybody other ones, and
    /// so sort users by their key.
    #[serde(default)]
    pub token_keys_not_before_s: Vec<u64>,
}

/// A token bucket: its size and its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Requests that a full one pays for.
    pub capacity: u32,
    /// Requests a minute that flow back.
    pub refill_per_minute: u32,
}

/// Names the store that a service has, and the time when it was last restored. Clients still have
/// what the store lost then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    /// base64url of 16 random bytes, drawn when the store was made.
    pub id: String,
    /// Higher after each time that the operator said that it was restored from a backup: the time
    /// of that, in Unix seconds; 0: never.
    pub generation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(key_package_sets_per_token: u16) -> Prices {
        Prices {
            reserve_group_id: 1,
            publish_key_packages: 2,
            key_package_sets_per_token,
            claim_key_package: 3,
            register_handle: 0,
            lookup_handle: 1,
            request_connection: 1,
            external_join: 1,
            create_blob: 1,
        }
    }

    #[test]
    fn what_is_sold_by_number_costs_by_number() {
        let price = |sets: u16, units| prices(sets).of(Operation::PublishKeyPackages, units);
        assert_eq!(
            [price(64, 1), price(64, 64), price(64, 65), price(64, 256)],
            [2, 2, 4, 8]
        );
        assert_eq!([price(0, 1), price(0, 256), price(64, 0)], [2, 2, 2]);
        assert_eq!(prices(64).of(Operation::ClaimKeyPackages, 5), 15);
        assert_eq!(prices(64).of(Operation::RegisterHandle, 9), 0);
        assert_eq!(prices(64).of(Operation::SendMessage, 9), 0);
    }
}
