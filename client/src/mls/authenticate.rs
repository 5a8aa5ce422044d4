//! Whether a group that the service shows to somebody outside may be come into. The service makes
//! up GroupInfo and tree if it likes; what it cannot make is an identity link that opens under the
//! group's wrapper key. So nothing is joined from outside (RFC 9420 §12.4.3.2) but an
//! [`Authenticated`] group: its GroupInfo is signed by a leaf that has shown whose it is, and it is
//! the group that the joiner knows of.

use mls_rules::context::senders_in;
use openmls::prelude::group_info::{GroupInfo, VerifiableGroupInfo};
use openmls::prelude::{
    Ciphersuite, Credential, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, RatchetTreeIn,
    SignaturePublicKey, Verifiable as _,
};
use protocol::Wire as _;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::join::ExternalCommitInfoResponse;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tls_codec::{DeserializeBytes as _, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::error::{Error, PeerError};
use crate::leaf;
use crate::mls::policy::service_senders;
use crate::store::contacts::name_of_key;
use crate::store::known::{self, Known};
use crate::store::mls::group_id;
use crate::store::provider::Provider;
use crate::store::shown::Newcomer;
use crate::store::wrappers::Wrappers;
use crate::store::{Identity, Profile, identities};

const MALFORMED: Error = Error::Protocol("the information for an external commit is malformed");

fn not(why: &'static str) -> Error {
    PeerError::Unauthenticated(why).into()
}

/// A GroupInfo in its message (RFC 9420 §12.4.3), for its signer, which the MLS library does not
/// show.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct GroupInfoMessage {
    /// Of the message, the format, the protocol.
    versions: [u8; 6],
    ciphersuite: u16,
    group_id: VLBytes,
    epoch: u64,
    tree_hash: VLBytes,
    confirmed_transcript_hash: VLBytes,
    context_extensions: VLBytes,
    extensions: VLBytes,
    confirmation_tag: VLBytes,
    signer: u32,
    signature: VLBytes,
}

/// A LeafNode (RFC 9420 §7.2): the library names the leaves of a tree only when it has built a
/// group of it.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct LeafNode {
    encryption_key: VLBytes,
    signature_key: VLBytes,
    credential: Credential,
    /// Versions, ciphersuites, extensions, proposals, credentials.
    capabilities: Capabilities,
    source: LeafSource,
    extensions: VLBytes,
    signature: VLBytes,
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Capabilities(VLBytes, VLBytes, VLBytes, VLBytes, VLBytes);

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
enum LeafSource {
    #[tls_codec(discriminant = 1)]
    KeyPackage { not_before: u64, not_after: u64 },
    #[tls_codec(discriminant = 2)]
    Update,
    #[tls_codec(discriminant = 3)]
    Commit(VLBytes),
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ParentNode {
    encryption_key: VLBytes,
    parent_hash: VLBytes,
    unmerged_leaves: VLBytes,
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
enum Node {
    #[tls_codec(discriminant = 1)]
    Leaf(Box<LeafNode>),
    #[tls_codec(discriminant = 2)]
    Parent(ParentNode),
}

/// A leaf as the service shows it.
struct ShownLeaf {
    index: u32,
    signature_key: Vec<u8>,
    credential: Credential,
    identity: Identity,
}

impl ShownLeaf {
    fn person(&self) -> Option<&[u8]> {
        let real = self.identity.real.as_ref();
        real.map(|real| real.signature_public_key.as_slice())
    }

    /// How it is remembered that the user was shown it.
    fn mark(&self) -> Vec<u8> {
        match self.person() {
            Some(key) => key.to_vec(),
            None => identities::digest(&self.credential),
        }
    }
}

/// What the joiner knows of the group, by how it comes in.
pub(crate) enum Sight {
    /// In the place of its own leaf, with this signature key.
    Back {
        known: Known,
        leaf_key: Vec<u8>,
        /// Marks of the newcomers that the user was shown.
        shown: Vec<Vec<u8>>,
    },
    /// By a code that was made in this epoch; perhaps into a group that this client was in before.
    Code {
        epoch: u64,
        suite: Ciphersuite,
        /// Its maker, if there was nobody else then ([`person_digests`]); else empty.
        alone: Vec<u8>,
        known: Option<Known>,
    },
    /// By the word of another device of this user, which was at this leaf in this epoch and knew
    /// these members ([`person_digests`]).
    Device {
        epoch: u64,
        suite: Ciphersuite,
        leaf: u32,
        members: Vec<u8>,
        /// Join codes that were made before this epoch have ended, as that device knows.
        codes_since: u64,
    },
    /// Asked by this user for a connection.
    Asked { requester: Vec<u8> },
}

impl Sight {
    /// The epoch before which no join code is good, when this client comes in with this one:
    /// what happened in between, while it saw nothing, may have been a removal.
    pub(crate) fn codes_since(&self, epoch: u64, before: u64) -> u64 {
        match self {
            Self::Back { known, .. } if known.epoch.saturating_add(1) == epoch => before,
            Self::Back { .. } | Self::Asked { .. } => epoch,
            Self::Code { epoch, .. } => *epoch,
            Self::Device { codes_since, .. } => *codes_since,
        }
    }

    /// The ciphersuite that the group has, if that is known. A group of this id in another one
    /// would be a weaker one that nobody has agreed to.
    fn ciphersuite(&self, kind: GroupKind) -> Option<u16> {
        match self {
            _ if kind != GroupKind::Group => Some(leaf::CIPHERSUITE.into()),
            Self::Back { known, .. }
            | Self::Code {
                known: Some(known), ..
            } => Some(known.ciphersuite),
            Self::Code { suite, .. } | Self::Device { suite, .. } => Some((*suite).into()),
            Self::Asked { .. } => None,
        }
    }

    /// The only person beside this user who is known to be in the group; this user, if only its
    /// devices are.
    fn only_other(&self, own_key: &[u8]) -> Option<Vec<u8>> {
        let own = person_digest(own_key);
        let people = match self {
            Self::Back { known, .. } => {
                if known.there().any(|member| member.identity.real.is_none()) {
                    return None;
                }
                person_digests(known)
            }
            Self::Code { alone, .. } => alone.clone(),
            Self::Device { members, .. } => members.clone(),
            Self::Asked { requester } => person_digest(requester),
        };
        let others = || people.chunks(DIGEST).filter(|it| *it != own);
        match (others().count(), others().next()) {
            (0, _) if !people.is_empty() => Some(own),
            (1, Some(other)) => Some(other.to_vec()),
            _ => None,
        }
    }
}

/// A group that may be come into. The library verifies the tree against the GroupInfo when it
/// builds it.
pub(crate) struct Authenticated {
    pub(crate) group_info: VerifiableGroupInfo,
    pub(crate) tree: RatchetTreeIn,
    /// Who has signed it (an identity key), unless this client knows of nobody else in the group.
    pub(crate) signer: Option<Vec<u8>>,
    /// Whom the user has not been shown yet. Nobody in connections and devices' groups.
    pub(crate) newcomers: Vec<Newcomer>,
}

const DIGEST: usize = 16;

fn person_digest(signature_key: &[u8]) -> Vec<u8> {
    let mut digest = Sha256::digest(signature_key).to_vec();
    digest.truncate(DIGEST);
    digest
}

/// 16 bytes for each person that a client knows to be in a group.
pub(crate) fn person_digests(known: &Known) -> Vec<u8> {
    let mut persons: Vec<Vec<u8>> = known
        .members
        .iter()
        .filter(|member| member.removed_epoch.is_none())
        .filter_map(|member| member.identity.real.as_ref())
        .map(|real| person_digest(real.signature_public_key.as_slice()))
        .collect();
    persons.sort_unstable();
    persons.dedup();
    persons.concat()
}

/// The only person in a group, as [`person_digests`]; empty if there are more.
pub(crate) fn who_is_alone(db: &Connection, id: &GroupId) -> Result<Vec<u8>, Error> {
    let people = known::of(db, id)?.map(|known| person_digests(&known));
    Ok(people
        .filter(|people| people.len() == DIGEST)
        .unwrap_or_default())
}

fn leaves(
    tree: &[u8],
    wrappers: &Wrappers,
    info: &ExternalCommitInfoResponse,
) -> Result<Vec<ShownLeaf>, Error> {
    let nodes = Vec::<Option<Node>>::tls_deserialize_exact_bytes(tree).map_err(|_| MALFORMED)?;
    let mut leaves = Vec::new();
    for (place, node) in nodes.into_iter().enumerate() {
        let Some(Node::Leaf(leaf)) = node else {
            continue;
        };
        // Leaves stand at even places (RFC 9420 §7.8).
        let index = u32::try_from(place / 2).map_err(|_| MALFORMED)?;
        let signature_key = leaf.signature_key.as_slice().to_vec();
        let link = wrappers.link(&info.leaves, index);
        let identity = identities::shown(&leaf.credential, &signature_key, link);
        leaves.push(ShownLeaf {
            index,
            signature_key,
            credential: leaf.credential,
            identity,
        });
    }
    Ok(leaves)
}

/// Holds what the service shows against what the joiner knows.
///
/// # Errors
/// [`PeerError::Unauthenticated`]; [`Error::Protocol`] for what cannot be read.
pub(crate) fn authenticate(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    kind: GroupKind,
    wrappers: &Wrappers,
    info: &ExternalCommitInfoResponse,
    sight: &Sight,
) -> Result<Authenticated, Error> {
    let message = GroupInfoMessage::decode(info.group_info.as_slice()).map_err(|_| MALFORMED)?;
    let group_info = match MlsMessageIn::tls_deserialize_exact_bytes(info.group_info.as_slice())
        .map(MlsMessageIn::extract)
    {
        Ok(MlsMessageBodyIn::GroupInfo(group_info)) => group_info,
        _ => return Err(MALFORMED),
    };
    // The library would take a tree in the GroupInfo instead of the one that is looked at here.
    if group_info.extensions().ratchet_tree().is_some()
        || group_id(group_info.group_id()) != Some(*id)
        || group_info.epoch().as_u64() != message.epoch
    {
        return Err(MALFORMED);
    }
    known::check_epoch(message.epoch)?;
    let suite = u16::from(group_info.ciphersuite());
    if sight.ciphersuite(kind).is_some_and(|it| it != suite) {
        return Err(not("it has another ciphersuite than it should have"));
    }
    let leaves = leaves(info.ratchet_tree.as_slice(), wrappers, info)?;
    let signer = leaves
        .iter()
        .find(|leaf| leaf.index == message.signer)
        .ok_or(MALFORMED)?;
    if signer.person().is_none() {
        return Err(not("who signed it cannot show who that is"));
    }
    let key = SignaturePublicKey::from(signer.signature_key.clone())
        .into_signature_public_key_enriched(group_info.ciphersuite().signature_algorithm());
    let _: GroupInfo = group_info
        .clone()
        .verify(Provider::new(db).crypto(), &key)
        .map_err(|_| not("its signature is not its signer's"))?;

    let shown = Shown {
        db,
        profile,
        kind,
        epoch: message.epoch,
        senders: senders_in(group_info.group_context().extensions()),
        signer,
        leaves: &leaves,
    };
    let newcomers = shown.check(sight)?;
    let signer = signer
        .person()
        .filter(|key| sight.only_other(&profile.identity.public()) != Some(person_digest(key)))
        .map(<[u8]>::to_vec);
    Ok(Authenticated {
        tree: RatchetTreeIn::tls_deserialize_exact_bytes(info.ratchet_tree.as_slice())
            .map_err(|_| MALFORMED)?,
        signer,
        group_info,
        newcomers,
    })
}

struct Shown<'s> {
    db: &'s Connection,
    profile: &'s Profile,
    kind: GroupKind,
    epoch: u64,
    senders: Vec<Vec<u8>>,
    signer: &'s ShownLeaf,
    leaves: &'s [ShownLeaf],
}

impl Shown<'_> {
    fn check(&self, sight: &Sight) -> Result<Vec<Newcomer>, Error> {
        match sight {
            Sight::Back {
                known,
                leaf_key,
                shown,
            } => self.back(known, leaf_key, shown),
            Sight::Code { epoch, known, .. } => {
                self.not_before(*epoch)?;
                if let Some(known) = known {
                    self.not_before(known.epoch)?;
                    self.nobody_back(known)?;
                }
                if self.kind != GroupKind::Group {
                    return Err(not("a join code leads into a group"));
                }
                Ok(Vec::new())
            }
            Sight::Device {
                epoch,
                leaf,
                members,
                ..
            } => self.by_device(*epoch, *leaf, members),
            Sight::Asked { requester } => {
                let alone = self.leaves.len() == 1 && self.signer.person() == Some(requester);
                if alone && self.kind == GroupKind::Connection {
                    Ok(Vec::new())
                } else {
                    Err(not("it is not the group of whoever asked"))
                }
            }
        }
    }

    fn not_before(&self, epoch: u64) -> Result<(), Error> {
        if self.epoch < epoch {
            return Err(not("it is older than what is known of it"));
        }
        Ok(())
    }

    fn nobody_back(&self, known: &Known) -> Result<(), Error> {
        let mut leaves = self.leaves.iter();
        if leaves.any(|leaf| known.was_removed(&identities::digest(&leaf.credential))) {
            return Err(not("a leaf is in it that was removed"));
        }
        Ok(())
    }

    fn back(
        &self,
        known: &Known,
        leaf_key: &[u8],
        shown: &[Vec<u8>],
    ) -> Result<Vec<Newcomer>, Error> {
        self.not_before(known.epoch)?;
        let own = self.leaves.iter().find(|leaf| leaf.index == known.own_leaf);
        if own.is_none_or(|own| own.signature_key != leaf_key) {
            return Err(not("the own leaf is not where it was"));
        }
        self.nobody_back(known)?;
        if !self
            .signer
            .person()
            .is_some_and(|key| self.is_known(known, key))
        {
            return Err(not("its signer was no member when this client was one"));
        }
        service_senders(self.db)?
            .check_senders(&known.external_senders, &self.senders)
            .map_err(|_| not("its external senders are not those that are known"))?;
        let mut newcomers: Vec<Newcomer> = Vec::new();
        for leaf in self
            .leaves
            .iter()
            .filter(|leaf| leaf.index != known.own_leaf)
        {
            let expected = match leaf.person() {
                Some(key) => self.is_known(known, key),
                None => known.has_leaf(&identities::digest(&leaf.credential)),
            };
            let mark = leaf.mark();
            if expected || newcomers.iter().any(|other| other.mark == mark) {
                continue;
            }
            if self.kind != GroupKind::Group {
                return Err(not("somebody is in it who does not belong there"));
            }
            if !shown.contains(&mark) {
                newcomers.push(self.newcomer(leaf, mark)?);
            }
        }
        Ok(newcomers)
    }

    fn is_known(&self, known: &Known, key: &[u8]) -> bool {
        known.has_person(key) || key == self.own_key()
    }

    fn own_key(&self) -> Vec<u8> {
        self.profile.identity.public().to_vec()
    }

    fn newcomer(&self, leaf: &ShownLeaf, mark: Vec<u8>) -> Result<Newcomer, Error> {
        let name = identities::name(self.db, self.profile, Some(&leaf.identity))?;
        Ok(Newcomer { mark, name })
    }

    fn by_device(&self, epoch: u64, voucher: u32, members: &[u8]) -> Result<Vec<Newcomer>, Error> {
        self.not_before(epoch)?;
        let own_key = self.own_key();
        let voucher = self.leaves.iter().find(|leaf| leaf.index == voucher);
        if voucher.is_none_or(|leaf| leaf.person() != Some(&own_key)) {
            return Err(not("the device that vouches is not where it was"));
        }
        let is_member = |key: &[u8]| {
            let digest = person_digest(key);
            members.chunks_exact(DIGEST).any(|member| member == digest)
        };
        if !self.signer.person().is_some_and(is_member) {
            return Err(not("its signer is nobody whom the other device knows"));
        }
        match self.kind {
            GroupKind::Group => {}
            GroupKind::SingleUser => {
                if self
                    .leaves
                    .iter()
                    .any(|leaf| leaf.person() != Some(&own_key))
                {
                    return Err(not("a device in it is not this user's"));
                }
            }
            GroupKind::Connection => {
                for leaf in self.leaves {
                    let belongs = match leaf.person() {
                        Some(key) if key == own_key => true,
                        Some(key) => is_member(key) && name_of_key(self.db, key)?.is_some(),
                        None => false,
                    };
                    if !belongs {
                        return Err(not("somebody is in it who does not belong there"));
                    }
                }
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use protocol::codec::opaque;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::store::known::KnownMember;

    /// Nobody gets a weaker group by showing one of another ciphersuite under the same id.
    #[test]
    fn a_group_that_is_known_has_the_ciphersuite_that_it_had_however_it_is_come_into() {
        let known = |ciphersuite| Known {
            epoch: 10,
            own_leaf: 0,
            external_senders: Vec::new(),
            ciphersuite,
            policy: None,
            members: Vec::new(),
        };
        let back = Sight::Back {
            known: known(1),
            leaf_key: Vec::new(),
            shown: Vec::new(),
        };
        assert_eq!(back.ciphersuite(GroupKind::Group), Some(1));
        let by_code = |known| Sight::Code {
            epoch: 1,
            suite: leaf::CLASSICAL_SUITE,
            alone: Vec::new(),
            known,
        };
        assert_eq!(by_code(None).ciphersuite(GroupKind::Group), Some(1));
        let before = by_code(Some(known(79)));
        assert_eq!(before.ciphersuite(GroupKind::Group), Some(79));
        for kind in [GroupKind::Connection, GroupKind::SingleUser] {
            assert_eq!(back.ciphersuite(kind), Some(79));
        }
    }

    #[test]
    fn nobody_but_whom_this_client_knows_to_be_the_only_other_one_is_enough() {
        let digest = |key: u8| person_digest(&[key; 32]);
        let (own, bob) = (digest(1), digest(2));
        let by_device = |keys: &[u8]| {
            let sight = Sight::Device {
                epoch: 1,
                suite: leaf::CIPHERSUITE,
                leaf: 0,
                members: keys.iter().flat_map(|key| digest(*key)).collect(),
                codes_since: 0,
            };
            sight.only_other(&[1; 32])
        };
        assert_eq!(by_device(&[1, 2]), Some(bob.clone()));
        assert_eq!(by_device(&[1]), Some(own));
        assert_eq!(by_device(&[1, 2, 3]), None);
        assert_eq!(by_device(&[]), None);
        let by_code = |alone| {
            let sight = Sight::Code {
                epoch: 1,
                suite: leaf::CIPHERSUITE,
                alone,
                known: None,
            };
            sight.only_other(&[1; 32])
        };
        assert_eq!(by_code(bob.clone()), Some(bob.clone()));
        assert_eq!(by_code(Vec::new()), None);
        let asked = Sight::Asked {
            requester: vec![2; 32],
        };
        assert_eq!(asked.only_other(&[1; 32]), Some(bob.clone()));
        let back = |members: &[(Option<u8>, Option<u64>)]| {
            let members = members.iter().map(|(key, removed_epoch)| KnownMember {
                credential: Vec::new(),
                identity: Identity {
                    user_pseudonym: Vec::new(),
                    real: key.map(|key| ClientCredential {
                        name: opaque(*b"x"),
                        signature_public_key: opaque(vec![key; 32]),
                    }),
                },
                removed_epoch: *removed_epoch,
            });
            let sight = Sight::Back {
                known: Known {
                    epoch: 10,
                    own_leaf: 0,
                    external_senders: Vec::new(),
                    ciphersuite: leaf::CIPHERSUITE.into(),
                    policy: None,
                    members: members.collect(),
                },
                leaf_key: Vec::new(),
                shown: Vec::new(),
            };
            sight.only_other(&[1; 32])
        };
        let (alice, second) = ((Some(1), None), (Some(2), None));
        assert_eq!(back(&[alice, alice, second, (Some(3), Some(9))]), Some(bob));
        assert_eq!(back(&[alice, second, (Some(3), None)]), None);
        // Whoever that is.
        assert_eq!(back(&[alice, second, (None, None)]), None);
    }
}
