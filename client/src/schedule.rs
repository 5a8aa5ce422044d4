//! When this client does what it does by itself, where it concerns several groups: each at a time of its own, so that what
//! it does together is not known to be one client's by its time. What the user does is never put off.

use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::database::begin;
use crate::error::{Error, LocalError};
use crate::{Client, refusals_can_wait};

/// Something that is done by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Say to who came in from outside that one is there.
    Greet,
    /// Tell a joiner where its Welcome is.
    Pointer,
    /// Write the rows that others come back by.
    Rows,
    /// See that the own one is there, after somebody else's rotation.
    OwnRow,
    /// Replace the own leaf.
    Renew,
    /// Tell a contact the connection token.
    Token,
    /// Claim KeyPackages of a contact, so that a claim is not followed by the Add.
    Claim,
    /// Make a connection group for the stock.
    Stock,
}

/// How an act is spread.
struct Spread {
    name: &'static str,
    /// Milliseconds, of an exponential distribution.
    mean_ms: u64,
    /// Not later than this.
    most_ms: u64,
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl Act {
    const ALL: [Self; 8] = [
        Self::Greet,
        Self::Pointer,
        Self::Rows,
        Self::OwnRow,
        Self::Renew,
        Self::Token,
        Self::Claim,
        Self::Stock,
    ];

    /// Somebody waits for what is urgent: it is done at once, but not in the same moment as others.
    const fn spread(self) -> Spread {
        let (name, mean_ms, most_ms) = match self {
            Self::Greet => ("greet", 0, 0),
            Self::Pointer => ("pointer", 0, 0),
            Self::Rows => ("rows", 2 * MINUTE, 10 * MINUTE),
            Self::OwnRow => ("own row", 3 * HOUR, 12 * HOUR),
            Self::Renew => ("renew", 20 * MINUTE, 2 * HOUR),
            Self::Token => ("token", 0, 0),
            Self::Claim => ("claim", 2 * HOUR, 12 * HOUR),
            Self::Stock => ("stock", 3 * HOUR, 12 * HOUR),
        };
        Spread {
            name,
            mean_ms,
            most_ms,
        }
    }

    fn of(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|act| act.spread().name == name)
            .ok_or_else(|| LocalError::Damaged.into())
    }
}

/// A wait of an exponential distribution. In sixteen steps by the leading bits: what is rarer than one in 65,536 is the
/// longest.
fn wait(spread: &Spread) -> Result<u64, Error> {
    let random = u32::from(u16::from_be_bytes(crypto::random()?)).saturating_add(1);
    let waited = -(f64::from(random) / 65_536.0).ln();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let waited_ms = (waited * spread.mean_ms as f64) as u64;
    Ok(waited_ms.min(spread.most_ms))
}

/// Plans an act, in the caller's transaction, unless it is planned already. It is done a random time after the next
/// settling.
pub(crate) fn plan(db: &Connection, act: Act, about: &[u8]) -> Result<(), Error> {
    db.execute(
        "INSERT OR IGNORE INTO acts (act, about, due_ms) VALUES (?, ?, 0)",
        (act.spread().name, about),
    )?;
    Ok(())
}

impl Client {
    /// Does what is due; what is new gets its time.
    pub(crate) async fn act(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let due = self.due_acts(now_ms)?;
        for (act, about) in due {
            let done = self.carry_out(act, &about).await;
            if matches!(done, Err(Error::Unreachable(_))) {
                return done;
            }
            refusals_can_wait(done)?;
            self.db.execute(
                "DELETE FROM acts WHERE act = ? AND about = ?",
                (act.spread().name, about),
            )?;
        }
        Ok(())
    }

    fn due_acts(&mut self, now_ms: u64) -> Result<Vec<(Act, Vec<u8>)>, Error> {
        let transaction = begin(&mut self.db)?;
        let planned = {
            let mut statement = transaction.prepare("SELECT act, about, due_ms FROM acts")?;
            let rows = statement.query_map((), |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            })?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        let mut due = Vec::new();
        for (name, about, due_ms) in planned {
            let act = Act::of(&name)?;
            let due_ms = match u64::try_from(due_ms).unwrap_or(0) {
                0 => {
                    let due_ms = now_ms.saturating_add(wait(&act.spread())?);
                    transaction.execute(
                        "UPDATE acts SET due_ms = ? WHERE act = ? AND about = ?",
                        (i64::try_from(due_ms).unwrap_or(i64::MAX), &name, &about),
                    )?;
                    due_ms
                }
                known => known,
            };
            if due_ms <= now_ms {
                due.push((act, about));
            }
        }
        transaction.commit()?;
        Ok(due)
    }

    async fn carry_out(&mut self, act: Act, about: &[u8]) -> Result<(), Error> {
        let group = || -> Result<GroupId, Error> {
            let id = about.try_into().map_err(|_| LocalError::Damaged)?;
            Ok(GroupId(id))
        };
        match act {
            Act::Greet => self.say_hello(&group()?).await,
            Act::Pointer => self.tell_pointers(&group()?).await,
            Act::Rows => self.write_rows(&group()?).await,
            Act::OwnRow => self.mend_own_row(&group()?).await,
            Act::Renew => self.update_leaf(&group()?).await,
            Act::Token => self.settle_tokens().await,
            Act::Claim => self.claim_ahead(about).await,
            Act::Stock => self.fill_stock().await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_longer_than_its_most_and_on_average_about_its_mean() {
        let spread = Act::Rows.spread();
        let waits: Vec<u64> = (0..2_000).map(|_| wait(&spread).unwrap()).collect();
        assert!(waits.iter().all(|waited| *waited <= spread.most_ms));
        let mean = waits.iter().sum::<u64>() / 2_000;
        assert!(
            (spread.mean_ms / 2..spread.mean_ms * 2).contains(&mean),
            "{mean}"
        );
    }

    #[test]
    fn every_act_is_known_by_its_name() {
        for act in Act::ALL {
            assert_eq!(Act::of(act.spread().name).unwrap(), act);
        }
    }
}
