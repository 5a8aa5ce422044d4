//! Who came in from outside sends nothing before it has heard somebody: a genuine but old GroupInfo
//! passes every other check, and nobody answers in an epoch that is nobody's. Who has signed it
//! counts for nothing, under whatever leaf: a former member could keep the service a group of its
//! own.

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::Error;
use crate::mls::content::Content;
use crate::store::heard::is_waiting;

impl Engine {
    /// Says in a group that this client is there.
    pub(crate) async fn say_hello(&mut self, id: &GroupId) -> Result<(), Error> {
        if is_waiting(&self.db, id)? {
            return Ok(());
        }
        self.send_content(id, &Content::Greeting).await
    }
}
