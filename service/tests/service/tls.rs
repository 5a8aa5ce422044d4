//! TLS of listeners, on real sockets.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::routing::get;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use service::http::{Limits, Server};
use service::start::Commands;
use service::tls::{
    ClientTls, ClientTlsSettings, IsCertified, Peers, Reload, ServerTls, TlsError, TlsSettings,
};
use service::{Shutdown, ShutdownTrigger};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{Authority, Files};
use crate::support::SOON;

struct Listener {
    directory: TempDir,
    authority: Authority,
    settings: TlsSettings,
    tls: Arc<ServerTls>,
    address: SocketAddr,
    shutdown: Shutdown,
    _trigger: ShutdownTrigger,
}

fn settings(files: Files) -> TlsSettings {
    TlsSettings {
        certificate_file: files.certificate,
        key_file: files.key,
        client_ca_file: None,
        reload_seconds: 1,
    }
}

async fn listener(with: impl FnOnce(&mut TlsSettings, &Authority, &TempDir)) -> Listener {
    listener_for(Peers::Certified, PATIENT, with).await
}

/// Seconds that no handshake takes, however busy the machine is.
const PATIENT: u64 = 10;

async fn listener_for(
    peers: Peers,
    header_read_seconds: u64,
    with: impl FnOnce(&mut TlsSettings, &Authority, &TempDir),
) -> Listener {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut settings = settings(authority.issue(directory.path(), "server", "localhost"));
    with(&mut settings, &authority, &directory);
    let tls = ServerTls::load(&settings, peers).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    let limits = Limits {
        header_read_seconds,
        ..Limits::default()
    };
    let router = service::http::router().route("/", get(answer));
    let server = Server::new(tcp, limits).with_tls(Some(tls.clone()));
    tokio::spawn(server.serve(router, shutdown.clone()));
    Listener {
        directory,
        authority,
        settings,
        tls,
        address,
        shutdown,
        _trigger: trigger,
    }
}

impl Listener {
    fn client(&self, certificate: Option<Files>) -> Arc<ClientTls> {
        let (certificate_file, key_file) = certificate
            .map(|files| (files.certificate, files.key))
            .unzip();
        ClientTls::load(&ClientTlsSettings {
            ca_file: Some(self.authority.file(self.directory.path(), "ca.pem")),
            certificate_file,
            key_file,
            reload_seconds: Some(0),
        })
        .unwrap()
    }

    async fn connect(&self, config: Arc<rustls::ClientConfig>) -> std::io::Result<Connection> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Connection(stream))
    }

    /// By HTTP/1.1, which is easily spoken by hand.
    fn http1(&self, certificate: Option<Files>) -> Arc<rustls::ClientConfig> {
        let mut config = rustls::ClientConfig::clone(&self.client(certificate).current());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

async fn answer(Extension(IsCertified(is_certified)): Extension<IsCertified>) -> &'static str {
    if is_certified {
        "certified answer"
    } else {
        "answer"
    }
}

struct Connection(TlsStream<TcpStream>);

impl Connection {
    async fn ask(&mut self) -> std::io::Result<String> {
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        self.0.write_all(request).await?;
        let mut answer = vec![0; 4096];
        let len = self.0.read(&mut answer).await?;
        answer.truncate(len);
        Ok(String::from_utf8(answer).unwrap())
    }

    fn certificate(&self) -> Vec<u8> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

#[tokio::test]
async fn requests_are_answered_and_http2_is_offered() {
    let listener = listener(|_, _, _| {}).await;
    let mut connection = listener.connect(listener.http1(None)).await.unwrap();
    assert!(connection.ask().await.unwrap().ends_with("answer"));
    let both = listener.client(None).current();
    let connection = listener.connect(both).await.unwrap();
    assert_eq!(connection.0.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(
        connection.0.get_ref().1.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
}

#[tokio::test]
async fn no_session_is_resumed_that_would_recognise_a_client() {
    let listener = listener(|_, _, _| {}).await;
    let mut config = rustls::ClientConfig::clone(&listener.http1(None));
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..3 {
        let mut connection = listener.connect(config.clone()).await.unwrap();
        connection.ask().await.unwrap();
        let session = connection.0.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn with_an_authority_for_clients_only_those_it_has_signed_are_answered() {
    let listener = listener(|settings, authority, directory| {
        settings.client_ca_file = Some(authority.file(directory.path(), "clients.pem"));
    })
    .await;
    let directory = listener.directory.path();
    let known = listener.authority.issue(directory, "relay", "relay");
    let mut connection = listener.connect(listener.http1(Some(known))).await.unwrap();
    assert!(connection.ask().await.unwrap().ends_with("answer"));
    let foreign = Authority::new().issue(directory, "foreign", "relay");
    for certificate in [None, Some(foreign)] {
        // In TLS 1.3 the client learns of it when it reads.
        let refused = match listener.connect(listener.http1(certificate)).await {
            Ok(mut connection) => connection.ask().await.map(|answer| answer.len()),
            Err(error) => Err(error),
        };
        assert!(refused.is_err() || refused.is_ok_and(|len| len == 0));
    }
}

#[tokio::test]
async fn changed_files_are_used_for_new_connections_and_open_ones_go_on() {
    let listener = listener(|_, _, _| {}).await;
    service::tls::keep_current(
        vec![listener.tls.clone()],
        &Commands::default(),
        &listener.shutdown,
    );
    let config = listener.http1(None);
    let mut open = listener.connect(config.clone()).await.unwrap();
    open.ask().await.unwrap();
    let first = open.certificate();
    let directory = listener.directory.path();
    listener.authority.issue(directory, "server", "localhost");
    let mut waited = 0;
    while listener
        .connect(config.clone())
        .await
        .unwrap()
        .certificate()
        == first
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
        waited += 1;
        assert!(waited < 50, "the new certificate is not used");
    }
    assert_eq!(open.certificate(), first);
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_last_ones_in_use() {
    let listener = listener(|_, _, _| {}).await;
    let config = listener.http1(None);
    let first = listener
        .connect(config.clone())
        .await
        .unwrap()
        .certificate();
    assert!(!listener.tls.follow().unwrap(), "nothing has changed");
    // A certificate whose key is not there yet.
    let directory = listener.directory.path();
    let key = fs::read(&listener.settings.key_file).unwrap();
    listener.authority.issue(directory, "server", "localhost");
    let next_key = fs::read(&listener.settings.key_file).unwrap();
    fs::write(&listener.settings.key_file, key).unwrap();
    assert!(matches!(
        listener.tls.follow(),
        Err(TlsError::Unusable { .. })
    ));
    assert!(matches!(
        listener.tls.reload(),
        Err(TlsError::Unusable { .. })
    ));
    let still = listener.connect(config.clone()).await.unwrap();
    assert_eq!(still.certificate(), first);
    fs::write(&listener.settings.key_file, next_key).unwrap();
    assert!(listener.tls.follow().unwrap());
    let next = listener.connect(config).await.unwrap().certificate();
    assert_ne!(next, first);
}

#[test]
fn wrong_files_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let good = || settings(authority.issue(directory.path(), "server", "localhost"));
    let refusal = |settings: TlsSettings| ServerTls::load(&settings, Peers::Certified).unwrap_err();
    let exposed = good();
    fs::set_permissions(&exposed.key_file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(refusal(exposed), TlsError::Exposed { .. }));
    let shared = good();
    fs::set_permissions(&shared.key_file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(ServerTls::load(&shared, Peers::Certified).is_ok());
    let empty = good();
    fs::write(&empty.certificate_file, "").unwrap();
    assert!(matches!(refusal(empty), TlsError::Certificate(_)));
    let mut swapped = good();
    swapped.key_file = authority.issue(directory.path(), "other", "localhost").key;
    assert!(matches!(refusal(swapped), TlsError::Unusable { .. }));
    let keyless = good();
    fs::write(&keyless.key_file, "no key").unwrap();
    assert!(matches!(refusal(keyless), TlsError::Key(_)));
    let mut missing = good();
    missing.client_ca_file = Some(directory.path().join("nowhere.pem"));
    assert!(matches!(refusal(missing), TlsError::Unreadable { .. }));
    let half = ClientTlsSettings {
        certificate_file: Some(good().certificate_file),
        ..ClientTlsSettings::default()
    };
    assert!(matches!(
        ClientTls::load(&half).unwrap_err(),
        TlsError::Incomplete
    ));
}

#[tokio::test]
async fn whoever_speaks_no_tls_or_none_to_the_end_is_let_go() {
    let listener = listener_for(Peers::Certified, 1, |_, _, _| {}).await;
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b""] {
        let mut stream = TcpStream::connect(listener.address).await.unwrap();
        stream.write_all(words).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(SOON, read)
            .await
            .expect("the listener closes");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("HTTP"), "{text}");
    }
}

#[tokio::test]
async fn a_listener_for_anybody_tells_those_with_a_certificate_from_others_and_takes_no_strangers_one()
 {
    let listener = listener_for(Peers::Anybody, PATIENT, |settings, authority, directory| {
        settings.client_ca_file = Some(authority.file(directory.path(), "clients.pem"));
    })
    .await;
    let issue = |authority: &Authority, name| {
        authority.issue(listener.directory.path(), name, "relay.example")
    };
    let known = issue(&listener.authority, "known");
    let mut certified = listener.connect(listener.http1(Some(known))).await.unwrap();
    assert!(
        certified
            .ask()
            .await
            .unwrap()
            .ends_with("\r\ncertified answer")
    );
    let mut anybody = listener.connect(listener.http1(None)).await.unwrap();
    assert!(anybody.ask().await.unwrap().ends_with("\r\nanswer"));
    let strange = issue(&Authority::new(), "strange");
    let refused = match listener.connect(listener.http1(Some(strange))).await {
        // In TLS 1.3 the refusal comes after the client's end of the handshake.
        Ok(mut connection) => connection.ask().await.map(|answer| answer.is_empty()),
        Err(error) => Err(error),
    };
    assert!(refused.unwrap_or(true));
}
