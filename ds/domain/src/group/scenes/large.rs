//! Groups of thousands, for measurements: real MLS state and real proofs, put together by the
//! decisions themselves; then requests of its creator, for a service that has got the rows.

use crypto::hpke::{self, Kem};
use crypto::journal::{RECOVERY_INFO, recovery_aad, sign_recovery_key};
use crypto::schedule::recovery_row_id;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent, ProposalStore,
    PublicGroup,
};
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use protocol::codec::opaque;
use protocol::group::{
    CommitRequest, GroupKind, MAX_ROWS, PUSH_HANDLE_BYTES, PutRecoveryRowsRequest,
    SetLeafExtrasRequest,
};
use protocol::ids::{LeafIndex, Minute, SegmentId};
use protocol::join::RecoveryRow;
use protocol::operation::Operation as Number;
use protocol::request::{REQUEST_LABEL, Sender};

use crate::engine::Key;
use crate::env::Limits;
use crate::group::extras::{SetJoinCode, SetLeafExtras};
use crate::group::kit::{
    Client, Invitee, LeafSigner, Outside, Plan, World, by_code, fresh_recovery_key, new_code,
    pseudonym,
};
use crate::group::tree::{Fields, Storage};
use crate::testing::signed;

/// As many Adds as a commit may have.
const ADDED_AT_ONCE: usize = 250;
/// A Welcome; the service does not see into it.
const WELCOME: usize = 300;
/// What is sealed of a way in: a step, two keys, a segment.
const ROW: usize = 100;

/// A group and its creator.
pub struct LargeGroup {
    world: World,
    creator: Client,
    /// Recovery keys of all others, by their leaves.
    recovery: Vec<(u32, Vec<u8>)>,
}

/// A commit that the creator has staged.
pub struct StagedCommit {
    /// The signed request.
    pub request: Vec<u8>,
    /// The commit in it.
    pub commit: Vec<u8>,
    rotates: bool,
}

/// Bounds of a service that takes in a day what benchmarks send.
#[must_use]
pub fn limits() -> Limits {
    Limits {
        group_message_bytes_a_day: 1 << 50,
        group_messages_a_day: 1 << 40,
        group_handshake_bytes_a_day: 1 << 50,
        group_handshakes_a_day: 1 << 40,
        ..Limits::default()
    }
}

impl LargeGroup {
    fn begin(suite: u16, seed: u64) -> Self {
        let mut world = World::new(seed);
        world.suite = suite.try_into().unwrap();
        world.checks = false;
        world.service.settings.self_check = false;
        world.service.settings.limits = limits();
        let creator = Client::create(&mut world, GroupKind::Group);
        Self {
            world,
            creator,
            recovery: Vec::new(),
        }
    }

    /// So many users, added by their creator, many at once. As many of them as `come` have come,
    /// none has ever committed: most parents in the tree are blank, and a commit is sealed to
    /// nearly every leaf.
    #[must_use]
    pub fn added(suite: u16, seed: u64, users: usize, come: usize) -> Self {
        let mut group = Self::begin(suite, seed);
        let mut left = users.saturating_sub(1);
        while left > 0 {
            let some = left.min(ADDED_AT_ONCE);
            group.add(some, come);
            left -= some;
        }
        group
    }

    fn add(&mut self, users: usize, come: usize) {
        let world = &mut self.world;
        let invitees: Vec<Invitee> = (0..users).map(|_| Invitee::new(world)).collect();
        let adds = invitees.iter().map(|invitee| invitee.key_package.clone());
        let plan = Plan::add(adds).twisted(with_short_welcomes);
        self.creator.commit(world, plan).unwrap();
        self.creator.catch_up(world);
        let first = self.creator.members().len() - users;
        for (leaf, invitee) in (first..come).zip(invitees) {
            self.arrive(u32::try_from(leaf).unwrap(), &invitee.signer);
        }
    }

    /// A joiner's first act.
    fn arrive(&mut self, leaf: u32, signer: &LeafSigner) {
        let (world, group) = (&mut self.world, self.creator.id);
        let recovery = fresh_recovery_key(world.suite);
        let body = SetLeafExtrasRequest {
            group: self.creator.key(),
            recovery_key: sign_recovery_key(&signer.0, &group, &recovery),
            push_handle: opaque(vec![1; PUSH_HANDLE_BYTES]),
            row: RecoveryRow {
                id: recovery_row_id(&group, &recovery),
                sealed: opaque(vec![2; 80]),
            },
        };
        let nonce = world.nonce();
        let minute = Minute::of(world.service.now_ms);
        let sender = Sender::Leaf(LeafIndex(leaf));
        let bytes = signed(Number::SetLeafExtras, minute, nonce, sender, &body, |tbs| {
            signer.0.sign(REQUEST_LABEL, tbs)
        });
        world.run::<SetLeafExtras>(&bytes).unwrap();
        self.recovery.push((leaf, recovery));
    }

    /// So many users who came one after the other, each by a commit of its own: no parent in the
    /// tree is blank, and a commit is sealed to a node of each level.
    #[must_use]
    pub fn grown(suite: u16, seed: u64, users: usize) -> Self {
        let mut group = Self::begin(suite, seed);
        let Self {
            world,
            creator,
            recovery,
        } = &mut group;
        let sign = |tbs: &[u8]| {
            let label = protocol::group::JOIN_CODE_LABEL;
            creator.signer.0.sign(label, tbs)
        };
        let key = fresh_recovery_key(world.suite);
        let (secret, code) = new_code(
            world,
            (creator.key(), creator.index(), creator.epoch()),
            &key,
            sign,
        );
        creator.call::<SetJoinCode>(world, &code).unwrap();
        let permit = by_code(secret);
        for _ in 1..users {
            let outside = Outside {
                asks: false,
                ..Outside::new(creator, pseudonym(), LeafSigner::new(), &permit)
            };
            let joined = outside.join(world).unwrap();
            recovery.push((joined.index(), joined.recovery));
            creator.catch_up(world);
        }
        group
    }

    /// All that the service keeps.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, &[u8])> {
        self.world.service.engine.rows()
    }

    /// The segment that the group is in.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.creator.segment
    }

    /// Its leaves.
    #[must_use]
    pub fn leaves(&self) -> Vec<u32> {
        self.creator.members()
    }

    /// A signed request that carries a message.
    pub fn message(&mut self, text: &[u8]) -> Vec<u8> {
        let body = self.creator.message(text);
        self.creator
            .sign(&mut self.world, Number::SendMessage, &body)
    }

    fn stage(&mut self, plan: Plan) -> StagedCommit {
        let (operation, rotates) = (plan.operation, plan.rotates);
        let body = self.creator.stage(plan);
        StagedCommit {
            request: self.creator.sign(&mut self.world, operation, &body),
            commit: body.commit.as_slice().to_vec(),
            rotates,
        }
    }

    /// An `UpdateClient` without a rotation.
    pub fn update(&mut self) -> StagedCommit {
        self.stage(Plan::update())
    }

    /// The removal of a leaf, with a rotation.
    pub fn removal(&mut self, leaf: u32) -> StagedCommit {
        self.recovery.retain(|(of, _)| *of != leaf);
        self.stage(Plan::remove([leaf]))
    }

    /// The staged commit was accepted.
    pub fn accepted(&mut self, staged: &StagedCommit) {
        self.creator.accepted(staged.rotates);
    }

    /// What a committer owes after a rotation: the way in, sealed to each leaf, a page a request.
    pub fn recovery_rows(&mut self) -> Vec<Vec<u8>> {
        let own = (self.creator.index(), self.creator.recovery.clone());
        let kem = Kem::of_ciphersuite(self.creator.mls.ciphersuite().into()).unwrap();
        let (id, rotation) = (self.creator.id, self.creator.rotation);
        let aad = recovery_aad(&id, rotation);
        let rows: Vec<(u32, RecoveryRow)> = std::iter::once(&own)
            .chain(&self.recovery)
            .map(|(leaf, key)| {
                let sealed = hpke::seal_with(kem, key, RECOVERY_INFO, &aad, &[7; ROW]);
                let row = RecoveryRow {
                    id: recovery_row_id(&id, key),
                    sealed: opaque(sealed.unwrap()),
                };
                (*leaf, row)
            })
            .collect();
        let pages = rows.chunks(MAX_ROWS).map(|page| PutRecoveryRowsRequest {
            group: self.creator.key(),
            rotation_epoch: rotation,
            rows: page.iter().map(|(_, row)| row.clone()).collect(),
        });
        pages
            .map(|body| {
                self.creator
                    .sign(&mut self.world, Number::PutRecoveryRows, &body)
            })
            .collect()
    }

    /// The same group as the library alone keeps it, and its bytes.
    #[must_use]
    pub fn bare(&self) -> (Bare, Vec<u8>) {
        let (info, tree) = self.creator.told();
        let MlsMessageBodyIn::GroupInfo(info) = info.extract() else {
            panic!("not a GroupInfo");
        };
        let (provider, storage) = (OpenMlsRustCrypto::default(), Storage::default());
        PublicGroup::from_external(
            provider.crypto(),
            &storage,
            tree,
            info,
            ProposalStore::new(),
        )
        .unwrap();
        let bare = Bare(self.creator.mls.group_id().clone());
        (bare, postcard::to_stdvec(&storage.into_fields()).unwrap())
    }
}

fn with_short_welcomes(request: &mut CommitRequest) {
    let uploads = request.welcome.iter_mut();
    for welcome in uploads.flat_map(|upload| &mut upload.welcomes) {
        welcome.sealed = opaque(vec![5; WELCOME]);
    }
}

/// A public group, by the calls that nobody can do without.
pub struct Bare(openmls::prelude::GroupId);

impl Bare {
    /// Load, process, merge, serialize: the bytes of the group after a commit.
    #[must_use]
    pub fn commit(&self, bytes: &[u8], commit: &[u8]) -> Vec<u8> {
        let storage = Storage::new(postcard::from_bytes::<Fields>(bytes).unwrap());
        let mut group = PublicGroup::load(&storage, &self.0).unwrap().unwrap();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(commit)
            .unwrap()
            .try_into_protocol_message()
            .unwrap();
        let processed = group
            .process_message(&RustCrypto::default(), message)
            .unwrap();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            panic!("not a commit");
        };
        let next = Storage::default();
        group.merge_commit(&next, *staged).unwrap();
        postcard::to_stdvec(&next.into_fields()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::Table;
    use crate::group::commit::{RemoveUsers, UpdateClient};
    use crate::rows::Part;

    fn parts(group: &LargeGroup) -> BTreeMap<[u8; 3], Vec<u8>> {
        let rows = group.rows();
        rows.filter(|(key, _)| key.table == Table::GroupParts)
            .map(|(key, value)| (*key.name.last_chunk().unwrap(), value.to_vec()))
            .collect()
    }

    /// The state is right: the next commit's GroupInfo signs the hash of the tree.
    #[test]
    fn a_path_is_written_beside_the_tree_in_one_size_and_the_tree_after_a_dozen() {
        let mut group = LargeGroup::added(1, 1, 250, 0);
        let (tree, changes) = (Part::Tree.number(), Part::TreeChanges.number());
        let mut sizes = Vec::new();
        for _ in 0..27 {
            let before = parts(&group);
            let staged = group.update();
            group.world.run::<UpdateClient>(&staged.request).unwrap();
            group.accepted(&staged);
            let after = parts(&group);
            let is_same = |part| before.get(part) == after.get(part);
            // The one or the other; with the tree its changes go.
            assert_eq!(is_same(&tree), after.contains_key(&changes));
            assert!(!is_same(&changes));
            sizes.push(after.get(&changes).map(Vec::len));
        }
        let size = sizes[0].unwrap();
        assert!(size < parts(&group)[&tree].len() / 3);
        for (commit, found) in sizes.into_iter().enumerate() {
            let is_written_anew = commit % 13 == 12;
            assert_eq!(found, (!is_written_anew).then_some(size), "{commit}");
        }
        let before = parts(&group);
        let staged = group.removal(7);
        group.world.run::<RemoveUsers>(&staged.request).unwrap();
        let after = parts(&group);
        assert_ne!(before[&tree], after[&tree]);
        assert!(before.contains_key(&changes) && !after.contains_key(&changes));
    }
}
