//! The secrets by which messages of a group are opened, in pieces.
//!
//! The library writes them whole with each message: those of the past epochs first, with a list of
//! their members, which in a group of a hundred are a quarter of a megabyte; then those of the
//! present one, of which a message changes some ten bytes. Only pieces that differ are written.

use rusqlite::Connection;
use zeroize::Zeroizing;

/// One fits into a page of the database with what stands beside it.
const PIECE: usize = 3_900;

/// Keeps secrets in the place of those that were there, in the caller's transaction.
pub(super) fn write(db: &Connection, group: &[u8], secrets: &[u8]) -> rusqlite::Result<()> {
    let mut pieces = (0_i64..).zip(secrets.chunks(PIECE));
    let mut changed = Vec::new();
    let mut is_longer = false;
    {
        let mut stored = db.prepare_cached(
            "SELECT number, piece FROM mls_secret_pieces WHERE group_id = ? ORDER BY number",
        )?;
        let mut stored = stored.query([group])?;
        while let Some(row) = stored.next()? {
            match pieces.next() {
                Some((number, piece)) => {
                    let is_same = row.get::<_, i64>(0)? == number
                        && row.get_ref(1)?.as_blob().is_ok_and(|known| known == piece);
                    if !is_same {
                        changed.push((number, piece));
                    }
                }
                None => is_longer = true,
            }
        }
    }
    changed.extend(pieces);
    for (number, piece) in changed {
        db.prepare_cached(
            "INSERT INTO mls_secret_pieces (group_id, number, piece) VALUES (?, ?, ?)
             ON CONFLICT (group_id, number) DO UPDATE SET piece = excluded.piece",
        )?
        .execute((group, number, piece))?;
    }
    if is_longer {
        let count = i64::try_from(secrets.chunks(PIECE).len()).unwrap_or(i64::MAX);
        db.prepare_cached("DELETE FROM mls_secret_pieces WHERE group_id = ? AND number >= ?")?
            .execute((group, count))?;
    }
    Ok(())
}

/// What is kept of a group.
pub(super) fn read(db: &Connection, group: &[u8]) -> rusqlite::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut stored = db
        .prepare_cached("SELECT piece FROM mls_secret_pieces WHERE group_id = ? ORDER BY number")?;
    let mut stored = stored.query([group])?;
    let mut secrets = Zeroizing::new(Vec::new());
    while let Some(row) = stored.next()? {
        secrets.extend_from_slice(row.get_ref(0)?.as_blob()?);
    }
    Ok((!secrets.is_empty()).then_some(secrets))
}

pub(super) fn delete(db: &Connection, group: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM mls_secret_pieces WHERE group_id = ?")?
        .execute([group])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::database::in_memory;

    fn kept(db: &Connection) -> Vec<u8> {
        read(db, b"group").unwrap().unwrap().to_vec()
    }

    #[test]
    fn what_is_kept_is_what_was_written_last_whatever_was_there_before() {
        let db = in_memory().unwrap();
        assert!(read(&db, b"group").unwrap().is_none());
        let long: Vec<u8> = (0..=250).cycle().take(5 * PIECE).collect();
        let shifted = [&[1], &long[..]].concat();
        let mut altered = long.clone();
        altered[2 * PIECE + 7] ^= 1;
        for secrets in [
            &long[..],
            &altered,
            &long[..2 * PIECE],
            &long[..PIECE - 1],
            &shifted,
            &long[1..],
            &long[..1],
        ] {
            write(&db, b"group", secrets).unwrap();
            assert_eq!(kept(&db), secrets);
        }
        write(&db, b"other", &long).unwrap();
        delete(&db, b"group").unwrap();
        assert!(read(&db, b"group").unwrap().is_none());
        assert_eq!(read(&db, b"other").unwrap().unwrap().to_vec(), long);
    }

    #[test]
    fn only_the_piece_that_differs_is_written() {
        let db = in_memory().unwrap();
        let mut secrets = vec![7; 20 * PIECE];
        write(&db, b"group", &secrets).unwrap();
        let before = db.total_changes();
        secrets[19 * PIECE] = 8;
        write(&db, b"group", &secrets).unwrap();
        assert_eq!(db.total_changes(), before + 1);
        write(&db, b"group", &secrets).unwrap();
        assert_eq!(db.total_changes(), before + 1);
    }
}
