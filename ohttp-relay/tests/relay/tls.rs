//! TLS on either side of the relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{StatusCode, Version};
use service::http::{Limits, Server};
use service::tls::{Peers, ServerTls, TlsSettings};
use service::{Shutdown, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::certificates::{Authority, Files};
use crate::support::process::start_with;
use crate::support::{StubGateway, config, encapsulated, serve_relay, stub_gateway};

struct Gateway {
    directory: TempDir,
    authority: Authority,
    address: SocketAddr,
    versions: Arc<std::sync::Mutex<Vec<Version>>>,
}

/// A gateway that answers relays with a certificate of its authority.
async fn gateway(name: &str) -> Gateway {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.issue(directory.path(), "gateway", name);
    let settings = TlsSettings {
        certificate_file: files.certificate,
        key_file: files.key,
        client_ca_file: Some(authority.file(directory.path(), "ca.pem")),
        reload_seconds: 0,
    };
    let tls = ServerTls::load(&settings, Peers::Certified);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (router, recorder) = StubGateway::router(Duration::ZERO, || encapsulated("answer"));
    let (trigger, shutdown) = Shutdown::channel();
    std::mem::forget(trigger);
    let server = Server::new(listener, Limits::default()).with_tls(Some(tls.unwrap()));
    tokio::spawn(server.serve(router, shutdown));
    Gateway {
        directory,
        authority,
        address,
        versions: recorder.versions,
    }
}

impl Gateway {
    /// Of a request through a relay that shows `certificate` and trusts this gateway's authority,
    /// or `trusted`.
    async fn answer(
        &self,
        http: &str,
        certificate: Option<&Files>,
        trusted: Option<&Authority>,
    ) -> StatusCode {
        let trusted = trusted.unwrap_or(&self.authority);
        let ca = trusted.file(self.directory.path(), "trusted.pem");
        let mut settings = format!(
            "[[gateways]]\npath = '/g'\nhttp = '{http}'\nurl = 'https://localhost:{}/'\n\
             [gateways.tls]\nca_file = '{}'\n",
            self.address.port(),
            ca.display()
        );
        if let Some(files) = certificate {
            settings += &format!(
                "certificate_file = '{}'\nkey_file = '{}'\n",
                files.certificate.display(),
                files.key.display()
            );
        }
        let config = config("http://127.0.0.1:1/", &settings);
        let relay = serve_relay(&config, SystemClock::shared()).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(relay.url("/g")).body("x");
        let request = request.header(CONTENT_TYPE, "message/ohttp-req");
        request.send().await.unwrap().status()
    }

    fn relay_certificate(&self) -> Files {
        self.authority
            .issue(self.directory.path(), "relay", "relay")
    }
}

#[tokio::test]
async fn a_gateway_that_asks_for_a_certificate_gets_it_by_the_version_it_chooses() {
    let gateway = gateway("localhost").await;
    let files = gateway.relay_certificate();
    for http in ["auto", "2", "1.1"] {
        assert_eq!(
            gateway.answer(http, Some(&files), None).await,
            200,
            "{http}"
        );
    }
    let versions = gateway.versions.lock().unwrap().clone();
    assert_eq!(
        versions,
        [Version::HTTP_2, Version::HTTP_2, Version::HTTP_11]
    );
}

#[tokio::test]
async fn relay_and_gateway_that_do_not_know_each_other_exchange_nothing() {
    let gateway = gateway("localhost").await;
    let files = gateway.relay_certificate();
    let stranger = Authority::new();
    let strange = stranger.issue(gateway.directory.path(), "strange", "relay");
    for (certificate, trusted) in [
        (None, None),
        (Some(&strange), None),
        (Some(&files), Some(&stranger)),
    ] {
        assert_eq!(gateway.answer("auto", certificate, trusted).await, 502);
    }
    assert!(gateway.versions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_gateway_of_another_name_gets_nothing() {
    let gateway = gateway("gateway.example").await;
    let files = gateway.relay_certificate();
    assert_eq!(gateway.answer("auto", Some(&files), None).await, 502);
    assert!(gateway.versions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn clients_are_served_by_tls_and_the_command_takes_up_a_new_certificate() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = [Authority::new(), Authority::new()];
    let files = first.issue(directory.path(), "relay", "localhost");
    let path = directory.path().to_owned();
    let settings = format!("gateway = '{}'", stub.served.url("/"));
    let tables = format!(
        "[tls]\ncertificate_file = '{}'\nkey_file = '{}'\nreload_seconds = 0",
        files.certificate.display(),
        files.key.display()
    );
    let process = start_with(directory, &settings, "", &tables).await;
    let url = format!("https://localhost:{}/", process.port);
    // A connection of its own each time.
    let status = async |authority: &Authority| {
        let pem = std::fs::read(authority.file(&path, "ca.pem")).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_built_in_root_certs(false)
            .add_root_certificate(reqwest::Certificate::from_pem(&pem).unwrap())
            .build()
            .unwrap();
        let request = client.post(&url).body("x");
        let request = request.header(CONTENT_TYPE, "message/ohttp-req");
        request.send().await.ok().map(|answer| answer.status())
    };
    assert_eq!(status(&first).await, Some(StatusCode::OK));
    second.issue(&path, "relay", "localhost");
    assert_eq!(status(&second).await, None);
    assert_eq!(process.command("reload-tls").await, 200);
    assert_eq!(status(&second).await, Some(StatusCode::OK));
    assert_eq!(status(&first).await, None);
    // Files that cannot be used change nothing.
    std::fs::write(&files.certificate, "nonsense").unwrap();
    assert_eq!(process.command("reload-tls").await, 400);
    assert_eq!(status(&second).await, Some(StatusCode::OK));
    assert!(process.metrics().await.contains("tls_handshakes_total"));
}
