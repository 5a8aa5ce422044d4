//! Commits, as everybody judges them: by the policy and the members of the epoch that they end.

use std::collections::{BTreeMap, BTreeSet};

use crypto::leaf_authorization::{self, AuthorizedJoin};
use openmls::group::GroupContext;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    Extensions, LeafNode, Proposal, ProposalOrRefType, ProposalType, PublicGroup, QueuedProposal,
    Sender, StagedCommit,
};
use protocol::group::{CommitAad, GroupKind};
use protocol::ids::{GroupId, SegmentId};
use protocol::join::LeafAuthorization;
use protocol::policy::{Capabilities, GroupPolicy};
use tls_codec::{TlsDeserializeBytes, TlsSize, VLBytes};

use crate::context::{ServiceSenders, others, policy_in};
use crate::leaf::{LeafClaims, is_one_user, user_of, users};
use crate::{MAX_CLIENTS, Refusal, SUPPORTED_CIPHERSUITES, capabilities};

/// A commit before the judge.
#[derive(Debug)]
pub struct Case<'c> {
    /// The group that the commit is for.
    pub group_id: GroupId,
    /// The segment of its journal that it is in.
    pub segment: SegmentId,
    /// The kind of the group.
    pub kind: GroupKind,
    /// The public group before the commit.
    pub group: &'c PublicGroup,
    /// The service's identity among the external senders.
    pub service: &'c ServiceSenders,
    /// Leaves whose removal is pending by their own wish or by the service's word. Every commit
    /// must let them go.
    pub leaving: &'c [u32],
    /// The commit as the MLS library has processed it.
    pub staged: &'c StagedCommit,
    /// The committer, as the MLS library names it.
    pub sender: &'c Sender,
    /// The authenticated data of the commit.
    pub aad: &'c CommitAad,
    /// When the service accepts it, or says that it did: milliseconds since the Unix epoch.
    pub accepted_ms: u64,
}

/// The effect of a commit on a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Leaves that come in, in the order of the Adds, which fill the leftmost free places (RFC 9420
    /// §12.1.1); or the external committer's.
    pub added: Vec<Arrival>,
    /// Leaves that go, ascending.
    pub removed: Vec<u32>,
    /// Whether a user has no leaf any more.
    pub users_go: bool,
    /// The committer's new leaf, if a path brings one and the committer was a member.
    pub committer: Option<Renewed>,
    /// How an external committer comes in.
    pub joined: Option<Joined>,
    /// The group that takes this one's place (RFC 9420 §11.2).
    pub reinitialized_as: Option<GroupId>,
    /// Whether everybody but the committer goes and no segment follows.
    pub deletes: bool,
}

/// A leaf that comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The leaf's checked claims.
    pub claims: LeafClaims,
    /// `not_before` and `not_after` of its KeyPackage, if it has one.
    pub lifetime: Option<(u64, u64)>,
    /// Whether it was proposed before, not by the committer.
    pub by_reference: bool,
}

/// A committer's new leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The leaf's checked claims.
    pub claims: LeafClaims,
    /// Whether key or credential are new.
    pub credential_changed: bool,
}

/// How an external committer comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// As the second user of a connection group.
    Connection,
    /// As a new user; by a join code, which only the service can check.
    NewUser,
    /// As a further client of a user whose leaf has authorized it.
    Client,
    /// In the place of this leaf, which has authorized it.
    Rejoin(u32),
}

/// Longest time that a leaf's authorization is good for, with room for two clocks, milliseconds. A
/// thief who finds one later, in a backup say, must not come in by it.
pub const MAX_AUTHORIZATION_MS: u64 = 7 * 24 * 60 * 60 * 1000 + 10 * 60 * 1000;

/// The leaf that a proposal removes.
#[must_use]
pub fn leaving(queued: &QueuedProposal) -> Option<u32> {
    match (queued.proposal(), queued.sender()) {
        (Proposal::Remove(remove), _) => Some(remove.removed().u32()),
        (Proposal::SelfRemove, Sender::Member(sender)) => Some(sender.u32()),
        _ => None,
    }
}

impl Case<'_> {
    /// Judges the commit as everybody does.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(&self) -> Result<Effect, Refusal> {
        if self.aad.rotates > 1 {
            return Err(Refusal::Commit);
        }
        let policy = policy_in(self.group.group_context().extensions())?;
        let mut effect = match self.sender {
            Sender::Member(index) => {
                let actor = user_of(self.group, index.u32()).ok_or(Refusal::Commit)?;
                Member {
                    case: self,
                    index: index.u32(),
                    may: capabilities(policy.as_ref(), &actor),
                    policy: policy.as_ref(),
                    actor,
                }
                .judge()?
            }
            Sender::NewMemberCommit => self.by_joiner(policy.as_ref())?,
            Sender::External(_) | Sender::NewMemberProposal => return Err(Refusal::Commit),
        };
        effect.removed = self.removed();
        if self.aad.rotates == 0 && !effect.removed.is_empty() && !effect.deletes {
            return Err(Refusal::Rotation);
        }
        self.check_numbers(&effect)?;
        effect.users_go = self.users_go(&effect);
        Ok(effect)
    }

    /// Leaves that the commit removes, by value and by reference, ascending.
    pub(crate) fn removed(&self) -> Vec<u32> {
        let mut removed: Vec<u32> = self.staged.queued_proposals().filter_map(leaving).collect();
        removed.sort_unstable();
        removed.dedup();
        removed
    }

    pub(crate) fn by_value(&self) -> impl Iterator<Item = &QueuedProposal> {
        self.staged
            .queued_proposals()
            .filter(|queued| queued.proposal_or_ref_type() == ProposalOrRefType::Proposal)
    }

    pub(crate) fn by_reference(&self) -> impl Iterator<Item = &QueuedProposal> {
        self.staged
            .queued_proposals()
            .filter(|queued| queued.proposal_or_ref_type() == ProposalOrRefType::Reference)
    }

    pub(crate) fn has_user(&self, pseudonym: &[u8]) -> bool {
        users(self.group).any(|(_, user)| user == pseudonym)
    }

    /// However a leaf comes in, its user has so many after the commit.
    fn check_numbers(&self, effect: &Effect) -> Result<(), Refusal> {
        let mut leaves: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for Arrival { claims, .. } in &effect.added {
            *leaves.entry(claims.user_pseudonym.clone()).or_default() += 1;
        }
        if leaves.is_empty() {
            return Ok(());
        }
        for (leaf, user) in users(self.group) {
            if effect.removed.binary_search(&leaf).is_err()
                && let Some(leaves) = leaves.get_mut(&user)
            {
                *leaves += 1;
            }
        }
        if leaves.values().all(|leaves| *leaves <= MAX_CLIENTS) {
            Ok(())
        } else {
            Err(Refusal::TooMany)
        }
    }

    fn users_go(&self, effect: &Effect) -> bool {
        if effect.removed.is_empty() {
            return false;
        }
        let mut gone = BTreeSet::new();
        let mut staying: BTreeSet<Vec<u8>> = effect
            .added
            .iter()
            .map(|arrival| arrival.claims.user_pseudonym.clone())
            .collect();
        for (leaf, user) in users(self.group) {
            if effect.removed.contains(&leaf) {
                gone.insert(user);
            } else {
                staying.insert(user);
            }
        }
        gone.iter().any(|user| !staying.contains(user))
    }

    /// Whether a leaf goes by its own wish or the service's, not by a member's or another sender's.
    fn goes_by_itself(&self, queued: &QueuedProposal) -> bool {
        let Some(leaf) = leaving(queued) else {
            return false;
        };
        if self.leaving.contains(&leaf) {
            return true;
        }
        match queued.sender() {
            Sender::External(_) => self
                .service
                .sent(self.group.group_context().extensions(), queued),
            Sender::Member(sender) => leaf == sender.u32(),
            _ => false,
        }
    }

    /// An external commit (RFC 9420 §12.4.3.2) replaces a leaf or adds a client, which a leaf of
    /// the same user has authorized, or adds a user whom nobody knows yet.
    fn by_joiner(&self, policy: Option<&GroupPolicy>) -> Result<Effect, Refusal> {
        let mut replaced = None;
        for queued in self.by_value() {
            match queued.proposal() {
                Proposal::Remove(remove) if replaced.is_none() => {
                    replaced = Some(remove.removed().u32());
                }
                Proposal::ExternalInit(_) => {}
                _ => return Err(Refusal::Commit),
            }
        }
        let node = self.staged.update_path_leaf_node();
        let claims = LeafClaims::of(node.ok_or(Refusal::Commit)?)?;
        let user = claims.user_pseudonym.as_slice();
        let is_answer = !self.aad.encrypted_connection_response.as_slice().is_empty();
        let joined = match (&self.aad.authorization, replaced) {
            (Some(word), Some(leaf)) => {
                if word.leaf_index != leaf {
                    return Err(Refusal::Commit);
                }
                self.check_word(word, AuthorizedJoin::Rejoin, &claims)?;
                Joined::Rejoin(leaf)
            }
            (Some(word), None) => {
                self.check_word(word, AuthorizedJoin::Client, &claims)?;
                if policy.is_some_and(|policy| policy.bans(user)) {
                    return Err(Refusal::NotAllowed);
                }
                Joined::Client
            }
            (None, Some(_)) => return Err(Refusal::Commit),
            (None, None) => {
                let listed = policy.is_some_and(|policy| policy.participant(user).is_some());
                if listed || self.has_user(user) {
                    return Err(Refusal::NotAllowed);
                }
                match self.kind {
                    GroupKind::Group => Joined::NewUser,
                    GroupKind::Connection if is_one_user(self.group) => Joined::Connection,
                    GroupKind::Connection | GroupKind::SingleUser => {
                        return Err(Refusal::NotAllowed);
                    }
                }
            }
        };
        if is_answer != (joined == Joined::Connection) {
            return Err(Refusal::Commit);
        }
        Ok(Effect {
            added: vec![Arrival {
                claims,
                lifetime: None,
                by_reference: false,
            }],
            joined: Some(joined),
            ..Effect::default()
        })
    }

    fn check_word(
        &self,
        word: &LeafAuthorization,
        join: AuthorizedJoin,
        claims: &LeafClaims,
    ) -> Result<(), Refusal> {
        let user = verify_word(
            self.group,
            &self.group_id,
            &self.segment,
            word,
            join,
            &claims.signature_key,
            self.accepted_ms,
        )?;
        if user == claims.user_pseudonym {
            Ok(())
        } else {
            Err(Refusal::NotAllowed)
        }
    }
}

/// The user whose leaf has authorized the holder of a key to come in.
///
/// # Errors
/// [`Refusal::NotAllowed`], [`Refusal::TooLong`].
pub fn verify_word(
    group: &PublicGroup,
    group_id: &GroupId,
    segment: &SegmentId,
    word: &LeafAuthorization,
    join: AuthorizedJoin,
    new_key: &[u8],
    accepted_ms: u64,
) -> Result<Vec<u8>, Refusal> {
    let leaf = group
        .leaf(openmls::prelude::LeafNodeIndex::new(word.leaf_index))
        .ok_or(Refusal::NotAllowed)?;
    if word.not_after_ms > accepted_ms.saturating_add(MAX_AUTHORIZATION_MS) {
        return Err(Refusal::TooLong);
    }
    leaf_authorization::verify(
        word,
        leaf.signature_key().as_slice(),
        group_id,
        segment,
        join,
        new_key,
        accepted_ms,
    )
    .map_err(|_| Refusal::NotAllowed)?;
    user_of(group, word.leaf_index).ok_or(Refusal::NotAllowed)
}

/// A member's commit before the judge.
struct Member<'c> {
    case: &'c Case<'c>,
    index: u32,
    actor: Vec<u8>,
    policy: Option<&'c GroupPolicy>,
    may: Capabilities,
}

impl Member<'_> {
    fn judge(&self) -> Result<Effect, Refusal> {
        let CommitAad {
            rotates: _,
            authorization,
            encrypted_connection_response,
        } = self.case.aad;
        if authorization.is_some() || !encrypted_connection_response.as_slice().is_empty() {
            return Err(Refusal::Commit);
        }
        let mut effect = Effect::default();
        for queued in self.case.staged.queued_proposals() {
            match queued.proposal() {
                Proposal::Add(add) => {
                    let claims = self.added(add.key_package().leaf_node())?;
                    let shown = add.key_package().life_time();
                    effect.added.push(Arrival {
                        claims,
                        lifetime: Some((shown.not_before(), shown.not_after())),
                        by_reference: queued.proposal_or_ref_type() == ProposalOrRefType::Reference,
                    });
                }
                Proposal::GroupContextExtensions(proposal) => {
                    self.context_changed(proposal.extensions())?;
                }
                Proposal::ReInit(_) => {
                    self.require(Capabilities::DELETE)?;
                    effect.reinitialized_as = Some(successor(queued.proposal())?);
                }
                _ => {}
            }
        }
        effect.deletes = self.removals()?;
        effect.committer = self.own_leaf()?;
        Ok(effect)
    }

    fn require(&self, needed: Capabilities) -> Result<(), Refusal> {
        if self.may.contain(needed) {
            Ok(())
        } else {
            Err(Refusal::NotAllowed)
        }
    }

    /// Whether the policy speaks of a user. Pseudonyms are what their holders say: who comes anew
    /// cannot have one that the policy gives a role, or keeps out.
    fn lists(&self, user_pseudonym: &[u8]) -> bool {
        self.policy
            .is_some_and(|policy| policy.participant(user_pseudonym).is_some())
    }

    fn added(&self, node: &LeafNode) -> Result<LeafClaims, Refusal> {
        let claims = LeafClaims::of(node)?;
        let user = claims.user_pseudonym.as_slice();
        if user == self.actor {
            if self.policy.is_some_and(|policy| policy.bans(user)) {
                return Err(Refusal::NotAllowed);
            }
            return Ok(claims);
        }
        self.require(Capabilities::ADD)?;
        if self.lists(user) || self.case.has_user(user) || self.case.kind != GroupKind::Group {
            return Err(Refusal::NotAllowed);
        }
        Ok(claims)
    }

    /// Own clients may be removed; other users, whole, by who may remove; everybody, so that the
    /// group ends, by who may delete. In a connection nobody removes the other one. Returns whether
    /// the group ends.
    fn removals(&self) -> Result<bool, Refusal> {
        let gone = self.case.removed();
        if gone.contains(&self.index) {
            return Err(Refusal::Commit);
        }
        let members = self.case.group.treesync().full_leaves().count();
        let everybody = members > 1 && gone.len().saturating_add(1) >= members;
        let deletes = everybody && self.case.aad.rotates == 0;
        let may = (self.case.kind == GroupKind::Group && self.may.contain(Capabilities::REMOVE))
            || (deletes && self.may.contain(Capabilities::DELETE));
        for queued in self.case.staged.queued_proposals() {
            let Some(index) = leaving(queued).filter(|_| !self.case.goes_by_itself(queued)) else {
                continue;
            };
            // On an outsider's word a committer removes whom it could remove itself.
            if matches!(queued.sender(), Sender::External(_)) && !may {
                return Err(Refusal::NotAllowed);
            }
            let user = user_of(self.case.group, index).ok_or(Refusal::Commit)?;
            if user == self.actor {
                continue;
            }
            let incomplete =
                users(self.case.group).any(|(leaf, of)| of == user && !gone.contains(&leaf));
            if !may || incomplete {
                return Err(Refusal::NotAllowed);
            }
        }
        // Whoever is left alone ends the group, whatever its role.
        if deletes && !self.may.contain(Capabilities::DELETE) && !is_one_user(self.case.group) {
            return Err(Refusal::Rotation);
        }
        Ok(deletes)
    }

    /// Only a group that people are in has a policy, and with it a profile.
    fn context_changed(&self, next: &Extensions<GroupContext>) -> Result<(), Refusal> {
        if self.case.kind != GroupKind::Group {
            return Err(Refusal::NotAllowed);
        }
        let next_policy = policy_in(next)?.ok_or(Refusal::Commit)?;
        let now = self.case.group.group_context().extensions();
        if others(now)? != others(next)? {
            return Err(Refusal::Commit);
        }
        self.case.service.check_change(now, next)?;
        let gone = self.case.removed();
        let staying: Vec<Vec<u8>> = users(self.case.group)
            .filter(|(leaf, _)| !gone.contains(leaf))
            .map(|(_, user)| user)
            .collect();
        match self.policy {
            Some(policy) => policy
                .check_change(&next_policy, &self.actor, staying.iter().map(Vec::as_slice))
                .map_err(|_| Refusal::NotAllowed),
            // A group without a policy takes its first one from anybody, who must be able to change
            // it.
            None if next_policy
                .capabilities(&self.actor)
                .contain(Capabilities::SET_ROLE) =>
            {
                Ok(())
            }
            None => Err(Refusal::NotAllowed),
        }
    }

    /// A committer's new leaf says the same user, or one that nobody else is and no policy lists,
    /// and leaves no other client behind under the old one.
    fn own_leaf(&self) -> Result<Option<Renewed>, Refusal> {
        let Some(node) = self.case.staged.update_path_leaf_node() else {
            return Ok(None);
        };
        let old = self
            .case
            .group
            .leaf(openmls::prelude::LeafNodeIndex::new(self.index))
            .ok_or(Refusal::Commit)?;
        let claims = LeafClaims::of(node)?;
        let user = claims.user_pseudonym.as_slice();
        if user != self.actor {
            let shared =
                users(self.case.group).any(|(leaf, of)| leaf != self.index && of == self.actor);
            if shared || self.lists(user) || self.lists(&self.actor) || self.case.has_user(user) {
                return Err(Refusal::NotAllowed);
            }
        }
        Ok(Some(Renewed {
            credential_changed: node.signature_key() != old.signature_key()
                || node.credential() != old.credential(),
            claims,
        }))
    }
}

/// The only version there is (RFC 9420 §6); a ReInit must not go below the group's.
const MLS_1_0: u16 = 1;

/// RFC 9420 §12.1.5; openmls does not show the fields.
#[derive(TlsSize, TlsDeserializeBytes)]
struct ReInit {
    proposal_type: u16,
    group_id: VLBytes,
    version: u16,
    ciphersuite: u16,
    extensions: VLBytes,
}

/// The group that a ReInit names.
fn successor(proposal: &Proposal) -> Result<GroupId, Refusal> {
    if proposal.proposal_type() != ProposalType::Reinit {
        return Err(Refusal::Commit);
    }
    let encoded = proposal
        .tls_serialize_detached()
        .map_err(|_| Refusal::Commit)?;
    let (reinit, rest) = ReInit::tls_deserialize_bytes(&encoded).map_err(|_| Refusal::Commit)?;
    let ReInit {
        proposal_type: _,
        group_id,
        version,
        ciphersuite,
        extensions: _,
    } = reinit;
    if !rest.is_empty() || version < MLS_1_0 {
        return Err(Refusal::Commit);
    }
    if !SUPPORTED_CIPHERSUITES.contains(&ciphersuite) {
        return Err(Refusal::Ciphersuite);
    }
    let id: [u8; 16] = group_id
        .as_slice()
        .try_into()
        .map_err(|_| Refusal::GroupId)?;
    Ok(GroupId(id))
}
