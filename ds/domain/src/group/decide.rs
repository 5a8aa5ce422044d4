//! A commit on its way, from what it reads to what it changes.

use openmls::prelude::PublicMessageIn;
use protocol::problem::ProblemType;

use super::attempt::{Attempt, roster_is_tree};
use super::control::Control;
use super::marks::Marks;
use super::message::head_of;
use super::proposals::PendingProposals;
use super::roster::Roster;
use super::succession::{Decision, Succession};
use super::tree::Tree;
use crate::env::Env;
use crate::journal::head::StoredHead;
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

/// What a commit's decision reads.
struct Loaded {
    control: Control,
    marks: Marks,
    tree: Tree,
    pending: PendingProposals,
    roster: Roster,
    head: StoredHead,
}

impl Attempt<'_> {
    /// Decides.
    ///
    /// # Errors
    /// [`Stop`].
    pub(super) fn decide(&self, view: &View, env: &mut Env<'_>) -> Result<Decision, Stop> {
        self.check(env)?;
        let message = self.parse()?;
        let loaded = self.load(view, env)?;
        if self.is_due(&loaded.control, env) {
            return Err(ProblemType::RotationRequired.into());
        }
        self.carry_out(message, loaded, view, env)
            .map_err(Stop::at_cost)
    }

    fn load(&self, view: &View, env: &Env<'_>) -> Result<Loaded, Stop> {
        let group = self.group;
        let pages = self.pages(env);
        let parts = pages.iter().map(|page| Part::Roster(*page));
        let parts = parts
            .chain([Part::Control, Part::Marks])
            .chain(group.short.tree_parts())
            .chain(group.short.proposals.map(|_| Part::Proposals));
        let mut keys: Vec<_> = parts.map(|part| group.row.part(part)).collect();
        let rows = env.rows();
        keys.push(rows.segment(&group.short.segment).key());
        let next = self.next_segment();
        keys.extend(next.map(|segment| rows.segment(&segment).key()));
        let records = self.records(env);
        keys.extend(records.iter().cloned());
        view.all(&keys)?;
        // Nor a record that exists, whosever it is: found before the work, not by the store after
        // it.
        if view.all(&records)?.iter().any(Option::is_some) {
            return Err(ProblemType::InvalidCommit.into());
        }
        // No group can name a segment that exists.
        if let Some(segment) = next
            && StoredHead::read(view, &segment, env)?.is_some()
        {
            return Err(ProblemType::InvalidCommit.into());
        }
        Ok(Loaded {
            head: head_of(group, view, env)?,
            control: Control::open(group, view)?,
            marks: Marks::open(group, view)?,
            roster: Roster::open(group, pages, view)?,
            pending: PendingProposals::open(group, view)?,
            tree: Tree::open(group, view)?,
        })
    }

    fn carry_out(
        &self,
        message: PublicMessageIn,
        loaded: Loaded,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Decision, Stop> {
        let Loaded {
            control,
            marks,
            mut tree,
            pending,
            roster,
            head,
        } = loaded;
        if env.settings.self_check {
            let whole = Roster::open(self.group, Roster::all_pages(self.group), view)?;
            roster_is_tree(self.group, &whole, &tree)?;
            marks.check(&self.group.id, &whole)?;
        }
        let judged = self.judge(message, &control, &mut tree, &pending, env)?;
        let succession = Succession {
            attempt: self,
            link_keys: self.link_keys(&judged, &tree, &pending)?,
            judged,
            control,
            marks,
            tree,
            pending,
            roster,
        };
        succession.decide(head, view, env)
    }
}
