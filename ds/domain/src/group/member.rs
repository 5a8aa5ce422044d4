//! A request of a leaf.

use protocol::problem::ProblemType;

use super::open::{Drawer, OpenedGroup, charges};
use super::roster::{Leaf, leaf_of_page};
use crate::engine::Key;
use crate::env::Env;
use crate::operation::Cost;
use crate::refusal::Stop;
use crate::request::{Authenticated, NamesGroup, Unauthenticated};
use crate::view::View;

/// A leaf of a group that is open, whose request it is.
#[derive(Debug)]
pub struct Member {
    /// The group that the leaf is in.
    pub group: OpenedGroup,
    /// The leaf's index in the tree.
    pub index: u32,
    /// The leaf's record in the roster.
    pub leaf: Leaf,
}

impl Member {
    /// Authenticates a request by the leaf that it claims. What `also` names is read together with
    /// the leaf's page.
    ///
    /// # Errors
    /// [`Stop::Need`], [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`].
    pub fn authenticate<'r, T: protocol::Wire + NamesGroup>(
        request: &'r Unauthenticated<T>,
        view: &View,
        env: &Env<'_>,
        also: impl FnOnce(&OpenedGroup) -> Vec<Key>,
    ) -> Result<Authenticated<'r, T, Self>, Stop> {
        let index = request.claimed_leaf()?.0;
        let group = OpenedGroup::open(view, request.group(), None, env)?;
        let (part, _) = group
            .short
            .page_of(index)
            .ok_or(ProblemType::BadSignature)?;
        let mut keys = vec![group.row.part(part)];
        keys.extend(also(&group));
        view.all(&keys)?;
        let leaf = leaf_of_page(&group, index, view)?.ok_or(ProblemType::BadSignature)?;
        let signature_key = leaf.signature_key.clone();
        Ok(request.by_leaf(&signature_key, Self { group, index, leaf })?)
    }

    /// The allowances that a request of the leaf draws on.
    #[must_use]
    pub fn cost(&self, bytes: usize, env: &Env<'_>) -> Cost {
        let drawer = Drawer::Leaf(self.index, &self.leaf.user_pseudonym);
        charges(&self.group.id, drawer, bytes, env)
    }
}
