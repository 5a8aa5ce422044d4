//! The clients of one user in a group: brought in by another one's word, removed by any of them.

use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::StateKey;
use openmls::prelude::LeafNodeIndex;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::join::{JoinPermit, LeafAuthorization};

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::leaf::{self, own_pseudonym, pseudonym_of};
use crate::mls::authenticate::Sight;
use crate::mls::external::Entrance;
use crate::mls::new_leaf::NewLeaf;
use crate::mls::plan::Plan;
use crate::store::groups::free_name;
use crate::store::{Group, Segment, Status, known, leaf_keys};
use crate::sync_message::GroupLink;

impl Engine {
    /// Comes into a group of this user's other client, with the key that [`Client::client_key`]
    /// kept. False if the segment that it told of has ended.
    pub(crate) async fn join_as_client(
        &mut self,
        link: &GroupLink,
        key: &[u8],
        authorization: LeafAuthorization,
    ) -> Result<bool, Error> {
        if Group::find(&self.db, &link.group_id)?
            .is_some_and(|group| group.status == Status::Active)
        {
            return Ok(true);
        }
        let told = Segment::heard_of(
            link.segment,
            link.rotation,
            (link.step, StateKey::from(&link.state_key)),
            IdentityLinkWrapperKey::from(&link.wrapper_key),
        );
        let Some(segment) = self.at_its_end(told).await? else {
            return Ok(false);
        };
        let directory = self.directory().await?;
        let signer = leaf_keys::signer(&self.db, key)?;
        let pseudonym = link.user_pseudonym.clone();
        let leaf = NewLeaf::with_key(&self.profile, &directory, signer.0, pseudonym)?;
        let name = String::from_utf8_lossy(link.name.as_slice());
        let name = (link.kind == GroupKind::Group)
            .then(|| free_name(&self.db, &name))
            .transpose()?;
        let entrance = Entrance {
            id: link.group_id,
            kind: link.kind,
            name,
            segment,
            leaf,
            sight: Sight::Device {
                suite: leaf::ciphersuite(link.ciphersuite)
                    .ok_or(UsageError::UnknownCiphersuite(link.ciphersuite))?,
                epoch: link
                    .epoch
                    .max(known::highest_epoch(&self.db, &link.group_id)?.unwrap_or(0)),
                leaf: authorization.leaf_index,
                members: link.members.as_slice().to_vec(),
                codes_since: link.codes_since,
            },
            permit: JoinPermit::Client,
            authorization: Some(authorization),
            answer: None,
        };
        self.enter(&entrance).await?;
        Ok(true)
    }

    /// Leaves of this user's other clients in a group.
    pub(crate) fn other_own_leaves(&self, id: &GroupId) -> Result<Vec<LeafNodeIndex>, Error> {
        let mls_group = self.mls(id)?;
        let own = own_pseudonym(&mls_group)?;
        Ok(mls_group
            .members()
            .filter(|member| member.index != mls_group.own_leaf_index())
            .filter(|member| pseudonym_of(&member.credential).as_deref() == Some(own.as_slice()))
            .map(|member| member.index)
            .collect())
    }

    /// Removes other clients of this user from a group.
    pub(crate) async fn remove_other_own_leaves(&mut self, id: &GroupId) -> Result<(), Error> {
        self.commit(id, |client| {
            Ok(Plan::RemoveClients(client.other_own_leaves(id)?))
        })
        .await
    }
}
