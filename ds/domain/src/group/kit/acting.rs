//! What a member does: messages, commits, leaving.

use super::*;

impl Client {
    pub(in crate::group) fn message(&mut self, text: &[u8]) -> SendMessageRequest {
        let message = self
            .mls
            .create_message(&self.provider, &self.signer, text)
            .unwrap();
        SendMessageRequest {
            group: self.key(),
            message: opaque(message.tls_serialize_detached().unwrap()),
        }
    }

    pub(in crate::group) fn send(
        &mut self,
        world: &mut World,
        text: &[u8],
    ) -> Result<EntryAccepted, Failure> {
        let body = self.message(text);
        self.call::<SendMessage>(world, &body)
    }

    /// Stages a commit and gives the request that carries it.
    pub(in crate::group) fn stage(&mut self, plan: Plan) -> CommitRequest {
        self.stage_with_info(plan).0
    }

    /// The same, with the whole GroupInfo.
    pub(in crate::group) fn stage_with_info(&mut self, plan: Plan) -> (CommitRequest, Vec<u8>) {
        let aad = plan.aad.unwrap_or_else(|| aad(plan.rotates).encode());
        self.mls.set_aad(aad);
        let mut gone: Vec<u32> = plan.removals.clone();
        if plan.covers {
            gone.extend(self.mls.pending_proposals().filter_map(mls_rules::leaving));
        }
        let mut occupied: BTreeSet<u32> = self.members().into_iter().collect();
        occupied.retain(|leaf| !gone.contains(leaf));
        let free = (0..).filter(|leaf| !occupied.contains(leaf));
        let link_keys = free.take(plan.adds.len()).map(|leaf| LinkKeyUpload {
            leaf_index: LeafIndex(leaf),
            sealed: opaque(vec![6; 60]),
        });
        let link_keys = link_keys.collect();
        let adds = plan.adds.len();
        let scheme = scheme_of(self.mls.ciphersuite());
        let new_leaf = plan.new_leaf.or(plan.new_user.map(|user| {
            let signer = LeafSigner::of(scheme);
            let credential = credential(&signer, &user);
            (signer, credential)
        }));
        let mut builder = self
            .mls
            .commit_builder()
            .force_self_update(plan.update)
            .consume_proposal_store(plan.covers)
            .propose_adds(plan.adds)
            .propose_removals(plan.removals.into_iter().map(LeafNodeIndex::new));
        if let Some(context) = plan.context {
            builder = builder.propose_group_context_extensions(context).unwrap();
        }
        if new_leaf.is_some() {
            let parameters = LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .build();
            builder = builder.leaf_node_parameters(parameters);
        }
        let provider = &self.provider;
        let builder = builder
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true);
        let built = match &new_leaf {
            None => builder.build(provider.rand(), provider.crypto(), &self.signer, |_| true),
            Some((signer, credential)) => builder.build_with_new_signer(
                provider.rand(),
                provider.crypto(),
                &self.signer,
                NewSignerBundle {
                    signer,
                    credential_with_key: credential.clone(),
                },
                |_| true,
            ),
        };
        let bundle = built.unwrap().stage_commit(provider).unwrap();
        let staged = self.mls.pending_commit().unwrap();
        let export = |label| -> [u8; 32] {
            staged
                .export_secret(provider.crypto(), label, &[], 32)
                .unwrap()
                .try_into()
                .unwrap()
        };
        let info = bundle.group_info().unwrap();
        let whole_info = info.tls_serialize_detached().unwrap();
        let next = Secrets {
            rotation: RotationSecret::new(export(exporters::ROTATION)),
            journal: JournalKey::new(export(exporters::JOURNAL_KEY)),
        };
        let join_key = export(exporters::JOIN_RECORD);
        let welcome = bundle.to_welcome_msg().map(|welcome| {
            let welcome = welcome.tls_serialize_detached().unwrap();
            self.pointers = (0..adds)
                .map(|_| Pointer {
                    group: self.id,
                    welcome: WelcomeId(crypto::random().unwrap()),
                    join_key,
                })
                .collect();
            JoinersUpload {
                join_key: WireSecret::new(join_key),
                welcomes: self
                    .pointers
                    .iter()
                    .map(|pointer| WelcomeUpload {
                        id: pointer.welcome,
                        sealed: opaque(welcome.as_slice()),
                    })
                    .collect(),
            }
        });
        let own = new_leaf.as_ref().map_or(&self.signer, |(signer, _)| signer);
        let committer = (plan.operation == Number::UpdateClient).then(|| {
            self.recovery = fresh_recovery_key(self.mls.ciphersuite());
            extras(own, &self.id, &self.recovery)
        });
        let mut request = CommitRequest {
            group: GroupKey {
                group_id: self.id,
                state_key: self.state_key.to_wire(),
            },
            commit: opaque(bundle.commit().tls_serialize_detached().unwrap()),
            group_info: PartialGroupInfo {
                extensions: opaque(info.extensions().tls_serialize_detached().unwrap()),
                signature: opaque(signature(info)),
            },
            rotation: plan
                .rotates
                .then(|| next_segment(&next, Some(self.rotation))),
            link_keys,
            committer,
            welcome,
        };
        if let Some(twist) = plan.twist {
            twist(&mut request);
        }
        self.staged = request.commit.as_slice().to_vec();
        self.next_signer = new_leaf.map(|(signer, _)| signer);
        (request, whole_info)
    }

    /// Covers Adds that are pending, and says nothing of their link keys.
    pub(in crate::group) fn commit_pending_adds(
        &mut self,
        world: &mut World,
        adds: usize,
    ) -> Result<CommitAccepted, Failure> {
        let mut request = self.stage(Plan::of(Number::AddUsers));
        let size = |welcome: &WelcomeUpload| welcome.sealed.as_slice().len();
        let upload = request.welcome.as_mut().unwrap();
        assert!(upload.welcomes.iter().map(size).sum::<usize>() == 0);
        for _ in 0..adds {
            upload.welcomes.push(WelcomeUpload {
                id: WelcomeId(crypto::random().unwrap()),
                sealed: opaque(vec![1; 100]),
            });
        }
        self.send_commit(world, Number::AddUsers, &request)
    }

    pub(in crate::group) fn abandon(&mut self) {
        self.mls
            .clear_pending_commit(self.provider.storage())
            .unwrap();
        self.next_signer = None;
    }

    /// Stages and sends a commit. What was accepted is merged when it comes out of the journal.
    pub(in crate::group) fn commit(
        &mut self,
        world: &mut World,
        plan: Plan,
    ) -> Result<CommitAccepted, Failure> {
        let operation = plan.operation;
        let request = self.stage(plan);
        let answer = self.send_commit(world, operation, &request);
        if answer.is_err() {
            self.abandon();
        }
        answer
    }

    pub(in crate::group) fn send_commit(
        &mut self,
        world: &mut World,
        operation: Number,
        request: &CommitRequest,
    ) -> Result<CommitAccepted, Failure> {
        let bytes = self.sign(world, operation, request);
        self.last_request.clone_from(&bytes);
        match operation {
            Number::AddUsers => world.run::<commit::AddUsers>(&bytes),
            Number::RemoveUsers => world.run::<commit::RemoveUsers>(&bytes),
            Number::AddClients => world.run::<commit::AddClients>(&bytes),
            Number::RemoveClients => world.run::<commit::RemoveClients>(&bytes),
            Number::SetRole => world.run::<commit::SetRole>(&bytes),
            Number::ReInitializeGroup => world.run::<commit::ReInitializeGroup>(&bytes),
            Number::DeleteGroup => world.run::<commit::DeleteGroup>(&bytes),
            _ => world.run::<commit::UpdateClient>(&bytes),
        }
    }

    /// A SelfRemove that is not sent yet.
    pub(in crate::group) fn leaving(&mut self) -> ProposalRequest {
        let before: Vec<_> = self.mls.pending_proposals().cloned().collect();
        let message = self
            .mls
            .leave_group_via_self_remove(&self.provider, &self.signer)
            .unwrap();
        // The own one counts when it comes out of the journal.
        let storage = self.provider.storage();
        self.mls.clear_pending_proposals(storage).unwrap();
        for pending in before {
            self.mls.store_pending_proposal(storage, pending).unwrap();
        }
        ProposalRequest {
            group: self.key(),
            proposal: opaque(message.tls_serialize_detached().unwrap()),
            new_member: None,
        }
    }

    pub(in crate::group) fn leave(&mut self, world: &mut World) -> Result<EntryAccepted, Failure> {
        let body = self.leaving();
        self.call::<SelfRemove>(world, &body)
    }

    /// Its leaf key once more.
    pub(in crate::group) fn same_signer(&self) -> LeafSigner {
        self.signer.again()
    }

    pub(in crate::group) fn extensions(&self) -> Vec<Extension> {
        self.mls.extensions().iter().cloned().collect()
    }

    /// The group's context with another policy.
    pub(in crate::group) fn context_with(&self, policy: &GroupPolicy) -> Extensions<GroupContext> {
        let others = self.mls.extensions().iter().filter(|extension| {
            extension.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION)
        });
        let others = others.cloned();
        Extensions::from_vec(others.chain([policy_extension(policy)]).collect()).unwrap()
    }

    pub(in crate::group) fn policy(&self) -> GroupPolicy {
        mls_rules::policy_in(self.mls.extensions())
            .unwrap()
            .unwrap()
    }
}
