//! Creating groups: ordinary ones, and the ones that connections are made in.

use crypto::credential::{CREDENTIAL_TYPE, QUEUE_REFERENCE_EXTENSION};
use crypto::keys::{IdentityLinkWrapperKey, RecoverySecret, StateKey};
use crypto::sign::SignatureKeyPair;
use openmls::group::GroupContext;
use openmls::prelude::{
    BasicCredential, CredentialType, Extension, ExtensionType, Extensions, ExternalSender,
    MlsGroup, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
    RequiredCapabilitiesExtension,
};
use protocol::codec::opaque;
use protocol::directory::Directory;
use protocol::groups::{
    CreateGroupRequest, EpochAccepted, GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::Serialize as _;

use crate::Client;
use crate::directory::decode_base64url;
use crate::error::{Error, UsageError, mls};
use crate::groups::identities::{self, Identity};
use crate::groups::{Group, PADDING, PAST_EPOCHS, STATE_KEY_LABEL, Status, mls_id, sender_ratchet};
use crate::leaf::{self, CIPHERSUITE, NewLeaf};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::request::{Envelope, Pending};

/// Longest group name in bytes.
const MAX_NAME: usize = 256;

/// What every group here demands of its members, and who may propose removals from outside.
fn context_extensions(directory: &Directory) -> Result<Extensions<GroupContext>, Error> {
    let required = RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(QUEUE_REFERENCE_EXTENSION)],
        &[],
        &[CredentialType::Other(CREDENTIAL_TYPE)],
    );
    let sender = ExternalSender::new(
        decode_base64url(&directory.external_sender_key)?.into(),
        BasicCredential::new(b"delivery service".to_vec()).into(),
    );
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(required),
        Extension::ExternalSenders(vec![sender]),
    ])
    .map_err(mls)
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
    let mls_group = MlsGroup::builder()
        .with_group_id(mls_id(&draft.id))
        .ciphersuite(CIPHERSUITE)
        .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .padding_size(PADDING)
        .sender_ratchet_configuration(sender_ratchet())
        .with_group_context_extensions(context_extensions(directory)?)
        // Capabilities first: the builder holds the extensions against them at once.
        .with_capabilities(leaf::capabilities())
        .with_leaf_node_extensions(leaf.extensions.clone())
        .map_err(mls)?
        .lifetime(leaf::lifetime(draft.now_ms))
        .build(&provider, &leaf.signer, leaf.credential.clone())
        .map_err(mls)?;
    let state_key = mls_group
        .export_secret(provider.crypto(), STATE_KEY_LABEL, &[], 32)
        .map_err(mls)
        .and_then(|key| Ok(StateKey::try_from(key.as_slice())?))?;
    let group = Group {
        id: draft.id,
        kind: draft.kind,
        name: draft.name,
        state_key,
        wrapper_key: IdentityLinkWrapperKey::random()?,
        recovery_secret: RecoverySecret::random()?,
        recovery_set: true,
        update_due: false,
        status: Status::Joining,
    };
    group.insert(db)?;
    identities::store(
        db,
        &group.id,
        &leaf.credential.credential,
        &own_identity(profile, &leaf)?,
    )?;
    let request = CreateGroupRequest {
        group_id: group.id,
        state_key: group.state_key.to_wire(),
        kind: group.kind,
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
        encrypted_identity_link_key: opaque(leaf.wrapped_link_key(&group.wrapper_key)?),
        recovery_secret: group.recovery_secret.to_wire(),
    };
    let envelope = Envelope::by_key(
        Operation::CreateGroup,
        leaf.signer.0,
        request.encode(),
        draft.now_ms,
    );
    Pending {
        envelope,
        aad: Vec::new(),
        contact: None,
    }
    .write(db, &group.id)
}

impl Client {
    /// Creates a group with this user as its only member.
    ///
    /// # Errors
    /// [`UsageError::GroupExists`], [`UsageError::InvalidGroupName`], [`UsageError::NoHandle`].
    pub async fn create_group(&mut self, name: &str) -> Result<(), Error> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(UsageError::InvalidGroupName.into());
        }
        self.profile.credential()?;
        self.sync(0).await?;
        if self
            .db
            .query_row("SELECT 1 FROM groups WHERE name = ?", [name], |_| Ok(()))
            .optional()?
            .is_some()
        {
            return Err(UsageError::GroupExists(name.to_owned()).into());
        }
        self.new_group(GroupKind::Group, Some(name.to_owned()))
            .await
            .map(|_| ())
    }

    /// Reserves an id, makes the group, and has it accepted.
    pub(crate) async fn new_group(
        &mut self,
        kind: GroupKind,
        name: Option<String>,
    ) -> Result<GroupId, Error> {
        let directory = self.directory().await?;
        let leaf = NewLeaf::make(&self.profile, &directory)?;
        let key = SignatureKeyPair::from_seed(&leaf.signer.0.seed());
        let reserved: ReserveGroupIdResponse = self
            .call(Operation::ReserveGroupId, key, &ReserveGroupIdRequest {})
            .await?;
        let id = reserved.group_id;
        let draft = Draft {
            id,
            kind,
            name,
            now_ms: self.transport.time.now_unix_ms(),
        };
        self.transact(|db, profile| build(db, profile, &directory, leaf, draft))?;
        self.submit_creation(&id).await?;
        Ok(id)
    }

    /// Sends a kept creation; forgets the group if it is refused.
    pub(crate) async fn submit_creation(&mut self, id: &GroupId) -> Result<(), Error> {
        match self.send_pending(id).await {
            Ok(answer) => {
                EpochAccepted::decode(&answer)
                    .map_err(|_| Error::Protocol("an answer is malformed"))?;
                self.transact(|db, _| {
                    Pending::delete(db, id)?;
                    Group::set_status(db, id, Status::Active)
                })
            }
            Err(error @ (Error::Unreachable(_) | Error::Local(_))) => Err(error),
            // Signed again after the time for which the service remembers: it may have been accepted.
            Err(error)
                if error.problem() == Some(ProblemType::InvalidGroupId)
                    && self.is_created(id).await? =>
            {
                self.transact(|db, _| {
                    Pending::delete(db, id)?;
                    Group::set_status(db, id, Status::Active)
                })
            }
            Err(error) => {
                self.transact(|db, _| Group::delete(db, id))?;
                Err(error)
            }
        }
    }

    /// Whether the service has this group with this client in it: only then it takes the recovery
    /// secret, which is the one that the creation brought.
    async fn is_created(&mut self, id: &GroupId) -> Result<bool, Error> {
        match self.send_recovery_secret(id).await {
            Ok(()) => Ok(true),
            Err(Error::Refused(refusal))
                if matches!(
                    refusal.problem,
                    ProblemType::UnknownGroup | ProblemType::BadSignature
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
