//! A member that makes a group, and how it signs.

use super::*;

impl Client {
    pub(in crate::group) fn create(world: &mut World, kind: GroupKind) -> Self {
        Self::create_with(world, kind, |_| {}).unwrap()
    }

    pub(in crate::group) fn create_with(
        world: &mut World,
        kind: GroupKind,
        twist: impl FnOnce(&mut CreateGroupRequest),
    ) -> Result<Self, Failure> {
        Self::create_in(world, kind, |_, _| {}, None, twist)
    }

    /// In a context that is not as it should be, or with such a credential.
    pub(in crate::group) fn create_in(
        world: &mut World,
        kind: GroupKind,
        context_of: impl FnOnce(&mut Vec<Extension>, &[u8]),
        flaw: Option<Flaw>,
        twist: impl FnOnce(&mut CreateGroupRequest),
    ) -> Result<Self, Failure> {
        let provider = OpenMlsRustCrypto::default();
        let signer = LeafSigner::of(world.scheme());
        let user = pseudonym();
        let sender = Sender::Key(opaque(signer.0.public()));
        let sign = |world: &mut World, operation, body: &dyn Fn() -> Vec<u8>| {
            let minute = Minute::of(world.service.now_ms);
            let nonce = world.nonce();
            signed(
                operation,
                minute,
                nonce,
                sender.clone(),
                &Raw(body()),
                |tbs| signer.0.sign(REQUEST_LABEL, tbs),
            )
        };
        let bytes = sign(world, Number::ReserveGroupId, &|| {
            let group_id = GroupId(crypto::random().unwrap());
            ReserveGroupIdRequest { group_id }.encode()
        });
        let id = world.run::<ReserveGroupId>(&bytes)?.group_id;
        let key = world
            .service
            .keys()
            .external_sender_public(world.scheme())
            .unwrap();
        let listed =
            ExternalSender::new(key.into(), BasicCredential::new(b"service".to_vec()).into());
        let mut context = vec![
            Extension::ExternalSenders(vec![listed]),
            Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
                &[ExtensionType::Unknown(POLICY_EXTENSION)],
                &[],
                &[CredentialType::Other(CREDENTIAL_TYPE)],
            )),
        ];
        if kind == GroupKind::Group {
            let policy = GroupPolicy::of_creator(opaque(user.as_slice()));
            context.push(policy_extension(&policy));
        }
        context_of(&mut context, &user);
        let credential = match flaw {
            Some(flaw) => flaw.credential(&signer),
            None => credential(&signer, &user),
        };
        let mls = MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&id.0))
            .ciphersuite(world.suite)
            .with_wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(5)
            .with_group_context_extensions(Extensions::from_vec(context).unwrap())
            .with_capabilities(capabilities())
            .lifetime(lifetime_at(world.service.now_ms))
            .build(&provider, &signer, credential)
            .unwrap();
        let secrets = secrets(&mls, &provider);
        let info = mls
            .export_group_info(provider.crypto(), &signer, false)
            .unwrap();
        let recovery = fresh_recovery_key(mls.ciphersuite());
        let mut request = CreateGroupRequest {
            group_id: id,
            kind,
            message_days: 30,
            segment: next_segment(&secrets, None),
            ratchet_tree: opaque(mls.export_ratchet_tree().tls_serialize_detached().unwrap()),
            group_info: opaque(info.tls_serialize_detached().unwrap()),
            leaf: extras(&signer, &id, &recovery),
        };
        twist(&mut request);
        let bytes = sign(world, Number::CreateGroup, &|| request.encode());
        world.run::<CreateGroup>(&bytes)?;
        let mut created = Self::begin(provider, mls, signer, (id, user), recovery);
        created.kind = kind;
        created.know(world);
        Ok(created)
    }

    /// Hears by which keys the service is known.
    pub(in crate::group) fn know(&mut self, world: &World) {
        self.service = crate::group::removals::senders(world.service.keys());
    }

    pub(super) fn begin(
        provider: OpenMlsRustCrypto,
        mls: MlsGroup,
        signer: LeafSigner,
        (id, user): (GroupId, Vec<u8>),
        recovery: Vec<u8>,
    ) -> Self {
        let secrets = secrets(&mls, &provider);
        let state_key = secrets.rotation.state_key();
        let rotation = RotationEpoch(mls.epoch().as_u64());
        let segment = state_key.segment(&id, rotation);
        Self {
            provider,
            mls,
            signer,
            next_signer: None,
            id,
            user,
            state_key,
            journal_key: secrets.journal,
            rotation,
            segment,
            step: Step(0),
            next: Position(0),
            chain: Some(first_head(&segment)),
            is_out: false,
            texts: Vec::new(),
            proposals: Vec::new(),
            commits: 0,
            recovery,
            pointers: Vec::new(),
            last_request: Vec::new(),
            staged: Vec::new(),
            kind: GroupKind::Group,
            service: mls_rules::ServiceSenders::default(),
        }
    }

    /// `R`, in the epoch that begins a segment.
    pub(in crate::group) fn rotation_secret(&self) -> [u8; 32] {
        export(&self.mls, &self.provider, exporters::ROTATION)
    }

    pub(in crate::group) fn index(&self) -> u32 {
        self.mls.own_leaf_index().u32()
    }

    pub(in crate::group) fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    pub(in crate::group) fn key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.state_key.to_wire(),
        }
    }

    pub(in crate::group) fn members(&self) -> Vec<u32> {
        self.mls
            .members()
            .map(|member| member.index.u32())
            .collect()
    }

    /// Signs a body as the leaf.
    pub(in crate::group) fn sign(
        &self,
        world: &mut World,
        operation: Number,
        body: &impl Wire,
    ) -> Vec<u8> {
        self.sign_as(world, LeafIndex(self.index()), operation, body)
    }

    /// Signs a body in the name of a leaf.
    pub(in crate::group) fn sign_as(
        &self,
        world: &mut World,
        leaf: LeafIndex,
        operation: Number,
        body: &impl Wire,
    ) -> Vec<u8> {
        self.sign_by(world, Sender::Leaf(leaf), operation, body)
    }

    pub(in crate::group) fn sign_by(
        &self,
        world: &mut World,
        sender: Sender,
        operation: Number,
        body: &impl Wire,
    ) -> Vec<u8> {
        let nonce = world.nonce();
        let minute = Minute::of(world.service.now_ms);
        signed(operation, minute, nonce, sender, body, |tbs| {
            self.signer.0.sign(REQUEST_LABEL, tbs)
        })
    }

    pub(in crate::group) fn call<O: Operation>(
        &self,
        world: &mut World,
        body: &O::Request,
    ) -> Result<O::Response, Failure> {
        let bytes = self.sign(world, O::OPERATION, body);
        world.run::<O>(&bytes)
    }
}
