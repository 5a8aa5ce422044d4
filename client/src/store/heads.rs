//! Signed ends of journals: the service signs at most one chain for each position, so two of them
//! are proof. Each message says which one its sender has seen, of this group or of another one that
//! both are in.

use crypto::journal::{contradict, verify_head};
use protocol::Wire as _;
use protocol::group::GroupKind;
use protocol::ids::{ChainHead, GroupId, Position, SegmentId};
use protocol::journal::{SeenHead, SignedHead};
use rusqlite::Connection;

use crate::encoding::decode_base64url;
use crate::error::{Error, LocalError, PeerError};
use crate::outcomes::StopReason;
use crate::store::database::{change, first, value};
use crate::store::evidence;
use crate::store::groups::Group;
use crate::store::profile::Profile;
use crate::store::segments::{Segment, number};

/// So many positions back a chain is remembered.
const REMEMBERED: u64 = 4_096;
/// Ends that are ahead of this client, of one segment and one teller: those that it comes to first.
const MOST_AHEAD: u32 = 64;

/// What ends are held against, as all views agreed on it.
#[derive(Debug)]
pub(crate) struct Signer {
    /// The service's journal-signing key.
    pub(crate) key: Vec<u8>,
    /// Of the service's store: it signs for one at a time.
    pub(crate) generation: u64,
}

/// As the directory has it.
pub(crate) fn signer(db: &Connection) -> Result<Signer, Error> {
    let stored: Option<String> = db
        .prepare_cached("SELECT directory FROM profile")?
        .query_row((), |row| row.get(0))?;
    let directory: protocol::directory::Directory =
        serde_json::from_str(&stored.ok_or(LocalError::Damaged)?)
            .map_err(|_| LocalError::Damaged)?;
    Ok(Signer {
        key: decode_base64url(&directory.journal_signing_key)?,
        generation: directory.store.generation,
    })
}

/// The store is another one than that which the journals were read from, as the directory says, in
/// the caller's transaction: what was read binds nobody any more, and the next end that is signed
/// is taken as it is. Whether the store has lost what this client has read shows in each group.
pub(crate) fn forget(db: &Connection) -> Result<(), Error> {
    db.execute_batch(
        "DELETE FROM chains; DELETE FROM heads_ahead; UPDATE segments SET chain = NULL, head = NULL",
    )?;
    Ok(())
}

/// Remembers the chain before a position that this client has come to, in the caller's transaction.
pub(crate) fn passed(
    db: &Connection,
    group: &GroupId,
    segment: &SegmentId,
    at: Position,
    chain: &ChainHead,
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO chains (segment_id, position, group_id, chain) VALUES (?, ?, ?, ?)",
        (segment.0, number(at.0)?, group.0, chain.0),
    )?;
    if at.0.is_multiple_of(REMEMBERED) {
        let oldest = number(at.0.saturating_sub(REMEMBERED))?;
        change(
            db,
            "DELETE FROM chains WHERE segment_id = ? AND position < ?",
            (segment.0, oldest),
        )?;
    }
    Ok(())
}

fn chain_at(
    db: &Connection,
    segment: &SegmentId,
    at: Position,
) -> Result<Option<(GroupId, ChainHead)>, Error> {
    first(
        db,
        "SELECT group_id, chain FROM chains WHERE segment_id = ? AND position = ?",
        (segment.0, number(at.0)?),
        |row| Ok((GroupId(row.get(0)?), ChainHead(row.get(1)?))),
    )
}

/// Keeps the last end that the service has shown of the segment that a group is in, in the caller's
/// transaction.
pub(crate) fn keep(db: &Connection, group: &GroupId, head: &SignedHead) -> Result<(), Error> {
    change(
        db,
        "UPDATE segments SET head = ?1 WHERE group_id = ?2 AND head IS NOT ?1",
        (head.encode(), group.0),
    )
}

/// The last end that this client was shown of a group's journal.
pub(crate) fn last(db: &Connection, group: &GroupId) -> Result<Option<SignedHead>, Error> {
    let head: Option<Vec<u8>> = value(
        db,
        "SELECT head FROM segments WHERE group_id = ?",
        [group.0],
    )?
    .flatten();
    head.map(|head| SignedHead::decode(&head).map_err(|_| LocalError::Damaged.into()))
        .transpose()
}

/// For so many days the end of a segment that is over is told.
const ENDED_DAYS: u32 = 28;

/// A segment is over, in the caller's transaction: the entry that begins the next one must be the
/// last that the service has signed.
pub(crate) fn ended(
    db: &Connection,
    profile: &Profile,
    group: &GroupId,
    segment: &Segment,
    head: &SignedHead,
    now_ms: u64,
) -> Result<(), Error> {
    let seen = SeenHead {
        segment: segment.id,
        head: head.clone(),
    };
    let is_its = segment.chain.is_none_or(|chain| chain == head.chain);
    if head.next != segment.next || !is_its {
        return split(db, profile, group, &seen, now_ms);
    }
    passed(db, group, &segment.id, head.next, &head.chain)?;
    change(
        db,
        "DELETE FROM heads_ahead WHERE segment_id = ? AND position > ?",
        (segment.id.0, number(head.next.0)?),
    )?;
    change(
        db,
        "DELETE FROM ended_segments WHERE group_id = ? AND day < ?",
        (group.0, segment.day.0.saturating_sub(ENDED_DAYS)),
    )?;
    change(
        db,
        "INSERT OR REPLACE INTO ended_segments (segment_id, group_id, head, day) VALUES (?, ?, ?, ?)",
        (segment.id.0, group.0, head.encode(), segment.day.0),
    )
}

/// Of the segment that is read, or as often of one that has ended: after two contradicting
/// rotations others know no later one.
fn seen_in(db: &Connection, group: &Group) -> Result<Option<SeenHead>, Error> {
    let [chance] = crypto::random::<1>()?;
    let since = group.segment.day.0.saturating_sub(ENDED_DAYS);
    let ended: Option<([u8; 32], Vec<u8>)> = first(
        db,
        "SELECT segment_id, head FROM ended_segments WHERE group_id = ? AND day >= ?
             ORDER BY random() LIMIT 1",
        (group.id.0, since),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if let (Some((segment, head)), 0) = (ended, chance % 2) {
        return Ok(Some(SeenHead {
            segment: SegmentId(segment),
            head: SignedHead::decode(&head).map_err(|_| LocalError::Damaged)?,
        }));
    }
    let head = last(db, &group.id)?;
    Ok(head.map(|head| SeenHead {
        segment: group.segment.id,
        head,
    }))
}

/// Another group that those of a connection, or the devices of a user, are in together.
fn another(db: &Connection, group: &Group, own_key: &[u8]) -> Result<Option<Group>, Error> {
    let shared: Option<[u8; 16]> = match group.kind {
        GroupKind::Group => None,
        GroupKind::Connection => value(db, "SELECT group_id FROM known_members JOIN groups USING (group_id)
                 WHERE status = 'active' AND kind = ?3 AND removed_epoch IS NULL AND signature_key IN (
                    SELECT signature_key FROM known_members
                    WHERE group_id = ?1 AND removed_epoch IS NULL AND signature_key != ?2)
                 ORDER BY random() LIMIT 1", (group.id.0, own_key, GroupKind::Group as u8))?,
        // All, but what waits for somebody: no other device is in that.
        GroupKind::SingleUser => value(db, "SELECT group_id FROM groups
                 WHERE status = 'active' AND group_id != ?
                    AND group_id NOT IN (SELECT group_id FROM outgoing_requests)
                    AND group_id NOT IN (SELECT group_id FROM connection_stock)
                 ORDER BY random() LIMIT 1", [group.id.0])?,
    };
    shared
        .map(|shared| Group::read(db, &GroupId(shared)))
        .transpose()
}

/// What a message into a group says that this client has seen: mostly of the group itself. In a
/// connection and among a user's devices it is as often that of another group that they share:
/// after two contradicting commits no message crosses inside that group itself.
pub(crate) fn to_tell(
    db: &Connection,
    group: &Group,
    own_key: &[u8],
) -> Result<Option<SeenHead>, Error> {
    let [chance] = crypto::random::<1>()?;
    if chance % 2 == 0
        && let Some(shared) = another(db, group, own_key)?
        && let Some(seen) = seen_in(db, &shared)?
    {
        return Ok(Some(seen));
    }
    seen_in(db, group)
}

/// What comes of an end that another member has seen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is what this client has seen too, or it cannot tell.
    Nothing,
    /// It contradicts what this client has read, in this group.
    Contradiction(GroupId),
}

/// Holds an end that another member has seen against the own reading, in the caller's transaction.
/// What is ahead is kept until this client has come there.
///
/// # Errors
/// [`PeerError::Head`] if the service has not signed it: the member says what is not.
pub(crate) fn hear(
    db: &Connection,
    seen: &SeenHead,
    teller: &[u8],
    signer: &Signer,
) -> Result<Told, Error> {
    // Only of groups that this client is in.
    let group: Option<[u8; 16]> = value(
        db,
        "SELECT group_id FROM segments WHERE segment_id = ?1
             UNION SELECT group_id FROM chains WHERE segment_id = ?1 LIMIT 1",
        [seen.segment.0],
    )?;
    let Some(group) = group.map(GroupId) else {
        return Ok(Told::Nothing);
    };
    verify_head(&signer.key, &seen.segment, &seen.head).map_err(|_| PeerError::Head)?;
    if seen.head.generation != signer.generation {
        // The store was put back in between, or the directory says so soon: two stores may have two
        // journals.
        return Ok(Told::Nothing);
    }
    match chain_at(db, &seen.segment, seen.head.next)? {
        Some((_, chain)) if chain != seen.head.chain => Ok(Told::Contradiction(group)),
        Some(_) => Ok(Told::Nothing),
        None => {
            let is_ahead = Group::find(db, &group)?.is_some_and(|group| {
                group.segment.id == seen.segment && seen.head.next > group.segment.next
            });
            if is_ahead {
                change(
                    db,
                    "INSERT OR IGNORE INTO heads_ahead (segment_id, position, head, teller) VALUES (?, ?, ?, ?)",
                    (
                        seen.segment.0,
                        number(seen.head.next.0)?,
                        seen.head.encode(),
                        teller,
                    ),
                )?;
                change(
                    db,
                    "DELETE FROM heads_ahead WHERE rowid IN (
                        SELECT rowid FROM heads_ahead WHERE segment_id = ? AND teller = ?
                        ORDER BY position LIMIT -1 OFFSET ?)",
                    (seen.segment.0, teller, MOST_AHEAD),
                )?;
            }
            Ok(Told::Nothing)
        }
    }
}

/// The service has shown two journals of a group, and has signed both, in the caller's transaction:
/// kept for good, and this client follows no further. When it has come back by the user's word,
/// what it has read of the segment proves nothing more: not everybody who tells of that segment's
/// end stops it again.
pub(crate) fn split(
    db: &Connection,
    profile: &Profile,
    group: &GroupId,
    seen: &SeenHead,
    now_ms: u64,
) -> Result<(), Error> {
    let name = [&seen.segment.0[..], &seen.head.next.0.to_be_bytes()].concat();
    let own = last(db, group)?
        .map(|head| head.encode())
        .unwrap_or_default();
    let content = [seen.encode(), own].concat();
    evidence::keep(
        db,
        group,
        &PeerError::Split,
        (Some(&name), &content),
        now_ms,
    )?;
    change(
        db,
        "DELETE FROM chains WHERE segment_id = ?",
        [seen.segment.0],
    )?;
    evidence::stop(db, profile, group, StopReason::Split)
}

/// An end that others have seen at the position that this client has come to, and that contradicts
/// its chain; in the caller's transaction.
pub(crate) fn contradiction(
    db: &Connection,
    generation: u64,
    segment: &SegmentId,
    at: Position,
    chain: &ChainHead,
) -> Result<Option<SignedHead>, Error> {
    let mut statement =
        db.prepare_cached("SELECT head FROM heads_ahead WHERE segment_id = ? AND position = ?")?;
    let told = statement
        .query_map((segment.0, number(at.0)?), |row| row.get::<_, Vec<u8>>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    if told.is_empty() {
        return Ok(None);
    }
    change(
        db,
        "DELETE FROM heads_ahead WHERE segment_id = ? AND position <= ?",
        (segment.0, number(at.0)?),
    )?;
    for head in told {
        let head = SignedHead::decode(&head).map_err(|_| LocalError::Damaged)?;
        let own = SignedHead {
            generation,
            next: at,
            chain: *chain,
            signature: [0; 64],
        };
        if contradict(&own, &head) {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crypto::journal::{End, HeadSigner};
    use crypto::secret::Secret;
    use crypto::sign::SignatureKeyPair;

    use super::*;
    use crate::store::groups::tests::group;

    fn end(at: u64, chain: u8) -> End {
        End {
            generation: 3,
            next: Position(at),
            chain: ChainHead([chain; 32]),
        }
    }

    fn signer(service: &HeadSigner) -> Signer {
        Signer {
            key: service.public().to_vec(),
            generation: 3,
        }
    }

    #[test]
    fn among_a_users_devices_the_ends_of_all_groups_are_told_but_of_those_that_wait_for_somebody() {
        let db = crate::store::database::in_memory().unwrap();
        let kinds = [
            GroupKind::SingleUser,
            GroupKind::Group,
            GroupKind::Connection,
            GroupKind::Connection,
        ];
        let mut segments = Vec::new();
        for (number, kind) in (1u8..).zip(kinds) {
            let kept = Group {
                kind,
                ..group(number, &format!("group {number}"))
            };
            kept.insert(&db).unwrap();
            let head = SignedHead {
                generation: 0,
                next: Position(number.into()),
                chain: ChainHead([number; 32]),
                signature: [0; 64],
            };
            keep(&db, &kept.id, &head).unwrap();
            segments.push(Position(number.into()));
        }
        db.execute(
            "INSERT INTO connection_stock (group_id, code) VALUES (?, x'')",
            [group(4, "").id.0],
        )
        .unwrap();
        let devices = Group::read(&db, &group(1, "").id).unwrap();
        let told: std::collections::BTreeSet<Position> = (0..200)
            .filter_map(|_| to_tell(&db, &devices, b"").unwrap())
            .map(|seen| seen.head.next)
            .collect();
        assert_eq!(told.into_iter().collect::<Vec<_>>(), segments[..3]);
    }

    #[test]
    fn an_end_that_others_have_seen_is_held_against_the_own_chain_now_or_when_this_client_comes_there()
     {
        let db = crate::store::database::in_memory().unwrap();
        let group = group(7, "team");
        group.insert(&db).unwrap();
        let segment = group.segment.id;
        let service = HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([3; 32])));
        let of_generation = |generation, at, chain: u8| {
            let end = End {
                generation,
                next: Position(at),
                chain: ChainHead([chain; 32]),
            };
            SeenHead {
                segment,
                head: service.sign(&segment, end).unwrap(),
            }
        };
        let seen = |at, chain| of_generation(3, at, chain);
        let signer = signer(&service);
        let hear = |seen: &SeenHead| hear(&db, seen, b"bob", &signer);
        passed(&db, &group.id, &segment, Position(2), &ChainHead([2; 32])).unwrap();
        assert_eq!(hear(&seen(2, 2)).unwrap(), Told::Nothing);
        assert_eq!(hear(&seen(2, 9)).unwrap(), Told::Contradiction(group.id));
        // Of a store that was put back in between: another journal.
        for generation in [2, 4] {
            let other = of_generation(generation, 2, 9);
            assert_eq!(hear(&other).unwrap(), Told::Nothing);
        }
        // Ahead: nothing can be said yet.
        assert_eq!(hear(&seen(5, 5)).unwrap(), Told::Nothing);
        assert_eq!(hear(&seen(6, 6)).unwrap(), Told::Nothing);
        let at = |at, chain: u8| {
            contradiction(&db, 3, &segment, Position(at), &ChainHead([chain; 32])).unwrap()
        };
        assert_eq!(at(4, 4), None);
        assert_eq!(at(5, 5), None);
        assert_eq!(at(6, 7), Some(seen(6, 6).head));
        // What the service has not signed is its teller's word.
        let mut forged = seen(2, 2);
        forged.head.signature[0] ^= 1;
        assert!(matches!(hear(&forged), Err(Error::Peer(PeerError::Head))));
        // Of no group of this client's.
        let mut elsewhere = seen(2, 9);
        elsewhere.segment = SegmentId([9; 32]);
        assert_eq!(hear(&elsewhere).unwrap(), Told::Nothing);
        // Nothing that was read from another store is held against this one's.
        assert_eq!(hear(&seen(9, 9)).unwrap(), Told::Nothing);
        forget(&db).unwrap();
        assert_eq!(at(9, 8), None);
        assert_eq!(hear(&seen(2, 9)).unwrap(), Told::Nothing);
        assert_eq!(Group::read(&db, &group.id).unwrap().segment.chain, None);
    }

    #[test]
    fn a_member_who_tells_of_many_ends_takes_the_place_of_no_other_ones() {
        let db = crate::store::database::in_memory().unwrap();
        let group = group(7, "team");
        group.insert(&db).unwrap();
        let segment = group.segment.id;
        let service = HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([3; 32])));
        let tell = |at, teller: &[u8]| {
            let seen = SeenHead {
                segment,
                head: service.sign(&segment, end(at, 7)).unwrap(),
            };
            hear(&db, &seen, teller, &signer(&service)).unwrap();
        };
        for at in (100..200).rev() {
            tell(at, b"mallory");
        }
        tell(5, b"bob");
        let positions: Vec<i64> = db
            .prepare("SELECT position FROM heads_ahead ORDER BY position")
            .unwrap()
            .query_map((), |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let nearest = i64::from(MOST_AHEAD);
        let expected: Vec<i64> = [5].into_iter().chain(100..100 + nearest).collect();
        assert_eq!(positions, expected);
    }

    #[test]
    fn after_two_contradicting_rotations_the_end_of_the_segment_before_tells_them_apart() {
        let service = HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([3; 32])));
        let (id, segment) = (group(7, "team").id, group(7, "team").segment.id);
        // Alice and Bob were in one segment, and were led to different ones.
        let [alice, bob] = [(4u8, 1u8), (5, 2)].map(|(chain, next)| {
            let db = crate::store::database::in_memory().unwrap();
            let profile = crate::store::profile::tests::profile(&db);
            group(7, "team").insert(&db).unwrap();
            let closing = Segment {
                next: Position(5),
                chain: Some(ChainHead([chain; 32])),
                ..group(7, "team").segment
            };
            let head = service.sign(&segment, end(5, chain)).unwrap();
            let next = crate::store::segments::tests::segment(&GroupId([next; 16]));
            next.write(&db, &id).unwrap();
            ended(&db, &profile, &id, &closing, &head, 1).unwrap();
            assert_eq!(evidence::stopped(&db, &id).unwrap(), None);
            keep(&db, &id, &service.sign(&next.id, end(0, 9)).unwrap()).unwrap();
            db
        });
        let told: Vec<SeenHead> = (0..100)
            .filter_map(|_| seen_in(&alice, &Group::read(&alice, &id).unwrap()).unwrap())
            .collect();
        let ends = told.iter().filter(|seen| seen.segment == segment).count();
        assert!((20..80).contains(&ends), "{ends}");
        let heard = |seen: &SeenHead| hear(&bob, seen, b"alice", &signer(&service)).unwrap();
        let split = told.iter().filter(|seen| heard(seen) != Told::Nothing);
        assert_eq!(split.count(), ends);
        // What the service signs beyond the commit that began the next one is not to be.
        let profile = crate::store::profile::tests::profile(&alice);
        let beyond = service.sign(&segment, end(6, 4)).unwrap();
        let closing = Segment {
            next: Position(5),
            ..group(7, "team").segment
        };
        ended(&alice, &profile, &id, &closing, &beyond, 1).unwrap();
        let stopped = evidence::stopped(&alice, &id).unwrap();
        assert_eq!(stopped, Some(StopReason::Split));
    }
}
