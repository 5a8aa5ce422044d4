//! Coming in by an external commit, step by step.

use super::*;

impl<'a> Outside<'a> {
    pub(in crate::group) fn new(
        by: &'a Client,
        user: Vec<u8>,
        signer: LeafSigner,
        permit: &'a dyn Fn() -> JoinPermit,
    ) -> Self {
        Self {
            by,
            user,
            signer,
            permit,
            word: None,
            rotates: false,
            asks: true,
            flaw: None,
            recovery: None,
            response: None,
            twist: None,
        }
    }

    pub(super) fn sign(&self, world: &mut World, operation: Number, body: &impl Wire) -> Vec<u8> {
        let sender = Sender::Key(opaque(self.signer.0.public()));
        let minute = Minute::of(world.service.now_ms);
        let nonce = world.nonce();
        signed(operation, minute, nonce, sender, body, |tbs| {
            self.signer.0.sign(REQUEST_LABEL, tbs)
        })
    }

    /// What the service says to who asks with this permit.
    pub(in crate::group) fn ask(
        &self,
        world: &mut World,
    ) -> Result<(MlsMessageIn, RatchetTreeIn), Failure> {
        let body = ExternalCommitInfoRequest {
            group: self.by.key(),
            permit: (self.permit)(),
            authorization: self.word.clone(),
        };
        let bytes = self.sign(world, Number::ExternalCommitInfo, &body);
        let info = world.run::<ExternalCommitInfo>(&bytes)?;
        let message = MlsMessageIn::tls_deserialize_exact_bytes(info.group_info.as_slice());
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(info.ratchet_tree.as_slice());
        Ok((message.unwrap(), tree.unwrap()))
    }

    /// The commit, before it is sent.
    pub(in crate::group) fn stage(&self, (info, tree): (MlsMessageIn, RatchetTreeIn)) -> Staged {
        let provider = OpenMlsRustCrypto::default();
        let MlsMessageBodyIn::GroupInfo(group_info) = info.extract() else {
            panic!("not a GroupInfo");
        };
        let is_connection = self.by.kind == GroupKind::Connection
            && matches!((self.permit)(), JoinPermit::JoinCode(_));
        let response = match &self.response {
            Some(response) => response.clone(),
            None if is_connection => b"response".to_vec(),
            None => Vec::new(),
        };
        let aad = CommitAad {
            authorization: self.word.clone(),
            encrypted_connection_response: opaque(response),
            ..aad(self.rotates)
        };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(capabilities())
            .build();
        let credential = match self.flaw {
            Some(flaw) => flaw.credential(&self.signer),
            None => credential(&self.signer, &self.user),
        };
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(config())
            .with_aad(aad.encode())
            .build_group(&provider, group_info, credential)
            .unwrap()
            .leaf_node_parameters(parameters)
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .finalize(&provider)
            .unwrap();
        let group_info = bundle.group_info().unwrap();
        let recovery = self
            .recovery
            .clone()
            .unwrap_or_else(|| fresh_recovery_key(mls.ciphersuite()));
        let next = secrets(&mls, &provider);
        let mut request = ExternalJoinRequest {
            group: self.by.key(),
            commit: opaque(bundle.commit().tls_serialize_detached().unwrap()),
            group_info: PartialGroupInfo {
                extensions: opaque(group_info.extensions().tls_serialize_detached().unwrap()),
                signature: opaque(signature(group_info)),
            },
            rotation: self
                .rotates
                .then(|| next_segment(&next, Some(self.by.rotation))),
            leaf: extras(&self.signer, &self.by.id, &recovery),
            permit: (self.permit)(),
        };
        if let Some(twist) = self.twist {
            twist(&mut request);
        }
        Staged {
            provider,
            mls,
            request,
            recovery,
        }
    }

    pub(in crate::group) fn signed(
        &self,
        world: &mut World,
        request: &ExternalJoinRequest,
    ) -> Vec<u8> {
        self.sign(world, Number::ExternalJoin, request)
    }

    /// Sends it, signed by this key.
    pub(in crate::group) fn send(
        &self,
        world: &mut World,
        request: &ExternalJoinRequest,
    ) -> Result<(Vec<u8>, JoinAccepted), Failure> {
        let bytes = self.signed(world, request);
        let accepted = world.run::<ExternalJoin>(&bytes)?;
        Ok((bytes, accepted))
    }

    /// All of it.
    pub(in crate::group) fn join(self, world: &mut World) -> Result<Client, Failure> {
        let told = if self.asks {
            self.ask(world)?
        } else {
            self.by.told()
        };
        let staged = self.stage(told);
        let (bytes, JoinAccepted { accepted, journal }) = self.send(world, &staged.request)?;
        let Staged {
            provider,
            mls,
            recovery,
            ..
        } = staged;
        let Self {
            by,
            user,
            signer,
            rotates,
            ..
        } = self;
        let mut joined = Client::begin(provider, mls, signer, (by.id, user), recovery);
        joined.last_request = bytes;
        joined.journal_key = JournalKey::from(&journal.journal_key);
        if !rotates {
            joined.state_key = StateKey::new(*by.state_key.expose()).next();
            joined.segment = by.segment;
            joined.next = accepted.place.position.next();
            joined.chain = None;
        }
        joined.kind = by.kind;
        joined.know(world);
        joined.rotation = journal.rotation_epoch;
        joined.step = Step(u32::try_from(joined.epoch() - joined.rotation.0).unwrap());
        Ok(joined)
    }
}
