//! Parts of requests that make or change a group.

use std::collections::BTreeSet;

use crypto::credential::CREDENTIAL_TYPE;
use crypto::journal::{sign_recovery_key, verify_join_code};
use crypto::keys::IdentityLinkWrapperKey;
use crypto::secret::Secret;
use crypto::sign::Scheme;
use openmls::group::GroupContext;
use openmls::messages::group_info::GroupInfo;
use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialType, Extension, ExtensionType, Extensions,
    ExternalSender, LeafNodeIndex, MlsGroup, ProposalType, RequiredCapabilitiesExtension,
    UnknownExtension,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::directory::Directory;
use protocol::group::{GroupKind, JoinCode, LeafExtras, PartialGroupInfo};
use protocol::ids::{GroupId, Week};
use protocol::join::RecoveryRow;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::push::Handle;
use tls_codec::{Serialize as _, VLBytes};

use crate::encoding::decode_base64url;
use crate::error::{Error, LocalError, mls};
use crate::leaf::{self, pseudonym_of};
use crate::mls::new_leaf::NewLeaf;
use crate::mls::rows;
use crate::store::{Identity, Profile};

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
    push_handle: Handle,
) -> Result<LeafExtras, Error> {
    let pair = rows::key_pair(suite, recovery)?;
    Ok(LeafExtras {
        wrapped_link_key: opaque(leaf.wrapped_link_key(wrapper)?),
        recovery_key: sign_recovery_key(&leaf.signer.0, id, pair.public()),
        push_handle: opaque(push_handle),
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
    next: &crate::store::segments::Segment,
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
