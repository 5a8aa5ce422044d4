//! The engine that several nodes share.

use std::sync::Arc;

use ds::store::Store;
use ds::store::postgres::{Postgres, PostgresSettings};
use tokio::runtime::Handle;

#[path = "../../../src/store/postgres/server.rs"]
mod server;

use server::Server;

/// `false` only if the environment says that these tests are left out.
pub fn is_available() -> bool {
    Server::shared().is_some()
}

/// Connections to one new database, each as a node of its own has them.
pub fn fresh_nodes<const N: usize>() -> Vec<Arc<dyn Store>> {
    let server = Server::shared().expect("asked for only if there is a server");
    let opened = async {
        let database = server.fresh_database().await;
        let mut nodes: Vec<Arc<dyn Store>> = Vec::new();
        for node in 0..N {
            let settings = PostgresSettings {
                host: server.sockets.clone(),
                port: 5432,
                user: "mimimi".to_owned(),
                database: database.clone(),
                password_file: Some(server.password_file.clone()),
                connections: 4,
                acquire_ms: 20_000,
                statement_ms: 10_000,
            };
            let opened = match node {
                0 => Postgres::create(&settings).await,
                _ => Postgres::open(&settings).await,
            };
            nodes.push(Arc::new(opened.unwrap()));
        }
        nodes
    };
    tokio::task::block_in_place(|| Handle::current().block_on(opened))
}
