//! Creating groups: ordinary ones, and the ones that connections are made in.

use crypto::credential::{CREDENTIAL_TYPE, random_pseudonym};
use crypto::secret::Secret;
use crypto::sign::Scheme;
use openmls::group::GroupContext;
use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialType, Extension, ExtensionType, Extensions,
    ExternalSender, MlsGroup, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
    ProposalType, RequiredCapabilitiesExtension, UnknownExtension,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::directory::Directory;
use protocol::group::{
    CommitAccepted, CreateGroupRequest, GroupKind, OwnLeafRequest, OwnLeafResponse,
    ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::{Day, GroupId, RotationEpoch};
use protocol::journal::MESSAGE_DAYS;
use protocol::operation::Operation;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::{Serialize as _, VLBytes};

use crate::directory::decode_base64url;
use crate::engine::Engine;
use crate::error::{Error, UsageError, mls};
use crate::groups::identities::{self, Identity};
use crate::groups::{
    Group, MAX_NAME, PADDING, PAST_EPOCHS, Status, commit, known, mls_id, upgrade, upkeep,
};
use crate::journal::{Beginning, Segment};
use crate::leaf::{self, CIPHERSUITE, NewLeaf};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::{Envelope, Pending};
use crate::text;

/// What every group here demands of its members, and who may propose removals from outside.
pub(crate) fn context_extensions(
    directory: &Directory,
    suite: Ciphersuite,
    policy: Option<&GroupPolicy>,
) -> Result<Extensions<GroupContext>, Error> {
    let required = RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(POLICY_EXTENSION)],
        &[ProposalType::SelfRemove],
        &[CredentialType::Other(CREDENTIAL_TYPE)],
    );
    let sender_key = match leaf::scheme(suite) {
        Scheme::Ed25519 => &directory.external_sender_key,
        Scheme::EcdsaP256 => &directory.external_sender_key_p256,
    };
    let sender = ExternalSender::new(
        decode_base64url(sender_key)?.into(),
        BasicCredential::new(b"delivery service".to_vec()).into(),
    );
    let mut extensions = vec![
        Extension::RequiredCapabilities(required),
        Extension::ExternalSenders(vec![sender]),
    ];
    extensions.extend(policy.map(policy_extension));
    Extensions::from_vec(extensions).map_err(mls)
}

/// The policy as it stands in the group context.
pub(crate) fn policy_extension(policy: &GroupPolicy) -> Extension {
    Extension::Unknown(POLICY_EXTENSION, UnknownExtension(policy.encode()))
}

/// The own identity, known without a link key.
pub(crate) fn own_identity(profile: &Profile, leaf: &NewLeaf) -> Result<Identity, Error> {
    Ok(Identity {
        user_pseudonym: leaf.pseudonymous.user_pseudonym.as_slice().to_vec(),
        real: Some(profile.credential()?),
    })
}

struct Draft {
    id: GroupId,
    kind: GroupKind,
    name: Option<String>,
    suite: Ciphersuite,
    now_ms: u64,
}

/// Makes the group and its request, in one transaction.
fn build(
    db: &Connection,
    profile: &Profile,
    directory: &Directory,
    leaf: NewLeaf,
    draft: Draft,
) -> Result<(), Error> {
    let provider = Provider::new(db);
    leaf.store_key(db)?;
    // Two users need no roles, nor does one.
    let policy = (draft.kind == GroupKind::Group).then(|| {
        let creator: VLBytes = leaf.pseudonymous.user_pseudonym.clone();
        GroupPolicy::of_creator(creator)
    });
    let mls_group = MlsGroup::builder()
        .with_group_id(mls_id(&draft.id))
        .ciphersuite(draft.suite)
        .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .padding_size(PADDING)
        .sender_ratchet_configuration(upkeep::sender_ratchet())
        .with_group_context_extensions(context_extensions(directory, draft.suite, policy.as_ref())?)
        // Capabilities first: the builder holds the extensions against them at once.
        .with_capabilities(leaf::capabilities())
        .lifetime(leaf::lifetime(draft.now_ms))
        .build(&provider, &leaf.signer, leaf.credential.clone())
        .map_err(mls)?;
    let beginning = Beginning::of_group(&provider, &mls_group)?;
    let recovery = Secret::random()?;
    let extras = commit::extras(
        draft.suite,
        &draft.id,
        &leaf,
        &beginning.wrapper_key,
        &recovery,
    )?;
    let segment = beginning.to_wire(None, Vec::new());
    let group = Group {
        id: draft.id,
        kind: draft.kind,
        name: draft.name,
        segment: beginning.into_segment(&draft.id, RotationEpoch(0), Day::of(draft.now_ms)),
        recovery,
        recovery_set: true,
        update_due: false,
        status: Status::Joining,
    };
    group.insert(db)?;
    Group::set_leaf_key(db, &group.id, &leaf.signer.0.public())?;
    identities::store(
        db,
        &group.id,
        &leaf.credential.credential,
        &own_identity(profile, &leaf)?,
    )?;
    known::remember(db, &group.id, &mls_group)?;
    let request = CreateGroupRequest {
        group_id: group.id,
        kind: group.kind,
        message_days: MESSAGE_DAYS,
        segment,
        ratchet_tree: opaque(
            mls_group
                .export_ratchet_tree()
                .tls_serialize_detached()
                .map_err(mls)?,
        ),
        group_info: opaque(
            mls_group
                .export_group_info(provider.crypto(), &leaf.signer, false)
                .map_err(mls)?
                .tls_serialize_detached()
                .map_err(mls)?,
        ),
        leaf: extras,
    };
    let envelope = Envelope::by_key(
        Operation::CreateGroup,
        leaf.signer.0,
        request.encode(),
        draft.now_ms,
    )?;
    Pending {
        envelope,
        aad: Vec::new(),
        contact: None,
        recovery: None,
    }
    .write(db, &group.id)
}

impl Engine {
    /// Creates a group with this user as its only member.
    ///
    /// # Errors
    /// [`UsageError::GroupExists`], [`UsageError::InvalidGroupName`], [`UsageError::NoHandle`].
    pub(crate) async fn create_group(&mut self, name: &str) -> Result<(), Error> {
        self.create_group_with(name, leaf::CIPHERSUITE as u16).await
    }

    /// As [`Client::create_group`], in another ciphersuite: 1, 2, 3, 0x4e or 0x4f (RFC 9420 §17.1
    /// and draft-ietf-mls-pq-ciphersuites).
    ///
    /// # Errors
    /// As [`Client::create_group`]; [`UsageError::UnknownCiphersuite`].
    pub(crate) async fn create_group_with(&mut self, name: &str, suite: u16) -> Result<(), Error> {
        let _held = self.hold().await?;
        let suite = leaf::ciphersuite(suite).ok_or(UsageError::UnknownCiphersuite(suite))?;
        let name = text::chosen(name, MAX_NAME).ok_or(UsageError::InvalidGroupName)?;
        self.profile.credential()?;
        self.sync().await?;
        upgrade::give_up_name(&self.db, &name)?;
        if self
            .db
            .query_row("SELECT 1 FROM groups WHERE name = ?", [&name], |_| Ok(()))
            .optional()?
            .is_some()
        {
            return Err(UsageError::GroupExists(name).into());
        }
        let leaf = self.new_leaf(suite).await?;
        let id = self.reserve(&leaf).await?;
        self.create_reserved(id, GroupKind::Group, Some(name), suite, leaf)
            .await
    }

    /// Reserves an id, makes the group in the usual ciphersuite, and has it accepted.
    pub(crate) async fn new_group(
        &mut self,
        kind: GroupKind,
        name: Option<String>,
    ) -> Result<GroupId, Error> {
        let leaf = self.new_leaf(CIPHERSUITE).await?;
        let id = self.reserve(&leaf).await?;
        self.create_reserved(id, kind, name, CIPHERSUITE, leaf)
            .await?;
        Ok(id)
    }

    pub(crate) async fn new_leaf(&mut self, suite: Ciphersuite) -> Result<NewLeaf, Error> {
        let directory = self.directory().await?;
        let pseudonym = random_pseudonym(&directory.domain)?;
        NewLeaf::of_user(&self.profile, &directory, suite, pseudonym)
    }

    /// Reserves a group id for the one who will create the group with this leaf. It is drawn here:
    /// under one of the service's choice this group would take the place of another one, for this
    /// client or for others.
    pub(crate) async fn reserve(&mut self, leaf: &NewLeaf) -> Result<GroupId, Error> {
        let group_id = GroupId(crypto::random()?);
        let reserved: ReserveGroupIdResponse = self
            .call(
                Operation::ReserveGroupId,
                leaf.signer.key()?,
                &ReserveGroupIdRequest { group_id },
            )
            .await?;
        if reserved.group_id != group_id {
            return Err(Error::Protocol(
                "another id was reserved than the one asked for",
            ));
        }
        Ok(group_id)
    }

    /// Makes a group under a reserved id, and has it accepted.
    pub(crate) async fn create_reserved(
        &mut self,
        id: GroupId,
        kind: GroupKind,
        name: Option<String>,
        suite: Ciphersuite,
        leaf: NewLeaf,
    ) -> Result<(), Error> {
        let directory = self.directory().await?;
        let draft = Draft {
            id,
            kind,
            name,
            suite,
            now_ms: self.transport.time.now_unix_ms(),
        };
        self.transact(|db, profile| build(db, profile, &directory, leaf, draft))?;
        self.submit_creation(&id).await
    }

    /// Sends a kept creation; forgets the group if it is refused.
    pub(crate) async fn submit_creation(&mut self, id: &GroupId) -> Result<(), Error> {
        match self.send_pending(id).await {
            Ok(answer) => {
                let accepted = CommitAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                self.created(id, Some(accepted.accepted_ms))
            }
            // What cannot be read may say that it was accepted.
            Err(error @ (Error::Unreachable(_) | Error::Protocol(_) | Error::Local(_))) => {
                Err(error)
            }
            // Signed again after the time for which the service remembers: it may have been
            // accepted.
            Err(error)
                if error.problem() == Some(ProblemType::InvalidGroupId)
                    && self.is_created(id).await? =>
            {
                self.created(id, None)
            }
            Err(error) => {
                self.transact(|db, _| Group::delete(db, id))?;
                Err(error)
            }
        }
    }

    /// The service has the group, perhaps since this time: the journal's tag keys count from its
    /// day.
    fn created(&mut self, id: &GroupId, accepted_ms: Option<u64>) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        self.transact(|db, _| {
            Pending::delete(db, id)?;
            // There was nobody before, and nobody was removed.
            Group::set_codes_since(db, id, 0)?;
            if let Some(accepted_ms) = accepted_ms {
                let segment = Group::read(db, id)?.segment;
                let segment = Segment {
                    tag_day: Day::of(accepted_ms.min(now_ms)),
                    ..segment
                };
                segment.write(db, id)?;
            }
            Group::set_status(db, id, Status::Active)
        })
    }

    /// Whether the service has this group with this client in it.
    async fn is_created(&mut self, id: &GroupId) -> Result<bool, Error> {
        let group = Group::read(&self.db, id)?;
        let (_, signer) = self.own_sender(id)?;
        let request = OwnLeafRequest { group: group.key() };
        let own: Result<OwnLeafResponse, Error> =
            self.call(Operation::OwnLeaf, signer, &request).await;
        match own {
            Ok(_) => Ok(true),
            Err(Error::Refused(refusal))
                if matches!(
                    refusal.problem,
                    ProblemType::UnknownGroup | ProblemType::NotAllowed
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
