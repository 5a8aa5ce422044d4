//! The state that the service keeps of a group, opened as only a member's key can.

use crypto::keys::StateKey;
use ds::groups::parts::open_roster;
use ds::groups::roster::Roster;
use ds::groups::transition::roster_is_tree;
use ds::groups::tree::Tree;
use ds::store::Parts;
use protocol::groups::{InspectGroupRequest, InspectGroupResponse};
use protocol::ids::GroupId;
use protocol::{Operation, Wire};

use super::Service;
use super::client::Client;
use protocol::codec::WireSecret;

/// Roster and tree say the same of every leaf.
pub async fn check(service: &Service, id: &GroupId, state_key: [u8; 32]) {
    let row = service.domain.rows().group(id);
    let key = StateKey::new(state_key);
    // Neither counted nor watched: nobody asked for it.
    let stored = service.store.quietly().group(row, Parts::ALL).await;
    let stored = stored.unwrap().expect("the group is there");
    let opened = open_roster(id, &key, Some(&stored)).unwrap();
    let roster = Roster::read(&opened).unwrap();
    let sealed = stored.tree.as_deref().unwrap();
    let tree = Tree::open(id, &key, roster.tree_version.as_ref(), sealed).unwrap();
    assert_eq!(roster_is_tree(&roster, &tree), Ok(()));
}

impl Client {
    pub fn inspect_request(&self, service: &Service, id: &GroupId) -> Vec<u8> {
        let body = InspectGroupRequest {
            group_id: *id,
            state_key: WireSecret::new(self.group(id).state_key),
        };
        self.leaf_request(service, id, Operation::InspectGroup, body.encode())
    }

    /// What the service says of the group.
    pub async fn inspect(&self, service: &Service, id: &GroupId) -> InspectGroupResponse {
        let request = self.inspect_request(service, id);
        service
            .post(Operation::InspectGroup, &request)
            .await
            .accepted()
    }
}
