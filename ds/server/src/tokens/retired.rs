//! Spent-sets of issuer keys that are no longer accepted.

use std::collections::BTreeMap;

use ds_domain::engine::{
    ApplyError, Batch, Condition, Engine, EngineError, Found, Range, Read, Table,
};
use ds_domain::rows::retired_issuer_key;
use ds_domain::store::closed_issuer_key;

use crate::server::Server;

/// A key that has been gone from the issuer's directory for so long is not coming back. If it does,
/// nothing can be spent under it: its tokens could be spent a second time.
const MARGIN_MS: u64 = 2 * 24 * 60 * 60 * 1000;

type KeyId = [u8; 32];

/// Drops the spent-sets of keys that have been gone for the margin. Since when a key is gone is in
/// the store: a service that restarts every day drops them too, and so does whichever node looks
/// first.
///
/// # Errors
/// [`EngineError`].
pub async fn drop_expired(server: &Server) -> Result<(), EngineError> {
    let now_ms = server.clock.now_unix_ms();
    let accepted = server.issuer_keys();
    let engine = &*server.engine;
    let noted = noted(engine).await?;
    for key in with_spent_set(engine).await? {
        let since_ms = noted.get(&key).and_then(|noted| noted.since_ms);
        if accepted.ids().any(|id| *id == key) {
            if since_ms.is_some() {
                readmit(engine, &key).await?;
            }
            continue;
        }
        match since_ms {
            None => retire(engine, &key, now_ms).await?,
            Some(since_ms) if now_ms.saturating_sub(since_ms) >= MARGIN_MS => {
                drop_spent(engine, &key).await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The issuer keys whose spent-set was dropped: a directory that lists one again is wrong.
///
/// # Errors
/// [`EngineError`].
pub async fn closed(engine: &dyn Engine) -> Result<Vec<KeyId>, EngineError> {
    let noted = noted(engine).await?;
    let closed = noted.into_iter().filter(|(_, noted)| noted.closed);
    Ok(closed.map(|(id, _)| id).collect())
}

/// What the store says of an issuer key that is gone.
#[derive(Default)]
struct Noted {
    since_ms: Option<u64>,
    closed: bool,
}

/// Rows that are read at once.
const AT_ONCE: usize = 256;

async fn rows(
    engine: &dyn Engine,
    table: Table,
    from: Vec<u8>,
    limit: usize,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, EngineError> {
    let range = Range {
        table,
        day: 0,
        prefix: Vec::new(),
        from,
        limit,
        max_bytes: usize::MAX,
    };
    match engine.read(vec![Read::Range(range)]).await?.pop() {
        Some(Found::Range(rows)) => Ok(rows),
        _ => Err(EngineError("a range was not answered".to_owned())),
    }
}

async fn noted(engine: &dyn Engine) -> Result<BTreeMap<KeyId, Noted>, EngineError> {
    let malformed = || EngineError("a row of a retired issuer key is malformed".to_owned());
    let mut noted: BTreeMap<KeyId, Noted> = BTreeMap::new();
    let mut from = Vec::new();
    loop {
        let found = rows(engine, Table::RetiredIssuerKeys, from, AT_ONCE).await?;
        let Some((last, _)) = found.last() else {
            return Ok(noted);
        };
        from = [last.as_slice(), &[0]].concat();
        for (name, value) in found {
            let (id, rest) = name.split_first_chunk().ok_or_else(malformed)?;
            let key = noted.entry(*id).or_default();
            if rest.is_empty() {
                let since = value.try_into().map_err(|_| malformed())?;
                key.since_ms = Some(u64::from_be_bytes(since));
            } else {
                key.closed = true;
            }
        }
    }
}

/// The issuer keys that have a spent-set: from each to the next one, without what is between.
async fn with_spent_set(engine: &dyn Engine) -> Result<Vec<KeyId>, EngineError> {
    let mut keys = Vec::new();
    let mut from = Vec::new();
    loop {
        let Some((name, _)) = rows(engine, Table::Spent, from, 1).await?.pop() else {
            return Ok(keys);
        };
        let id: &KeyId = name
            .first_chunk()
            .ok_or_else(|| EngineError("a row of a spent token is malformed".to_owned()))?;
        keys.push(*id);
        match after(id) {
            Some(next) => from = next.to_vec(),
            None => return Ok(keys),
        }
    }
}

fn after(id: &KeyId) -> Option<KeyId> {
    let mut next = *id;
    for byte in next.iter_mut().rev() {
        let (sum, carries) = byte.overflowing_add(1);
        *byte = sum;
        if !carries {
            return Some(next);
        }
    }
    None
}

/// Applies a change that another node may have made meanwhile.
async fn apply(engine: &dyn Engine, batch: Batch) -> Result<(), EngineError> {
    match engine.apply(batch).await {
        Ok(()) | Err(ApplyError::Condition { .. }) => Ok(()),
        Err(ApplyError::Engine(error)) => Err(error),
    }
}

/// Notes since when a key is gone; an earlier note stays, so that restarts and other nodes do not
/// begin anew.
async fn retire(engine: &dyn Engine, id: &KeyId, since_ms: u64) -> Result<(), EngineError> {
    let key = retired_issuer_key(id);
    let batch = Batch {
        conditions: vec![Condition::Absent(key.clone())],
        puts: vec![(key, since_ms.to_be_bytes().to_vec())],
        ..Batch::default()
    };
    apply(engine, batch).await
}

/// Forgets that note: the key is back. A closed key stays closed.
async fn readmit(engine: &dyn Engine, id: &KeyId) -> Result<(), EngineError> {
    let batch = Batch {
        conditions: vec![Condition::Absent(closed_issuer_key(id))],
        deletes: vec![retired_issuer_key(id)],
        ..Batch::default()
    };
    apply(engine, batch).await
}

/// Invariant: no token is spent twice, also not under a key that comes back. Closes an issuer key
/// for good, durably, then drops its spent-set: what spends a token has the condition that its key
/// is not closed. After a crash in between the key is closed and the rest of its set is there.
async fn drop_spent(engine: &dyn Engine, id: &KeyId) -> Result<(), EngineError> {
    let batch = Batch {
        puts: vec![(closed_issuer_key(id), Vec::new())],
        ..Batch::default()
    };
    apply(engine, batch).await?;
    engine.drop_prefix(Table::Spent, id.to_vec()).await
}
