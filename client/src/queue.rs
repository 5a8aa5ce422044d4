//! The own queue: create, fetch, store, acknowledge. What the entries mean is the inbox's matter.

use std::collections::HashMap;
use std::time::Duration;

use crypto::keys::PayloadKey;
use crypto::queue::{StreamKey, open_payload};
use crypto::sign::SignatureKeyPair;
use openmls::prelude::MlsMessageIn;
use protocol::codec::opaque;
use protocol::delivery::{EntryContent, Payload};
use protocol::groups::Accepted;
use protocol::ids::{EntryId, QueueId};
use protocol::queues::{
    AcknowledgeQueueRequest, CreateQueueRequest, CreateQueueResponse, FetchQueueRequest,
    FetchQueueResponse, MAX_ACKNOWLEDGE, MAX_FETCH, QueueEntry,
};
use protocol::time::day_of;
use protocol::{Operation, Wire as _};
use rusqlite::Connection;
use tls_codec::DeserializeBytes as _;

use crate::Client;
use crate::database::{self, begin};
use crate::error::{Error, LocalError};
use crate::profile::Profile;

/// Ids of finished entries are kept this long: entries themselves do not live longer at the service.
const REMEMBER_DAYS: u32 = 60;
/// How often a client that waits looks whether another process has had news.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(250);
/// One long poll; below what relays and gateways cut.
const LONGEST_POLL_MS: u32 = 20_000;

impl Client {
    pub(crate) fn queue_owner(&self) -> SignatureKeyPair {
        SignatureKeyPair::from_seed(&self.profile.queue_owner.seed())
    }

    /// Makes the queue, once.
    pub(crate) async fn create_queue(&mut self) -> Result<(), Error> {
        if self.profile.queue.is_some() {
            return Ok(());
        }
        let request = CreateQueueRequest {
            hpke_public_key: opaque(self.profile.queue_hpke.public()),
        };
        let created: CreateQueueResponse = self
            .call(Operation::CreateQueue, self.queue_owner(), &request)
            .await?;
        self.db
            .execute("UPDATE profile SET queue_id = ?", [created.queue_id.0])?;
        self.profile.queue = Some(created.queue_id);
        Ok(())
    }

    /// Takes everything out of the queue into the inbox.
    pub(crate) async fn pull(&mut self) -> Result<(), Error> {
        let news = self.fetch(0).await?;
        self.take_over(news).await
    }

    /// Waits for something to come into the queue, without holding the home. Nothing if another process has
    /// taken in something of interest meanwhile.
    pub(crate) async fn wait_for_news(
        &mut self,
        wait_ms: u32,
    ) -> Result<Option<FetchQueueResponse>, Error> {
        let known = last_event(&self.db)?;
        // A connection of its own: this client's is busy with the request.
        let watched = database::open_to_look(&self.home.database()?)?;
        let elsewhere = async move {
            loop {
                tokio::time::sleep(LOOK_ELSEWHERE).await;
                match last_event(&watched) {
                    Ok(last) if last <= known => {}
                    other => return other.map(drop),
                }
            }
        };
        let news = tokio::select! {
            news = self.fetch(wait_ms) => news.map(Some),
            seen = elsewhere => seen.map(|()| None),
        };
        self.transport.expect_wait(Duration::ZERO);
        news
    }

    async fn fetch(&mut self, wait_ms: u32) -> Result<FetchQueueResponse, Error> {
        let wait_ms = wait_ms.min(LONGEST_POLL_MS);
        let request = FetchQueueRequest {
            queue_id: self.profile.queue()?,
            limit: MAX_FETCH,
            wait_ms,
        };
        self.transport
            .expect_wait(Duration::from_millis(wait_ms.into()));
        let fetched = self
            .call(Operation::FetchQueue, self.queue_owner(), &request)
            .await;
        self.transport.expect_wait(Duration::ZERO);
        fetched
    }

    /// Keeps what was fetched and acknowledges it, and the same with what else there is.
    pub(crate) async fn take_over(&mut self, news: FetchQueueResponse) -> Result<(), Error> {
        let queue_id = self.profile.queue()?;
        let mut news = news;
        loop {
            let now = self.transport.time.now_unix_ms();
            let fresh = store(&mut self.db, &self.profile, &queue_id, &news.entries, now)?;
            // Only now: what is acknowledged is gone at the service.
            let ids: Vec<EntryId> = news.entries.iter().map(|entry| entry.id).collect();
            for entries in ids.chunks(MAX_ACKNOWLEDGE) {
                let request = AcknowledgeQueueRequest {
                    queue_id,
                    entries: entries.to_vec(),
                };
                let _: Accepted = self
                    .call(Operation::AcknowledgeQueue, self.queue_owner(), &request)
                    .await?;
            }
            // A service that shows the same again, whatever the reason, will do so at once next time too.
            if news.more == 0 || fresh == 0 {
                return Ok(());
            }
            news = self.fetch(0).await?;
        }
    }
}

/// The last event that is kept.
fn last_event(db: &Connection) -> Result<i64, Error> {
    Ok(
        db.query_row("SELECT coalesce(max(id), 0) FROM events", (), |row| {
            row.get(0)
        })?,
    )
}

/// Opens entries and keeps them, in one transaction. One that does not open is remembered only: it
/// would not open next time either. Says how many were not known.
fn store(
    db: &mut Connection,
    profile: &Profile,
    queue: &QueueId,
    entries: &[QueueEntry],
    now_ms: u64,
) -> Result<usize, Error> {
    let mut streams = HashMap::new();
    let mut fresh = 0usize;
    let transaction = begin(db)?;
    let oldest = day_of(now_ms).saturating_sub(REMEMBER_DAYS);
    transaction.execute(
        "DELETE FROM inbox WHERE payload IS NULL AND day < ?",
        [oldest],
    )?;
    for entry in entries {
        let stream = (entry.id.incarnation, entry.id.day, entry.encapsulated_key);
        let key = streams.entry(stream).or_insert_with(|| {
            let (incarnation, day, enc) = &stream;
            StreamKey::receive(&profile.queue_hpke, enc, queue, incarnation, *day).ok()
        });
        let opened = key.as_ref().and_then(|key| open(key, entry));
        if insert(&transaction, &entry.id, opened.as_ref(), now_ms)? {
            fresh = fresh.saturating_add(1);
        }
    }
    transaction.commit()?;
    Ok(fresh)
}

fn open(key: &StreamKey, entry: &QueueEntry) -> Option<(EntryContent, Payload)> {
    let content = key.open(&entry.id, entry.sealed.as_slice()).ok()?;
    let payload_key = PayloadKey::from(&content.payload_key);
    let payload = open_payload(&payload_key, entry.sealed_payload.as_slice()).ok()?;
    (payload.kind() == content.kind).then_some((content, payload))
}

/// Which group and epoch a payload is for, as far as it shows.
fn address(payload: &Payload) -> Option<(Vec<u8>, u64)> {
    let bytes = match payload {
        Payload::Message(bytes) | Payload::Commit(bytes) | Payload::Proposal(bytes) => bytes,
        Payload::Dropped(group) => return Some((group.0.to_vec(), 0)),
        Payload::Welcome(_) | Payload::ConnectionRequest(_) => return None,
    };
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice()).ok()?;
    let message = message.try_into_protocol_message().ok()?;
    Some((
        message.group_id().as_slice().to_vec(),
        message.epoch().as_u64(),
    ))
}

/// Keeps an entry, if it is not known yet.
pub(crate) fn insert(
    db: &Connection,
    id: &EntryId,
    opened: Option<&(EntryContent, Payload)>,
    now_ms: u64,
) -> Result<bool, Error> {
    // Numbers that no honest service or member reaches, and the database cannot keep.
    const MOST: u64 = i64::MAX as u64;
    let address = opened
        .and_then(|(_, payload)| address(payload))
        .filter(|(_, epoch)| *epoch <= MOST);
    // A message that shows no group cannot be processed at all.
    let readable = opened.filter(|(content, payload)| {
        let welcome = matches!(payload, Payload::Welcome(_) | Payload::ConnectionRequest(_));
        content.sequence <= MOST && (address.is_some() || welcome)
    });
    let number = |n: u64| i64::try_from(n).map_err(|_| LocalError::Damaged);
    let inserted = db.execute(
        "INSERT OR IGNORE INTO inbox (entry_id, day, sequence, kind, group_id, epoch, payload, received_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id.encode(),
            id.day,
            readable.map_or(Ok(0), |(content, _)| number(content.sequence))?,
            readable.map_or(0, |(_, payload)| payload.kind() as u8),
            address.as_ref().map(|(group, _)| group),
            address.as_ref().map(|(_, epoch)| number(*epoch)).transpose()?,
            readable.map(|(_, payload)| payload.encode()),
            number(now_ms)?,
        ),
    )?;
    Ok(inserted > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crypto::hpke::HpkeKeyPair;
    use crypto::queue::seal_payload;
    use crypto::secret::Secret;
    use protocol::ids::Incarnation;

    use super::*;
    use crate::profile::Endpoints;

    fn profile(db: &Connection) -> Profile {
        let endpoints = Endpoints {
            relay: "http://r/".into(),
            gateway: "http://g".into(),
            ohttp_keys: "http://r/k".into(),
            ohttp_key_mirrors: Vec::new(),
            ds: "http://d".into(),
            issuer: "http://i".into(),
            issuer_name: None,
            token_origin: None,
            authorities: None,
        };
        Profile::write(db, &endpoints, "token").unwrap();
        Profile::read(db).unwrap()
    }

    fn entry(queue_key: &HpkeKeyPair, queue: &QueueId, index: u32) -> QueueEntry {
        let id = EntryId {
            day: 20_000,
            incarnation: Incarnation([1; 16]),
            index,
        };
        let (enc, stream) =
            StreamKey::start(&queue_key.public(), queue, &id.incarnation, id.day).unwrap();
        let payload = Payload::ConnectionRequest(opaque(vec![7]));
        let (key, sealed_payload) = seal_payload(&payload).unwrap();
        let content = EntryContent {
            kind: payload.kind(),
            payload_key: key.to_wire(),
            sequence: u64::from(index),
        };
        QueueEntry {
            id,
            encapsulated_key: enc,
            sealed: opaque(stream.seal(&id, &content).unwrap()),
            sealed_payload: opaque(sealed_payload),
        }
    }

    #[test]
    fn an_entry_is_stored_once_and_one_that_does_not_open_is_skipped() {
        let mut db = crate::database::in_memory().unwrap();
        let profile = profile(&db);
        let queue = QueueId([3; 16]);
        let good = entry(&profile.queue_hpke, &queue, 1);
        let stranger = HpkeKeyPair::from_seed(&Secret::new([9; 32])).unwrap();
        let bad = entry(&stranger, &queue, 2);
        let now_ms = 20_000 * protocol::time::DAY_MS;
        for _ in 0..2 {
            store(
                &mut db,
                &profile,
                &queue,
                &[good.clone(), bad.clone()],
                now_ms,
            )
            .unwrap();
        }
        let count = |sql: &str| db.query_row(sql, (), |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM inbox"), 2);
        assert_eq!(
            count("SELECT count(*) FROM inbox WHERE payload IS NOT NULL"),
            1
        );
    }

    #[test]
    fn an_entry_with_numbers_that_nobody_reaches_is_kept_as_done_and_stops_nothing() {
        let db = crate::database::in_memory().unwrap();
        // A public message of a group (RFC 9420 §6): version and wire format, group id, epoch,
        // sender, no authenticated data, a SelfRemove, a signature and a tag.
        let message = |epoch: u64| {
            let tail = [1, 0, 0, 0, 0, 0, 2, 0, 10, 1, 0, 1, 0];
            let bytes = [&[0, 1, 0, 1, 16][..], &[7; 16], &epoch.to_be_bytes(), &tail].concat();
            Payload::Proposal(opaque(bytes))
        };
        assert_eq!(address(&message(5)), Some((vec![7; 16], 5)));
        let cases = [
            (message(5), 9, 1),
            (message(u64::MAX), 9, 0),
            (message(1 << 63), 9, 0),
            (message(5), u64::MAX, 0),
            (Payload::ConnectionRequest(opaque(vec![7])), u64::MAX, 0),
            (Payload::ConnectionRequest(opaque(vec![7])), 9, 1),
        ];
        for (index, (payload, sequence, waits)) in (0u32..).zip(cases) {
            let id = EntryId {
                day: 20_000,
                incarnation: Incarnation([1; 16]),
                index,
            };
            let content = EntryContent {
                kind: payload.kind(),
                payload_key: protocol::codec::WireSecret::new([1; 32]),
                sequence,
            };
            assert!(insert(&db, &id, Some(&(content, payload)), 1).unwrap());
            let count = "SELECT count(*) FROM inbox WHERE payload IS NOT NULL AND entry_id = ?";
            let waiting: u32 = db
                .query_row(count, [id.encode()], |row| row.get(0))
                .unwrap();
            assert_eq!(waiting, waits, "{index}");
        }
    }

    #[test]
    fn ids_of_finished_entries_are_forgotten_in_the_end() {
        let mut db = crate::database::in_memory().unwrap();
        let profile = profile(&db);
        let queue = QueueId([3; 16]);
        let bad = entry(
            &HpkeKeyPair::from_seed(&Secret::new([9; 32])).unwrap(),
            &queue,
            2,
        );
        store(
            &mut db,
            &profile,
            &queue,
            &[bad],
            20_000 * protocol::time::DAY_MS,
        )
        .unwrap();
        store(
            &mut db,
            &profile,
            &queue,
            &[],
            20_061 * protocol::time::DAY_MS,
        )
        .unwrap();
        assert_eq!(
            db.query_row("SELECT count(*) FROM inbox", (), |row| row.get::<_, i64>(0))
                .unwrap(),
            0
        );
    }
}
