//! What a commit leaves at rest: records of joins, rows, parts of the group.

use super::*;

impl Succession<'_> {
    /// What those who come in by a Welcome need, sealed once under the join key.
    pub(super) fn records(
        &self,
        keys: &Keys,
        journal: &JournalKeys,
        at: At,
        env: &mut Env<'_>,
    ) -> Result<Records, Stop> {
        let Some(JoinersUpload { join_key, welcomes }) = self.attempt.welcome else {
            return Ok((None, Vec::new()));
        };
        if welcomes.len() != self.judged.arrivals.len() {
            return Err(ProblemType::InvalidCommit.into());
        }
        let content = JoinRecordContent {
            ratchet_tree: opaque(self.tree.ratchet_tree()?),
            state_key: keys.state.to_wire(),
            journal: JournalKeys {
                rotation_epoch: journal.rotation_epoch,
                journal_key: keys.journal.to_wire(),
                tag_key: crypto::schedule::TagKey::from(&journal.tag_key).to_wire(),
                tag_day: journal.tag_day,
            },
            segment: at.segment,
            place: at.place,
            chain: at.chain,
            leaves: self.roster.link_keys(),
            wrapper_chain: self.control.chain.clone(),
        };
        let bytes = Zeroizing::new(content.encode());
        // A group that its joiners could not fetch is not made.
        within(bytes.len(), env.settings.limits.tree_bytes)?;
        let join_key = JoinKey::from(join_key);
        let id = join_key.record_id(self.id());
        let chunks: Vec<&[u8]> = bytes.chunks(JOIN_RECORD_PAGE).collect();
        let pages = u16::try_from(chunks.len()).map_err(|_| ProblemType::LimitExceeded)?;
        let mut sealed = Vec::with_capacity(chunks.len());
        for (page, chunk) in (0..pages).zip(chunks) {
            let salt = env.salt();
            let page = seal_join_page(&join_key, salt, &id, (page, pages), chunk)?;
            sealed.push([&pages.to_be_bytes()[..], &page].concat());
        }
        let last_day = shelf(env.today(), env);
        let rows = env.rows();
        let welcomes = welcomes
            .iter()
            .map(|welcome| {
                (
                    rows.welcome(&welcome.id),
                    last_day,
                    welcome.sealed.as_slice().to_vec(),
                )
            })
            .collect();
        Ok((Some((rows.join_record(&id), last_day, sealed)), welcomes))
    }

    /// Seals what changes: in a rotation everything, under another data key.
    pub(super) fn seal(
        self,
        keys: Keys,
        (places, code_ended): (u32, bool),
        pending: PendingProposals,
        env: &mut Env<'_>,
    ) -> Result<SealedState, Stop> {
        let attempt = self.attempt;
        let former = &attempt.group.short;
        let rotates = attempt.rotation.is_some();
        let pages = u16::try_from(places.div_ceil(LEAVES_IN_PAGE))
            .map_err(|_| ProblemType::LimitExceeded)?;
        let mut plain = Vec::new();
        let mut versions: Vec<Option<Version>> = former.pages.iter().copied().map(Some).collect();
        versions.resize(usize::from(pages), None);
        for (number, page) in self.roster.changed(rotates, pages)? {
            let version = env.version();
            if let Some(slot) = versions.get_mut(usize::from(number)) {
                *slot = Some(version);
            }
            plain.push((Part::Roster(number), version, page));
        }
        let versions: Option<Vec<Version>> = versions.into_iter().collect();
        let segment = match attempt.rotation {
            Some(_) => keys
                .state
                .segment(&attempt.group.id, attempt.next_rotation()),
            None => former.segment,
        };
        let has_proposals = !pending.proposals.is_empty();
        let mut short = Short {
            kind: former.kind,
            ciphersuite: former.ciphersuite,
            epoch: attempt.next_epoch(),
            rotation_epoch: attempt.next_rotation(),
            message_days: former.message_days,
            segment,
            journal_key: keys.journal,
            data_key: keys.data,
            begun: if rotates { env.today() } else { former.begun },
            must_rotate: !rotates && (former.must_rotate || code_ended),
            reinitialized: former.reinitialized || self.judged.effect.reinitialized_as.is_some(),
            removal_pending: has_proposals,
            places,
            control: env.version(),
            marks: env.version(),
            tree: former.tree,
            tree_changes: None,
            proposals: has_proposals.then(|| env.version()),
            pages: versions.ok_or(Stop::Internal("a page was not sealed"))?,
        };
        plain.push((Part::Control, short.control, self.control.encode()?));
        plain.push((Part::Marks, short.marks, self.marks.encode()));
        // Of all others the rows tell anyway what they are, and mostly of whom.
        let tree = match attempt.is_path_only() {
            true => {
                let room = attempt.group.room_for_changes();
                self.tree.encode_changes(self.judged.fields, room)?
            }
            false => Encoded::Whole(self.tree.encode(self.judged.fields)?),
        };
        let version = env.version();
        match tree {
            Encoded::Whole(tree) => {
                short.tree = version;
                plain.push((Part::Tree, version, tree));
            }
            Encoded::Changes(changes) => {
                short.tree_changes = Some(version);
                plain.push((Part::TreeChanges, version, changes));
            }
        }
        if let Some(version) = short.proposals {
            plain.push((Part::Proposals, version, pending.encode()?));
        }
        let sealed = seal_parts(&attempt.group.id, &short, plain, env)?;
        let mut dropped: Vec<Part> = (pages..)
            .take(former.pages.len().saturating_sub(usize::from(pages)))
            .map(Part::Roster)
            .collect();
        if former.proposals.is_some() && !has_proposals {
            dropped.push(Part::Proposals);
        }
        if former.tree_changes.is_some() && short.tree_changes.is_none() {
            dropped.push(Part::TreeChanges);
        }
        let short = seal_short(&attempt.group.id, &keys.state, &short, env)?;
        Ok((short, sealed, dropped))
    }
}

/// The short part, the others that change, and those that go.
pub(super) type SealedState = (Versioned, Vec<(Part, Vec<u8>)>, Vec<Part>);

/// A join record and Welcomes.
pub(super) type Records = (
    Option<(JoinRecordRow, Day, Vec<Vec<u8>>)>,
    Vec<(WelcomeRow, Day, Vec<u8>)>,
);

/// Seals parts under the data key.
pub(in crate::group) fn seal_parts(
    group: &GroupId,
    short: &Short,
    plain: Vec<(Part, Version, Zeroizing<Vec<u8>>)>,
    env: &mut Env<'_>,
) -> Result<Vec<(Part, Vec<u8>)>, Stop> {
    let mut sealed = Vec::with_capacity(plain.len());
    for (part, version, bytes) in plain {
        let bytes = parts::seal(group, &short.data_key, (part, &version), &bytes, env)?;
        sealed.push((part, bytes));
    }
    Ok(sealed)
}

/// Seals a short part under a version of its own.
pub(in crate::group) fn seal_short(
    group: &GroupId,
    key: &StateKey,
    short: &Short,
    env: &mut Env<'_>,
) -> Result<Versioned, Stop> {
    let version = env.version();
    Ok(Versioned {
        version,
        sealed: parts::seal_short(group, key, &version, &short.encode(), env)?,
    })
}
