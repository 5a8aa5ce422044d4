//! Own KeyPackages: published ahead. Contacts' KeyPackages: claimed and checked.

pub(crate) mod count;
pub(crate) mod publish;

use crypto::sign::SignatureKeyPair;
use openmls::prelude::Ciphersuite;
use protocol::ids::GroupId;
use protocol::key_packages::{ClaimKeyPackagesRequest, ClaimKeyPackagesResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::leaf;
use crate::mls::claimed::{self, ClaimedKeyPackage, check};
use crate::store::acts::{self, Act};
use crate::store::claimed_sets;
use crate::store::contacts::{self, ContactKeys};

impl Engine {
    /// KeyPackages of every client of each contact, for a group: kept ones first, the others are
    /// claimed, all or none.
    pub(crate) async fn claim(
        &mut self,
        group: &GroupId,
        contacts: &[ContactKeys],
        suite: Ciphersuite,
    ) -> Result<Vec<ClaimedKeyPackage>, Error> {
        // By the service's time, which judges them too when it takes the commit; never by this
        // machine's.
        let now_ms = self.transport.time.now_unix_ms();
        let mut key_packages = Vec::new();
        let mut missing = Vec::new();
        for contact in contacts {
            match claimed::find(&self.db, contact, suite, group, now_ms)? {
                Some(kept) => key_packages.extend(kept),
                None => missing.push(contact),
            }
        }
        // Claims of several users are requests of their own. All that are good are kept before one
        // that is not ends this.
        let mut failed = None;
        for contact in missing {
            match self.claim_one(contact, suite, now_ms).await {
                Ok(packages) => key_packages.extend(packages),
                Err(error) => {
                    let why = self.why_none(group, contact, suite, error).await;
                    failed = failed.or(Some(why));
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(key_packages),
        }
    }

    /// Why there is no KeyPackage of a contact for a group with X-Wing. The service may say that
    /// there is none to have the group made a classical one; a client of the contact says itself,
    /// in what it has signed, that it takes no X-Wing.
    async fn why_none(
        &mut self,
        group: &GroupId,
        contact: &ContactKeys,
        suite: Ciphersuite,
        error: Error,
    ) -> Error {
        if !leaf::is_post_quantum(suite) || error.problem() != Some(ProblemType::NoKeyPackages) {
            return error;
        }
        let (classical, now_ms) = (leaf::CLASSICAL_SUITE, self.transport.time.now_unix_ms());
        let packages = match claimed::find(&self.db, contact, classical, group, now_ms) {
            Ok(None) => self.claim_one(contact, classical, now_ms).await,
            kept => kept.map(Option::unwrap_or_default),
        };
        let takes =
            |package: &ClaimedKeyPackage| leaf::takes_post_quantum(package.key_package.leaf_node());
        match packages {
            Ok(packages) if !packages.iter().all(takes) => {
                UsageError::LacksPostQuantum(contact.name.clone()).into()
            }
            _ => error,
        }
    }

    /// Has a set of each contact in stock, in the usual ciphersuite: claimed at times that have
    /// nothing to do with its use.
    pub(crate) fn plan_claims(&mut self) -> Result<(), Error> {
        self.transact(|db, _| plan_claim(db))
    }

    /// Claims a set of a contact for the stock.
    pub(crate) async fn claim_ahead(&mut self, signature_key: &[u8]) -> Result<(), Error> {
        // An Add may have claimed one meanwhile that is still there.
        if !claimed_sets::missing(&self.db, leaf::CIPHERSUITE)?
            .iter()
            .any(|key| key == signature_key)
        {
            return Ok(());
        }
        let Some(name) = contacts::name_of_key(&self.db, signature_key)? else {
            return Ok(());
        };
        let contact = contacts::by_name(&self.db, &name)?;
        let now_ms = self.transport.time.now_unix_ms();
        self.claim_one(&contact, leaf::CIPHERSUITE, now_ms)
            .await
            .map(drop)
    }

    async fn claim_one(
        &mut self,
        contact: &ContactKeys,
        suite: Ciphersuite,
        now_ms: u64,
    ) -> Result<Vec<ClaimedKeyPackage>, Error> {
        let request = ClaimKeyPackagesRequest {
            pool: contact.connection_token.pool(),
            ciphersuite: u16::from(suite),
            sets: 1,
        };
        let claimed: ClaimKeyPackagesResponse = self
            .call(
                Operation::ClaimKeyPackages,
                SignatureKeyPair::random()?,
                &request,
            )
            .await?;
        let [set] = claimed.sets.as_slice() else {
            return Err(Error::Protocol("an answer to another number of claims"));
        };
        let sealed = set.as_slice();
        let packages = check(&self.db, contact, suite, sealed, now_ms)?;
        claimed::check_fresh(&self.db, &packages)?;
        claimed::keep(&self.db, contact, suite, sealed, &packages)?;
        Ok(packages)
    }
}

/// Plans the next claim for the stock, in the caller's transaction: one at a time, so that a device
/// that has just been linked or restored does not spend a token for each contact on one day. Which
/// contact is drawn: in a fixed order all of this user's devices would claim from the same pools
/// one after the other.
fn plan_claim(db: &Connection) -> Result<(), Error> {
    if acts::is_planned(db, Act::Claim)? {
        return Ok(());
    }
    let missing = claimed_sets::missing(db, leaf::CIPHERSUITE)?;
    let random = usize::from(u16::from_be_bytes(crypto::random()?));
    let drawn = random.checked_rem(missing.len());
    match drawn.and_then(|drawn| missing.get(drawn)) {
        Some(key) => acts::plan(db, Act::Claim, key),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;

    use super::*;
    use crate::mls::claimed::{open_set, seal_set};
    use crypto::schedule::PoolToken;
    use protocol::key_packages::KeyPackageSet;

    #[test]
    fn a_set_opens_with_the_token_that_it_was_published_under() {
        let token = PoolToken::new([1; 32]);
        let set = KeyPackageSet {
            key_packages: vec![opaque(vec![5; 300])],
        };
        let sealed = seal_set(&token, &set).unwrap();
        assert_eq!(open_set(&token, &sealed).unwrap(), set);
        assert!(open_set(&PoolToken::new([2; 32]), &sealed).is_err());
    }

    /// Contacts of whom no set is in stock.
    fn with_contacts(count: u8) -> Connection {
        let db = crate::store::database::in_memory().unwrap();
        for key in 0..count {
            contacts::tests::contact(&format!("contact-{key}"), key)
                .store(&db)
                .unwrap();
        }
        db
    }

    /// Whose claim is planned, and when it is due.
    fn planned(db: &Connection) -> Vec<(Vec<u8>, u64)> {
        db.prepare("SELECT about, due_ms FROM acts WHERE act = 'claim'")
            .unwrap()
            .query_map((), |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
            .unwrap()
            .map(|row| row.map(|(about, due_ms)| (about, u64::try_from(due_ms).unwrap())))
            .collect::<Result<_, _>>()
            .unwrap()
    }

    /// Lets time go on to the next claim, and says whose it is.
    fn next_claim(db: &mut Connection, now_ms: &mut u64) -> Vec<u8> {
        plan_claim(db).unwrap();
        let claims = planned(db);
        assert_eq!(claims.len(), 1, "one at a time");
        let mut due = acts::due(db, *now_ms).unwrap();
        // Looked at again and again it stays the one that it was.
        plan_claim(db).unwrap();
        assert_eq!(planned(db).len(), 1);
        if due.is_empty() {
            *now_ms = planned(db)[0].1;
            due = acts::due(db, *now_ms).unwrap();
        }
        assert_eq!(due, [(Act::Claim, claims[0].0.clone())]);
        acts::done(db, Act::Claim, &claims[0].0).unwrap();
        claims[0].0.clone()
    }

    fn put_in_stock(db: &Connection, contact: &[u8]) {
        db.execute(
            "INSERT INTO claimed_sets (signature_key, ciphersuite, sealed, leaf_key)
             VALUES (?, ?, x'', x'')",
            (contact, u16::from(leaf::CIPHERSUITE)),
        )
        .unwrap();
    }

    #[test]
    fn of_many_contacts_without_a_set_in_stock_one_is_claimed_after_the_other_a_dozen_a_day() {
        const ROUNDS: u8 = 25;
        let mut orders = std::collections::BTreeSet::new();
        let mut now_ms = 1_800_000_000_000;
        let begin_ms = now_ms;
        for _ in 0..ROUNDS {
            let mut db = with_contacts(40);
            let mut order = Vec::new();
            for _ in 0..40 {
                let contact = next_claim(&mut db, &mut now_ms);
                put_in_stock(&db, &contact);
                order.push(contact);
            }
            plan_claim(&db).unwrap();
            assert_eq!(planned(&db), [], "each has one");
            let sorted: std::collections::BTreeSet<_> = order.iter().cloned().collect();
            assert_eq!(sorted.len(), 40, "nobody's is claimed twice");
            orders.insert(order);
        }
        assert_eq!(orders.len(), usize::from(ROUNDS), "in any order");
        let days = (now_ms - begin_ms) / (protocol::time::DAY_MS / 100);
        let a_day = u64::from(ROUNDS) * 40 * 100 * 100 / days;
        // As docs/prices.md says it; in hundredths, within five standard deviations.
        let row = include_str!("../../../../docs/prices.md")
            .lines()
            .find_map(|line| line.strip_prefix("| claim for a stock that is empty, in a day | "));
        let (stated, _) = row.unwrap().split_once(' ').unwrap();
        let stated: u64 = stated.parse().unwrap();
        assert!((stated * 85..stated * 117).contains(&a_day), "{a_day}");
    }

    #[test]
    fn a_claim_that_was_refused_leaves_the_next_one_to_be_drawn_among_all() {
        let mut db = with_contacts(2);
        let mut now_ms = 1_800_000_000_000;
        let claimed: std::collections::BTreeSet<_> =
            (0..40).map(|_| next_claim(&mut db, &mut now_ms)).collect();
        assert_eq!(claimed.len(), 2);
    }
}
