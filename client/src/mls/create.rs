//! Groups that are made.

use crypto::secret::Secret;
use openmls::prelude::{
    Ciphersuite, MlsGroup, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::directory::Directory;
use protocol::group::{CreateGroupRequest, GroupKind};
use protocol::ids::{Day, GroupId, RotationEpoch};
use protocol::journal::MESSAGE_DAYS;
use protocol::operation::Operation;
use protocol::policy::GroupPolicy;
use rusqlite::Connection;
use tls_codec::{Serialize as _, VLBytes};

use crate::envelope::Envelope;
use crate::error::{Error, mls};
use crate::leaf;
use crate::mls::beginning::Beginning;
use crate::mls::new_leaf::NewLeaf;
use crate::mls::parts::{self, context_extensions, own_identity};
use crate::mls::settings::{self, PADDING};
use crate::store::mls::PAST_EPOCHS;
use crate::store::mls::mls_id;
use crate::store::provider::Provider;
use crate::store::{Group, Pending, Profile, Status, identities, known, push};

pub(crate) struct Draft {
    pub(crate) id: GroupId,
    pub(crate) kind: GroupKind,
    pub(crate) name: Option<String>,
    pub(crate) suite: Ciphersuite,
    pub(crate) now_ms: u64,
}

/// Makes the group and its request, in one transaction.
pub(crate) fn build(
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
        .sender_ratchet_configuration(settings::sender_ratchet())
        .with_group_context_extensions(context_extensions(directory, draft.suite, policy.as_ref())?)
        // Capabilities first: the builder holds the extensions against them at once.
        .with_capabilities(leaf::capabilities(draft.suite, profile.takes_post_quantum))
        .lifetime(leaf::lifetime(draft.now_ms))
        .build(&provider, &leaf.signer, leaf.credential.clone())
        .map_err(mls)?;
    let beginning = Beginning::of_group(&provider, &mls_group)?;
    let recovery = Secret::random()?;
    let extras = parts::extras(
        draft.suite,
        &draft.id,
        &leaf,
        &beginning.wrapper_key,
        &recovery,
        push::handle_for(db, &draft.id, draft.now_ms)?,
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
