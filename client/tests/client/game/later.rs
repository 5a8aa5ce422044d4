//! The game of the years: somebody keeps all that gateway and service see, and has every private
//! key of X25519 later. Half of each key of X-Wing is of no use to them; who breaks the other half
//! too opens everything, which shows that they look in the right places.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::connection::{open_connection_request, open_connection_response};
use crypto::hpke::{self, HpkeKeyPair, Kem};
use crypto::journal::{RECOVERY_INFO, recovery_aad};
use crypto::schedule::{JoinCodeSecret, recovery_row_id};
use crypto::secret::Secret;
use mimimi_client::{Client, Options};
use protocol::Wire as _;
use protocol::group::{
    CommitRequest, ExternalJoinRequest, GroupKey, JoinCodeChange, PutRecoveryRowsRequest,
    SetJoinCodeRequest, SetLeafExtrasRequest,
};
use protocol::ids::{GroupId, RecoveryRowId, RotationEpoch};
use protocol::inbox::RequestConnectionRequest;
use protocol::join::RecoveryRow;
use protocol::operation::Operation;
use protocol::request::SignedRequest;
use tls_codec::{DeserializeBytes as _, VLBytes};

use crate::support::recording::{Exchange, Who};
use crate::support::{Homes, database, settle};

const CLASSICAL: u16 = 1;
/// No group of the game has had more epochs.
const EPOCHS: u64 = 16;
/// Lengths of a connection's sealed response, by X25519 and by X-Wing.
const RESPONSES: [usize; 2] = [114, 1_202];
const LINK_INFO: &str = "MIMIMI 1.0 device link";

/// What is read of a recording.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Opened {
    /// Who asks for a connection.
    Request(String),
    /// A connection's keys, from who was asked.
    Response,
    /// All keys of a user, on the way to a new device.
    Link,
    /// The way into a group: names behind pseudonyms.
    WayInto(GroupId),
}

/// Has private keys of a KEM.
struct Later {
    keys: Vec<HpkeKeyPair>,
    /// What was shown beside the link code's key; it hides nothing.
    shown: Vec<u8>,
}

impl Later {
    fn new(kem: Kem, seeds: &BTreeSet<[u8; 32]>, shown: &[u8]) -> Self {
        let keys = seeds
            .iter()
            .map(|seed| HpkeKeyPair::derive(kem, &Secret::new(*seed)).unwrap());
        Self {
            keys: keys.collect(),
            shown: shown.to_vec(),
        }
    }

    fn opens(&self, recording: &[Exchange]) -> BTreeSet<Opened> {
        let read = recording.iter().filter(|it| it.answer.is_some());
        let mut opened: BTreeSet<_> = read.clone().flat_map(|it| self.sealed_once(it)).collect();
        let rows: Vec<_> = read.flat_map(rows).collect();
        opened.extend(self.ways(&rows).into_iter().map(Opened::WayInto));
        opened
    }

    /// Requests, responses and links.
    fn sealed_once(&self, exchange: &Exchange) -> Option<Opened> {
        let body = || SignedRequest::decode(&exchange.request).unwrap().body;
        match exchange.operation {
            Operation::RequestConnection => {
                let request = RequestConnectionRequest::decode(body().as_slice()).unwrap();
                let sealed = request.encrypted_request.as_slice();
                self.keys.iter().find_map(|key| {
                    let link = hpke::open_padded(key, LINK_INFO, &self.shown, sealed);
                    let request = open_connection_request(key, sealed).map(|request| {
                        let name = request.requester_client_credential.name;
                        Opened::Request(String::from_utf8(name.as_slice().to_vec()).unwrap())
                    });
                    request.ok().or(link.ok().map(|_| Opened::Link))
                })
            }
            Operation::ExternalJoin => {
                let join = ExternalJoinRequest::decode(body().as_slice()).unwrap();
                let (commit, group) = (join.commit.as_slice(), join.group.group_id);
                // Somewhere in its authenticated data.
                let mut vectors = (0..commit.len()).filter_map(|at| {
                    let (vector, _) = VLBytes::tls_deserialize_bytes(&commit[at..]).ok()?;
                    RESPONSES
                        .contains(&vector.as_slice().len())
                        .then_some(vector)
                });
                vectors.find_map(|vector| {
                    let opens = |key| open_connection_response(key, &group, vector.as_slice());
                    let mut keys = self.keys.iter();
                    keys.any(|key| opens(key).is_ok())
                        .then_some(Opened::Response)
                })
            }
            _ => None,
        }
    }

    /// A row's id says which key it is for.
    fn ways(&self, rows: &[(GroupId, RecoveryRow)]) -> BTreeSet<GroupId> {
        let groups: BTreeSet<_> = rows.iter().map(|(group, _)| *group).collect();
        let keys: BTreeMap<RecoveryRowId, &HpkeKeyPair> = groups
            .iter()
            .flat_map(|group| {
                let id = |key: &HpkeKeyPair| recovery_row_id(group, key.public());
                self.keys.iter().map(move |key| (id(key), key))
            })
            .collect();
        let opens = |(group, row): &&(GroupId, RecoveryRow)| {
            keys.get(&row.id).is_some_and(|key| {
                (0..EPOCHS).any(|rotation| {
                    let aad = recovery_aad(group, RotationEpoch(rotation));
                    hpke::open(key, RECOVERY_INFO, &aad, row.sealed.as_slice()).is_ok()
                })
            })
        };
        rows.iter().filter(opens).map(|(group, _)| *group).collect()
    }
}

/// The recovery rows that a request brings.
fn rows(exchange: &Exchange) -> Vec<(GroupId, RecoveryRow)> {
    let Ok(request) = SignedRequest::decode(&exchange.request) else {
        return Vec::new();
    };
    let body = request.body.as_slice();
    let rows = match exchange.operation {
        Operation::SetLeafExtras => vec![SetLeafExtrasRequest::decode(body).unwrap().row],
        Operation::PutRecoveryRows => PutRecoveryRowsRequest::decode(body).unwrap().rows,
        Operation::SetJoinCode => match SetJoinCodeRequest::decode(body).unwrap().change {
            JoinCodeChange::Make(code) => vec![code.row],
            JoinCodeChange::Revoke(_) => Vec::new(),
        },
        Operation::AddUsers | Operation::UpdateClient | Operation::AddClients => {
            let commit = CommitRequest::decode(body).unwrap();
            commit.rotation.map_or(Vec::new(), |next| next.code_rows)
        }
        _ => Vec::new(),
    };
    let of = || GroupKey::tls_deserialize_bytes(body).unwrap().0.group_id;
    rows.into_iter().map(|row| (of(), row)).collect()
}

/// All that could be the seed of a key in a client's home: that breaks what is derived from it.
fn seeds(homes: &Homes, name: &str) -> BTreeSet<[u8; 32]> {
    let db = database(homes, name);
    let mut tables = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .unwrap();
    let tables: Vec<String> = tables
        .query_map((), |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut seeds = BTreeSet::new();
    for table in tables {
        let mut all = db.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = all.column_count();
        let mut found = all.query(()).unwrap();
        while let Some(row) = found.next().unwrap() {
            for column in 0..columns {
                if let Ok(seed) = row.get::<_, [u8; 32]>(column) {
                    seeds.insert(seed);
                    seeds.insert(*JoinCodeSecret::new(seed).hpke_seed().expose());
                }
            }
        }
    }
    seeds
}

async fn client(homes: &Homes, name: &str, user: usize) -> Client {
    let options = Options {
        service: Some(homes.service.seen_by(Who { user, device: 0 })),
        ciphersuites: vec![0x4f, CLASSICAL],
        ..homes.options()
    };
    homes.client_with(name, options).await
}

#[tokio::test]
async fn what_the_service_has_recorded_is_closed_to_who_breaks_x25519_later() {
    let homes = Homes::new(809);
    homes.service.record();
    let alice = client(&homes, "alice", 0).await;
    let bob = client(&homes, "bob", 1).await;
    let tablet = client(&homes, "tablet", 0).await;
    let mut broken = BTreeSet::new();
    let look = |broken: &mut BTreeSet<_>| {
        for name in ["alice", "bob", "tablet"] {
            broken.extend(seeds(&homes, name));
        }
    };
    alice.register_handle("alice").await.unwrap();
    bob.register_handle("bob").await.unwrap();
    alice.connect("bob").await.unwrap();
    look(&mut broken);
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().pop().unwrap();
    bob.accept_request(&request.id).await.unwrap();
    settle(&[&alice, &bob]).await;
    for (group, suite) in [("team", 0x4f), ("old", CLASSICAL)] {
        alice.create_group_with(group, suite).await.unwrap();
        alice.add_to_group(group, &["bob"]).await.unwrap();
        let code = alice.invite(group, 7).await.unwrap();
        let code = URL_SAFE_NO_PAD.decode(code).unwrap();
        let code = JoinCodeSecret::new(code[20..52].try_into().unwrap());
        broken.insert(*code.hpke_seed().expose());
        settle(&[&alice, &bob]).await;
        bob.update_own_leaf(group).await.unwrap();
        settle(&[&alice, &bob]).await;
    }
    look(&mut broken);
    let code = tablet.link_code("tablet").await.unwrap();
    look(&mut broken);
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    tablet.complete_link(&number, 0).await.unwrap();
    for _ in 0..3 {
        settle(&[&alice, &tablet, &bob]).await;
    }
    look(&mut broken);

    let shown = URL_SAFE_NO_PAD.decode(&code.code).unwrap();
    let shown = &shown[shown.len() - 16..];
    let recording = homes.service.recorded();
    let way_into = |name: &str| Opened::WayInto(alice.group(name).unwrap().id.into());

    let x25519 = Later::new(Kem::X25519, &broken, shown).opens(&recording);
    assert_eq!(x25519, BTreeSet::from([way_into("old")]));

    let both = Later::new(Kem::XWing, &broken, shown).opens(&recording);
    for expected in [
        Opened::Request("alice".into()),
        Opened::Response,
        Opened::Link,
        way_into("team"),
    ] {
        assert!(both.contains(&expected), "{expected:?} in {both:?}");
    }
    assert!(!both.contains(&way_into("old")));
}
