//! Own commits: staged and kept before they are sent, merged when they are read.

use crypto::connection::sign_attribution;
use crypto::credential::wrap_link_key;
use crypto::journal::sign_recovery_key;
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::schedule::{JoinKey, WelcomeSecret, exporters};
use mls_rules::Effect;
use openmls::group::GroupContext;
use openmls::prelude::{
    ExtensionType, Extensions, KeyPackage, LeafNodeIndex, MlsGroup, NewSignerBundle,
    OpenMlsProvider as _, StagedCommit,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{
    CommitAad, CommitRequest, JoinCode, JoinersUpload, LeafExtras, MAX_RESEALED,
};
use protocol::ids::{Day, Epoch, GroupId, LeafIndex, RotationEpoch};
use protocol::join::LinkKeyUpload;
use protocol::operation::Operation;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::request::Sender;
use protocol::welcome::JoinInfo;
use rusqlite::Connection;
use tls_codec::Serialize as _;

use crate::envelope::Envelope;
use crate::error::{Error, LocalError, UsageError, mls};
use crate::leaf;
use crate::mls::beginning::Beginning;
use crate::mls::changes::{self, Beside, Committer, places};
use crate::mls::entry::{CommitEntry, Next};
use crate::mls::new_leaf::NewLeaf;
use crate::mls::parts::{GoodCodes, code_rows, extras, own_identity, partial, policy_extension};
use crate::mls::plan::Plan;
use crate::mls::profile::name_for_others;
use crate::mls::proposals::{self, is_covered};
use crate::mls::rows;
use crate::mls::{policy, welcomes};
use crate::store::own_commits::remember_made;
use crate::store::provider::Provider;
use crate::store::push;
use crate::store::wrappers::seal_former;
use crate::store::{
    Group, Pending, Profile, Status, claimed_sets, groups, heard, identities, known, leaf_keys,
    load_mls, pointers, refused_returns, restored, successors, upkeep,
};

/// The group context's extensions with another policy.
pub(crate) fn with_policy(
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

pub(crate) fn export<const N: usize>(
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

/// What is known when a commit is staged, beside the plan.
pub(crate) struct Staging<'s> {
    /// The service asks for a new segment.
    pub(crate) rotates: bool,
    /// Join codes that are to stay good.
    pub(crate) codes: &'s [JoinCode],
    pub(crate) now_ms: u64,
}

/// Stages a commit and keeps its request, in the caller's transaction.
pub(crate) fn stage(
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
    let signer = leaf_keys::signer(db, own_leaf.signature_key().as_slice())?;
    let own = mls_group.own_leaf_index();
    let leaving = proposals::removals(db, &mls_group)?;
    let covered = proposals::covered(db, &mls_group)?;
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
        claimed_sets::shown(db, id, key_packages)?;
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
            let parameters = NewLeaf::parameters(profile, suite);
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
        (Some(leaf), Some(seed)) => Some(extras(
            suite,
            id,
            leaf,
            wrapper,
            seed,
            push::handle_for(db, id, staging.now_ms)?,
        )?),
        (None, Some(seed)) => {
            let pair = rows::key_pair(suite, seed)?;
            Some(LeafExtras {
                wrapped_link_key: opaque(wrap_link_key(wrapper, &own_link)?),
                recovery_key: sign_recovery_key(&signer.0, id, pair.public()),
                push_handle: opaque(push::handle_for(db, id, staging.now_ms)?),
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
pub(crate) fn own_link(profile: &Profile, mls_group: &MlsGroup) -> Result<IdentityLinkKey, Error> {
    let own = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let pseudonymous = leaf::pseudonymous(own.credential(), own.signature_key().as_slice());
    Ok(pseudonymous
        .ok_or(LocalError::Damaged)?
        .link_key(&profile.connection_key))
}

/// Whether this very commit is the one that waits to be read.
pub(crate) fn is_pending(db: &Connection, id: &GroupId, commit: &[u8]) -> Result<bool, Error> {
    let Some(pending) = Pending::read(db, id)? else {
        return Ok(false);
    };
    Ok(kept(&pending).is_some_and(|request| request.commit.as_slice() == commit))
}

/// The kept request of a member's commit.
pub(crate) fn kept(pending: &Pending) -> Option<CommitRequest> {
    CommitRequest::decode(&pending.envelope.body).ok()
}

/// Whom a commit adds.
pub(crate) struct Joiners<'j> {
    pub(crate) added: &'j [KeyPackage],
    pub(crate) welcome: &'j [u8],
    /// In force after the commit.
    pub(crate) wrapper: &'j IdentityLinkWrapperKey,
    pub(crate) now_ms: u64,
}

impl Joiners<'_> {
    /// What they need, and where each will find it, which is kept until they are told.
    pub(crate) fn upload(
        &self,
        db: &Connection,
        profile: &Profile,
        group: &Group,
        staged: &StagedCommit,
        provider: &Provider<'_>,
    ) -> Result<JoinersUpload, Error> {
        let name = name_for_others(db, group, staged.group_context().extensions())?;
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
    claimed_sets::used(db, id, &mls_group)?;
    if let Some(own_leaf) = mls_group.own_leaf_node() {
        Group::set_leaf_key(db, id, own_leaf.signature_key().as_slice())?;
    }
    let operation = pending.envelope.operation;
    if let Some(seed) = &pending.recovery {
        groups::set_recovery(db, id, seed.expose())?;
    }
    // Covering what is pending is no update.
    let renewed = former_key.as_deref()
        != mls_group
            .own_leaf_node()
            .map(|leaf| leaf.signature_key().as_slice());
    if renewed {
        groups::set_update_due(db, id, false)?;
        upkeep::renewed(db, id)?;
        restored::renewed(db, id)?;
        refused_returns::forget(db, id)?;
    }
    if operation == Operation::UpdateClient {
        // By the own clock: from an earlier time of the service's it would be due at once.
        upkeep::plan_renewal(db, id, entry.read_ms, mls_group.members().count())?;
    }
    Pending::delete(db, id)?;
    if operation == Operation::DeleteGroup {
        Group::set_status(db, id, Status::Closed)?;
        successors::ended(db, &group)?;
        return Ok(Next::Out);
    }
    let next = match beginning {
        Some(beginning) => {
            groups::set_rows_due(db, id, true)?;
            Next::Segment(beginning.into_segment(id, rotation, entry.day))
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
