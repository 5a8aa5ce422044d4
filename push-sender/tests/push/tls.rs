//! Pushes by https: to whom the URL names, as an authority that is trusted says, and to nobody
//! else.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use protocol::push::Address;
use service::tls::{Peers, Reload as _, ServerTls, TlsSettings};
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::support::{Device, PushService, Sender, registration, webhook};
use crate::web_push::Browser;

const PATH: &str = "/name-of-the-subscription";

/// A push service on this machine by TLS, and a push sender that trusts one authority.
struct Kit {
    service: PushService,
    tls: Arc<ServerTls>,
    authority: Authority,
    sender: Sender,
    /// Of the push service.
    directory: TempDir,
}

impl Kit {
    /// With a certificate for `name` by `authority`, or by the one that is trusted.
    async fn start(authority: Option<&Authority>, name: &str) -> Self {
        let (directory, of_sender) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let trusted = Authority::new();
        let files = authority
            .unwrap_or(&trusted)
            .issue(directory.path(), "push", name);
        let settings = TlsSettings {
            certificate_file: files.certificate,
            key_file: files.key,
            client_ca_file: None,
            reload_seconds: 0,
        };
        let tls = ServerTls::load(&settings, Peers::Anybody).unwrap();
        let service = PushService::start_with(Some(Arc::clone(&tls))).await;
        let host = format!("localhost:{}", service.port);
        let tables = format!(
            "[webhook]\nhosts = ['{host}']\n[web_push]\nhosts = ['{host}']\n\
             vapid_key_file = '{}'\ncontact = 'mailto:push@example.org'\n\
             [sending.tls]\nca_file = '{}'",
            of_sender.path().join("vapid.pk8").display(),
            trusted.file(of_sender.path(), "authority.pem").display(),
        );
        // Time to put the certificate right before the second attempt.
        let patient = [["retry_ms = 50", "retry_ms = 3000"]];
        Self {
            sender: Sender::start_changed(of_sender, &tables, &patient).await,
            service,
            tls,
            authority: trusted,
            directory,
        }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}{PATH}", self.service.port)
    }

    /// The push service shows the right certificate from now on.
    fn put_right(&self) {
        self.authority
            .issue(self.directory.path(), "push", "localhost");
        self.tls.reload().unwrap();
    }

    fn addresses(&self) -> [(&'static str, Address); 2] {
        [
            ("webhook", webhook(&self.url())),
            ("web_push", Browser::new().subscription(&self.url())),
        ]
    }
}

#[tokio::test]
async fn a_push_goes_by_tls_to_a_server_that_its_authority_vouches_for() {
    let kit = Kit::start(None, "localhost").await;
    for (_, address) in kit.addresses() {
        let mut device = Device::registered(&kit.sender, address).await;
        kit.sender.wake(device.handle(&kit.sender).await).await;
        let noted = kit.service.exactly(1).await.remove(0);
        assert_eq!((&*noted.path, noted.version), (PATH, Version::HTTP_2));
    }
}

#[tokio::test]
async fn a_server_of_another_name_or_authority_is_told_nothing_and_the_push_is_tried_later() {
    let stranger = Authority::new();
    tokio::join!(
        is_told_nothing(None, "other.example", 0),
        is_told_nothing(None, "other.example", 1),
        is_told_nothing(Some(&stranger), "localhost", 0),
        is_told_nothing(Some(&stranger), "localhost", 1),
    );
}

async fn is_told_nothing(authority: Option<&Authority>, name: &str, kind: usize) {
    let kit = Kit::start(authority, name).await;
    let (kind, address) = kit.addresses().into_iter().nth(kind).unwrap();
    let mut device = Device::registered(&kit.sender, address).await;
    kit.sender.wake(device.handle(&kit.sender).await).await;
    kit.sender
        .counts("push_sent_total", &[kind, "later"], 1)
        .await;
    kit.service.exactly(0).await;
    assert!(!kit.sender.log().contains(PATH), "{}", kit.sender.log());
    kit.put_right();
    assert_eq!(
        kit.service.exactly(1).await[0].path,
        PATH,
        "{kind} to {name}"
    );
}

#[tokio::test]
async fn nothing_is_asked_in_the_clear_or_on_this_machine_unless_tests_say_so() {
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    let tables = format!("[webhook]\nhosts = ['localhost:{port}', '127.0.0.1:{port}']");
    let outwards = [["allow_loopback = true", "allow_loopback = false"]];
    let sender = Sender::start_changed(TempDir::new().unwrap(), &tables, &outwards).await;
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("http://{host}:{port}/");
        let request = Device::new().request(registration(webhook(&url), 0));
        assert_eq!(sender.device(request).await.0, 400, "{url}");
    }
    // The name is listed, and leads inwards.
    let url = format!("https://localhost:{port}/");
    let mut device = Device::registered(&sender, webhook(&url)).await;
    sender.wake(device.handle(&sender).await).await;
    sender.counts("push_given_up_total", &[], 1).await;
    let connected = tokio::time::timeout(Duration::from_millis(100), inside.accept()).await;
    assert!(connected.is_err(), "somebody came in");
}
