//! The roster, in pages of 64 leaves: what the service keeps of each leaf. A message opens the page
//! of its sender and reads one record of it.

use std::collections::BTreeMap;

use protocol::codec::opaque;
use protocol::group::{LeafExtras, LeafRecord, PUSH_HANDLE_BYTES, RecoveryKey};
use protocol::ids::{Epoch, GroupId, LeafIndex, RecoveryRowId, RotationEpoch, Week};
use protocol::join::{LeafLinkKey, WrappedLinkKey};
use protocol::policy::{Capabilities, GroupPolicy};
use protocol::push::Handle;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::MESSAGE_LAG;
use super::open::OpenedGroup;
use super::parts::{self, Reader};
use super::short::LEAVES_IN_PAGE;
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

const FORMAT: u8 = 1;

/// One leaf. Nothing here is secret from the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// As in the tree.
    #[serde(with = "serde_bytes")]
    pub signature_key: Vec<u8>,
    /// As in the leaf's credential.
    #[serde(with = "serde_bytes")]
    pub user_pseudonym: Vec<u8>,
    capabilities: u16,
    since_epoch: u64,
    /// The epoch of the segment whose wrapper key opens the link key.
    wrapper: u64,
    #[serde(with = "serde_bytes")]
    link_key: Vec<u8>,
    /// Once the leaf has set one.
    recovery_key: Option<OwnKey>,
    #[serde(with = "serde_bytes")]
    push_handle: Vec<u8>,
    /// Whether it could send before an epoch, if that has changed: messages are judged by the epoch
    /// that they name.
    could_send: Vec<(u64, bool)>,
}

/// A recovery key with the leaf's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OwnKey {
    #[serde(with = "serde_bytes")]
    public_key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

impl Leaf {
    /// A leaf that comes in.
    #[must_use]
    pub fn new(
        claims: mls_rules::LeafClaims,
        since: Epoch,
        (wrapper, link_key): (RotationEpoch, Vec<u8>),
    ) -> Self {
        Self {
            signature_key: claims.signature_key,
            user_pseudonym: claims.user_pseudonym,
            capabilities: Capabilities::NONE.0,
            since_epoch: since.0,
            wrapper: wrapper.0,
            link_key,
            recovery_key: None,
            push_handle: vec![0; PUSH_HANDLE_BYTES],
            could_send: Vec::new(),
        }
    }

    /// The same leaf under another credential.
    pub fn renew(&mut self, claims: mls_rules::LeafClaims) {
        self.signature_key = claims.signature_key;
        self.user_pseudonym = claims.user_pseudonym;
    }

    /// Takes what the leaf brings, but its link key.
    pub fn take(&mut self, extras: &LeafExtras) {
        self.set_extras(&extras.recovery_key, extras.push_handle.as_slice());
    }

    /// Takes recovery key and push handle.
    pub fn set_extras(&mut self, recovery_key: &RecoveryKey, push_handle: &[u8]) {
        self.recovery_key = Some(OwnKey {
            public_key: recovery_key.public_key.as_slice().to_vec(),
            signature: recovery_key.signature.as_slice().to_vec(),
        });
        self.push_handle = push_handle.to_vec();
    }

    /// What wakes its device, if it has come and brought something.
    #[must_use]
    pub fn push_handle(&self) -> Option<Handle> {
        let handle: Handle = self.push_handle.as_slice().try_into().ok()?;
        (handle != [0; PUSH_HANDLE_BYTES]).then_some(handle)
    }

    /// Another link key, under the wrapper key of a segment.
    pub fn set_link_key(&mut self, wrapper: RotationEpoch, sealed: Vec<u8>) {
        self.wrapper = wrapper.0;
        self.link_key = sealed;
    }

    /// The segment whose wrapper key opens its link key.
    #[must_use]
    pub fn wrapper(&self) -> RotationEpoch {
        RotationEpoch(self.wrapper)
    }

    /// What its user may do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities(self.capabilities)
    }

    /// What its user may do from an epoch on. Says whether that is something else than before.
    pub fn set_capabilities(&mut self, now: Capabilities, epoch: Epoch) -> bool {
        if self.capabilities == now.0 {
            return false;
        }
        let could_send = self.capabilities().contain(Capabilities::SEND);
        if could_send != now.contain(Capabilities::SEND) && self.since_epoch < epoch.0 {
            self.could_send
                .retain(|(before, _)| before.saturating_add(MESSAGE_LAG) > epoch.0);
            self.could_send.push((epoch.0, could_send));
        }
        self.capabilities = now.0;
        true
    }

    /// Whether it may send a message of an epoch: it was in it, and its user could send then.
    #[must_use]
    pub fn could_send(&self, epoch: Epoch) -> bool {
        // The first change after the epoch tells how it was before.
        let former = self
            .could_send
            .iter()
            .filter(|(before, _)| epoch.0 < *before)
            .min_by_key(|(before, _)| *before);
        self.since_epoch <= epoch.0
            && former.map_or_else(
                || self.capabilities().contain(Capabilities::SEND),
                |(_, could)| *could,
            )
    }

    /// Where its rotation secret stands, if it has a recovery key.
    #[must_use]
    pub fn recovery_row(&self, group: &GroupId) -> Option<RecoveryRowId> {
        let key = self.recovery_key.as_ref()?;
        Some(crypto::schedule::recovery_row_id(group, &key.public_key))
    }

    fn wrapped(&self) -> WrappedLinkKey {
        WrappedLinkKey {
            wrapper: self.wrapper(),
            sealed: opaque(self.link_key.as_slice()),
        }
    }

    /// For members.
    #[must_use]
    pub fn record(&self, index: u32, has_row: bool, active: Week) -> LeafRecord {
        LeafRecord {
            leaf_index: LeafIndex(index),
            user_pseudonym: opaque(self.user_pseudonym.as_slice()),
            capabilities: self.capabilities(),
            link_key: self.wrapped(),
            recovery_key: self.recovery_key.as_ref().map(|key| RecoveryKey {
                public_key: opaque(key.public_key.as_slice()),
                signature: opaque(key.signature.as_slice()),
            }),
            has_row: u8::from(has_row),
            active,
        }
    }
}

/// Records of a page, as they are opened: `format || (place in the page(1) || length(4) ||
/// record)…`.
fn records(bytes: &[u8]) -> Result<Vec<(u8, &[u8])>, Stop> {
    let mut reader = Reader(bytes);
    let mut records = Vec::new();
    if reader.take() != Some([FORMAT]) {
        return Err(DAMAGED);
    }
    while !reader.0.is_empty() {
        let [place] = reader.take().ok_or(DAMAGED)?;
        let length = u32::from_be_bytes(reader.take().ok_or(DAMAGED)?);
        let length = usize::try_from(length).map_err(|_| DAMAGED)?;
        records.push((place, reader.slice(length).ok_or(DAMAGED)?));
    }
    Ok(records)
}

const DAMAGED: Stop = Stop::Internal("a page of a roster");

fn leaf_in(record: &[u8]) -> Result<Leaf, Stop> {
    parts::decode(FORMAT, record)
}

/// One leaf of a page.
///
/// # Errors
/// [`Stop::Moved`], [`Stop::Internal`].
pub(super) fn leaf_of_page(
    group: &OpenedGroup,
    index: u32,
    view: &View,
) -> Result<Option<Leaf>, Stop> {
    let Some((part, version)) = group.short.page_of(index) else {
        return Ok(None);
    };
    let sealed = view.row(&group.row.part(part))?;
    let page = parts::open(&group.id, &group.short.data_key, (part, &version), sealed)?;
    records(&page)?
        .iter()
        .find(|(place, _)| u32::from(*place) == index % LEAVES_IN_PAGE)
        .map(|(_, record)| leaf_in(record))
        .transpose()
}

/// The plaintext of a page.
type Plain = Zeroizing<Vec<u8>>;

/// Pages of a roster that were opened.
#[derive(Debug)]
pub(super) struct Roster {
    pages: BTreeMap<u16, Page>,
}

#[derive(Debug, Default)]
struct Page {
    leaves: BTreeMap<u32, Leaf>,
    changed: bool,
}

/// The plaintext of a page, which was read; none of a page that is none of the group's.
fn plain(group: &OpenedGroup, number: u16, view: &View) -> Result<Option<Plain>, Stop> {
    let Some((part, version)) = group.short.page(number) else {
        return Ok(None);
    };
    let sealed = view.row(&group.row.part(part))?;
    parts::open(&group.id, &group.short.data_key, (part, &version), sealed).map(Some)
}

pub(super) fn page_number(leaf: u32) -> u16 {
    u16::try_from(leaf / LEAVES_IN_PAGE).unwrap_or(u16::MAX)
}

impl Roster {
    /// The roster of a new group.
    pub(super) fn of_creator(leaf: Leaf) -> Self {
        let page = Page {
            leaves: BTreeMap::from([(0, leaf)]),
            changed: true,
        };
        Self {
            pages: BTreeMap::from([(0, page)]),
        }
    }

    /// Opens these pages, which were read.
    pub(super) fn open(
        group: &OpenedGroup,
        pages: impl IntoIterator<Item = u16>,
        view: &View,
    ) -> Result<Self, Stop> {
        let mut roster = Self {
            pages: BTreeMap::new(),
        };
        for number in pages {
            let Some(bytes) = plain(group, number, view)? else {
                continue;
            };
            let mut page = Page::default();
            for (place, record) in records(&bytes)? {
                let index = u32::from(number) * LEAVES_IN_PAGE + u32::from(place);
                page.leaves.insert(index, leaf_in(record)?);
            }
            roster.pages.insert(number, page);
        }
        Ok(roster)
    }

    /// Numbers of all pages of a group.
    pub(super) fn all_pages(group: &OpenedGroup) -> Vec<u16> {
        (0u16..).zip(&group.short.pages).map(|(at, _)| at).collect()
    }

    /// A leaf.
    pub(super) fn leaf(&self, index: u32) -> Option<&Leaf> {
        self.pages.get(&page_number(index))?.leaves.get(&index)
    }

    /// A leaf, to change it.
    pub(super) fn leaf_mut(&mut self, index: u32) -> Option<&mut Leaf> {
        let page = self.pages.get_mut(&page_number(index))?;
        page.changed = true;
        page.leaves.get_mut(&index)
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = (u32, &Leaf)> {
        self.pages
            .values()
            .flat_map(|page| page.leaves.iter().map(|(index, leaf)| (*index, leaf)))
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<Leaf> {
        let page = self.pages.get_mut(&page_number(index))?;
        page.changed = true;
        page.leaves.remove(&index)
    }

    pub(super) fn insert(&mut self, index: u32, leaf: Leaf) {
        let page = self.pages.entry(page_number(index)).or_default();
        page.changed = true;
        page.leaves.insert(index, leaf);
    }

    /// What users may do from an epoch on, by its policy.
    pub(super) fn apply_policy(&mut self, policy: Option<&GroupPolicy>, epoch: Epoch) {
        for page in self.pages.values_mut() {
            for leaf in page.leaves.values_mut() {
                let now = mls_rules::capabilities(policy, &leaf.user_pseudonym);
                page.changed |= leaf.set_capabilities(now, epoch);
            }
        }
    }

    /// Link keys by leaf.
    pub(super) fn link_keys(&self) -> Vec<LeafLinkKey> {
        self.leaves()
            .map(|(index, leaf)| LeafLinkKey {
                leaf_index: LeafIndex(index),
                link_key: leaf.wrapped(),
            })
            .collect()
    }

    /// Plaintexts of pages that have changed, or of all. A page in a gap is empty, not absent.
    pub(super) fn changed(&self, all: bool, pages: u16) -> Result<Vec<(u16, Plain)>, Stop> {
        let mut changed = Vec::new();
        for number in 0..pages {
            match self.pages.get(&number) {
                Some(page) if page.changed || all => changed.push((number, page.encode()?)),
                None if all => changed.push((number, Page::default().encode()?)),
                _ => {}
            }
        }
        Ok(changed)
    }
}

impl Page {
    fn encode(&self) -> Result<Plain, Stop> {
        let mut out = Zeroizing::new(Vec::with_capacity(1 + 400 * self.leaves.len()));
        out.push(FORMAT);
        for (index, leaf) in &self.leaves {
            let record = parts::encode(FORMAT, leaf)?;
            let length = u32::try_from(record.len()).map_err(|_| DAMAGED)?;
            out.push(u8::try_from(index % LEAVES_IN_PAGE).map_err(|_| DAMAGED)?);
            out.extend(length.to_be_bytes());
            out.extend_from_slice(&record);
        }
        Ok(out)
    }
}

/// One record, as it is sealed.
#[cfg(feature = "conformance")]
pub(super) fn encoded(leaf: &Leaf) -> Result<Plain, Stop> {
    parts::encode(FORMAT, leaf)
}

/// Which part a page is.
pub(super) const fn part(number: u16) -> Part {
    Part::Roster(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn leaf() -> Leaf {
        let claims = mls_rules::LeafClaims {
            signature_key: vec![1; 32],
            user_pseudonym: b"user".to_vec(),
        };
        Leaf::new(claims, Epoch(3), (RotationEpoch(2), vec![5; 60]))
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let mut roster = Roster::of_creator(leaf());
        let mut full = leaf();
        full.set_capabilities(Capabilities::ALL, Epoch(4));
        full.recovery_key = Some(OwnKey {
            public_key: vec![6; 2],
            signature: vec![7; 3],
        });
        full.push_handle = vec![8; 4];
        roster.insert(63, full.clone());
        let pages = roster.changed(false, 1).unwrap();
        let [(0, bytes)] = pages.as_slice() else {
            unreachable!()
        };
        crate::fixtures::check("page of a roster", bytes);
        let read: Vec<(u8, Leaf)> = records(bytes)
            .unwrap()
            .into_iter()
            .map(|(place, record)| (place, leaf_in(record).unwrap()))
            .collect();
        assert_eq!(read, [(0, leaf()), (63, full)]);
        assert!(records(bytes.get(..bytes.len() - 1).unwrap()).is_err());
    }

    #[test]
    fn who_lost_its_voice_may_still_send_messages_of_the_epochs_before() {
        let mut leaf = leaf();
        leaf.set_capabilities(Capabilities::ALL, Epoch(3));
        leaf.set_capabilities(Capabilities::NONE, Epoch(5));
        let heard: Vec<bool> = (2..7).map(|epoch| leaf.could_send(Epoch(epoch))).collect();
        assert_eq!(heard, [false, true, true, false, false]);
        leaf.set_capabilities(Capabilities::ALL, Epoch(6));
        let heard: Vec<bool> = (2..7).map(|epoch| leaf.could_send(Epoch(epoch))).collect();
        assert_eq!(heard, [false, true, true, false, true]);
    }
}
