//! How often an operation is redone when others were faster.

use crate::error::Error;

/// How often an operation is redone when others were faster.
pub(crate) const ROUNDS: u32 = 12;

/// Waits a little before the next round, longer each time and never the same for two clients.
pub(crate) async fn pause(round: u32) -> Result<(), Error> {
    let [jitter] = crypto::random::<1>()?;
    let most = 20u64.saturating_mul(1 << round.min(6));
    crate::runtime::sleep(std::time::Duration::from_millis(
        most.saturating_mul(u64::from(jitter)) / 255,
    ))
    .await;
    Ok(())
}
