//! A member that reads its journal.

use super::*;

impl Client {
    /// Reads its journal to the end, follows what it says, and verifies the chain.
    pub(in crate::group) fn catch_up(&mut self, world: &mut World) {
        let mut from = self.next.rounded_down();
        while !self.is_out {
            let segment = self.segment;
            match self.read_on(world, from) {
                Some(next) if self.segment == segment => from = next,
                Some(_) => from = Position(0),
                None => break,
            }
        }
    }

    /// Where to read on, if there is more.
    pub(super) fn read_on(&mut self, world: &mut World, from: Position) -> Option<Position> {
        let (mut env, engine) = world.service.env();
        let request = ReadJournalRequest {
            version: WIRE_VERSION,
            segment: self.segment,
            from,
            known: from,
            wait_ms: 0,
            size: AnswerSize::Segment,
            piece: 0,
        };
        let answer = read::<ReadJournal>(&request, engine, &mut env).unwrap();
        let signing = env.keys.journal_signing().public();
        verify_head(&signing, &self.segment, &answer.head).unwrap();
        let mut position = answer.first;
        for entry in &answer.entries {
            if position == self.next {
                self.next = position.next();
                self.chain = self.chain.map(|chain| head_after(&chain, position, entry));
                let step = self.step;
                if self.take(entry) {
                    // The segment's last entry, which is no step of it.
                    assert_eq!((answer.closed, answer.step), (1, step));
                    assert_eq!(answer.head.next, position.next());
                    return Some(Position(0));
                }
            }
            position = position.next();
        }
        if self.next == answer.head.next {
            match self.chain {
                Some(chain) => assert_eq!(chain, answer.head.chain),
                None => self.chain = Some(answer.head.chain),
            }
            assert_eq!(answer.step, self.step);
            return None;
        }
        Some(position)
    }

    /// Takes an entry. Whether the segment has ended with it, and the next one begins.
    pub(super) fn take(&mut self, entry: &Entry) -> bool {
        let (class, row) = match entry {
            Entry::Handshake(row) => (Class::Handshake, row),
            Entry::Message(row) => (Class::Message, row),
            Entry::Expired(_) => return false,
        };
        let content = open_entry(
            &self.journal_key,
            &self.segment,
            self.step,
            class,
            row.as_slice(),
        )
        .unwrap();
        let (bytes, commit) = match content.event {
            Event::Message(bytes) | Event::Proposal(bytes) => (bytes, None),
            Event::Commit(commit) => (commit.commit.clone(), Some(commit)),
        };
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .unwrap()
            .try_into_protocol_message()
            .unwrap();
        let own_epoch = self.mls.pending_commit().is_some();
        if let Some(commit) = commit {
            self.commits += 1;
            let aad = if commit.commit.as_slice() == self.staged {
                self.merge_own();
                commit.former_wrapper_key.is_some()
            } else {
                let processed = self.mls.process_message(&self.provider, message).unwrap();
                let aad = CommitAad::decode(processed.aad()).unwrap();
                let sender = processed.sender().clone();
                let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content()
                else {
                    panic!("not a commit");
                };
                self.judge(&staged, &sender, &aad, content.accepted_ms);
                let out = staged.self_removed();
                if own_epoch {
                    self.abandon();
                }
                self.mls
                    .merge_staged_commit(&self.provider, *staged)
                    .unwrap();
                if out {
                    self.is_out = true;
                    return true;
                }
                aad.rotates == 1
            };
            assert_eq!(aad, commit.former_wrapper_key.is_some());
            self.go_on(aad);
            return aad;
        }
        match class {
            Class::Message => {
                // The own one cannot be decrypted again.
                let processed = self.mls.process_message(&self.provider, message);
                self.texts
                    .push(match processed.map(|message| message.into_content()) {
                        Ok(ProcessedMessageContent::ApplicationMessage(text)) => text.into_bytes(),
                        _ => b"own".to_vec(),
                    });
            }
            Class::Handshake => {
                self.proposals.push(bytes.as_slice().to_vec());
                let processed = self.mls.process_message(&self.provider, message);
                if let Ok(processed) = processed
                    && let ProcessedMessageContent::ProposalMessage(queued)
                    | ProcessedMessageContent::ExternalJoinProposalMessage(queued) =
                        processed.into_content()
                {
                    self.mls
                        .store_pending_proposal(self.provider.storage(), *queued)
                        .unwrap();
                }
            }
        }
        false
    }

    pub(super) fn merge_own(&mut self) {
        self.mls.merge_pending_commit(&self.provider).unwrap();
        if let Some(signer) = self.next_signer.take() {
            self.signer = signer;
        }
    }

    /// The keys of the epoch that has begun, and in a rotation its segment.
    pub(super) fn go_on(&mut self, rotates: bool) {
        if rotates {
            let secrets = secrets(&self.mls, &self.provider);
            self.state_key = secrets.rotation.state_key();
            self.journal_key = secrets.journal;
            self.rotation = RotationEpoch(self.epoch());
            self.segment = self.state_key.segment(&self.id, self.rotation);
            self.step = Step(0);
            self.next = Position(0);
            self.chain = Some(first_head(&self.segment));
        } else {
            let state_key = std::mem::replace(&mut self.state_key, StateKey::new([0; 32]));
            self.state_key = state_key.next();
            let key = std::mem::replace(&mut self.journal_key, JournalKey::new([0; 32]));
            self.journal_key = key.next();
            self.step = self.step.next();
        }
    }

    /// Goes on after the own commit without reading it in the journal.
    #[cfg(feature = "conformance")]
    pub(in crate::group) fn accepted(&mut self, rotates: bool) {
        self.merge_own();
        self.go_on(rotates);
    }

    /// Members judge by the same rules as the service.
    pub(super) fn judge(
        &self,
        staged: &openmls::prelude::StagedCommit,
        sender: &openmls::prelude::Sender,
        aad: &CommitAad,
        accepted_ms: u64,
    ) {
        let leaving: Vec<u32> = self
            .mls
            .pending_proposals()
            .filter_map(mls_rules::leaving)
            .collect();
        let case = mls_rules::Case {
            group_id: self.id,
            segment: self.segment,
            kind: self.kind,
            group: self.mls.public_group(),
            service: &self.service,
            leaving: &leaving,
            staged,
            sender,
            aad,
            accepted_ms,
        };
        case.judge().unwrap();
    }
}
