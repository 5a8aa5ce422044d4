//! Allowances: all that a request draws on, or none.

use ds_domain::operation::Charge;

use crate::server::Server;

/// Bytes that count as one more request.
const BYTES_A_UNIT: usize = 16 * 1024;

fn units(charge: &Charge) -> usize {
    charge.bytes.div_ceil(BYTES_A_UNIT).max(1)
}

impl Server {
    /// Draws on all of these, or on none; then says when one has enough again.
    pub(crate) fn charge(&self, charges: &[Charge]) -> Result<(), Option<u64>> {
        let now_ms = self.clock.now_unix_ms();
        let mut taken: Vec<&Charge> = Vec::new();
        for charge in charges {
            let Some(allowances) = self.allowances(charge.level) else {
                continue;
            };
            for _ in 0..units(charge) {
                if let Err(empty) = allowances.take(charge.bucket.0, now_ms) {
                    for charge in taken {
                        if let Some(allowances) = self.allowances(charge.level) {
                            allowances.give_back(charge.bucket.0);
                        }
                    }
                    return Err(empty.retry_after_ms);
                }
                taken.push(charge);
            }
        }
        Ok(())
    }

    /// A token was spent in the place of these.
    pub(crate) fn refill(&self, charges: &[Charge]) {
        for charge in charges {
            if let Some(allowances) = self.allowances(charge.level) {
                allowances.refill(charge.bucket.0);
            }
        }
    }
}
