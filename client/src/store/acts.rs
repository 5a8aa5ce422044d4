//! What this client does by itself, and when.

use rusqlite::Connection;

use crate::error::{Error, LocalError};
use crate::store::database::{begin, change, rows, value};

/// Something that is done by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Say to who came in from outside that one is there.
    Greet,
    /// Tell a joiner where its Welcome is.
    Pointer,
    /// Write the rows that others come back by.
    Rows,
    /// See that they are there, and the own one right, after somebody else's rotation.
    OwnRow,
    /// Replace the own leaf.
    Renew,
    /// Tell a contact the connection token.
    Token,
    /// Claim KeyPackages of a contact, so that a claim is not followed by the Add.
    Claim,
    /// Make a connection group for the stock.
    Stock,
    /// Renew the record of the handle.
    Handle,
    /// Bring a push handle for a leaf that has none.
    Extras,
    /// Fill the stock of push handles.
    Handles,
}

/// How an act is spread.
pub(crate) struct Spread {
    name: &'static str,
    /// Milliseconds, of an exponential distribution.
    mean_ms: u64,
    /// Not later than this.
    most_ms: u64,
}

pub(crate) const SECOND: u64 = 1_000;

pub(crate) const MINUTE: u64 = 60 * SECOND;

pub(crate) const HOUR: u64 = 60 * MINUTE;

impl Act {
    const ALL: [Self; 11] = [
        Self::Greet,
        Self::Pointer,
        Self::Rows,
        Self::OwnRow,
        Self::Renew,
        Self::Token,
        Self::Claim,
        Self::Stock,
        Self::Handle,
        Self::Extras,
        Self::Handles,
    ];

    /// Somebody waits for what is urgent: it is done at once, but in a slot alone.
    pub(crate) const fn spread(self) -> Spread {
        let (name, mean_ms, most_ms) = match self {
            Self::Greet => ("greet", 0, 0),
            Self::Pointer => ("pointer", 0, 0),
            Self::Rows => ("rows", 2 * MINUTE, 10 * MINUTE),
            Self::OwnRow => ("own row", 3 * HOUR, 12 * HOUR),
            Self::Renew => ("renew", 20 * MINUTE, 2 * HOUR),
            Self::Token => ("token", 0, 0),
            Self::Claim => ("claim", 2 * HOUR, 12 * HOUR),
            Self::Stock => ("stock", 3 * HOUR, 12 * HOUR),
            Self::Handle => ("handle", 3 * HOUR, 12 * HOUR),
            Self::Extras => ("extras", 20 * MINUTE, 2 * HOUR),
            Self::Handles => ("push handles", 3 * HOUR, 12 * HOUR),
        };
        Spread {
            name,
            mean_ms,
            most_ms,
        }
    }

    pub(crate) fn of(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|act| act.spread().name == name)
            .ok_or_else(|| LocalError::Damaged.into())
    }
}

/// A wait of an exponential distribution. In sixteen steps by the leading bits: what is rarer than
/// one in 65,536 is the longest.
pub(crate) fn wait(spread: &Spread) -> Result<u64, Error> {
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

/// Plans an act, in the caller's transaction, unless it is planned already. It is done a random
/// time after the next settling.
pub(crate) fn plan(db: &Connection, act: Act, about: &[u8]) -> Result<(), Error> {
    change(
        db,
        "INSERT OR IGNORE INTO acts (act, about, due_ms) VALUES (?, ?, 0)",
        (act.spread().name, about),
    )
}

/// Whether an act is planned, whatever it is about.
pub(crate) fn is_planned(db: &Connection, act: Act) -> Result<bool, Error> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM acts WHERE act = ?)")?
        .query_row([act.spread().name], |row| row.get(0))?)
}

/// How often an act is planned, of whatever it is about.
pub(crate) fn count(db: &Connection, act: Act) -> Result<u16, Error> {
    let sql = "SELECT count(*) FROM acts WHERE act = ?";
    Ok(value(db, sql, [act.spread().name])?.unwrap_or(0))
}

/// It is not done now, but at a time of its own anew.
pub(crate) fn put_off(db: &Connection, act: Act, about: &[u8]) -> Result<(), Error> {
    done(db, act, about)?;
    plan(db, act, about)
}

/// It was carried out, or there is nothing left to do.
pub(crate) fn done(db: &Connection, act: Act, about: &[u8]) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM acts WHERE act = ? AND about = ?",
        (act.spread().name, about),
    )
}

pub(crate) type About = (Act, Vec<u8>);

/// What is due, and what has to wait again.
pub(crate) struct Due {
    now: Vec<About>,
    later: Vec<About>,
}

/// Whoever was away has much to do. Of what nobody waits for one act is done: several together
/// would show whose groups they are in. It is one of those that are put off least, whichever of
/// them.
pub(crate) fn one_by_one(due: Vec<About>) -> Result<Due, Error> {
    let (now, mut later): (Vec<_>, Vec<_>) = due
        .into_iter()
        .partition(|(act, _)| act.spread().most_ms == 0);
    let mut due = Due {
        now,
        later: Vec::new(),
    };
    later.sort_by_key(|(act, _)| act.spread().mean_ms);
    let least = later.first().map(|(act, _)| act.spread().mean_ms);
    let first = later.partition_point(|(act, _)| Some(act.spread().mean_ms) == least);
    if first > 0 {
        let random = usize::from(u16::from_be_bytes(crypto::random()?));
        due.now.push(later.swap_remove(random % first));
    }
    due.later = later;
    Ok(due)
}

/// What is to be carried out now. What is planned without a time gets one.
pub(crate) fn due(db: &mut Connection, now_ms: u64) -> Result<Vec<About>, Error> {
    let transaction = begin(db)?;
    let planned = rows(
        &transaction,
        "SELECT act, about, due_ms FROM acts",
        (),
        |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, i64>(2)?,
            ))
        },
    )?;
    let mut due = Vec::new();
    for (name, about, due_ms) in planned {
        let act = Act::of(&name)?;
        // A time that no draw gives was drawn by another clock.
        let latest_ms = now_ms.saturating_add(act.spread().most_ms);
        let due_ms = match u64::try_from(due_ms).unwrap_or(0) {
            due_ms if due_ms == 0 || due_ms > latest_ms => {
                let due_ms = now_ms.saturating_add(wait(&act.spread())?);
                change(
                    &transaction,
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
    let due = one_by_one(due)?;
    for (act, about) in &due.later {
        change(
            &transaction,
            "UPDATE acts SET due_ms = ? WHERE act = ? AND about = ?",
            (
                i64::try_from(now_ms.saturating_add(wait(&act.spread())?)).unwrap_or(i64::MAX),
                act.spread().name,
                about,
            ),
        )?;
    }
    transaction.commit()?;
    Ok(due.now)
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
    fn of_what_nobody_waits_for_one_is_done_at_a_time_and_the_rest_stays() {
        let act = |act, group: u8| (act, vec![group]);
        let due = vec![
            act(Act::Renew, 1),
            act(Act::Greet, 2),
            act(Act::OwnRow, 3),
            act(Act::Pointer, 4),
            act(Act::Renew, 5),
        ];
        let Due { now, later } = one_by_one(due.clone()).unwrap();
        assert_eq!((now.len(), later.len()), (3, 2));
        assert_eq!(now[..2], [act(Act::Greet, 2), act(Act::Pointer, 4)]);
        assert!(due.iter().all(|it| now.contains(it) || later.contains(it)));
        assert_eq!(one_by_one(Vec::new()).unwrap().now, []);
    }

    #[test]
    fn every_act_is_known_by_its_name() {
        for act in Act::ALL {
            assert_eq!(Act::of(act.spread().name).unwrap(), act);
        }
    }
}
