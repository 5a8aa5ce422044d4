//! What a user's devices tell each other, as application messages of their own group.
//!
//! A frame of another version, or a message of a kind that is not known here, is passed over:
//! devices are not updated at the same moment.

use crypto::schedule::PoolToken;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::WireSecret;
use protocol::connections::ClientCredential;
use protocol::group::GroupKind;
use protocol::ids::{GroupId, RotationEpoch, SegmentId, Step};
use protocol::join::LeafAuthorization;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::error::Error;

/// Names a device among its user's; random.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub(crate) struct DeviceId(pub(crate) [u8; 16]);

/// Longest name of a device, bytes.
pub(crate) const MAX_DEVICE_NAME: usize = 64;

/// The version that is written.
pub(crate) const VERSION: u16 = 1;

/// One message between devices.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct SyncFrame {
    /// [`VERSION`].
    pub(crate) version: u16,
    pub(crate) message: SyncMessage,
}

/// What is told.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub(crate) enum SyncMessage {
    /// Here I am: the first thing a device says, and the answer to one that it does not know.
    #[tls_codec(discriminant = 1)]
    Hello(Hello),
    /// A contact, new or with other keys.
    #[tls_codec(discriminant = 2)]
    Contact(NewContact),
    /// A contact that is none any more: its signature key.
    #[tls_codec(discriminant = 3)]
    ContactGone(VLBytes),
    /// Come into a group.
    #[tls_codec(discriminant = 4)]
    Invitation(Invitation),
    /// I am in this group, at this leaf.
    #[tls_codec(discriminant = 5)]
    Present(Present),
    /// The way into this group that I was given leads nowhere.
    #[tls_codec(discriminant = 6)]
    Want(GroupId),
    /// KeyPackage sets are to be published: each device makes its packages.
    #[tls_codec(discriminant = 7)]
    SetsWanted(SetsWanted),
    /// Here are mine.
    #[tls_codec(discriminant = 8)]
    PackagesMade(PackagesMade),
    /// A connection request that came in (an encoded [`protocol::connections::ConnectionRequest`]).
    #[tls_codec(discriminant = 9)]
    Request(VLBytes),
    /// A connection request that was answered: the requester's signature key.
    #[tls_codec(discriminant = 10)]
    RequestGone(VLBytes),
    /// The keys of the handle have changed.
    #[tls_codec(discriminant = 12)]
    Handle(HandleKeys),
    /// Whoever vouched for me in this group is not who it was: add me by a commit.
    #[tls_codec(discriminant = 13)]
    AddMe(AddMe),
    /// What a contact who answered has signed (an encoded
    /// [`protocol::reporting::SignedIntroduction`]).
    #[tls_codec(discriminant = 14)]
    Introduction(VLBytes),
    /// Connection requests that were taken out of the inbox: the digests (SHA-256) of what it held,
    /// one after the other.
    #[tls_codec(discriminant = 15)]
    RequestsTaken(VLBytes),
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Hello {
    pub(crate) device: DeviceId,
    /// UTF-8, for people.
    pub(crate) name: VLBytes,
}

/// A way into a group for one device.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Invitation {
    pub(crate) device: DeviceId,
    pub(crate) way: WayIn,
}

/// What a device needs to come in by an external commit. The key of its first leaf is made by the
/// device that invites, which can so authorize it at once; it is replaced by the joiner's first
/// update.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct WayIn {
    pub(crate) link: GroupLink,
    /// Of the first leaf's signature key.
    pub(crate) leaf_seed: WireSecret,
    /// Of that key.
    pub(crate) authorization: LeafAuthorization,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Present {
    pub(crate) group_id: GroupId,
    pub(crate) leaf_index: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct SetsWanted {
    pub(crate) sets: Vec<WantedSet>,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct WantedSet {
    pub(crate) user_pseudonym: VLBytes,
    pub(crate) ciphersuite: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct PackagesMade {
    pub(crate) packages: Vec<MadePackage>,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct MadePackage {
    pub(crate) user_pseudonym: VLBytes,
    /// An MLS KeyPackage.
    pub(crate) key_package: VLBytes,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct HandleKeys {
    /// Of the key that owns the handle.
    pub(crate) owner_seed: WireSecret,
    /// Of the HPKE key in its record.
    pub(crate) establishment_seed: WireSecret,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct AddMe {
    pub(crate) group_id: GroupId,
    /// An MLS KeyPackage under the user's pseudonym in that group.
    pub(crate) key_package: VLBytes,
}

impl SyncMessage {
    pub(crate) fn into_frame(self) -> zeroize::Zeroizing<Vec<u8>> {
        let frame = SyncFrame {
            version: VERSION,
            message: self,
        };
        zeroize::Zeroizing::new(frame.encode())
    }

    /// `None` for what a later release says.
    pub(crate) fn from_frame(bytes: &[u8]) -> Option<Self> {
        SyncFrame::decode(bytes)
            .ok()
            .filter(|frame| frame.version == VERSION)
            .map(|frame| frame.message)
    }
}

/// A contact, as it is kept with a join that makes it.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct NewContact {
    pub(crate) credential: ClientCredential,
    /// Derives the link keys of the contact's leaves.
    pub(crate) connection_key: WireSecret,
    /// Claims KeyPackages of the contact.
    pub(crate) connection_token: WireSecret,
    /// The own pool that the contact claims from.
    pub(crate) pool: PoolKeys,
    pub(crate) given: GivenName,
}

/// What the user calls a contact, beside its handle.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct GivenName {
    /// How often that was changed: the later one counts.
    pub(crate) generation: u32,
    /// UTF-8; empty for nothing else than the handle.
    pub(crate) name: VLBytes,
}

impl GivenName {
    pub(crate) fn none() -> Self {
        Self {
            generation: 0,
            name: VLBytes::new(Vec::new()),
        }
    }
}

/// A pool of KeyPackages for one contact: nothing of it is derived from another one.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct PoolKeys {
    /// How many there were for this contact; 0 before it is kept.
    pub(crate) generation: u32,
    /// What the contact is told.
    pub(crate) token: WireSecret,
    /// Of the key that publishes.
    pub(crate) owner_seed: WireSecret,
}

impl PoolKeys {
    pub(crate) fn fresh() -> Result<Self, Error> {
        Ok(Self {
            generation: 0,
            token: WireSecret::new(crypto::random()?),
            owner_seed: WireSecret::new(crypto::random()?),
        })
    }

    pub(crate) fn token(&self) -> PoolToken {
        PoolToken::from(&self.token)
    }

    pub(crate) fn owner(&self) -> SignatureKeyPair {
        SignatureKeyPair::from_seed(&Secret::new(*self.owner_seed.expose()))
    }

    pub(crate) fn copy(&self) -> Self {
        Self {
            generation: self.generation,
            token: WireSecret::new(*self.token.expose()),
            owner_seed: WireSecret::new(*self.owner_seed.expose()),
        }
    }
}

/// What a client of a user tells another one of a group: with it and an authorization that one
/// comes in.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct GroupLink {
    pub(crate) group_id: GroupId,
    pub(crate) kind: GroupKind,
    pub(crate) ciphersuite: u16,
    /// UTF-8; empty in connection groups.
    pub(crate) name: VLBytes,
    pub(crate) segment: SegmentId,
    pub(crate) rotation: RotationEpoch,
    pub(crate) step: Step,
    /// Of that step.
    pub(crate) state_key: WireSecret,
    /// Of the segment.
    pub(crate) wrapper_key: WireSecret,
    /// The user's in this group.
    pub(crate) user_pseudonym: VLBytes,
    /// In which this is said.
    pub(crate) epoch: u64,
    /// Join codes that were made before this epoch have ended.
    pub(crate) codes_since: u64,
    /// Who is in it, as far as the one who says this knows: of each identity key the first 16 bytes
    /// of its SHA-256, sorted, one after the other.
    pub(crate) members: VLBytes,
}

/// What a contact is told through the connection group.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct ConnectionUpdate {
    /// [`UPDATE_VERSION`].
    pub(crate) version: u16,
    /// Claims KeyPackages of the sender from now on.
    pub(crate) connection_token: WireSecret,
}

/// The version that is written; others are passed over.
pub(crate) const UPDATE_VERSION: u16 = 1;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use protocol::codec::opaque;
    use protocol::connections::ClientCredential;
    use protocol::group::GroupKind;
    use protocol::ids::{RotationEpoch, SegmentId, Step};

    use super::*;
    use crate::sync_message::PoolKeys;

    fn secret(byte: u8) -> WireSecret {
        WireSecret::new([byte; 32])
    }

    /// A way into a group.
    pub(crate) fn way() -> WayIn {
        let link = GroupLink {
            group_id: GroupId([1; 16]),
            kind: GroupKind::Group,
            ciphersuite: 2,
            name: opaque(*b"team"),
            segment: SegmentId([3; 32]),
            rotation: RotationEpoch(4),
            step: Step(5),
            state_key: secret(6),
            wrapper_key: secret(7),
            user_pseudonym: opaque(*b"user"),
            epoch: 8,
            codes_since: 7,
            members: opaque(*b"members"),
        };
        WayIn {
            link,
            leaf_seed: secret(9),
            authorization: LeafAuthorization {
                leaf_index: 10,
                not_after_ms: 11,
                signature: opaque([12; 3]),
            },
        }
    }

    /// A message of each kind.
    pub(crate) fn samples() -> Vec<SyncMessage> {
        let contact = NewContact {
            credential: ClientCredential {
                name: opaque(*b"bob"),
                signature_public_key: opaque([13; 4]),
            },
            connection_key: secret(14),
            connection_token: secret(15),
            pool: PoolKeys {
                generation: 16,
                token: secret(17),
                owner_seed: secret(18),
            },
            given: GivenName {
                generation: 21,
                name: opaque(*b"Bobby"),
            },
        };
        let device = DeviceId([19; 16]);
        let group_id = GroupId([20; 16]);
        let user_pseudonym = opaque(*b"user");
        let key_package = opaque(*b"key package");
        vec![
            SyncMessage::Hello(Hello {
                device,
                name: opaque(*b"phone"),
            }),
            SyncMessage::Contact(contact),
            SyncMessage::ContactGone(opaque(*b"key")),
            SyncMessage::Invitation(Invitation { device, way: way() }),
            SyncMessage::Present(Present {
                group_id,
                leaf_index: 21,
            }),
            SyncMessage::Want(group_id),
            SyncMessage::SetsWanted(SetsWanted {
                sets: vec![WantedSet {
                    user_pseudonym: user_pseudonym.clone(),
                    ciphersuite: 22,
                }],
            }),
            SyncMessage::PackagesMade(PackagesMade {
                packages: vec![MadePackage {
                    user_pseudonym,
                    key_package: key_package.clone(),
                }],
            }),
            SyncMessage::Request(opaque(*b"request")),
            SyncMessage::RequestGone(opaque(*b"key")),
            SyncMessage::Handle(HandleKeys {
                owner_seed: secret(23),
                establishment_seed: secret(24),
            }),
            SyncMessage::AddMe(AddMe {
                group_id,
                key_package,
            }),
            SyncMessage::Introduction(opaque(*b"introduction")),
            SyncMessage::RequestsTaken(opaque(*b"digests")),
        ]
    }

    fn message() -> impl Strategy<Value = SyncMessage> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(opaque);
        let secret = || any::<[u8; 32]>().prop_map(WireSecret::new);
        let group = || any::<[u8; 16]>().prop_map(GroupId);
        let device = || any::<[u8; 16]>().prop_map(DeviceId);
        prop_oneof![
            (device(), bytes())
                .prop_map(|(device, name)| SyncMessage::Hello(Hello { device, name })),
            (
                (bytes(), bytes(), bytes()),
                secret(),
                secret(),
                secret(),
                any::<u32>()
            )
                .prop_map(|((name, key, given), one, two, pool, generation)| {
                    SyncMessage::Contact(NewContact {
                        credential: ClientCredential {
                            name,
                            signature_public_key: key,
                        },
                        connection_key: one,
                        connection_token: two,
                        pool: PoolKeys {
                            generation,
                            token: WireSecret::new(*pool.expose()),
                            owner_seed: pool,
                        },
                        given: GivenName {
                            generation,
                            name: given,
                        },
                    })
                }),
            bytes().prop_map(SyncMessage::ContactGone),
            (device(), group(), bytes(), secret(), any::<u32>(), bytes()).prop_map(
                |(device, group_id, name, key, leaf_index, signature)| {
                    SyncMessage::Invitation(Invitation {
                        device,
                        way: WayIn {
                            link: GroupLink {
                                group_id,
                                kind: GroupKind::Connection,
                                ciphersuite: 1,
                                name,
                                segment: protocol::ids::SegmentId(*key.expose()),
                                rotation: protocol::ids::RotationEpoch(3),
                                step: protocol::ids::Step(leaf_index),
                                state_key: WireSecret::new(*key.expose()),
                                wrapper_key: WireSecret::new(*key.expose()),
                                user_pseudonym: signature.clone(),
                                epoch: u64::from(leaf_index),
                                codes_since: 7,
                                members: opaque(
                                    *group_id.0.as_slice().first_chunk::<16>().unwrap(),
                                ),
                            },
                            leaf_seed: key,
                            authorization: LeafAuthorization {
                                leaf_index,
                                not_after_ms: 5,
                                signature,
                            },
                        },
                    })
                }
            ),
            (group(), any::<u32>()).prop_map(|(group_id, leaf_index)| {
                SyncMessage::Present(Present {
                    group_id,
                    leaf_index,
                })
            }),
            group().prop_map(SyncMessage::Want),
            (group(), bytes()).prop_map(|(group_id, key_package)| {
                SyncMessage::AddMe(AddMe {
                    group_id,
                    key_package,
                })
            }),
            prop::collection::vec((bytes(), any::<u16>()), 0..5).prop_map(|sets| {
                let sets = sets
                    .into_iter()
                    .map(|(user_pseudonym, ciphersuite)| WantedSet {
                        user_pseudonym,
                        ciphersuite,
                    })
                    .collect();
                SyncMessage::SetsWanted(SetsWanted { sets })
            }),
            prop::collection::vec((bytes(), bytes()), 0..5).prop_map(|packages| {
                let packages = packages
                    .into_iter()
                    .map(|(user_pseudonym, key_package)| MadePackage {
                        user_pseudonym,
                        key_package,
                    })
                    .collect();
                SyncMessage::PackagesMade(PackagesMade { packages })
            }),
            bytes().prop_map(SyncMessage::Request),
            bytes().prop_map(SyncMessage::RequestGone),
            bytes().prop_map(SyncMessage::Introduction),
            bytes().prop_map(SyncMessage::RequestsTaken),
            (secret(), secret()).prop_map(|(owner_seed, establishment_seed)| {
                SyncMessage::Handle(HandleKeys {
                    owner_seed,
                    establishment_seed,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written_and_nothing_may_follow(message in message()) {
            let frame = message.into_frame();
            let again = SyncMessage::from_frame(&frame).unwrap().into_frame();
            prop_assert_eq!(&*again, &*frame);
            let longer = [&frame[..], &[0]].concat();
            prop_assert!(SyncMessage::from_frame(&longer).is_none());
            let shorter = frame.get(..frame.len() - 1).unwrap();
            prop_assert!(SyncMessage::from_frame(shorter).is_none());
        }

        #[test]
        fn arbitrary_bytes_are_passed_over_or_mean_themselves(bytes: Vec<u8>) {
            if let Some(message) = SyncMessage::from_frame(&bytes) {
                prop_assert_eq!(&*message.into_frame(), &bytes);
            }
        }
    }

    #[test]
    fn a_frame_of_a_later_release_is_passed_over() {
        let mut frame = SyncMessage::Want(GroupId([1; 16])).into_frame();
        frame[1] = 2;
        assert!(SyncMessage::from_frame(&frame).is_none());
    }
}
