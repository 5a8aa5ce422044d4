//! How a member comes in.

use super::*;

impl Client {
    /// A joiner's first act.
    pub(in crate::group) fn arrive(&mut self, world: &mut World) {
        self.recovery = fresh_recovery_key(self.mls.ciphersuite());
        let body = SetLeafExtrasRequest {
            group: self.key(),
            recovery_key: self.recovery_key(),
            push_handle: opaque(crypto::random::<PUSH_HANDLE_BYTES>().unwrap()),
            row: RecoveryRow {
                id: recovery_row_id(&self.id, &self.recovery),
                sealed: opaque(vec![2; 80]),
            },
        };
        self.call::<SetLeafExtras>(world, &body).unwrap();
    }

    pub(in crate::group) fn recovery_key(&self) -> RecoveryKey {
        sign_recovery_key(&self.signer.0, &self.id, &self.recovery)
    }

    /// Comes in by a Welcome.
    pub(in crate::group) fn join(world: &mut World, invitee: Invitee, pointer: &Pointer) -> Self {
        let (mut env, engine) = world.service.env();
        let blob = read::<FetchWelcome>(
            &FetchWelcomeRequest {
                version: WIRE_VERSION,
                id: pointer.welcome,
            },
            engine,
            &mut env,
        )
        .unwrap();
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact_bytes(blob.sealed.as_slice())
                .unwrap()
                .extract()
        else {
            panic!("not a Welcome");
        };
        let group = pointer.group;
        let content = Self::join_record(world, &group, &pointer.join_key);
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(content.ratchet_tree.as_slice());
        let staged = StagedWelcome::new_from_welcome(
            &invitee.provider,
            &config(),
            welcome,
            Some(tree.unwrap()),
        );
        let mls = staged.unwrap().into_group(&invitee.provider).unwrap();
        let Invitee {
            provider,
            signer,
            user,
            ..
        } = invitee;
        let mut joined = Self::begin(provider, mls, signer, (group, user), Vec::new());
        joined.state_key = StateKey::from(&content.state_key);
        joined.journal_key = JournalKey::from(&content.journal.journal_key);
        joined.rotation = content.journal.rotation_epoch;
        joined.step = Step(u32::try_from(joined.epoch() - joined.rotation.0).unwrap());
        joined.next = if content.place.rotation_epoch == joined.rotation {
            content.place.position.next()
        } else {
            Position(0)
        };
        joined.chain = None;
        joined.know(world);
        joined
    }

    pub(in crate::group) fn join_record(
        world: &mut World,
        group: &GroupId,
        join_key: &[u8; 32],
    ) -> JoinRecordContent {
        let key = JoinKey::new(*join_key);
        let id = key.record_id(group);
        let (mut env, engine) = world.service.env();
        let (mut page, mut bytes) = (0, Vec::new());
        loop {
            let request = JoinRecordRequest {
                version: WIRE_VERSION,
                id,
                page,
            };
            let answer = read::<JoinRecord>(&request, engine, &mut env).unwrap();
            let at = (page, answer.pages);
            bytes.extend_from_slice(
                &open_join_page(&key, &id, at, answer.sealed.as_slice()).unwrap(),
            );
            page += 1;
            if page == answer.pages {
                return JoinRecordContent::decode(&bytes).unwrap();
            }
        }
    }

    /// Its leaf's word for another key.
    pub(in crate::group) fn authorize(
        &self,
        world: &World,
        join: AuthorizedJoin,
        key: &[u8],
    ) -> LeafAuthorization {
        let until = world.service.now_ms + 3_600_000;
        leaf_authorization::authorize(
            &self.signer.0,
            &self.id,
            &self.segment,
            join,
            self.index(),
            until,
            key,
        )
    }

    /// Comes in from outside, by what a member knows.
    pub(in crate::group) fn join_from_outside(
        world: &mut World,
        by: &Self,
        user: Vec<u8>,
        permit: impl Fn() -> JoinPermit,
        word: Option<(AuthorizedJoin, LeafSigner)>,
        rotates: bool,
    ) -> Result<Self, Failure> {
        let (join, signer) = match word {
            Some((join, signer)) => (Some(join), signer),
            None => (None, LeafSigner::of(scheme_of(by.mls.ciphersuite()))),
        };
        let word = join.map(|join| by.authorize(world, join, &signer.0.public()));
        Outside {
            word,
            rotates,
            recovery: world.outsiders_recovery.clone(),
            ..Outside::new(by, user, signer, &permit)
        }
        .join(world)
    }

    /// GroupInfo and tree, as any member can hand them out.
    pub(in crate::group) fn told(&self) -> (MlsMessageIn, RatchetTreeIn) {
        let info = self
            .mls
            .export_group_info(self.provider.crypto(), &self.signer, false)
            .unwrap();
        let info = info.tls_serialize_detached().unwrap();
        let tree = self.mls.export_ratchet_tree();
        (
            MlsMessageIn::tls_deserialize_exact_bytes(&info).unwrap(),
            tree.into(),
        )
    }

    /// A segment that a joiner was told of.
    pub(in crate::group) fn told_of(&mut self, other: &Self) {
        self.segment = other.segment;
    }
}
