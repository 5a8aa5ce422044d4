//! A commit on its way through the checks, from a member or a joiner: read what it needs, judge it,
//! and make of it the group's next state.

use std::collections::{BTreeMap, BTreeSet};

use crypto::schedule::{JoinKey, SegmentKeys};
use mls_rules::operation::Permit;
use mls_rules::{Case, Effect};
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    ContentType, LeafNodeIndex, MlsMessageIn, ProcessedMessageContent, ProtocolMessage,
    PublicMessageIn, Sender,
};
use openmls_rust_crypto::RustCrypto;
use protocol::Wire as _;
use protocol::group::{
    CommitAad, JoinersUpload, LeafExtras, MAX_RESEALED, NextSegment, PartialGroupInfo,
};
use protocol::ids::{Digest, Epoch, LeafIndex, RotationEpoch, SegmentId};
use protocol::join::{JoinPermit, LinkKeyUpload};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use sha2::{Digest as _, Sha256};

use super::checks::{check_extras, check_row, check_sealed_key, within};
use super::control::{self, Control};
use super::open::OpenedGroup;
use super::proposals::PendingProposals;
use super::records::shelf;
use super::removals;
use super::roster::Roster;
use super::sizes::most_leaves;
use super::tree::{Fields, Tree};
use crate::engine::Key;
use crate::env::Env;
use crate::refusal::Stop;

/// A commit that came.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) operation: Number,
    pub(super) group: &'a OpenedGroup,
    pub(super) by: By<'a>,
    pub(super) commit: &'a [u8],
    pub(super) partial: &'a PartialGroupInfo,
    pub(super) rotation: Option<&'a NextSegment>,
    pub(super) link_keys: &'a [LinkKeyUpload],
    /// The committer's or joiner's.
    pub(super) extras: Option<&'a LeafExtras>,
    pub(super) welcome: Option<&'a JoinersUpload>,
}

/// Whose commit it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum By<'a> {
    /// A leaf's, which has signed the request.
    Member(u32),
    /// Of whoever comes in, with the key that has signed the request.
    Joiner(&'a [u8], &'a JoinPermit),
}

/// A commit that is valid, merged into the tree.
pub(super) struct Judged {
    pub(super) effect: Effect,
    pub(super) fields: Fields<'static>,
    pub(super) signer: u32,
    /// Places of the leaves that came in, in the order of [`Effect::added`].
    pub(super) arrivals: Vec<u32>,
}

/// SHA-256 of a commit.
pub(super) fn digest(commit: &[u8]) -> Digest {
    Digest(Sha256::digest(commit).into())
}

impl Attempt<'_> {
    /// The epoch that the commit begins.
    pub(super) fn next_epoch(&self) -> Epoch {
        self.group.short.epoch.next()
    }

    /// The rotation epoch after the commit.
    pub(super) fn next_rotation(&self) -> RotationEpoch {
        match self.rotation {
            Some(_) => RotationEpoch(self.next_epoch().0),
            None => self.group.short.rotation_epoch,
        }
    }

    pub(super) fn next_segment(&self) -> Option<SegmentId> {
        let keys = SegmentKeys::from(self.rotation?);
        Some(keys.state_key.segment(&self.group.id, self.next_rotation()))
    }

    /// Before anything is read: what is too long to be kept, and a rotation that is none.
    pub(super) fn check(&self, env: &Env<'_>) -> Result<(), Stop> {
        let limits = &env.settings.limits;
        within(self.commit.len(), limits.commit_bytes)?;
        let PartialGroupInfo {
            extensions,
            signature,
        } = self.partial;
        let info = extensions.as_slice().len() + signature.as_slice().len();
        within(info, limits.group_info_bytes)?;
        let adds = matches!(self.operation, Number::AddUsers | Number::AddClients);
        if self.welcome.is_some() != adds {
            return Err(ProblemType::InvalidCommit.into());
        }
        if let Some(JoinersUpload {
            join_key: _,
            welcomes,
        }) = self.welcome
        {
            within(welcomes.len(), limits.joiners)?;
            let sizes: BTreeSet<usize> = welcomes
                .iter()
                .map(|welcome| welcome.sealed.as_slice().len())
                .collect();
            let ids: BTreeSet<_> = welcomes.iter().map(|welcome| welcome.id).collect();
            // All are of one size, so that none tells whose it is.
            let (Some(size), 1) = (sizes.first(), sizes.len()) else {
                return Err(ProblemType::InvalidCommit.into());
            };
            if ids.len() != welcomes.len() {
                return Err(ProblemType::InvalidCommit.into());
            }
            within(size.saturating_mul(welcomes.len()), limits.welcome_bytes)?;
        }
        if let Some(next) = self.rotation {
            self.check_rotation(next)?;
        }
        Ok(())
    }

    fn check_rotation(&self, next: &NextSegment) -> Result<(), Stop> {
        // Whoever is left alone ends the group, and no segment follows.
        if self.operation == Number::DeleteGroup {
            return Err(ProblemType::InvalidCommit.into());
        }
        let keys = SegmentKeys::from(next);
        if keys.state_key == self.group.state_key
            || keys.journal_key == self.group.short.journal_key
        {
            return Err(ProblemType::RotationRequired.into());
        }
        match &next.former_wrapper_key {
            Some(former) if former.of == self.group.short.rotation_epoch => {
                check_sealed_key(former.sealed.as_slice())?;
            }
            _ => return Err(ProblemType::InvalidCommit.into()),
        }
        next.code_rows.iter().try_for_each(check_row)
    }

    /// A PublicMessage of content type commit for this group and epoch, by who has signed the
    /// request.
    pub(super) fn parse(&self) -> Result<PublicMessageIn, Stop> {
        let short = &self.group.short;
        let (message, rest) = MlsMessageIn::tls_deserialize_bytes(self.commit)
            .map_err(|_| ProblemType::InvalidMessage)?;
        let Ok(message) = message.try_into_protocol_message() else {
            return Err(ProblemType::InvalidMessage.into());
        };
        if !rest.is_empty()
            || message.content_type() != ContentType::Commit
            || message.group_id().as_slice() != self.group.id.0
        {
            return Err(ProblemType::InvalidMessage.into());
        }
        // Deletion is what is left to do.
        if short.reinitialized && self.operation != Number::DeleteGroup {
            return Err(ProblemType::GroupReinitialized.into());
        }
        let epoch = Epoch(message.epoch().as_u64());
        let ProtocolMessage::PublicMessage(message) = message else {
            return Err(ProblemType::InvalidMessage.into());
        };
        if epoch != short.epoch {
            return Err(self.group.other_epoch(epoch).into());
        }
        let is_senders = match self.by {
            By::Member(index) => *message.sender() == Sender::Member(LeafNodeIndex::new(index)),
            By::Joiner(..) => *message.sender() == Sender::NewMemberCommit,
        };
        if !is_senders {
            return Err(ProblemType::InvalidCommit.into());
        }
        Ok(*message)
    }

    /// The service asks members for a rotation, not who comes from outside; deletion is one of its
    /// own.
    pub(super) fn is_due(&self, control: &Control, env: &Env<'_>) -> bool {
        self.rotation.is_none()
            && matches!(self.by, By::Member(_))
            && self.operation != Number::DeleteGroup
            && (self.group.short.is_due(env) || control.has_expired_code(env.week()))
    }

    /// Pages of the roster that the decision reads. What changes no leaf but the committer's reads
    /// its page.
    pub(super) fn pages(&self, env: &Env<'_>) -> Vec<u16> {
        let is_own = self.is_path_only()
            || self.operation == Number::ReInitializeGroup && self.rotation.is_none();
        match self.by {
            By::Member(index) if is_own && !env.settings.self_check => {
                let page = index / super::short::LEAVES_IN_PAGE;
                u16::try_from(page).into_iter().collect()
            }
            _ => Roster::all_pages(self.group),
        }
    }

    /// Whether it can change nothing of any leaf but the committer's: it is nothing but a path.
    pub(super) fn is_path_only(&self) -> bool {
        self.operation == Number::UpdateClient
            && self.rotation.is_none()
            && self.welcome.is_none()
            && self.group.short.proposals.is_none()
    }

    /// Keys of the records that the commit brings.
    pub(super) fn records(&self, env: &Env<'_>) -> Vec<Key> {
        let Some(JoinersUpload { join_key, welcomes }) = self.welcome else {
            return Vec::new();
        };
        let rows = env.rows();
        let last_day = shelf(env.today(), env);
        let record = JoinKey::from(join_key).record_id(&self.group.id);
        let record = rows.join_record(&record).page(last_day, 0);
        let welcomes = welcomes
            .iter()
            .map(|welcome| rows.welcome(&welcome.id).key(last_day));
        welcomes.chain([record]).collect()
    }

    pub(super) fn judge(
        &self,
        message: PublicMessageIn,
        control: &Control,
        tree: &mut Tree,
        pending: &PendingProposals,
        env: &Env<'_>,
    ) -> Result<Judged, Stop> {
        let crypto = RustCrypto::default();
        pending.hand_to(tree, &crypto)?;
        let sender = message.sender().clone();
        let processed = tree
            .group
            .process_message(&crypto, message)
            .map_err(|_| ProblemType::InvalidCommit)?;
        let aad = CommitAad::decode(processed.aad()).map_err(|_| ProblemType::InvalidCommit)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(ProblemType::InvalidCommit.into());
        };
        let limits = &env.settings.limits;
        // Removals are bounded by the number of leaves: a user must always go, and a group.
        let others = staged
            .queued_proposals()
            .filter(|queued| mls_rules::leaving(queued).is_none());
        within(others.count(), limits.proposals)?;
        let leaving: Vec<u32> = pending.removals()?.iter().map(|(leaf, _)| *leaf).collect();
        let service = removals::senders(env.keys);
        let case = Case {
            group_id: self.group.id,
            segment: self.group.short.segment,
            kind: self.group.short.kind,
            group: &tree.group,
            service: &service,
            leaving: &leaving,
            staged: &staged,
            sender: &sender,
            aad: &aad,
            accepted_ms: env.now_ms,
        };
        let rotates = self.rotation.is_some();
        let effect = match self.by {
            By::Member(_) => case.judge_operation(self.operation, rotates),
            By::Joiner(_, permit) => {
                let permit = permit_of(permit, control, env)?;
                case.judge_join(permit, rotates)
            }
        };
        let effect = effect.map_err(|refusal| Stop::from(refusal.problem()))?;
        let before: BTreeSet<u32> = tree
            .group
            .treesync()
            .full_leaves()
            .map(|(index, _)| index.u32())
            .collect();
        if !effect.added.is_empty() {
            let members = before.len() + effect.added.len() - effect.removed.len();
            let ciphersuite = self.group.short.ciphersuite;
            let most = most_leaves(ciphersuite, limits.commit_bytes);
            within(members, limits.members.min(most))?;
            within(effect.added.len(), limits.joiners)?;
        }
        let signer = match sender {
            Sender::Member(index) => index,
            _ => tree
                .group
                .ext_commit_sender_index(&staged)
                .map_err(|_| ProblemType::InvalidCommit)?,
        };
        let fields = tree.advance(&crypto, *staged, signer, self.partial)?;
        // The request is the joiner's own: signed by the key of the leaf that it brings.
        if let By::Joiner(key, _) = self.by
            && tree
                .group
                .leaf(signer)
                .is_none_or(|leaf| leaf.signature_key().as_slice() != key)
        {
            return Err(ProblemType::BadSignature.into());
        }
        let arrivals: Vec<u32> = tree
            .group
            .treesync()
            .full_leaves()
            .map(|(index, _)| index.u32())
            .filter(|index| !before.contains(index) || effect.removed.contains(index))
            .collect();
        if arrivals.len() != effect.added.len() {
            return Err(Stop::Internal("arrivals are not the tree's"));
        }
        Ok(Judged {
            effect,
            fields,
            signer: signer.u32(),
            arrivals,
        })
    }

    /// Link keys under the wrapper key in force after the commit, by leaf: exactly one of each leaf
    /// that comes in and of a committer that brings one, and in a rotation some re-sealed ones.
    pub(super) fn link_keys(
        &self,
        judged: &Judged,
        tree: &Tree,
        pending: &PendingProposals,
    ) -> Result<BTreeMap<u32, Vec<u8>>, Stop> {
        let invalid = || Stop::from(ProblemType::InvalidCommit);
        let mut uploads = BTreeMap::new();
        for LinkKeyUpload { leaf_index, sealed } in self.link_keys {
            check_sealed_key(sealed.as_slice())?;
            if uploads
                .insert(leaf_index.0, sealed.as_slice().to_vec())
                .is_some()
            {
                return Err(invalid());
            }
        }
        let mut of_leaves = BTreeMap::new();
        if let Some(extras) = self.extras {
            let node = tree
                .group
                .leaf(LeafNodeIndex::new(judged.signer))
                .ok_or_else(invalid)?;
            check_extras(&self.group.id, node.signature_key().as_slice(), extras)?;
            let own = extras.wrapped_link_key.as_slice().to_vec();
            // It may be said twice, not in two ways.
            if uploads
                .remove(&judged.signer)
                .is_some_and(|other| other != own)
            {
                return Err(invalid());
            }
            of_leaves.insert(judged.signer, own);
        }
        let updates = self.operation == Number::UpdateClient;
        if matches!(self.by, By::Member(_)) && self.extras.is_some() != updates {
            return Err(invalid());
        }
        for (index, arrival) in judged.arrivals.iter().zip(&judged.effect.added) {
            if of_leaves.contains_key(index) {
                continue;
            }
            let said_itself = || {
                let allowed = arrival.by_reference && self.rotation.is_none();
                let extras = pending.extras_of(&arrival.claims.signature_key);
                extras
                    .filter(|_| allowed)
                    .map(|extras| extras.wrapped_link_key.as_slice().to_vec())
            };
            let key = uploads.remove(index).or_else(said_itself);
            of_leaves.insert(*index, key.ok_or_else(invalid)?);
        }
        // What is left is re-sealed.
        if !uploads.is_empty() && (self.rotation.is_none() || uploads.len() > MAX_RESEALED) {
            return Err(invalid());
        }
        for (index, sealed) in uploads {
            if tree.group.leaf(LeafNodeIndex::new(index)).is_none() {
                return Err(invalid());
            }
            of_leaves.insert(index, sealed);
        }
        Ok(of_leaves)
    }
}

/// What a permit says, the join code's looked up.
///
/// # Errors
/// [`ProblemType::NotAllowed`].
pub(super) fn permit_of(
    permit: &JoinPermit,
    control: &Control,
    env: &Env<'_>,
) -> Result<Permit, Stop> {
    match permit {
        JoinPermit::Client => Ok(Permit::Client),
        JoinPermit::Rejoin => Ok(Permit::Rejoin),
        JoinPermit::JoinCode(secret) => {
            let hash = crypto::schedule::JoinCodePermit::from(secret).hash();
            match control.code(&hash, env.week()) {
                Some(_) => Ok(Permit::JoinCode),
                None => Err(ProblemType::NotAllowed.into()),
            }
        }
    }
}

/// Rows of codes that a rotation brings: each of a code that is kept, and no two of one.
pub(super) fn rows_of_codes(
    attempt: &Attempt<'_>,
    next: &NextSegment,
    control: &Control,
) -> Result<BTreeSet<protocol::ids::RecoveryRowId>, Stop> {
    let known: BTreeSet<_> = control
        .codes
        .iter()
        .map(|code| control::row_of(&attempt.group.id, code))
        .collect();
    let brought: BTreeSet<_> = next.code_rows.iter().map(|row| row.id).collect();
    if brought.len() == next.code_rows.len() && brought.is_subset(&known) {
        Ok(brought)
    } else {
        Err(ProblemType::InvalidCommit.into())
    }
}

/// With the setting `self_check`: roster and tree have the same leaves, keys, users and
/// capabilities.
///
/// # Errors
/// [`Stop::Internal`].
pub(super) fn roster_is_tree(
    group: &OpenedGroup,
    roster: &Roster,
    tree: &Tree,
) -> Result<(), Stop> {
    if group.short.ciphersuite != u16::from(tree.group.ciphersuite()) {
        return Err(Stop::Internal("self-check: ciphersuite"));
    }
    leaves_are_trees(roster, tree)
}

/// As [`roster_is_tree`], for the leaves.
pub(super) fn leaves_are_trees(roster: &Roster, tree: &Tree) -> Result<(), Stop> {
    let policy = tree.policy()?;
    let mut leaves = roster.leaves();
    for (index, node) in tree.group.treesync().full_leaves() {
        let claims = mls_rules::LeafClaims::of(node)
            .map_err(|_| Stop::Internal("self-check: credential"))?;
        let (at, leaf) = leaves.next().ok_or(Stop::Internal(
            "self-check: a leaf is missing in the roster",
        ))?;
        if LeafIndex(at) != LeafIndex(index.u32())
            || leaf.signature_key != claims.signature_key
            || leaf.user_pseudonym != claims.user_pseudonym
            || leaf.capabilities() != mls_rules::capabilities(policy.as_ref(), &leaf.user_pseudonym)
        {
            return Err(Stop::Internal("self-check: a leaf differs"));
        }
    }
    match leaves.next() {
        None => Ok(()),
        Some(_) => Err(Stop::Internal("self-check: a leaf is missing in the tree")),
    }
}
