//! What the service can say by itself: which bytes belong to one handle, one leaf, one pool, one
//! claim, one request. The truth, which it is not told, stands beside: who has sent them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crypto::kdf;
use crypto::schedule::{JoinKey, PoolToken};
use crypto::sealing::{self, Place};
use ds_domain::operation::{Operation, UnsignedRead};
use ds_domain::table::{WithOperation, Work, with_operation};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{KeyPackageIn, MlsMessageIn, RatchetTreeIn};
use protocol::Wire;
use protocol::codec::opaque;
use protocol::group::GroupKind;
use protocol::group::{
    CommitRequest, CreateGroupRequest, ExternalJoinRequest, ProposalRequest, SendMessageRequest,
};
use protocol::ids::{GroupId, InboxId, JoinRecordId, PoolId, RecoveryRowId, WelcomeId};
use protocol::inbox::{
    DeleteFromInboxRequest, DeleteHandleRequest, LookupHandleRequest, ReadInboxRequest,
    RegisterHandleRequest, RequestConnectionRequest,
};
use protocol::join::{JoinPermit, JoinRecordRequest, RecoveryRowRequest};
use protocol::key_packages::{
    ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, CountKeyPackagesRequest,
    DeleteKeyPackagesRequest, KeyPackageSet, PublishKeyPackagesRequest,
};
use protocol::operation::Operation as Number;
use protocol::request::{Sender, SignedRequest};
use protocol::welcome::FetchWelcomeRequest;

use super::fields::Fields;
use super::play::Played;
use crate::support::recording::{Exchange, Who};

/// Bytes of an envelope that say when, and that count nothing: version, operation, minute.
const HEADER: usize = 8;

/// How a leaf came into its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum WayIn {
    Founded,
    Added,
    Client,
    Code,
}

/// What bytes are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    /// A handle with its inbox; of a user, or of a link code.
    Handle {
        name: Vec<u8>,
    },
    /// A leaf of a group.
    Leaf {
        group: usize,
        kind: u8,
        index: u32,
        /// The same for the leaves of one user in one group.
        pseudonym: Vec<u8>,
        way: WayIn,
    },
    Pool,
    /// A claim, with the leaf keys in what was claimed (the truth).
    Claim {
        exchange: usize,
        keys: Vec<Vec<u8>>,
    },
    /// A look-up or a request for a connection, with the handle that it is about.
    Question {
        handle: Vec<u8>,
    },
    /// A read that nobody signs, with the group that it is about.
    Record {
        group: usize,
    },
}

/// All that the service can say of one thing.
#[derive(Debug)]
pub(crate) struct Thing {
    pub(crate) about: About,
    /// The truth.
    pub(crate) who: Who,
    pub(crate) bytes: Vec<Vec<u8>>,
    pub(crate) fields: Fields,
    /// Signature keys that a leaf has had.
    pub(crate) keys: BTreeSet<Vec<u8>>,
    /// How many messages a leaf has sent.
    pub(crate) messages: usize,
    /// How often something was taken out of an inbox.
    pub(crate) taken: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
enum Name {
    Handle(Vec<u8>),
    Leaf(GroupId, u32, Vec<u8>),
    Pool(PoolId),
    Exchange(usize),
}

struct Known {
    time: RangeInclusive<u64>,
    /// Of signature keys of leaves.
    keys: BTreeMap<Vec<u8>, Name>,
    /// Pseudonyms by leaf, as of now.
    rosters: BTreeMap<GroupId, BTreeMap<u32, Vec<u8>>>,
    inboxes: BTreeMap<InboxId, Vec<u8>>,
    groups: BTreeMap<GroupId, (usize, u8)>,
    ways: BTreeMap<Name, WayIn>,
    welcomes: BTreeMap<WelcomeId, GroupId>,
    records: BTreeMap<JoinRecordId, GroupId>,
    rows: BTreeMap<RecoveryRowId, GroupId>,
}

#[derive(Default)]
struct Gathered {
    who: Option<Who>,
    bytes: BTreeSet<Vec<u8>>,
    fields: Fields,
    counts: BTreeMap<u16, usize>,
    keys: BTreeSet<Vec<u8>>,
}

/// Sorts what was kept by what it is about. What is left out: the minute of a request, the
/// millisecond of its acceptance in the answer, and reads of journals, which are the same bytes
/// whoever reads but for the position that they begin at.
pub(crate) fn attribute(played: &Played) -> Vec<Thing> {
    let mut known = Known::of(played);
    let mut gathered: BTreeMap<Name, Gathered> = BTreeMap::new();
    // Keys of leaves are known by what comes after their first use too.
    for exchange in &played.exchanges {
        known.learn(exchange);
    }
    known.rosters.clear();
    for (number, exchange) in played.exchanges.iter().enumerate() {
        known.gather(number, exchange, &mut gathered);
    }
    known.things(played, gathered)
}

/// An answer without the times at which the service accepted something, and without the zeros at
/// its end.
fn without_times(answer: &[u8], time: &RangeInclusive<u64>) -> Vec<Vec<u8>> {
    let end = answer.iter().rposition(|byte| *byte != 0);
    let answer = &answer[..end.map_or(0, |at| at + 1)];
    let is_time = |bytes: &[u8]| time.contains(&u64::from_be_bytes(bytes.try_into().unwrap()));
    let times = answer.windows(8).enumerate().filter(|(_, it)| is_time(it));
    let mut pieces = Vec::new();
    let mut begin = 0;
    for (at, _) in times {
        pieces.push(answer[begin..at].to_vec());
        begin = at + 8;
    }
    pieces.push(answer[begin..].to_vec());
    pieces
}

/// Cuts parts out of bytes that belong to somebody else.
fn without(bytes: &[u8], parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut pieces = vec![bytes.to_vec()];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        pieces = pieces
            .into_iter()
            .flat_map(|piece| match find(&piece, part) {
                Some(at) => {
                    let after = piece[at + part.len()..].to_vec();
                    vec![piece[..at].to_vec(), after]
                }
                None => vec![piece],
            })
            .collect();
    }
    pieces
}

pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    let first = part.get(..8)?;
    (0..=bytes.len().checked_sub(part.len())?)
        .find(|at| bytes[*at..].starts_with(first) && bytes[*at..].starts_with(part))
}

/// The KeyPackage around a leaf node, in a commit.
fn key_package_around<'c>(commit: &'c [u8], node: &[u8]) -> Option<(&'c [u8], KeyPackageIn)> {
    // Version, ciphersuite, and an X-Wing key with its length.
    let at = find(commit, node)?.checked_sub(2 + 2 + 2 + 1216)?;
    let bytes = commit.get(at..)?;
    let (package, rest) = KeyPackageIn::tls_deserialize_bytes(bytes).ok()?;
    Some((&bytes[..bytes.len() - rest.len()], package))
}

/// The MLS library decodes a leaf node in a tree only.
fn tree_of(node: &[u8]) -> Option<RatchetTreeIn> {
    // Present, and a leaf (RFC 9420 §7.8).
    let nodes = opaque([&[1, 1], node].concat());
    RatchetTreeIn::tls_deserialize_exact_bytes(&nodes.tls_serialize_detached().ok()?).ok()
}

fn commit_of(exchange: &Exchange, envelope: &SignedRequest) -> Option<CommitRequest> {
    let is_commit = matches!(
        exchange.operation,
        Number::AddUsers
            | Number::RemoveUsers
            | Number::AddClients
            | Number::RemoveClients
            | Number::UpdateClient
            | Number::SetRole
            | Number::ReInitializeGroup
            | Number::DeleteGroup
    );
    is_commit
        .then(|| CommitRequest::decode(envelope.body.as_slice()).ok())
        .flatten()
}

impl Known {
    fn of(played: &Played) -> Self {
        Self {
            time: played.time.clone(),
            keys: BTreeMap::new(),
            rosters: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            groups: BTreeMap::new(),
            ways: BTreeMap::new(),
            welcomes: BTreeMap::new(),
            records: BTreeMap::new(),
            rows: BTreeMap::new(),
        }
    }

    fn learn(&mut self, exchange: &Exchange) {
        let Some((group, opened)) = &exchange.opened else {
            return;
        };
        let Ok(envelope) = SignedRequest::decode(&exchange.request) else {
            return;
        };
        let body = envelope.body.as_slice();
        let number = self.groups.len();
        let entry = self.groups.entry(*group).or_insert((number, 0));
        let mut way = None;
        match exchange.operation {
            Number::CreateGroup => {
                entry.1 = CreateGroupRequest::decode(body).unwrap().kind as u8;
                way = Some(WayIn::Founded);
            }
            Number::AddUsers => way = Some(WayIn::Added),
            Number::AddClients => way = Some(WayIn::Client),
            Number::ExternalJoin => {
                way = match ExternalJoinRequest::decode(body).unwrap().permit {
                    JoinPermit::Client => Some(WayIn::Client),
                    JoinPermit::JoinCode(_) => Some(WayIn::Code),
                    JoinPermit::Rejoin => None,
                };
            }
            _ => {}
        }
        for leaf in &opened.leaves {
            let pseudonym = leaf.record.user_pseudonym.clone();
            let name = Name::Leaf(*group, leaf.index, pseudonym);
            self.keys
                .insert(leaf.record.signature_key.clone(), name.clone());
            if let Some(way) = way {
                self.ways.entry(name).or_insert(way);
            }
            if let Some(row) = leaf.record.recovery_row(group) {
                self.rows.insert(row, *group);
            }
        }
        if let Some(commit) = commit_of(exchange, &envelope)
            && let Some(joiners) = commit.welcome
        {
            let key = JoinKey::new(*joiners.join_key.expose());
            self.records.insert(key.record_id(group), *group);
            for upload in joiners.welcomes {
                self.welcomes.insert(upload.id, *group);
            }
        }
    }

    /// Who has sent it, as far as the service can say.
    fn sender(&self, exchange: &Exchange, envelope: &SignedRequest) -> Option<Name> {
        match &envelope.sender {
            Sender::Key(key) => self.keys.get(key.as_slice()).cloned(),
            Sender::Leaf(index) => {
                let (group, _) = exchange.opened.as_ref()?;
                let pseudonym = self.rosters.get(group)?.get(&index.0)?;
                Some(Name::Leaf(*group, index.0, pseudonym.clone()))
            }
        }
    }

    fn gather(
        &mut self,
        number: usize,
        exchange: &Exchange,
        gathered: &mut BTreeMap<Name, Gathered>,
    ) {
        let own = Name::Exchange(number);
        let name = match exchange.operation {
            // The same bytes whoever reads, but for the position, which is left out.
            Number::ReadJournal => return,
            Number::JoinRecord | Number::FetchWelcome | Number::RecoveryRow => {
                let of = gathered.entry(own).or_default();
                of.who = Some(exchange.author);
                of.take(
                    exchange,
                    &[],
                    exchange.request.get(2..).unwrap_or_default(),
                    &self.time,
                );
                return;
            }
            _ => {
                let envelope = SignedRequest::decode(&exchange.request).unwrap();
                self.about(exchange, &envelope, own)
            }
        };
        let envelope = SignedRequest::decode(&exchange.request).unwrap();
        let mut others = Vec::new();
        self.gather_leaves(exchange, &envelope, gathered, &mut others);
        let Some(name) = name else { return };
        let of = gathered.entry(name).or_default();
        // A leaf's word may be sent by none but itself, so that any of them is the truth.
        of.who.get_or_insert(exchange.author);
        of.take(
            exchange,
            &others,
            exchange.request.get(HEADER..).unwrap_or_default(),
            &self.time,
        );
        of.describe(exchange, &envelope);
    }

    /// What a signed request is about.
    fn about(&mut self, exchange: &Exchange, envelope: &SignedRequest, own: Name) -> Option<Name> {
        let body = envelope.body.as_slice();
        Some(match exchange.operation {
            Number::RegisterHandle => {
                let request = RegisterHandleRequest::decode(body).unwrap();
                let handle = request.handle.as_slice().to_vec();
                self.inboxes.insert(request.inbox, handle.clone());
                Name::Handle(handle)
            }
            Number::DeleteHandle => {
                let request = DeleteHandleRequest::decode(body).unwrap();
                Name::Handle(request.handle.as_slice().to_vec())
            }
            Number::ReadInbox => {
                let request = ReadInboxRequest::decode(body).unwrap();
                Name::Handle(self.inboxes.get(&request.inbox)?.clone())
            }
            Number::DeleteFromInbox => {
                let request = DeleteFromInboxRequest::decode(body).unwrap();
                Name::Handle(self.inboxes.get(&request.inbox)?.clone())
            }
            Number::PublishKeyPackages => {
                Name::Pool(PublishKeyPackagesRequest::decode(body).unwrap().pool)
            }
            Number::CountKeyPackages => {
                Name::Pool(CountKeyPackagesRequest::decode(body).unwrap().pool)
            }
            Number::DeleteKeyPackages => {
                Name::Pool(DeleteKeyPackagesRequest::decode(body).unwrap().pool)
            }
            Number::ClaimKeyPackages | Number::LookupHandle | Number::RequestConnection => own,
            _ => self.sender(exchange, envelope)?,
        })
    }

    /// What the state says of each leaf, and what came for others than the sender.
    fn gather_leaves(
        &mut self,
        exchange: &Exchange,
        envelope: &SignedRequest,
        gathered: &mut BTreeMap<Name, Gathered>,
        others: &mut Vec<Vec<u8>>,
    ) {
        let Some((group, opened)) = &exchange.opened else {
            return;
        };
        let before = self.rosters.remove(group).unwrap_or_default();
        let commit = commit_of(exchange, envelope);
        let mut welcomes = commit
            .as_ref()
            .and_then(|commit| commit.welcome.as_ref())
            .map(|joiners| joiners.welcomes.as_slice())
            .unwrap_or_default()
            .iter();
        let mut roster = BTreeMap::new();
        let sender = match &envelope.sender {
            Sender::Leaf(index) => Some(index.0),
            Sender::Key(_) => None,
        };
        for leaf in &opened.leaves {
            let pseudonym = leaf.record.user_pseudonym.clone();
            let is_new = before.get(&leaf.index) != Some(&pseudonym);
            roster.insert(leaf.index, pseudonym.clone());
            let of = gathered
                .entry(Name::Leaf(*group, leaf.index, pseudonym))
                .or_default();
            of.keys.insert(leaf.record.signature_key.clone());
            if of.bytes.insert(leaf.encoded.clone()) {
                of.fields.add("record", &leaf.record);
            }
            if of.bytes.insert(leaf.node.clone())
                && let Some(tree) = tree_of(&leaf.node)
            {
                of.fields.add("node", &tree);
            }
            let (Some(commit), true) = (&commit, is_new && sender != Some(leaf.index)) else {
                continue;
            };
            // A leaf that this commit adds.
            if let Some((bytes, package)) = key_package_around(commit.commit.as_slice(), &leaf.node)
            {
                of.fields.add("package", &package);
                of.bytes.insert(bytes.to_vec());
                others.push(bytes.to_vec());
            }
            if let Some(upload) = welcomes.next() {
                of.fields.length("welcome", upload.sealed.as_slice().len());
                of.bytes.insert(upload.encode());
                others.push(upload.encode());
            }
            let link = commit
                .link_keys
                .iter()
                .find(|it| it.leaf_index.0 == leaf.index);
            if let Some(link) = link {
                of.bytes.insert(link.sealed.as_slice().to_vec());
                others.push(link.sealed.as_slice().to_vec());
            }
        }
        self.rosters.insert(*group, roster);
    }

    fn things(self, played: &Played, gathered: BTreeMap<Name, Gathered>) -> Vec<Thing> {
        let mut ranks: BTreeMap<(GroupId, Vec<u8>), Vec<u32>> = BTreeMap::new();
        for name in gathered.keys() {
            if let Name::Leaf(group, index, pseudonym) = name {
                ranks
                    .entry((*group, pseudonym.clone()))
                    .or_default()
                    .push(*index);
            }
        }
        gathered
            .into_iter()
            .filter_map(|(name, of)| {
                let count = |of: &Gathered, operation: Number| {
                    let count = of.counts.get(&operation.number());
                    count.copied().unwrap_or_default()
                };
                let messages = count(&of, Number::SendMessage);
                let taken = count(&of, Number::DeleteFromInbox);
                let mut fields = of.fields;
                for (operation, count) in of.counts {
                    fields.number(&format!("requests of {operation}"), count);
                }
                let about = match name {
                    Name::Handle(name) => About::Handle { name },
                    Name::Pool(_) => About::Pool,
                    Name::Leaf(group, index, pseudonym) => {
                        // Which of a user's leaves it is, from the left.
                        let all = &ranks[&(group, pseudonym.clone())];
                        if all.len() > 1 {
                            let rank = all.iter().filter(|it| **it < index).count();
                            fields.number("rank", rank);
                        }
                        let (number, kind) = *self.groups.get(&group)?;
                        let name = Name::Leaf(group, index, pseudonym.clone());
                        About::Leaf {
                            group: number,
                            kind,
                            index,
                            pseudonym,
                            way: *self.ways.get(&name)?,
                        }
                    }
                    Name::Exchange(number) => self.exchange(played, number)?,
                };
                Some(Thing {
                    about,
                    who: of.who?,
                    bytes: of.bytes.into_iter().collect(),
                    fields,
                    keys: of.keys,
                    messages,
                    taken,
                })
            })
            .collect()
    }

    fn exchange(&self, played: &Played, number: usize) -> Option<About> {
        let exchange = &played.exchanges[number];
        let group = |group: Option<&GroupId>| {
            Some(About::Record {
                group: self.groups.get(group?)?.0,
            })
        };
        let bytes = exchange.request.as_slice();
        match exchange.operation {
            Number::JoinRecord => {
                group(self.records.get(&JoinRecordRequest::decode(bytes).ok()?.id))
            }
            Number::FetchWelcome => group(
                self.welcomes
                    .get(&FetchWelcomeRequest::decode(bytes).ok()?.id),
            ),
            Number::RecoveryRow => {
                group(self.rows.get(&RecoveryRowRequest::decode(bytes).ok()?.id))
            }
            operation => {
                let body = SignedRequest::decode(bytes).ok()?.body;
                let body = body.as_slice();
                Some(match operation {
                    Number::ClaimKeyPackages => {
                        let pool = ClaimKeyPackagesRequest::decode(body).ok()?.pool;
                        let answer = exchange.answer.as_ref()?;
                        About::Claim {
                            exchange: number,
                            keys: claimed_keys(played.tokens.get(&pool)?, answer),
                        }
                    }
                    Number::LookupHandle => About::Question {
                        handle: LookupHandleRequest::decode(body).ok()?.handle.into(),
                    },
                    _ => About::Question {
                        handle: RequestConnectionRequest::decode(body).ok()?.handle.into(),
                    },
                })
            }
        }
    }
}

/// The truth: signature keys of what was claimed.
fn claimed_keys(token: &PoolToken, answer: &[u8]) -> Vec<Vec<u8>> {
    let pool = token.pool();
    let place = Place {
        table: "key_package_sets",
        row: &pool.0,
        part: "set",
    };
    let key = kdf::derive(token.expose(), "key package sets", &[]);
    let answer = ClaimKeyPackagesResponse::decode(answer).unwrap();
    let mut keys = Vec::new();
    for sealed in answer.sets {
        let set = sealing::open(&key, place, sealed.as_slice()).unwrap();
        for package in KeyPackageSet::decode(&set).unwrap().key_packages {
            let package = KeyPackageIn::tls_deserialize_exact_bytes(package.as_slice()).unwrap();
            keys.push(
                package
                    .unverified_credential()
                    .signature_key
                    .as_slice()
                    .to_vec(),
            );
        }
    }
    keys
}

impl Gathered {
    /// All bytes of an exchange; `parts` of the request belong to others.
    fn take(
        &mut self,
        exchange: &Exchange,
        parts: &[Vec<u8>],
        request: &[u8],
        time: &RangeInclusive<u64>,
    ) {
        self.bytes.extend(without(request, parts));
        for row in &exchange.rows {
            self.bytes.insert(row.name.clone());
            self.bytes.insert(row.value.clone());
            let table = row.table.name();
            self.fields
                .length(&format!("row of {table}"), row.value.len());
        }
        let place = format!("{}", exchange.operation.number());
        if let Some(answer) = &exchange.answer {
            self.bytes.extend(without_times(answer, time));
            self.fields
                .length(&format!("answer to {place}"), answer.len());
        }
        self.fields
            .length(&format!("length of {place}"), request.len());
        self.fields
            .number(&format!("tokens of {place}"), exchange.tokens);
        *self.counts.entry(exchange.operation.number()).or_default() += 1;
    }

    /// The structure of a signed request.
    fn describe(&mut self, exchange: &Exchange, envelope: &SignedRequest) {
        let (fields, body) = (&mut self.fields, envelope.body.as_slice());
        let place = format!("{}", exchange.operation.number());
        fields.add(&format!("sender of {place}"), &envelope.sender);
        fields.length(
            &format!("signature of {place}"),
            envelope.signature.as_slice().len(),
        );
        let inner = format!("message of {place}");
        let message = match exchange.operation {
            Number::SendMessage => SendMessageRequest::decode(body).map(|it| it.message).ok(),
            Number::SelfRemove | Number::Propose => {
                ProposalRequest::decode(body).map(|it| it.proposal).ok()
            }
            operation => {
                with_operation(
                    operation,
                    AddBody {
                        fields: &mut *fields,
                        place,
                        body,
                    },
                );
                match operation {
                    Number::ExternalJoin => {
                        ExternalJoinRequest::decode(body).map(|it| it.commit).ok()
                    }
                    _ => commit_of(exchange, envelope).map(|it| it.commit),
                }
            }
        };
        if let Some(message) = message
            && let Ok(message) = MlsMessageIn::tls_deserialize_exact_bytes(message.as_slice())
        {
            fields.add(&inner, &message);
        }
    }
}

/// Adds the fields of a request's body, whatever operation it is of.
struct AddBody<'a> {
    fields: &'a mut Fields,
    place: String,
    body: &'a [u8],
}

impl WithOperation for AddBody<'_> {
    type Output = ();

    fn signed<O: Operation>(self, _: Work) {
        if let Ok(request) = O::Request::decode(self.body) {
            self.fields.add(&self.place, &request);
        }
    }

    fn unsigned<R: UnsignedRead>(self) {}

    fn chunks(self, _: Number) {}
}

/// The number of an ordinary group's kind.
pub(crate) const ORDINARY: u8 = GroupKind::Group as u8;
