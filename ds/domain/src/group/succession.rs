//! What a commit makes of a group: its next state, its journal and its records, in one transition.

mod sealing;

use std::collections::{BTreeMap, BTreeSet};

use crypto::records::{seal_join_page, seal_recovery_row};
use crypto::schedule::{DataKey, JoinKey, JournalKey, SegmentKeys, StateKey};
use mls_rules::commit::Joined;
use mls_rules::leaf::user_of;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{
    CommitAccepted, EntryAccepted, GroupKind, JoinCode, JoinersUpload, JournalKeys, LeafExtras,
};
use protocol::ids::{ChainHead, Day, GroupId, LeafIndex, SegmentId};
use protocol::join::{JOIN_RECORD_PAGE, JoinRecordContent, LinkKeyUpload};
use protocol::journal::{Class, CommitEvent, Event, Place};
use protocol::lifetime;
use protocol::operation::Operation as Number;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;
use protocol::removal::{CONNECTION_INACTIVE_WEEKS, RemovalReason};
use zeroize::Zeroizing;

use super::attempt::{Attempt, By, Judged, digest, leaves_are_trees, rows_of_codes};
use super::checks::{check_own_key, within};
use super::control::Control;
use super::create::reservation;
use super::marks::{Marks, patience};
use super::parts;
use super::proposals::{PendingProposal, PendingProposals};
use super::records::shelf;
use super::removals;
use super::roster::{Leaf, Roster};
use super::short::{LEAVES_IN_PAGE, Short};
use super::tree::{Encoded, Tree};
use crate::env::{Env, Version};
use crate::journal::Journal;
use crate::journal::head::{Head, ReadBuckets, StoredHead};
use crate::journal::load::{Addition, Bound, DayLoad, Room, UserTag};
use crate::refusal::Stop;
use crate::rows::{JoinRecordRow, Part, RecoveryRow, WelcomeRow};
use crate::store::{Appended, ChangeGroup, DeleteGroup, Kept, Transition, Versioned};
use crate::view::View;

pub(super) use sealing::{seal_parts, seal_short};

/// A recovery row for the store.
type SealedRow = (RecoveryRow, Vec<u8>);

/// A commit that was judged, and the state that it was judged in.
pub(super) struct Succession<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) judged: Judged,
    pub(super) link_keys: BTreeMap<u32, Vec<u8>>,
    pub(super) control: Control,
    pub(super) marks: Marks,
    /// After the commit.
    pub(super) tree: Tree,
    /// Before the commit.
    pub(super) pending: PendingProposals,
    pub(super) roster: Roster,
}

/// What was decided of a commit.
pub(super) struct Decision {
    pub(super) transition: Transition,
    pub(super) accepted: CommitAccepted,
    /// Of the new epoch.
    pub(super) journal: JournalKeys,
    pub(super) wake: Vec<Appended>,
}

/// Where a commit stands, and the segment in which its epoch is.
struct At {
    segment: SegmentId,
    place: Place,
    chain: ChainHead,
}

/// Keys of the new epoch.
struct Keys {
    state: StateKey,
    journal: JournalKey,
    data: DataKey,
}

impl Succession<'_> {
    pub(super) fn decide(
        mut self,
        mut head: StoredHead,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Decision, Stop> {
        let attempt = self.attempt;
        let place = Place {
            rotation_epoch: head.head.rotation_epoch,
            position: head.head.next,
        };
        let accepted = CommitAccepted {
            epoch: attempt.next_epoch(),
            place,
            accepted_ms: env.now_ms,
        };
        let day = head.head.day_of_next(env.today());
        // It goes on with the group, not with a segment that is closed.
        let mut load = std::mem::take(&mut head.head.load);
        if attempt.operation == Number::DeleteGroup {
            return self.delete(head, accepted, env);
        }
        let successor = match &self.judged.effect.reinitialized_as {
            Some(id) => {
                let reserved = reservation(id, view, env)?;
                let (name, _) = reserved.ok_or(ProblemType::InvalidGroupId)?;
                Some(name)
            }
            None => None,
        };
        let mut dropped = self.dropped_rows(env);
        let former_user = self.user()?;
        let places = self.places();
        self.marks.resize(places, env.week());
        let former_key = self.follow_tree()?;
        if env.settings.self_check {
            leaves_are_trees(&self.roster, &self.tree)?;
            self.marks.check(self.id(), &self.roster)?;
        }
        let (ended, recovery_rows) = self.follow_codes(env)?;
        let code_ended = !ended.is_empty();
        dropped.extend(ended);
        self.control
            .remember(digest(attempt.commit), &accepted, former_key);
        self.follow_arrivals(env);
        let keys = self.keys(env);
        self.marks.set_week(self.judged.signer, env.week());
        for arrival in &self.judged.arrivals {
            self.marks.set_week(*arrival, env.week());
        }
        let gone = self.gone(env)?;
        let (mut current, begins) = self.append(head, &keys, env)?;
        let journal = begins.as_ref().unwrap_or(&current);
        let journal_keys = JournalKeys {
            rotation_epoch: attempt.next_rotation(),
            journal_key: keys.journal.to_wire(),
            tag_key: journal.head().tag_key.to_wire(),
            tag_day: journal.head().tag_day,
        };
        let at = At {
            segment: journal.head().segment,
            place,
            chain: current.head().chain,
        };
        let (join_record, welcomes) = self.records(&keys, &journal_keys, at, env)?;
        let kept = join_record.iter().flat_map(|(_, _, pages)| pages);
        let kept = kept.chain(welcomes.iter().map(|(_, _, sealed)| sealed));
        let added = self.addition(&former_user, kept.map(Vec::len).sum());
        let record_bytes = attempt.group.join_record_of(self.leaves());
        let bound = Bound::of_handshakes(&env.settings.limits, record_bytes);
        load.admit(day, &added, &bound, env.now_ms)?;
        self.rename_users(&mut load, &former_user, &keys)?;
        let mut begins = begins;
        begins.as_mut().unwrap_or(&mut current).head_mut().load = load;
        let pending = self.propose(&gone, &keys, begins.as_mut().unwrap_or(&mut current), env)?;
        let wake = vec![current.appended(env)];
        let (short, parts, dropped_parts) = self.seal(keys, (places, code_ended), pending, env)?;
        let (head, mut entries) = current.into_next(env)?;
        let begins = match begins {
            Some(journal) => {
                let (head, first) = journal.into_new(env)?;
                entries.extend(first);
                Some(head)
            }
            None => None,
        };
        let change = ChangeGroup {
            group: attempt.group.row,
            expected: attempt.group.version,
            short,
            parts,
            dropped_parts,
            head: Some(head),
            begins,
            entries,
            join_record,
            welcomes,
            recovery_rows,
            dropped_recovery_rows: dropped,
            successor,
        };
        Ok(Decision {
            transition: Transition::ChangeGroup(Box::new(change)),
            accepted,
            journal: journal_keys,
            wake,
        })
    }

    fn id(&self) -> &GroupId {
        &self.attempt.group.id
    }

    fn short(&self) -> &Short {
        &self.attempt.group.short
    }

    /// Rows of the rotation that ends: all of them, since only the last rotation's are kept.
    /// Without a rotation the committer's, if it brings another recovery key.
    fn dropped_rows(&self, env: &Env<'_>) -> Vec<RecoveryRow> {
        let rows = env.rows();
        let all = self.attempt.rotation.is_some();
        self.roster
            .leaves()
            .filter(|(index, _)| {
                all || (*index == self.judged.signer && self.attempt.extras.is_some())
            })
            .filter_map(|(_, leaf)| leaf.recovery_row(self.id()))
            .map(|id| rows.recovery(&id))
            .collect()
    }

    /// The roster follows the tree: who is a member is read from the merged tree, in this one
    /// place. Returns the committer's signature key before, if it has another one now.
    fn follow_tree(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let attempt = self.attempt;
        let wrapper = attempt.next_rotation();
        let epoch = attempt.next_epoch();
        for leaf in &self.judged.effect.removed {
            self.roster.remove(*leaf);
            self.marks.set_key(*leaf, None);
        }
        let mut keys = self.link_keys.clone();
        for (index, arrival) in self.judged.arrivals.iter().zip(&self.judged.effect.added) {
            let node = self
                .tree
                .group
                .leaf(openmls::prelude::LeafNodeIndex::new(*index));
            // Adds fill the leftmost free leaves in their order (RFC 9420 §12.1.1).
            if node
                .is_none_or(|node| node.signature_key().as_slice() != arrival.claims.signature_key)
            {
                return Err(Stop::Internal("roster is not the tree's"));
            }
            let key = keys
                .remove(index)
                .ok_or(Stop::Internal("a leaf without its link key"))?;
            let mut leaf = Leaf::new(arrival.claims.clone(), epoch, (wrapper, key));
            if let (By::Joiner(..), Some(extras)) = (attempt.by, attempt.extras) {
                self.check_recovery_key(extras, None)?;
                leaf.take(extras);
            } else if let Some(extras) = self
                .pending
                .extras_of(&arrival.claims.signature_key)
                .filter(|_| arrival.by_reference)
                // Not the committer's fault: the leaf comes without one, and sets one as it
                // arrives.
                .filter(|extras| self.check_recovery_key(extras, None).is_ok())
            {
                leaf.take(&extras);
            }
            let id = leaf.recovery_row(self.id());
            self.marks.set_key(*index, id.as_ref());
            self.roster.insert(*index, leaf);
        }
        let mut former_key = None;
        if let By::Member(index) = attempt.by
            && let Some(renewed) = self.judged.effect.committer.clone()
        {
            let changes = renewed.credential_changed || attempt.extras.is_some();
            if let Some(extras) = attempt.extras {
                self.check_recovery_key(extras, Some(index))?;
            }
            if changes {
                let leaf = self
                    .roster
                    .leaf_mut(index)
                    .ok_or(Stop::Internal("roster is not the tree's"))?;
                if leaf.signature_key != renewed.claims.signature_key {
                    former_key = Some(leaf.signature_key.clone());
                }
                leaf.renew(renewed.claims);
                if let Some(extras) = attempt.extras {
                    leaf.take(extras);
                    let id = leaf.recovery_row(&attempt.group.id);
                    self.marks.set_key(index, id.as_ref());
                }
            }
        }
        for (index, sealed) in keys {
            self.roster
                .leaf_mut(index)
                .ok_or(Stop::Internal("roster is not the tree's"))?
                .set_link_key(wrapper, sealed);
        }
        let policy = self.tree.policy()?;
        self.roster.apply_policy(policy.as_ref(), epoch);
        Ok(former_key)
    }

    /// Makers of codes who are here after the commit, and may add.
    fn makers(&self) -> Result<BTreeSet<u32>, Stop> {
        let policy = self.tree.policy()?;
        let removed = &self.judged.effect.removed;
        let makers = self.control.codes.iter().map(|code| code.maker.0);
        Ok(makers
            .filter(|maker| {
                !removed.contains(maker)
                    && user_of(&self.tree.group, *maker).is_some_and(|user| {
                        mls_rules::capabilities(policy.as_ref(), &user).contain(Capabilities::ADD)
                    })
            })
            .collect())
    }

    /// A recovery key that comes with the commit, for this leaf if it is not new.
    fn check_recovery_key(&self, extras: &LeafExtras, leaf: Option<u32>) -> Result<(), Stop> {
        let key = extras.recovery_key.public_key.as_slice();
        check_own_key(self.id(), key, leaf, (&self.marks, &self.control))
    }

    /// Codes that end with this commit: those that have expired; those whose maker is gone, or may
    /// not add any more; all, when a user goes, who may know one, or when the second user of a
    /// connection has come in by one; in a rotation those that the committer does not seal the new
    /// secret to.
    fn follow_codes(
        &mut self,
        env: &mut Env<'_>,
    ) -> Result<(Vec<RecoveryRow>, Vec<SealedRow>), Stop> {
        let group = self.attempt.group.id;
        let week = env.week();
        let all_end = self.judged.effect.users_go;
        let makers = self.makers()?;
        let is_good =
            |code: &JoinCode| !all_end && code.expiry >= week && makers.contains(&code.maker.0);
        let Some(next) = self.attempt.rotation else {
            let is_answered = self.judged.effect.joined == Some(Joined::Connection);
            let keep = |code: &JoinCode| is_good(code) && !is_answered;
            let ended = self.control.end_codes(&group, keep, &env.rows());
            return Ok((ended, Vec::new()));
        };
        let brought = rows_of_codes(self.attempt, next, &self.control)?;
        let rows = env.rows();
        // The rows of the rotation before go in any case.
        let mut dropped = Vec::new();
        for code in &self.control.codes {
            dropped.push(rows.recovery(&super::control::row_of(&group, code)));
        }
        let is_kept = |code: &JoinCode| {
            is_good(code) && brought.contains(&super::control::row_of(&group, code))
        };
        self.control.end_codes(&group, is_kept, &rows);
        let kept: Vec<_> = self
            .control
            .codes
            .iter()
            .map(|code| super::control::row_of(&group, code))
            .collect();
        let mut written = Vec::new();
        for row in next.code_rows.iter().filter(|row| kept.contains(&row.id)) {
            let salt = env.salt();
            let rotation = self.attempt.next_rotation();
            let sealed = seal_recovery_row(&row.id, salt, rotation, row.sealed.as_slice())?;
            written.push((env.rows().recovery(&row.id), sealed));
        }
        if let Some(former) = &next.former_wrapper_key {
            self.control
                .extend_chain(self.attempt.next_rotation(), former.clone(), &self.roster);
        }
        Ok((dropped, written))
    }

    /// Who has committed has come, who was removed is not awaited any more, and who was added is.
    fn follow_arrivals(&mut self, env: &Env<'_>) {
        let judged = &self.judged;
        let mut seen = judged.effect.removed.clone();
        seen.push(judged.signer);
        self.control.no_longer_awaits(&seen);
        if self.attempt.welcome.is_none() {
            return;
        }
        let ends = judged.effect.added.iter().filter_map(|arrival| {
            let (from, until) = arrival.lifetime?;
            lifetime::end(from, until)
        });
        let last = ends.max().unwrap_or_default().saturating_mul(1000);
        let kept = env.today().0.saturating_add(env.settings.join_record_days);
        let until = Day::of(last).min(Day(kept));
        self.control.await_leaves(judged.arrivals.clone(), until);
    }

    fn keys(&self, env: &mut Env<'_>) -> Keys {
        match self.attempt.rotation {
            Some(next) => {
                let SegmentKeys {
                    state_key,
                    journal_key,
                } = SegmentKeys::from(next);
                Keys {
                    state: state_key,
                    journal: journal_key,
                    data: DataKey::new(env.random()),
                }
            }
            None => Keys {
                state: StateKey::new(*self.attempt.group.state_key.expose()).next(),
                journal: JournalKey::new(*self.short().journal_key.expose()).next(),
                data: DataKey::new(*self.short().data_key.expose()),
            },
        }
    }

    /// The user whose commit it is: as the roster has it, so that it is the former one before it
    /// follows.
    fn user(&self) -> Result<Vec<u8>, Stop> {
        let user = match self.attempt.by {
            By::Member(index) => self.roster.leaf(index).map(|leaf| &leaf.user_pseudonym),
            By::Joiner(..) => {
                let mut added = self.judged.effect.added.iter();
                added.next().map(|arrival| &arrival.claims.user_pseudonym)
            }
        };
        user.cloned()
            .ok_or(Stop::Internal("roster is not the tree's"))
    }

    /// The commit with its records, for the day's bounds. One that removes and brings nobody always
    /// fits.
    fn addition(&self, user: &[u8], records: usize) -> Addition {
        let effect = &self.judged.effect;
        let room = if effect.added.is_empty() && !effect.removed.is_empty() {
            Room::Always
        } else {
            Room::Bounded
        };
        Addition {
            class: Class::Handshake,
            user: UserTag::of(&self.short().data_key, user),
            bytes: records.saturating_add(self.attempt.commit.len()),
            room,
        }
    }

    /// In a rotation all users have another tag; a user that takes another name keeps what it has
    /// used.
    fn rename_users(
        &self,
        load: &mut DayLoad,
        former_user: &[u8],
        keys: &Keys,
    ) -> Result<(), Stop> {
        let user = self.user()?;
        let former = &self.short().data_key;
        let is_renamed = user != former_user;
        if self.attempt.rotation.is_some() {
            let users: BTreeSet<&[u8]> = self
                .roster
                .leaves()
                .map(|(_, leaf)| leaf.user_pseudonym.as_slice())
                .collect();
            let tags: BTreeMap<UserTag, &[u8]> = users
                .into_iter()
                .chain([&[][..]])
                .map(|of| match of == user && is_renamed {
                    true => (UserTag::of(former, former_user), of),
                    false => (UserTag::of(former, of), of),
                })
                .collect();
            load.rename(|tag| tags.get(&tag).map(|of| UserTag::of(&keys.data, of)));
        } else if is_renamed {
            let (before, now) = (UserTag::of(former, former_user), UserTag::of(former, &user));
            load.rename(|tag| Some(if tag == before { now } else { tag }));
        }
        Ok(())
    }

    fn leaves(&self) -> usize {
        self.tree.group.treesync().full_leaves().count()
    }

    /// Leaf places up to the last one that is filled.
    fn places(&self) -> u32 {
        let last = self.tree.group.treesync().full_leaves().last();
        last.map_or(1, |(index, _)| index.u32().saturating_add(1))
    }

    /// Leaves that the service proposes to remove: those that wanted to go before somebody came in,
    /// those that never came, those that are silent for too long. Never who is here.
    fn gone(&self, env: &Env<'_>) -> Result<Vec<(u32, RemovalReason)>, Stop> {
        if self.judged.effect.reinitialized_as.is_some() {
            return Ok(Vec::new());
        }
        let again = self.pending.removals()?;
        // Where the service is not listed, nobody would propose again what is not covered.
        let is_listed = removals::service_sender(env.keys, &self.tree).is_some();
        if !is_listed
            && again
                .iter()
                .any(|(leaf, _)| !self.judged.effect.removed.contains(leaf))
        {
            return Err(ProblemType::PendingProposals.into());
        }
        let never = self.control.never_came(env.today());
        let mut gone: Vec<(u32, RemovalReason)> = again;
        gone.extend(never.map(|leaf| (leaf, RemovalReason::NeverCame)));
        let now = env.week();
        let patience = match self.short().kind {
            GroupKind::Connection => CONNECTION_INACTIVE_WEEKS,
            _ => patience(self.leaves(), env.settings.inactive_weeks),
        };
        for (index, _) in self.tree.group.treesync().full_leaves() {
            let active = self.marks.week(index.u32(), now);
            if now.0.saturating_sub(active.0) >= patience {
                gone.push((index.u32(), RemovalReason::Inactive(active)));
            }
        }
        let mut seen = BTreeSet::new();
        gone.retain(|(leaf, _)| {
            *leaf != self.judged.signer
                && !self.judged.effect.removed.contains(leaf)
                && !self.judged.arrivals.contains(leaf)
                && seen.insert(*leaf)
        });
        gone.truncate(removals::MOST_AT_ONCE);
        Ok(gone)
    }

    /// The commit as the next entry, sealed under the entry key before it. A rotating one is the
    /// segment's last; the segment that begins is empty yet.
    fn append(
        &self,
        head: StoredHead,
        keys: &Keys,
        env: &mut Env<'_>,
    ) -> Result<(Journal, Option<Journal>), Stop> {
        let attempt = self.attempt;
        // The day of the commit's entry, whatever the clock does: clients count from it.
        let today = head.head.day_of_next(env.today());
        let mut current = self.append_commit(head, env)?;
        if attempt.rotation.is_none() {
            let head = current.head_mut();
            head.read_buckets = ReadBuckets::of(self.leaves());
            head.ratchet_tag(today);
            return Ok((current, None));
        }
        close(&mut current);
        let segment = keys.state.segment(self.id(), attempt.next_rotation());
        let Short {
            kind, message_days, ..
        } = *self.short();
        let head = Head::new(
            segment,
            attempt.next_rotation(),
            keys.journal.tag_key(),
            (Kept::of(kind, message_days), self.leaves()),
            today,
        );
        let begins = Journal::begin(head, env);
        Ok((current, Some(begins)))
    }

    fn append_commit(&self, head: StoredHead, env: &mut Env<'_>) -> Result<Journal, Stop> {
        let event = CommitEvent {
            commit: opaque(self.attempt.commit),
            link_keys: self
                .link_keys
                .iter()
                .map(|(index, sealed)| LinkKeyUpload {
                    leaf_index: LeafIndex(*index),
                    sealed: opaque(sealed.as_slice()),
                })
                .collect(),
            former_wrapper_key: self
                .attempt
                .rotation
                .and_then(|next| next.former_wrapper_key.clone()),
        };
        let mut journal = Journal::of(head);
        journal.append(&self.short().journal_key, Event::Commit(event), env)?;
        Ok(journal)
    }

    /// The service's proposals are the first entries after the commit.
    fn propose(
        &self,
        gone: &[(u32, RemovalReason)],
        keys: &Keys,
        journal: &mut Journal,
        env: &mut Env<'_>,
    ) -> Result<PendingProposals, Stop> {
        let epoch = self.attempt.next_epoch();
        let mut pending = PendingProposals::default();
        for (message, origin) in removals::propose(env.keys, self.id(), epoch, &self.tree, gone) {
            let event = Event::Proposal(opaque(message.as_slice()));
            let accepted = EntryAccepted {
                place: journal.append(&keys.journal, event, env)?,
                accepted_ms: env.now_ms,
            };
            pending
                .proposals
                .push(PendingProposal::new(message, origin, &accepted));
        }
        Ok(pending)
    }

    /// The commit closes the journal, which stays until its day; nothing else does.
    fn delete(
        self,
        head: StoredHead,
        accepted: CommitAccepted,
        env: &mut Env<'_>,
    ) -> Result<Decision, Stop> {
        let attempt = self.attempt;
        let mut dropped: Vec<RecoveryRow> = Vec::new();
        let rows = env.rows();
        for (_, leaf) in self.roster.leaves() {
            dropped.extend(leaf.recovery_row(self.id()).map(|id| rows.recovery(&id)));
        }
        for code in &self.control.codes {
            dropped.push(rows.recovery(&super::control::row_of(self.id(), code)));
        }
        let mut journal = self.append_commit(head, env)?;
        close(&mut journal);
        let wake = vec![journal.appended(env)];
        let journal_keys = JournalKeys {
            rotation_epoch: attempt.next_rotation(),
            journal_key: JournalKey::new([0; 32]).to_wire(),
            tag_key: crypto::schedule::TagKey::new([0; 32]).to_wire(),
            tag_day: env.today(),
        };
        let (head, entries) = journal.into_next(env)?;
        let entry = entries
            .into_iter()
            .next()
            .ok_or(Stop::Internal("an append without an entry"))?;
        // As a short part looks, under a key that nobody has.
        let version = env.version();
        let nobodys = StateKey::new(env.random());
        let blank = vec![0; self.short().encode().len()];
        let tombstone = Versioned {
            version,
            sealed: parts::seal_short(self.id(), &nobodys, &version, &blank, env)?,
        };
        let delete = DeleteGroup {
            group: attempt.group.row,
            expected: attempt.group.version,
            tombstone,
            parts: self.short().parts(),
            head,
            entry,
            dropped_recovery_rows: dropped,
        };
        Ok(Decision {
            transition: Transition::DeleteGroup(Box::new(delete)),
            accepted,
            journal: journal_keys,
            wake,
        })
    }
}

/// Nothing follows the commit that ends a segment, which counts as no step of it.
fn close(journal: &mut Journal) {
    journal.close();
    let step = &mut journal.head_mut().step;
    step.0 = step.0.saturating_sub(1);
}
