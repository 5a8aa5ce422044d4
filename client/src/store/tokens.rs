//! Tokens, and what was paid for.

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::error::Error;
use crate::filling::Schedule;
use crate::issuance::Token;
use crate::store::batches::Batch;
use crate::store::database::{begin, change, rows, value};

/// Where in a token its challenge digest and its key id begin.
pub(crate) const CHALLENGE_DIGEST: usize = 2 + 32;

pub(crate) const KEY_ID: usize = CHALLENGE_DIGEST + 32;

/// What makes a token one that the service takes: the challenge of this client's own making, and a
/// key that everybody is told.
#[derive(Debug)]
pub(crate) struct Good {
    pub(crate) challenge_digest: [u8; 32],
    pub(crate) keys: BTreeSet<Vec<u8>>,
}

/// Rows and tokens that are not in use and good, the oldest first.
pub(crate) fn good(db: &Connection, good: &Good) -> Result<Vec<(i64, Token)>, Error> {
    let mut statement =
        db.prepare_cached("SELECT id, token FROM tokens WHERE in_use = 0 ORDER BY id")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get::<_, Token>(1)?)))?;
    let mut found = rows.collect::<Result<Vec<_>, _>>()?;
    found.retain(|(_, token)| good.covers(token));
    Ok(found)
}

impl Good {
    pub(crate) fn covers(&self, token: &[u8]) -> bool {
        let field = |at: usize| token.get(at..at + 32).unwrap_or_default();
        field(CHALLENGE_DIGEST) == self.challenge_digest && self.keys.contains(field(KEY_ID))
    }
}

/// How many are good and of this key; all that are good without one.
pub(crate) fn of_key(db: &Connection, held: &Good, key: Option<&[u8]>) -> Result<usize, Error> {
    let all = good(db, held)?;
    let Some(key) = key else {
        return Ok(all.len());
    };
    let of_key = |(_, token): &&(i64, Token)| token.get(KEY_ID..KEY_ID + 32) == Some(key);
    Ok(all.iter().filter(of_key).count())
}

/// Keeps tokens, all of them or none, and no longer the batch that they are of.
pub(crate) fn store(db: &mut Connection, tokens: &[Token]) -> Result<(), Error> {
    let transaction = begin(db)?;
    for token in tokens {
        change(
            &transaction,
            "INSERT OR IGNORE INTO tokens (token) VALUES (?)",
            [token],
        )?;
    }
    Batch::forget(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Marks tokens as in use *before* they are sent: whatever happens, none goes out a second time
/// with another request. `None` if there are not so many.
pub(crate) fn reserve(
    db: &mut Connection,
    held: &Good,
    count: usize,
    now_ms: u64,
) -> Result<Option<Vec<Token>>, Error> {
    let transaction = begin(db)?;
    let mut rows = good(&transaction, held)?;
    if rows.len() < count {
        return Ok(None);
    }
    rows.truncate(count);
    for (id, _) in &rows {
        change(
            &transaction,
            "UPDATE tokens SET in_use = 1 WHERE id = ?",
            [id],
        )?;
    }
    let spent = i64::try_from(now_ms).unwrap_or(i64::MAX);
    change(
        &transaction,
        "UPDATE profile SET last_spent_ms = ?",
        [spent],
    )?;
    transaction.commit()?;
    Ok(Some(rows.into_iter().map(|(_, token)| token).collect()))
}

/// Forgets tokens that were presented: spent or not, another use would link two requests.
pub(crate) fn discard(db: &Connection, tokens: &[Token]) -> Result<(), Error> {
    for token in tokens {
        change(db, "DELETE FROM tokens WHERE token = ?", [token])?;
    }
    Ok(())
}

/// Forgets tokens whose request was cut off by the end of the process. A kept request, which will
/// present its tokens again, has them with it.
pub(crate) fn discard_doubtful(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM tokens WHERE in_use = 1", ())
}

/// Forgets unspent tokens that will never be good again: for another challenge than the configured
/// one, or of a key that neither the issuer nor the service shows any more. Whoever lies about one
/// of them costs no token.
pub(crate) fn discard_expired(db: &Connection, ever: &Good) -> Result<(), Error> {
    let held = rows(
        db,
        "SELECT id, token FROM tokens WHERE in_use = 0",
        (),
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Token>(1)?)),
    )?;
    for (id, token) in held {
        if !ever.covers(&token) {
            change(db, "DELETE FROM tokens WHERE id = ?", [id])?;
        }
    }
    Ok(())
}

/// A service that refuses what was paid, or says that an allowance is used up, has a client pay so
/// many tokens a day, and no more: it would else choose when the client's account gets new ones.
pub(crate) const MOST_FOR_REFUSALS: usize = 64;

/// Tokens that refusals have cost on a day.
pub(crate) fn paid_for_refusals(db: &Connection, day: u32) -> Result<usize, Error> {
    let paid: Option<i64> = value(
        db,
        "SELECT tokens FROM paid_for_refusals WHERE day = ?",
        [day],
    )?;
    Ok(usize::try_from(paid.unwrap_or(0)).unwrap_or(0))
}

pub(crate) fn pay_for_refusal(db: &Connection, day: u32, count: usize) -> Result<(), Error> {
    change(db, "DELETE FROM paid_for_refusals WHERE day != ?", [day])?;
    change(
        db,
        "INSERT INTO paid_for_refusals (day, tokens) VALUES (?1, ?2)
         ON CONFLICT (day) DO UPDATE SET tokens = tokens + ?2",
        (day, i64::try_from(count).unwrap_or(i64::MAX)),
    )
}

/// Brings the next filling forward if hardly any token is left.
pub(crate) fn hasten(db: &Connection, now_ms: u64) -> Result<(), Error> {
    let schedule = Schedule::read(db)?;
    let hastened = schedule.hastened(now_ms)?;
    if hastened != schedule {
        hastened.write(db)?;
    }
    Ok(())
}

impl Schedule {
    pub(crate) fn read(db: &Connection) -> Result<Self, Error> {
        let row = "SELECT next_top_up_ms, top_up_put_off, top_up_hastened FROM profile";
        Ok(db.prepare_cached(row)?.query_row((), |row| {
            let next: i64 = row.get(0)?;
            Ok(Self {
                next_ms: u64::try_from(next).unwrap_or(0),
                put_off: row.get(1)?,
                hastened: row.get(2)?,
            })
        })?)
    }

    /// When a token was spent last.
    pub(crate) fn last_spent_ms(db: &Connection) -> Result<u64, Error> {
        let spent: i64 = db
            .prepare_cached("SELECT last_spent_ms FROM profile")?
            .query_row((), |row| row.get(0))?;
        Ok(u64::try_from(spent).unwrap_or(0))
    }

    pub(crate) fn write(self, db: &Connection) -> Result<(), Error> {
        let next = i64::try_from(self.next_ms).unwrap_or(i64::MAX);
        change(
            db,
            "UPDATE profile SET next_top_up_ms = ?, top_up_put_off = ?, top_up_hastened = ?",
            (next, self.put_off, self.hastened),
        )
    }
}
