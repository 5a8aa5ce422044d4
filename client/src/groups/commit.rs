//! Own commits: staged and kept before they are sent, merged when they are read in the journal.

use std::collections::BTreeSet;

use crypto::connection::sign_attribution;
use crypto::credential::wrap_link_key;
use crypto::journal::{sign_recovery_key, verify_join_code};
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::schedule::{JoinKey, WelcomeSecret, exporters};
use crypto::secret::Secret;
use mls_rules::Effect;
use openmls::group::GroupContext;
use openmls::messages::group_info::GroupInfo;
use openmls::prelude::{
    Ciphersuite, ExtensionType, Extensions, KeyPackage, LeafNodeIndex, MlsGroup, NewSignerBundle,
    OpenMlsProvider as _, StagedCommit,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{
    CommitAad, CommitAccepted, CommitRequest, GroupKind, JoinCode, JoinersUpload, LeafExtras,
    MAX_RESEALED, PUSH_HANDLE_BYTES, PartialGroupInfo,
};
use protocol::ids::{Day, Epoch, GroupId, LeafIndex, RotationEpoch, Week};
use protocol::join::{LinkKeyUpload, RecoveryRow};
use protocol::operation::Operation;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use protocol::request::Sender;
use protocol::welcome::JoinInfo;
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};
use tls_codec::{Serialize as _, VLBytes};

use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError, mls};
use crate::groups::changes::{self, Beside, Committer, places};
use crate::groups::create::{own_identity, policy_extension};
use crate::groups::evidence::StopReason;
use crate::groups::pending::{self, is_covered};
use crate::groups::process::{CommitEntry, Next};
use crate::groups::{
    Group, Status, heard, identities, known, load_mls, pointers, policy, pseudonym_of,
};
use crate::groups::{refused, restored, upgrade, upkeep};
use crate::journal::rows::{self, RecoveryKeyPair};
use crate::journal::wrappers::seal_former;
use crate::journal::{Beginning, welcomes};
use crate::key_packages::stock;
use crate::leaf::{self, NewLeaf};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::{Envelope, Pending};

/// How often an operation is redone when others were faster.
pub(crate) const ROUNDS: u32 = 12;
/// How often the journal is read for the commit that an answer tells of.
const LOOKS: u32 = 10;

/// What a commit is to do, beside covering what is pending.
pub(crate) enum Plan {
    Add {
        key_packages: Vec<KeyPackage>,
        link_keys: Vec<IdentityLinkKey>,
    },
    /// Further clients of this user.
    AddClients {
        key_packages: Vec<KeyPackage>,
        link_keys: Vec<IdentityLinkKey>,
    },
    Remove(Vec<LeafNodeIndex>),
    /// Other clients of this user.
    RemoveClients(Vec<LeafNodeIndex>),
    Update(Box<NewLeaf>),
    /// Nothing else: under the keys that the leaf has.
    Cover,
    SetPolicy(Box<GroupPolicy>),
    /// Everybody else goes, and the group with them.
    Delete,
}

impl Plan {
    fn operation(&self) -> Operation {
        match self {
            Self::Add { .. } => Operation::AddUsers,
            Self::AddClients { .. } => Operation::AddClients,
            Self::Remove(_) => Operation::RemoveUsers,
            Self::RemoveClients(_) => Operation::RemoveClients,
            Self::Update(_) | Self::Cover => Operation::UpdateClient,
            Self::SetPolicy(_) => Operation::SetRole,
            Self::Delete => Operation::DeleteGroup,
        }
    }

    /// Who goes anyway need not be removed.
    fn without(self, leaving: &[u32]) -> Self {
        let staying = |leaves: Vec<LeafNodeIndex>| -> Vec<LeafNodeIndex> {
            leaves
                .into_iter()
                .filter(|leaf| !leaving.contains(&leaf.u32()))
                .collect()
        };
        match self {
            Self::Remove(leaves) => match staying(leaves) {
                none if none.is_empty() => Self::Cover,
                some => Self::Remove(some),
            },
            Self::RemoveClients(leaves) => match staying(leaves) {
                none if none.is_empty() => Self::Cover,
                some => Self::RemoveClients(some),
            },
            other => other,
        }
    }
}

/// The group context's extensions with another policy.
fn with_policy(
    mls_group: &MlsGroup,
    policy: &GroupPolicy,
) -> Result<Extensions<GroupContext>, Error> {
    let kept = mls_group
        .extensions()
        .iter()
        .filter(|extension| extension.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION))
        .cloned();
    Extensions::from_vec(kept.chain([policy_extension(policy)]).collect()).map_err(mls)
}

/// What became of a commit that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is part of the group's history and merged.
    Accepted,
    /// Another commit was first, and has been merged; this one is gone.
    Superseded,
}

fn export<const N: usize>(
    staged: &StagedCommit,
    provider: &Provider<'_>,
    label: &str,
) -> Result<zeroize::Zeroizing<[u8; N]>, Error> {
    let secret = zeroize::Zeroizing::new(
        staged
            .export_secret(provider.crypto(), label, &[], N)
            .map_err(mls)?,
    );
    secret
        .as_slice()
        .try_into()
        .map(zeroize::Zeroizing::new)
        .map_err(|_| LocalError::Damaged.into())
}

/// The parts of a GroupInfo that the service cannot make itself.
pub(crate) fn partial(group_info: &GroupInfo) -> Result<PartialGroupInfo, Error> {
    let signature = group_info
        .signature()
        .tls_serialize_detached()
        .map_err(mls)?;
    let signature = VLBytes::decode(&signature).map_err(|_| LocalError::Damaged)?;
    Ok(PartialGroupInfo {
        extensions: opaque(
            group_info
                .extensions()
                .tls_serialize_detached()
                .map_err(mls)?,
        ),
        signature,
    })
}

/// What a leaf brings beside its node: a recovery key of its own, and a push handle like
/// everybody's.
pub(crate) fn extras(
    suite: Ciphersuite,
    id: &GroupId,
    leaf: &NewLeaf,
    wrapper: &IdentityLinkWrapperKey,
    recovery: &Secret<32>,
) -> Result<LeafExtras, Error> {
    let pair = RecoveryKeyPair::of(suite, recovery)?;
    Ok(LeafExtras {
        wrapped_link_key: opaque(leaf.wrapped_link_key(wrapper)?),
        recovery_key: sign_recovery_key(&leaf.signer.0, id, &pair.public),
        push_handle: opaque(crypto::random::<PUSH_HANDLE_BYTES>()?),
    })
}

/// What join codes are held against before a way in is sealed to them. Which are good is the
/// service's word: it could show one again that has ended.
pub(crate) struct GoodCodes {
    kind: GroupKind,
    /// Those that were made before this epoch have ended.
    since: u64,
    now_ms: u64,
}

impl GoodCodes {
    pub(crate) fn of(kind: GroupKind, since: u64, now_ms: u64) -> Self {
        Self {
            kind,
            since,
            now_ms,
        }
    }

    fn contain(&self, mls_group: &MlsGroup, code: &JoinCode) -> bool {
        // The code of a request for a connection has done what it is for.
        let is_taken = self.kind == GroupKind::Connection && {
            let members = mls_group.members();
            let users: BTreeSet<_> = members
                .map(|member| pseudonym_of(&member.credential))
                .collect();
            users.len() > 1
        };
        !is_taken && code.epoch.0 >= self.since && code.expiry >= Week::of(self.now_ms)
    }
}

/// The way into the next segment for those codes that are good and verify under a leaf that stays.
pub(crate) fn code_rows(
    mls_group: &MlsGroup,
    next: &crate::journal::Segment,
    id: &GroupId,
    codes: &[JoinCode],
    good: &GoodCodes,
) -> Result<Vec<RecoveryRow>, Error> {
    let mut rows = Vec::new();
    for code in codes.iter().filter(|code| good.contain(mls_group, code)) {
        let maker = LeafNodeIndex::new(code.maker.0);
        let Some(leaf) = mls_group.public_group().leaf(maker) else {
            continue;
        };
        let key = leaf.signature_key().as_slice();
        if verify_join_code(key, id, code).is_err() {
            continue;
        }
        let public_key = code.public_key.as_slice();
        match rows::seal(mls_group.ciphersuite(), id, next, public_key) {
            Ok(row) => rows.push(row),
            // Of a key that is none: the code ends.
            Err(Error::Peer(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// What is known when a commit is staged, beside the plan.
pub(crate) struct Staging<'s> {
    /// The service asks for a new segment.
    pub(crate) rotates: bool,
    /// Join codes that are to stay good.
    pub(crate) codes: &'s [JoinCode],
    pub(crate) now_ms: u64,
}

/// Stages a commit and keeps its request, in the caller's transaction.
pub(super) fn stage(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    plan: Plan,
    staging: &Staging<'_>,
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let group = Group::read(db, id)?;
    let mut mls_group = load_mls(db, id)?;
    let suite = mls_group.ciphersuite();
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(db, own_leaf.signature_key().as_slice())?;
    let own = mls_group.own_leaf_index();
    let leaving = pending::removals(db, &mls_group)?;
    let covered = pending::covered(db, &mls_group)?;
    if leaving.contains(&own.u32()) {
        return Err(UsageError::Leaving(group.display_name()).into());
    }
    let plan = plan.without(&leaving);
    policy::permit(&group, &mls_group, &plan)?;
    // Who is added gets the wrapper key by a Welcome that every leaf of the next epoch can find: a
    // leaf of the service's own would learn who everybody is, and could come in again under a name
    // that opens.
    if matches!(plan, Plan::Add { .. } | Plan::AddClients { .. })
        && identities::has_unverified(db, id, &mls_group)?
    {
        return Err(UsageError::UnverifiedMember(group.display_name()).into());
    }
    if let Plan::Add { key_packages, .. } = &plan {
        if heard::is_waiting(db, id)? {
            return Err(UsageError::NobodyHeard(group.display_name()).into());
        }
        stock::shown(db, id, key_packages)?;
    }
    let operation = plan.operation();
    let others: Vec<LeafNodeIndex> = mls_group
        .members()
        .map(|member| member.index)
        .filter(|index| *index != own && !leaving.contains(&index.u32()))
        .collect();
    let mut gone: Vec<LeafNodeIndex> = leaving.iter().copied().map(LeafNodeIndex::new).collect();
    match &plan {
        Plan::Remove(leaves) | Plan::RemoveClients(leaves) => gone.extend(leaves),
        Plan::Delete => gone.extend(&others),
        _ => {}
    }
    // A group that ends has no segment that follows.
    let ends = matches!(plan, Plan::Delete);
    let rotates = !ends && (staging.rotates || !gone.is_empty());
    let aad = CommitAad {
        rotates: u8::from(rotates),
        authorization: None,
        encrypted_connection_response: opaque(*b""),
    }
    .encode();
    mls_group.set_aad(aad.clone());

    let context = match &plan {
        Plan::SetPolicy(policy) => Some(with_policy(&mls_group, policy)?),
        _ => None,
    };
    let (added, link_keys) = match &plan {
        Plan::Add {
            key_packages,
            link_keys,
        }
        | Plan::AddClients {
            key_packages,
            link_keys,
        } => (
            key_packages.clone(),
            link_keys
                .iter()
                .map(|key| IdentityLinkKey::new(*key.expose()))
                .collect(),
        ),
        _ => (Vec::new(), Vec::new()),
    };
    let free = places(&mls_group, &gone, added.len());
    let staying: Vec<_> = mls_group
        .members()
        .filter(|member| member.index != own && !gone.contains(&member.index))
        .map(|member| (member.index.u32(), member.credential))
        .collect();
    let rotation = RotationEpoch(mls_group.epoch().as_u64().saturating_add(1));
    // UpdateClient says what a leaf brings, also where its key stays: a new recovery key then.
    let own_link = own_link(profile, &mls_group)?;
    let builder = mls_group.commit_builder();
    let mut new_leaf = None;
    let mut updates = false;
    let builder = match plan {
        Plan::Add { key_packages, .. } | Plan::AddClients { key_packages, .. } => {
            builder.propose_adds(key_packages)
        }
        Plan::Remove(leaves) | Plan::RemoveClients(leaves) => builder.propose_removals(leaves),
        Plan::Update(leaf) => {
            let parameters = leaf.parameters();
            new_leaf = Some(leaf);
            updates = true;
            builder.leaf_node_parameters(parameters)
        }
        Plan::Cover => {
            updates = true;
            builder.force_self_update(true)
        }
        Plan::SetPolicy(_) => builder
            .propose_group_context_extensions(context.ok_or(LocalError::Damaged)?)
            .map_err(mls)?,
        Plan::Delete => builder.propose_removals(others),
    };
    let builder = builder
        .load_psks(provider.storage())
        .map_err(mls)?
        .create_group_info(true);
    let built = match &new_leaf {
        None => builder.build(provider.rand(), provider.crypto(), &signer, |queued| {
            is_covered(&covered, queued)
        }),
        Some(leaf) => builder.build_with_new_signer(
            provider.rand(),
            provider.crypto(),
            &signer,
            NewSignerBundle {
                signer: &leaf.signer,
                credential_with_key: leaf.credential.clone(),
            },
            |queued| is_covered(&covered, queued),
        ),
    };
    let bundle = built.map_err(mls)?.stage_commit(&provider).map_err(mls)?;
    if let Some(leaf) = &new_leaf {
        leaf.store_key(db)?;
        identities::store(
            db,
            id,
            &leaf.credential.credential,
            &own_identity(profile, leaf)?,
        )?;
    }

    let staged = mls_group.pending_commit().ok_or(LocalError::Damaged)?;
    let beginning = rotates
        .then(|| Beginning::of_commit(&provider, staged))
        .transpose()?;
    let wrapper = beginning
        .as_ref()
        .map_or(&group.segment.wrapper_key, |next| &next.wrapper_key);
    let mut uploads = Vec::new();
    for (place, key) in free.iter().zip(&link_keys) {
        uploads.push(LinkKeyUpload {
            leaf_index: LeafIndex(*place),
            sealed: opaque(wrap_link_key(wrapper, key)?),
        });
    }
    if rotates {
        for (leaf, sealed) in identities::resealed(db, id, &staying, wrapper, MAX_RESEALED)? {
            uploads.push(LinkKeyUpload {
                leaf_index: LeafIndex(leaf),
                sealed: opaque(sealed),
            });
        }
    }
    let recovery = match updates {
        true => Some(restored::next_recovery_seed(db, id)?),
        false => None,
    };
    let committer = match (&new_leaf, &recovery) {
        (Some(leaf), Some(seed)) => Some(extras(suite, id, leaf, wrapper, seed)?),
        (None, Some(seed)) => {
            let pair = RecoveryKeyPair::of(suite, seed)?;
            Some(LeafExtras {
                wrapped_link_key: opaque(wrap_link_key(wrapper, &own_link)?),
                recovery_key: sign_recovery_key(&signer.0, id, &pair.public),
                push_handle: opaque(crypto::random::<PUSH_HANDLE_BYTES>()?),
            })
        }
        _ => None,
    };
    let welcome = match bundle.to_welcome_msg() {
        Some(welcome) => {
            let welcome = welcome.tls_serialize_detached().map_err(mls)?;
            let joiners = Joiners {
                added: &added,
                welcome: &welcome,
                wrapper,
                now_ms: staging.now_ms,
            };
            Some(joiners.upload(db, profile, &group, staged, &provider)?)
        }
        None => None,
    };
    let group_info = bundle.group_info().ok_or(LocalError::Damaged)?;
    let commit = bundle.commit().tls_serialize_detached().map_err(mls)?;
    remember_made(db, id, mls_group.epoch().as_u64(), &commit)?;
    let former = beginning
        .as_ref()
        .map(|_| {
            let of = group.segment.rotation;
            seal_former(id, of, &group.segment.wrapper_key, wrapper)
        })
        .transpose()?;
    let rotation = match beginning {
        None => None,
        Some(beginning) => {
            let wire = beginning.to_wire(former, Vec::new());
            let day = Day::of(staging.now_ms);
            let next = beginning.into_segment(id, rotation, day);
            // Whoever is removed may know a code: then all end.
            let codes: &[JoinCode] = if gone.is_empty() { staging.codes } else { &[] };
            let since = Group::codes_since(db, id)?;
            let good = GoodCodes::of(group.kind, since, staging.now_ms);
            Some(protocol::group::NextSegment {
                code_rows: code_rows(&mls_group, &next, id, codes, &good)?,
                ..wire
            })
        }
    };
    let request = CommitRequest {
        group: group.key(),
        commit: opaque(commit),
        group_info: partial(group_info)?,
        rotation,
        link_keys: uploads,
        committer,
        welcome,
    };
    let sender = Sender::Leaf(LeafIndex(mls_group.own_leaf_index().u32()));
    let body = request.encode();
    let envelope = Envelope::new(operation, sender, signer.0, body, staging.now_ms)?;
    Pending {
        envelope,
        aad,
        contact: None,
        recovery,
    }
    .write(db, id)
}

/// The key that opens the own identity link.
fn own_link(profile: &Profile, mls_group: &MlsGroup) -> Result<IdentityLinkKey, Error> {
    let own = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let pseudonymous = leaf::pseudonymous(own.credential(), own.signature_key().as_slice());
    Ok(pseudonymous
        .ok_or(LocalError::Damaged)?
        .link_key(&profile.connection_key))
}

/// Remembers a commit that is about to be sent, in the caller's transaction: the service has it
/// from then on.
fn remember_made(db: &Connection, id: &GroupId, epoch: u64, commit: &[u8]) -> Result<(), Error> {
    let epoch = i64::try_from(epoch).map_err(|_| LocalError::Damaged)?;
    db.execute(
        "DELETE FROM own_commits WHERE group_id = ? AND epoch != ?",
        (id.0, epoch),
    )?;
    db.execute(
        "INSERT OR IGNORE INTO own_commits (group_id, epoch, digest) VALUES (?, ?, ?)",
        (id.0, epoch, Sha256::digest(commit).as_slice()),
    )?;
    Ok(())
}

/// Whether this client has made a commit, and has given it up since.
pub(crate) fn has_made(db: &Connection, id: &GroupId, commit: &[u8]) -> Result<bool, Error> {
    Ok(db
        .query_row(
            "SELECT 1 FROM own_commits WHERE group_id = ? AND digest = ?",
            (id.0, Sha256::digest(commit).as_slice()),
            |_| Ok(()),
        )
        .optional()?
        .is_some())
}

/// Whether this very commit is the one that waits to be read.
pub(crate) fn is_pending(db: &Connection, id: &GroupId, commit: &[u8]) -> Result<bool, Error> {
    let Some(pending) = Pending::read(db, id)? else {
        return Ok(false);
    };
    Ok(kept(&pending).is_some_and(|request| request.commit.as_slice() == commit))
}

/// The kept request of a member's commit.
fn kept(pending: &Pending) -> Option<CommitRequest> {
    CommitRequest::decode(&pending.envelope.body).ok()
}

/// Whom a commit adds.
struct Joiners<'j> {
    added: &'j [KeyPackage],
    welcome: &'j [u8],
    /// In force after the commit.
    wrapper: &'j IdentityLinkWrapperKey,
    now_ms: u64,
}

impl Joiners<'_> {
    /// What they need, and where each will find it, which is kept until they are told.
    fn upload(
        &self,
        db: &Connection,
        profile: &Profile,
        group: &Group,
        staged: &StagedCommit,
        provider: &Provider<'_>,
    ) -> Result<JoinersUpload, Error> {
        let name = group.display_name();
        let epoch = staged.group_context().epoch().as_u64();
        let attribution = sign_attribution(
            &profile.identity,
            &group.id,
            epoch,
            self.wrapper,
            name.as_bytes(),
        );
        let info = JoinInfo {
            wrapper_key: self.wrapper.to_wire(),
            group_name: opaque(name.as_bytes()),
            codes_since: Epoch(Group::codes_since(db, &group.id)?),
            attribution,
        };
        let info = zeroize::Zeroizing::new(info.encode());
        let references: Vec<Vec<u8>> = self
            .added
            .iter()
            .map(|package| welcomes::reference(provider, package))
            .collect::<Result<_, _>>()?;
        let secret = WelcomeSecret::new(*export(staged, provider, exporters::WELCOME)?);
        let (uploads, devices) = welcomes::seal(&secret, self.welcome, &references, &info)?;
        pointers::prepare(db, &group.id, epoch, self.added, devices, self.now_ms)?;
        let join_key = JoinKey::new(*export(staged, provider, exporters::JOIN_RECORD)?);
        Ok(JoinersUpload {
            join_key: join_key.to_wire(),
            welcomes: uploads,
        })
    }
}

/// Merges the pending commit, in the caller's transaction: it was read in the journal.
pub(crate) fn merge_own(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    entry: &CommitEntry<'_>,
) -> Result<Next, Error> {
    let provider = Provider::new(db);
    let pending = Pending::read(db, id)?.ok_or(LocalError::Damaged)?;
    let group = Group::read(db, id)?;
    let aad = CommitAad::decode(&pending.aad).map_err(|_| LocalError::Damaged)?;
    let mut mls_group = load_mls(db, id)?;
    let staged = mls_group.pending_commit().ok_or(LocalError::Damaged)?;
    let rotates = aad.rotates == 1;
    let beginning = match rotates {
        true => Some(Beginning::of_commit(&provider, staged)?),
        false => None,
    };
    let rotation = match rotates {
        true => RotationEpoch(mls_group.epoch().as_u64().saturating_add(1)),
        false => group.segment.rotation,
    };
    let wrapper = beginning
        .as_ref()
        .map_or(&group.segment.wrapper_key, |next| &next.wrapper_key);
    let beside = Beside {
        aad: &aad,
        effect: &Effect::default(),
        link_keys: &entry.event.link_keys,
        wrapper: (rotation, wrapper),
    };
    changes::record(
        db,
        profile,
        &group,
        &mls_group,
        staged,
        &beside,
        Committer::Own,
    )?;
    policy::remember_policy(db, id, &mls_group)?;
    let former_key = Group::leaf_key(db, id)?;
    mls_group.merge_pending_commit(&provider).map_err(mls)?;
    known::remember(db, id, &mls_group)?;
    stock::used(db, id, &mls_group)?;
    if let Some(own_leaf) = mls_group.own_leaf_node() {
        Group::set_leaf_key(db, id, own_leaf.signature_key().as_slice())?;
    }
    let operation = pending.envelope.operation;
    if let Some(seed) = &pending.recovery {
        db.execute(
            "UPDATE groups SET recovery_seed = ?, recovery_set = 1 WHERE group_id = ?",
            (seed.expose(), id.0),
        )?;
    }
    // Covering what is pending is no update.
    let renewed = former_key.as_deref()
        != mls_group
            .own_leaf_node()
            .map(|leaf| leaf.signature_key().as_slice());
    if renewed {
        db.execute(
            "UPDATE groups SET update_due = 0 WHERE group_id = ?",
            [id.0],
        )?;
        upkeep::renewed(db, id)?;
        restored::renewed(db, id)?;
        refused::forget(db, id)?;
    }
    if operation == Operation::UpdateClient {
        // By the own clock: from an earlier time of the service's it would be due at once.
        upkeep::plan_renewal(db, id, entry.read_ms, mls_group.members().count())?;
    }
    Pending::delete(db, id)?;
    if operation == Operation::DeleteGroup {
        Group::set_status(db, id, Status::Closed)?;
        upgrade::ended(db, &group)?;
        return Ok(Next::Out);
    }
    let next = match beginning {
        Some(beginning) => {
            db.execute("UPDATE groups SET rows_due = 1 WHERE group_id = ?", [id.0])?;
            let day = Day::of(entry.accepted_ms);
            Next::Segment(beginning.into_segment(id, rotation, day))
        }
        None => Next::Step,
    };
    let segment = match &next {
        Next::Segment(segment) => segment.id,
        Next::Step | Next::Out => group.segment.id,
    };
    let place = protocol::journal::Place {
        rotation_epoch: group.segment.rotation,
        position: entry.at,
    };
    pointers::complete(db, id, (segment, place, entry.chain))?;
    Ok(next)
}

impl Engine {
    /// Stages a commit and keeps it with its request; nothing is sent.
    pub(crate) fn stage_plan(&mut self, id: &GroupId, plan: Plan) -> Result<(), Error> {
        self.stage_rotating(id, plan, false, &[])
    }

    fn stage_rotating(
        &mut self,
        id: &GroupId,
        plan: Plan,
        rotates: bool,
        codes: &[JoinCode],
    ) -> Result<(), Error> {
        let staging = Staging {
            rotates,
            codes,
            now_ms: self.transport.time.now_unix_ms(),
        };
        self.transact(|db, profile| stage(db, profile, id, plan, &staging))
    }

    /// Sends the kept commit and brings it to an end: it is merged when it is read.
    pub(crate) async fn submit_commit(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        let refusal = match self.send_pending(id).await {
            Ok(answer) => {
                CommitAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                None
            }
            Err(Error::Refused(refusal)) => Some(refusal),
            // Its token was refused, and there is no other.
            Err(error @ Error::Issuer(_)) => {
                self.drop_pending_commit(id)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        match refusal.map(|refusal| refusal.problem) {
            None
            | Some(
                ProblemType::WrongEpoch | ProblemType::ServiceBehind | ProblemType::UnknownGroup,
            ) => {}
            Some(ProblemType::BadSignature) if self.stop_if_replaced(id).await? => {
                return Ok(CommitOutcome::Superseded);
            }
            Some(_) => {
                self.drop_pending_commit(id)?;
                return match refusal {
                    Some(refusal) => Err(Error::Refused(refusal)),
                    None => Ok(CommitOutcome::Superseded),
                };
            }
        }
        // Whichever commit was accepted, perhaps this very one, stands in the journal: the service
        // puts it there in the same transition.
        let epoch = self.epoch(id)?;
        if refusal
            .and_then(|refusal| refusal.epoch)
            .is_some_and(|current| current < epoch)
        {
            self.drop_pending_commit(id)?;
            self.lose(id, StopReason::Behind)?;
            return Ok(CommitOutcome::Superseded);
        }
        for look in 0..LOOKS {
            self.outcomes.remove(id);
            self.read_group(id).await?;
            if let Some(outcome) = self.outcomes.remove(id) {
                return Ok(outcome);
            }
            if Pending::read(&self.db, id)?.is_none() || self.epoch(id)? != epoch {
                self.drop_pending_commit(id)?;
                return Ok(CommitOutcome::Superseded);
            }
            tokio::time::sleep(std::time::Duration::from_millis(
                100u64.saturating_mul(u64::from(look)),
            ))
            .await;
        }
        match refusal {
            // It says that it has it, and does not show it: the commit is kept, and looked for
            // again.
            None => Err(Error::Protocol("a commit was accepted and is not there")),
            Some(refusal) => {
                self.drop_pending_commit(id)?;
                match refusal.problem {
                    ProblemType::WrongEpoch => self.lose_track(id).await?,
                    _ => self.lose(id, StopReason::Missing)?,
                }
                Ok(CommitOutcome::Superseded)
            }
        }
    }

    /// Makes a commit by a plan, anew as often as others are faster or something must be covered
    /// with it.
    pub(crate) async fn commit(
        &mut self,
        id: &GroupId,
        plan: impl Fn(&Engine) -> Result<Plan, Error>,
    ) -> Result<(), Error> {
        let (mut rotates, mut codes) = (false, Vec::new());
        for round in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let plan = plan(self)?;
            self.stage_rotating(id, plan, rotates, &codes)?;
            match self.submit_commit(id).await {
                Ok(CommitOutcome::Accepted) => return Ok(()),
                Ok(CommitOutcome::Superseded) => rotates = false,
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.learn_pending(id).await?;
                }
                // The segment is old, or a code has ended.
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::RotationRequired && !rotates =>
                {
                    rotates = true;
                    codes = self.inspect(id).await?.codes;
                }
                Err(error) => return Err(error),
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    pub(crate) fn epoch(&self, id: &GroupId) -> Result<u64, Error> {
        Ok(load_mls(&self.db, id)?.epoch().as_u64())
    }

    fn drop_pending_commit(&mut self, id: &GroupId) -> Result<(), Error> {
        self.transact(|db, _| {
            load_mls(db, id)?.clear_pending_commit(Provider::new(db).storage())?;
            pointers::drop_unread(db, id)?;
            Pending::delete(db, id)
        })
    }
}

/// Waits a little before the next round, longer each time and never the same for two clients.
pub(crate) async fn pause(round: u32) -> Result<(), Error> {
    let [jitter] = crypto::random::<1>()?;
    let most = 20u64.saturating_mul(1 << round.min(6));
    tokio::time::sleep(std::time::Duration::from_millis(
        most.saturating_mul(u64::from(jitter)) / 255,
    ))
    .await;
    Ok(())
}
