//! The suite on two nodes of one database: each call goes to the other one.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

struct TwoNodes {
    nodes: [Postgres; 2],
    calls: AtomicUsize,
}

impl TwoNodes {
    async fn fresh() -> Option<Self> {
        let (first, server, database) = fresh().await?;
        let second = Postgres::open(&settings(server, &database)).await.unwrap();
        Some(Self {
            nodes: [first, second],
            calls: AtomicUsize::new(0),
        })
    }

    fn next(&self) -> &Postgres {
        &self.nodes[self.calls.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

#[async_trait]
impl Engine for TwoNodes {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        self.next().read(reads).await
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        self.next().apply(batch).await
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        self.next().drop_days(table, before).await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        self.next().drop_prefix(table, prefix).await
    }
}

macro_rules! on_two_nodes {
    ($($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let Some(nodes) = TwoNodes::fresh().await else { return };
                ds_domain::conformance::$name(Arc::new(nodes)).await;
            }
        )+
    };
}
ds_domain::engine_conformance_with!(on_two_nodes);
