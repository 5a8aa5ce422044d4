//! All that the service sees of a group while it has a request's state key: for games that look for
//! links.

use openmls::prelude::LeafNodeIndex;
use openmls::prelude::tls_codec::Serialize as _;
use protocol::codec::WireSecret;
use protocol::group::GroupKey;
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::parts;
use super::roster::{self, Leaf, Roster};
use super::tree::Tree;
use crate::engine::Read;
use crate::env::{Env, Version};
use crate::memory::MemoryEngine;
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

/// A group's state, opened.
#[derive(Debug, Clone)]
pub struct LaidOpen {
    /// Plaintexts of all parts but the short one.
    pub parts: Vec<(Part, Zeroizing<Vec<u8>>)>,
    /// The leaves in the order of their indices.
    pub leaves: Vec<OpenedLeaf>,
}

/// One leaf of it.
#[derive(Debug, Clone)]
pub struct OpenedLeaf {
    pub index: u32,
    /// Its record in the roster.
    pub record: Leaf,
    /// The record as it is sealed.
    pub encoded: Vec<u8>,
    /// Its node in the tree, encoded.
    pub node: Vec<u8>,
}

/// Opens every part of a group as the service does for a request that brings this key, or whose
/// commit tells `next`. None where the service finds no such group.
#[must_use]
pub fn lay_open(
    engine: &MemoryEngine,
    key: &GroupKey,
    next: Option<&WireSecret>,
    env: &Env<'_>,
) -> Option<LaidOpen> {
    let mut view = View::default();
    loop {
        match opened(&view, key, next, env) {
            Err(Stop::Need(reads)) => {
                let found = engine.read(&reads);
                for (read, found) in reads.into_iter().zip(found) {
                    view.add(read, found);
                }
            }
            other => return other.ok(),
        }
    }
}

fn opened(
    view: &View,
    key: &GroupKey,
    next: Option<&WireSecret>,
    env: &Env<'_>,
) -> Result<LaidOpen, Stop> {
    let group = OpenedGroup::open(view, key, next, env)?;
    let short = &group.short;
    let versions: Vec<(Part, Version)> = short
        .parts()
        .into_iter()
        .filter_map(|part| {
            let version = match part {
                Part::Roster(page) => short.page(page)?.1,
                Part::Control => short.control,
                Part::Marks => short.marks,
                Part::Tree => short.tree,
                Part::TreeChanges => short.tree_changes?,
                Part::Proposals => short.proposals?,
            };
            Some((part, version))
        })
        .collect();
    let keys: Vec<_> = versions
        .iter()
        .map(|(part, _)| group.row.part(*part))
        .collect();
    let missing: Vec<Read> = keys.iter().cloned().map(Read::Row).collect();
    let sealed = view.all(&keys).map_err(|_| Stop::Need(missing))?;
    let mut parts = Vec::with_capacity(sealed.len());
    for ((part, version), sealed) in versions.into_iter().zip(sealed) {
        let plain = parts::open(&group.id, &short.data_key, (part, &version), sealed)?;
        parts.push((part, plain));
    }
    let roster = Roster::open(&group, Roster::all_pages(&group), view)?;
    let tree = Tree::open(&group, view)?;
    let leaves = roster
        .leaves()
        .map(|(index, record)| {
            let node = tree
                .group
                .leaf(LeafNodeIndex::new(index))
                .and_then(|node| node.tls_serialize_detached().ok())
                .unwrap_or_default();
            Ok(OpenedLeaf {
                index,
                record: record.clone(),
                encoded: roster::encoded(record)?.to_vec(),
                node,
            })
        })
        .collect::<Result<_, Stop>>()?;
    Ok(LaidOpen { parts, leaves })
}
