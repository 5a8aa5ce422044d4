//! Own commits: staged and kept before they are sent, merged when they are known to be accepted.

use crypto::connection::sign_attribution;
use crypto::keys::{JoinInfoKey, JoinKey, StateKey};
use crypto::sealing::{self, Place};
use openmls::group::GroupContext;
use openmls::messages::group_info::GroupInfo;
use openmls::prelude::{
    ExtensionType, Extensions, KeyPackage, LeafNodeIndex, MlsGroup, NewSignerBundle,
    OpenMlsProvider as _, StagedCommit,
};
use protocol::codec::{WireSecret, opaque};
use protocol::delivery::JoinInfo;
use protocol::envelope::Sender;
use protocol::groups::{CommitAad, CommitRequest, EpochAccepted, PartialGroupInfo, WelcomeUpload};
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};
use rusqlite::{Connection, OptionalExtension as _};
use sha2::{Digest as _, Sha256};
use tls_codec::{Serialize as _, VLBytes};

use crate::Client;
use crate::error::{Error, LocalError, UsageError, mls};
use crate::groups::changes::{self, Committer};
use crate::groups::create::{own_identity, policy_extension};
use crate::groups::enforce;
use crate::groups::evidence::StopReason;
use crate::groups::pending::{self, is_covered};
use crate::groups::{
    Group, JOIN_INFO_LABEL, JOIN_RECORD_LABEL, STATE_KEY_LABEL, Status, identities, known, load_mls,
};
use crate::groups::{restored, upgrade, upkeep};
use crate::key_packages::stock;
use crate::leaf::{self, NewLeaf};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::{Envelope, Pending};

/// How often an operation is redone when others were faster.
pub(crate) const ROUNDS: u32 = 12;
/// How often the queue is asked for the commit that a refusal tells of.
const LOOKS: u32 = 10;

/// What a commit is to do, beside covering what is pending.
pub(crate) enum Plan {
    Add {
        key_packages: Vec<KeyPackage>,
        wrapped_link_keys: Vec<Vec<u8>>,
    },
    /// Further clients of this user.
    AddClients {
        key_packages: Vec<KeyPackage>,
        wrapped_link_keys: Vec<Vec<u8>>,
    },
    Remove(Vec<LeafNodeIndex>),
    /// Other clients of this user.
    RemoveClients(Vec<LeafNodeIndex>),
    Update(Box<NewLeaf>),
    /// Nothing else.
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

/// Stages a commit and keeps its request, in the caller's transaction.
fn stage(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    plan: Plan,
    now_ms: u64,
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let group = Group::read(db, id)?;
    let mut mls_group = load_mls(db, id)?;
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(db, own_leaf.signature_key().as_slice())?;
    let own = mls_group.own_leaf_index();
    let leaving = pending::removals(db, &mls_group)?;
    let covered = pending::covered(db, &mls_group)?;
    if leaving.contains(&own.u32()) {
        return Err(UsageError::Leaving(group.display_name()).into());
    }
    let plan = plan.without(&leaving);
    enforce::permit(&group, &mls_group, &plan)?;
    // Who is added gets the wrapper key under an exporter of the next epoch, which every leaf has: a leaf of
    // the service's own would learn who everybody is, and could come in again under a name that opens.
    if matches!(plan, Plan::Add { .. } | Plan::AddClients { .. })
        && identities::has_unverified(db, id, &mls_group)?
    {
        return Err(UsageError::UnverifiedMember(group.display_name()).into());
    }
    if let Plan::Add { key_packages, .. } = &plan {
        stock::shown(db, id, key_packages)?;
    }
    let operation = plan.operation();
    let others: Vec<LeafNodeIndex> = mls_group
        .members()
        .map(|member| member.index)
        .filter(|index| *index != own && !leaving.contains(&index.u32()))
        .collect();
    let removes = match &plan {
        Plan::Remove(_) | Plan::RemoveClients(_) => true,
        Plan::Delete => !others.is_empty(),
        _ => false,
    };
    let rotates = u8::from(removes || !leaving.is_empty());
    let link_keys = match &plan {
        Plan::Add {
            wrapped_link_keys, ..
        }
        | Plan::AddClients {
            wrapped_link_keys, ..
        } => wrapped_link_keys.clone(),
        Plan::Update(leaf) => vec![leaf.wrapped_link_key(&group.wrapper_key)?],
        _ => Vec::new(),
    };
    let aad = CommitAad {
        encrypted_identity_link_keys: link_keys.into_iter().map(VLBytes::new).collect(),
        rotates_state_key: rotates,
        encrypted_connection_response: opaque(*b""),
        leaf_authorization: None,
    }
    .encode();
    mls_group.set_aad(aad.clone());

    let policy = match &plan {
        Plan::SetPolicy(policy) => Some(with_policy(&mls_group, policy)?),
        _ => None,
    };
    let builder = mls_group.commit_builder();
    let mut new_leaf = None;
    let builder = match plan {
        Plan::Add { key_packages, .. } | Plan::AddClients { key_packages, .. } => {
            builder.propose_adds(key_packages)
        }
        Plan::Remove(leaves) | Plan::RemoveClients(leaves) => builder.propose_removals(leaves),
        Plan::Update(leaf) => {
            let parameters = leaf.parameters();
            new_leaf = Some(leaf);
            builder.leaf_node_parameters(parameters)
        }
        Plan::Cover => builder.force_self_update(true),
        Plan::SetPolicy(_) => builder
            .propose_group_context_extensions(policy.ok_or(LocalError::Damaged)?)
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
    let next_state_key = (rotates == 1)
        .then(|| export::<32>(staged, &provider, STATE_KEY_LABEL).map(|key| WireSecret::new(*key)))
        .transpose()?;
    let welcome = bundle
        .to_welcome_msg()
        .map(|welcome| {
            let welcome = welcome.tls_serialize_detached().map_err(mls)?;
            welcome_upload(profile, &group, staged, &provider, welcome)
        })
        .transpose()?;
    let group_info = bundle.group_info().ok_or(LocalError::Damaged)?;
    let commit = bundle.commit().tls_serialize_detached().map_err(mls)?;
    remember_made(db, id, mls_group.epoch().as_u64(), &commit)?;
    let request = CommitRequest {
        group_id: *id,
        state_key: group.state_key.to_wire(),
        next_state_key,
        commit: opaque(commit),
        group_info: partial(group_info)?,
        welcome,
    };
    let sender = Sender::Leaf(mls_group.own_leaf_index().u32());
    let envelope = Envelope::new(operation, sender, signer.0, request.encode(), now_ms);
    Pending {
        envelope,
        aad,
        contact: None,
    }
    .write(db, id)
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

fn welcome_upload(
    profile: &Profile,
    group: &Group,
    staged: &StagedCommit,
    provider: &Provider<'_>,
    welcome: Vec<u8>,
) -> Result<WelcomeUpload, Error> {
    let name = group.display_name();
    let epoch = staged.group_context().epoch().as_u64();
    let attribution = sign_attribution(
        &profile.identity,
        &group.id,
        epoch,
        &group.wrapper_key,
        name.as_bytes(),
    );
    let info = JoinInfo {
        identity_link_wrapper_key: group.wrapper_key.to_wire(),
        group_name: opaque(name.as_bytes()),
        attribution,
    };
    let info_key = JoinInfoKey::new(*export::<32>(staged, provider, JOIN_INFO_LABEL)?);
    let place = Place {
        table: "join_info",
        row: &group.id.0,
        part: "info",
    };
    let encoded = zeroize::Zeroizing::new(info.encode());
    Ok(WelcomeUpload {
        welcome: opaque(welcome),
        join_key: JoinKey::new(*export::<32>(staged, provider, JOIN_RECORD_LABEL)?).to_wire(),
        sealed_join_info: opaque(sealing::seal(info_key.expose(), place, &encoded)?),
    })
}

/// Merges the pending commit, in the caller's transaction: it is known to be accepted.
pub(crate) fn merge_own(db: &Connection, profile: &Profile, id: &GroupId) -> Result<(), Error> {
    let provider = Provider::new(db);
    let pending = Pending::read(db, id)?.ok_or(LocalError::Damaged)?;
    let group = Group::read(db, id)?;
    let aad = CommitAad::decode(&pending.aad).map_err(|_| LocalError::Damaged)?;
    let mut mls_group = load_mls(db, id)?;
    let staged = mls_group.pending_commit().ok_or(LocalError::Damaged)?;
    changes::record(
        db,
        profile,
        &group,
        &mls_group,
        staged,
        &aad,
        Committer::Own,
    )?;
    enforce::remember_policy(db, id, &mls_group)?;
    mls_group.merge_pending_commit(&provider).map_err(mls)?;
    known::remember(db, id, &mls_group)?;
    stock::used(db, id, &mls_group)?;
    if let Some(own_leaf) = mls_group.own_leaf_node() {
        Group::set_leaf_key(db, id, own_leaf.signature_key().as_slice())?;
    }
    if aad.rotates_state_key == 1 {
        let key = mls_group
            .export_secret(provider.crypto(), STATE_KEY_LABEL, &[], 32)
            .map_err(mls)
            .and_then(|key| Ok(StateKey::try_from(key.as_slice())?))?;
        Group::set_state_key(db, id, &key)?;
    }
    if pending.envelope.operation == Operation::DeleteGroup {
        Group::set_status(db, id, Status::Closed)?;
        upgrade::ended(db, &group)?;
    }
    // Covering what is pending is no update.
    let updated = !aad.encrypted_identity_link_keys.is_empty();
    if pending.envelope.operation == Operation::UpdateClient && updated {
        db.execute(
            "UPDATE groups SET update_due = 0 WHERE group_id = ?",
            [id.0],
        )?;
        upkeep::renewed(db, id)?;
        restored::renewed(db, id)?;
    }
    Pending::delete(db, id)
}

impl Client {
    /// Stages a commit and keeps it with its request; nothing is sent.
    pub(crate) fn stage_plan(&mut self, id: &GroupId, plan: Plan) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        self.transact(|db, profile| stage(db, profile, id, plan, now_ms))
    }

    /// Sends the kept commit and brings it to an end.
    pub(crate) async fn submit_commit(&mut self, id: &GroupId) -> Result<CommitOutcome, Error> {
        let refusal = match self.send_pending(id).await {
            Ok(answer) => {
                EpochAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                self.transact(|db, profile| merge_own(db, profile, id))?;
                return Ok(CommitOutcome::Accepted);
            }
            Err(Error::Refused(refusal)) => refusal,
            // Its token was refused, and there is no other.
            Err(error @ Error::Issuer(_)) => {
                self.drop_pending_commit(id)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        match refusal.problem {
            ProblemType::WrongEpoch | ProblemType::ServiceBehind | ProblemType::UnknownGroup => {}
            ProblemType::BadSignature if self.stop_if_replaced(id).await? => {
                return Ok(CommitOutcome::Superseded);
            }
            _ => {
                self.drop_pending_commit(id)?;
                return Err(Error::Refused(refusal));
            }
        }
        // Whichever commit was accepted, perhaps this very one, stands in the queue: the service puts
        // it there in the same transition.
        let epoch = self.epoch(id)?;
        if refusal.epoch.is_some_and(|current| current < epoch) {
            self.drop_pending_commit(id)?;
            self.lose(id, StopReason::Behind)?;
            return Ok(CommitOutcome::Superseded);
        }
        for look in 0..LOOKS {
            self.outcomes.remove(id);
            self.pull().await?;
            self.process().await?;
            if let Some(outcome) = self.outcomes.remove(id) {
                return Ok(outcome);
            }
            if Pending::read(&self.db, id)?.is_none() || self.epoch(id)? != epoch {
                self.drop_pending_commit(id)?;
                return Ok(CommitOutcome::Superseded);
            }
            if refusal.problem == ProblemType::UnknownGroup {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(
                100u64.saturating_mul(u64::from(look)),
            ))
            .await;
        }
        if refusal.problem == ProblemType::WrongEpoch {
            // The queue has lost what moved the group on: without it this client cannot follow.
            self.lose_track(id).await?;
            return Ok(CommitOutcome::Superseded);
        }
        self.recover_state_key(id).await?;
        self.drop_pending_commit(id)?;
        Ok(CommitOutcome::Superseded)
    }

    /// Makes a commit by a plan, anew as often as others are faster or something must be covered with it.
    pub(crate) async fn commit(
        &mut self,
        id: &GroupId,
        plan: impl Fn(&Client) -> Result<Plan, Error>,
    ) -> Result<(), Error> {
        for round in 0..ROUNDS {
            let group = Group::read(&self.db, id)?;
            group.check_usable()?;
            let plan = plan(self)?;
            self.stage_plan(id, plan)?;
            match self.submit_commit(id).await {
                Ok(CommitOutcome::Accepted) => return Ok(()),
                Ok(CommitOutcome::Superseded) => {}
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::PendingProposals =>
                {
                    self.learn_pending(id).await?;
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
