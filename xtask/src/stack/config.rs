//! The configuration file of each service. What is not said here has the service's own default.

use std::path::Path;

use anyhow::Result;
use toml::{Table, Value, toml};

use super::accounts::{AUDIENCE, Accounts, ISSUER};
use super::database::Database;
use super::{Layout, LogLevel, Ports, Service, write_whole};

/// How long a service may take to end.
pub(super) const DRAIN_SECONDS: i64 = 4;

/// The issuer's name in token challenges: it stays when the stack moves to other ports.
pub(super) const ISSUER_NAME: &str = "issuer.localhost";
/// The delivery service's domain: pseudonyms are qualified with it.
pub(super) const DOMAIN: &str = "ds.localhost";
/// Where the relay leads to the push sender's gateway.
pub(super) const PUSH_PATH: &str = "/push";

pub(super) fn write(
    layout: &Layout,
    ports: Ports,
    log: LogLevel,
    accounts: &Accounts,
    database: Option<&Database>,
    push: bool,
    origins: &[String],
) -> Result<()> {
    // A test may have what the stack leaves at its default: a table for each service.
    let settings: Table = toml::from_str(&std::env::var("STACK_SETTINGS").unwrap_or_default())?;
    for service in Service::of(push) {
        let mut config = match service {
            Service::Relay => relay(ports, push),
            Service::Gateway => gateway(layout, ports),
            Service::Ds => ds(layout, ports, database, push),
            Service::Issuer => issuer(layout, ports, accounts),
            Service::PushGateway => push_gateway(layout, ports),
            Service::PushSender => push_sender(layout),
        };
        if matches!(service, Service::Relay | Service::Issuer) && !origins.is_empty() {
            config.insert("allowed_origins".into(), origins.to_vec().into());
        }
        config.insert("listen".into(), ports.of(service).to_string().into());
        let mut kit = Table::new();
        kit.insert(
            "admin_listen".into(),
            ports.admin_of(service).to_string().into(),
        );
        kit.insert("log_level".into(), log.to_string().into());
        kit.insert("drain_seconds".into(), DRAIN_SECONDS.into());
        config.insert("service".into(), kit.into());
        if let Some(Value::Table(settings)) = settings.get(service.name()) {
            merge(&mut config, settings);
        }
        write_whole(&layout.config(service), &toml::to_string(&config)?)?;
    }
    Ok(())
}

fn merge(config: &mut Table, settings: &Table) {
    for (name, value) in settings {
        match (config.get_mut(name), value) {
            (Some(Value::Table(config)), Value::Table(settings)) => merge(config, settings),
            _ => {
                config.insert(name.clone(), value.clone());
            }
        }
    }
}

fn url(ports: Ports, service: Service) -> Value {
    format!("http://{}", ports.of(service)).into()
}

fn path(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}

fn gateway_secret(layout: &Layout) -> Value {
    path(&layout.keys(Service::Gateway).join("gateway-secret"))
}

fn relay(ports: Ports, push: bool) -> Table {
    let mut config = Table::new();
    if push {
        let mut gateway = Table::new();
        gateway.insert("path".into(), PUSH_PATH.into());
        let url = format!("http://{}/", ports.of(Service::PushGateway));
        gateway.insert("url".into(), url.into());
        config.insert("gateways".into(), vec![gateway].into());
    }
    config.insert("gateway".into(), url(ports, Service::Gateway));
    config.insert("address_limits".into(), without_address_limits());
    config
}

/// All clients of a stack are on this machine.
fn without_address_limits() -> Value {
    Value::Table(toml! {
        requests_per_second = 0
        connections_per_second = 0
        burst = 0
        max_connections = 0
        max_requests = 0
    })
}

fn gateway_keys(layout: &Layout, service: Service) -> Table {
    let mut keys = Table::new();
    let directory = layout.keys(service).join("ohttp-keys");
    keys.insert("directory".into(), path(&directory));
    // The last one is for other implementations, which the tests bring.
    let kems = ["x-wing", "x25519", "p256"].map(Value::from);
    keys.insert("kems".into(), kems.to_vec().into());
    keys
}

/// The push sender's own: no gateway of the delivery service sees devices.
fn push_gateway(layout: &Layout, ports: Ports) -> Table {
    let mut target = toml! {
        scheme = "http"
        methods = ["POST"]
        path_prefix = "/v1/push/"
    };
    let authority = ports.of(Service::PushSender).to_string();
    target.insert("authority".into(), authority.into());
    target.insert("forward_to".into(), url(ports, Service::PushSender));
    let mut config = Table::new();
    let secret = layout.keys(Service::PushGateway).join("gateway-secret");
    config.insert("gateway_secret_file".into(), path(&secret));
    config.insert(
        "keys".into(),
        gateway_keys(layout, Service::PushGateway).into(),
    );
    config.insert("targets".into(), vec![target].into());
    config
}

fn push_secret(layout: &Layout) -> Value {
    path(&layout.keys(Service::PushSender).join("ds-secret"))
}

fn push_sender(layout: &Layout) -> Table {
    let keys = layout.keys(Service::PushSender);
    let secret = layout.keys(Service::PushGateway).join("gateway-secret");
    let mut config = Table::new();
    config.insert("gateway_secret_file".into(), path(&secret));
    config.insert(
        "data_directory".into(),
        path(&layout.data(Service::PushSender)),
    );
    config.insert("key_file".into(), path(&keys.join("push.key")));
    let mut service = Table::new();
    service.insert("secret_file".into(), push_secret(layout));
    config.insert("delivery_services".into(), vec![service].into());
    config
}

fn gateway(layout: &Layout, ports: Ports) -> Table {
    let keys = gateway_keys(layout, Service::Gateway);
    let mut target = toml! {
        scheme = "http"
        methods = ["GET", "POST"]
        path_prefix = "/v1/"
    };
    target.insert("authority".into(), ports.of(Service::Ds).to_string().into());
    // A test may listen in between.
    let through = std::env::var("STACK_DS_THROUGH").map(|address| format!("http://{address}"));
    let forward_to = through.map_or_else(|_| url(ports, Service::Ds), Value::from);
    target.insert("forward_to".into(), forward_to);
    let mut config = Table::new();
    config.insert("gateway_secret_file".into(), gateway_secret(layout));
    config.insert("keys".into(), keys.into());
    config.insert("targets".into(), vec![target].into());
    config
}

fn ds(layout: &Layout, ports: Ports, database: Option<&Database>, push: bool) -> Table {
    let keys = layout.keys(Service::Ds);
    let mut issuer = Table::new();
    issuer.insert("name".into(), ISSUER_NAME.into());
    issuer.insert("origin".into(), DOMAIN.into());
    let directory = format!(
        "http://{}/.well-known/private-token-issuer-directory",
        ports.of(Service::Issuer)
    );
    issuer.insert("directory".into(), directory.into());
    let mut config = Table::new();
    config.insert("domain".into(), DOMAIN.into());
    config.insert("self_check".into(), true.into());
    config.insert("store".into(), store(layout, database).into());
    config.insert("blobs".into(), blobs(layout).into());
    config.insert("service_key_file".into(), path(&keys.join("service-keys")));
    config.insert("gateway_secret_file".into(), gateway_secret(layout));
    config.insert("issuer".into(), issuer.into());
    if push {
        let mut push = Table::new();
        push.insert("url".into(), url(ports, Service::PushSender));
        push.insert("secret_file".into(), push_secret(layout));
        config.insert("push".into(), push.into());
    }
    config
}

/// Of a test: the disk of whoever runs it may be nearly full.
fn blobs(layout: &Layout) -> Table {
    let mut blobs = toml! {
        store = "directory"
        limits = { keep_free_bytes = 0 }
    };
    let directory = layout.data(Service::Ds).with_extension("blobs");
    blobs.insert("directory".into(), path(&directory));
    blobs
}

fn store(layout: &Layout, database: Option<&Database>) -> Table {
    let Some(database) = database else {
        let mut store = toml! { engine = "rocksdb" };
        store.insert("directory".into(), path(&layout.data(Service::Ds)));
        return store;
    };
    let mut store = toml! {
        engine = "postgres"
        user = "mimimi"
        database = "mimimi"
    };
    store.insert("host".into(), path(&database.socket_directory));
    store.insert("password_file".into(), path(&database.password_file));
    store
}

fn issuer(layout: &Layout, ports: Ports, known: &Accounts) -> Table {
    let mut accounts = Table::new();
    accounts.insert("issuer".into(), ISSUER.into());
    accounts.insert("audience".into(), AUDIENCE.into());
    accounts.insert("keys".into(), vec![known.public_key.clone()].into());
    let mut config = toml! { tokens_per_account_per_day = 2000 };
    config.insert("address_limits".into(), without_address_limits());
    config.insert("data_directory".into(), path(&layout.data(Service::Issuer)));
    config.insert("key_directory".into(), path(&layout.keys(Service::Issuer)));
    config.insert("ohttp_gateway".into(), url(ports, Service::Gateway));
    config.insert("accounts".into(), accounts.into());
    config
}
