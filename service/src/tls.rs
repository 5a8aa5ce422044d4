//! TLS for listeners and for connections between operators: rustls on AWS-LC, TLS 1.3 only, with
//! certificates that are read again when their files change.
//!
//! Nothing is resumed: no session tickets, no session cache, no early data. A ticket would let a
//! listener recognise a client that comes back from another address, and early data can be replayed
//! (RFC 8446 §8).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
pub use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::logging::Chain;
use crate::process::{Commands, Process};
use crate::shutdown::Shutdown;

/// The protocols of every listener and connection, preferred first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The admin command that reads all TLS files again.
pub const RELOAD_COMMAND: &str = "reload-tls";

/// The environment variable that names a file of authorities, PEM, trusted instead of those of the
/// web where the configuration names none.
pub const AUTHORITIES_VARIABLE: &str = "SSL_CERT_FILE";

/// The table `[tls]` of a public listener. Without it the listener speaks in the clear.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate and the chain to its root, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM, not accessible to others.
    pub key_file: PathBuf,
    /// With it, only clients with a certificate from these authorities are served. An OHTTP gateway
    /// shows its key configurations to others too.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// How often it is looked whether the files have changed; 0: by the admin command only.
    #[serde(default = "default_reload_seconds")]
    pub reload_seconds: u64,
}

/// How a process knows another operator's listener, and is known there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTlsSettings {
    /// The authorities that are trusted, PEM; absent: those of [`AUTHORITIES_VARIABLE`], else those
    /// of the web.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// What this process shows where it is asked for a certificate; with `key_file`.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Absent: every minute.
    #[serde(default)]
    pub reload_seconds: Option<u64>,
}

const DEFAULT_RELOAD_SECONDS: u64 = 60;

fn default_reload_seconds() -> u64 {
    DEFAULT_RELOAD_SECONDS
}

/// Why TLS could not be set up. For the operator only.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate or key file {} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the private key file {0} may be accessed by others: it has mode {mode:04o} and must have 0640 or less \
         (chmod 640 {0})",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the certificate file {} has no certificate in it, or something else", .0.display())]
    Certificate(PathBuf),
    #[error("the private key file {} has no usable key in it", .0.display())]
    Key(PathBuf),
    #[error("a client certificate needs both `certificate_file` and `key_file`")]
    Incomplete,
    #[error(
        "the certificate in {} and the key in {} cannot be used together",
        certificate.display(),
        key.display()
    )]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("TLS 1.3 cannot be set up")]
    Protocol(#[source] rustls::Error),
    #[error("the file of authorities {} cannot be used", .0.display())]
    Authorities(PathBuf),
}

/// A TLS configuration that follows its files. If new files are unusable it says so, and the last
/// usable ones stay in use.
pub struct Reloading<T> {
    files: Vec<PathBuf>,
    build: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    every: Duration,
    current: RwLock<Arc<T>>,
    seen: Mutex<Vec<Version>>,
}

/// Whom a listener with `client_ca_file` lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Nobody without a certificate.
    Certified,
    /// Everybody; requests say whether their peer [is certified](IsCertified).
    Anybody,
}

/// In the extensions of every request: whether its peer has shown a certificate from the
/// authorities of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsCertified(pub bool);

/// The certificate and trust of a listener.
pub type ServerTls = Reloading<ServerConfig>;
/// The trust and certificate of a client.
pub type ClientTls = Reloading<ClientConfig>;

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reloading(..)")
    }
}

/// Another content of a file, or another file behind the same path.
#[derive(PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl<T> Reloading<T> {
    fn new(
        files: Vec<PathBuf>,
        every: u64,
        build: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        // Before the files are read: a change in between is found at the next look.
        let seen = versions(&files);
        Ok(Arc::new(Self {
            current: RwLock::new(Arc::new(build()?)),
            build: Box::new(build),
            every: Duration::from_secs(every),
            seen: Mutex::new(seen),
            files,
        }))
    }

    /// What new connections use.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn versions(files: &[PathBuf]) -> Vec<Version> {
    files.iter().filter_map(|file| Version::of(file)).collect()
}

/// Something that can be read again from its files.
pub trait Reload: Send + Sync {
    /// Reads the files again, whether they have changed or not.
    ///
    /// # Errors
    /// They cannot be used; what was in use stays so.
    fn reload(&self) -> Result<(), TlsError>;
    /// [`Reload::reload`] if the files are others than when they were last used.
    ///
    /// # Errors
    /// As [`Reload::reload`].
    fn follow(&self) -> Result<bool, TlsError>;
    /// How often to look; zero for never.
    fn every(&self) -> Duration;
}

impl<T: Send + Sync> Reload for Reloading<T> {
    fn reload(&self) -> Result<(), TlsError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = versions(&self.files);
        let next = Arc::new((self.build)()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        *seen = found;
        Ok(())
    }

    fn follow(&self) -> Result<bool, TlsError> {
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == versions(&self.files) {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    fn every(&self) -> Duration {
        self.every
    }
}

/// Keeps every one of `parts` like its files until the shutdown, and offers [`RELOAD_COMMAND`].
pub fn keep_current(parts: Vec<Arc<dyn Reload>>, commands: &Commands, shutdown: &Shutdown) {
    for part in &parts {
        if part.every() > Duration::ZERO {
            tokio::spawn(follow(Arc::clone(part), shutdown.clone()));
        }
    }
    commands.offer(RELOAD_COMMAND, move |_| {
        // Each of them, whatever becomes of the others.
        let mut outcome = Ok(());
        for part in &parts {
            let reloaded = part.reload();
            count(reloaded.is_ok());
            if let Err(error) = reloaded {
                tracing::error!(error = %Chain(&error), "the TLS files cannot be used");
                outcome = Err("TLS files cannot be used; see the log");
            }
        }
        async move { outcome }
    });
}

async fn follow(part: Arc<dyn Reload>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(part.every()) => {}
            () = shutdown.requested() => return,
        }
        match part.follow() {
            Ok(false) => {}
            Ok(true) => {
                count(true);
                tracing::info!("the TLS files have changed and are in use");
            }
            // Perhaps the key comes a moment after its certificate: it is tried again.
            Err(error) => {
                count(false);
                tracing::error!(error = %Chain(&error), "the TLS files have changed and cannot be used");
            }
        }
    }
}

fn count(done: bool) {
    let outcome = if done { "done" } else { "failed" };
    metrics::counter!("tls_reloads_total", "outcome" => outcome).increment(1);
}

impl ServerTls {
    /// Reads the files of `settings`.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(settings: &TlsSettings, peers: Peers) -> Result<Arc<Self>, TlsError> {
        let mut files = vec![settings.certificate_file.clone(), settings.key_file.clone()];
        files.extend(settings.client_ca_file.clone());
        let every = settings.reload_seconds;
        let settings = settings.clone();
        Self::new(files, every, move || server_config(&settings, peers))
    }

    /// For a process whose listener is all that it has TLS for: loads it and keeps it current.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn of_listener(
        settings: Option<&TlsSettings>,
        peers: Peers,
        process: &Process,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let tls = settings
            .map(|settings| Self::load(settings, peers))
            .transpose()?;
        if let Some(tls) = &tls {
            let part: Arc<dyn Reload> = tls.clone();
            keep_current(vec![part], &process.commands, &process.shutdown);
        }
        Ok(tls)
    }
}

impl ClientTls {
    /// Reads the files of `settings`.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(settings: &ClientTlsSettings) -> Result<Arc<Self>, TlsError> {
        let files = [
            trusted_file(settings.ca_file.as_deref()),
            settings.certificate_file.clone(),
            settings.key_file.clone(),
        ];
        let files: Vec<_> = files.into_iter().flatten().collect();
        let every = if files.is_empty() {
            0
        } else {
            settings.reload_seconds.unwrap_or(DEFAULT_RELOAD_SECONDS)
        };
        let settings = settings.clone();
        Self::new(files, every, move || client_config(&settings))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What TLS in this process uses where nothing is said, so that no library brings another
/// implementation.
pub(crate) fn install_provider() {
    // An error means that there is one already.
    let _ = aws_lc_rs::default_provider().install_default();
}

fn server_config(settings: &TlsSettings, peers: Peers) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Protocol)?;
    let builder = match &settings.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(authorities(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match peers {
                Peers::Certified => verifier,
                Peers::Anybody => verifier.allow_unauthenticated(),
            };
            let verifier = verifier
                .build()
                .map_err(|_| TlsError::Authorities(file.clone()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(
            certificates(&settings.certificate_file)?,
            private_key(&settings.key_file)?,
        )
        .map_err(unusable(&settings.certificate_file, &settings.key_file))?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_config(settings: &ClientTlsSettings) -> Result<ClientConfig, TlsError> {
    let roots = match trusted_file(settings.ca_file.as_deref()) {
        Some(file) => authorities(&file)?,
        None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Protocol)?
        .with_root_certificates(roots);
    let mut config = match (&settings.certificate_file, &settings.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(unusable(certificate, key))?,
        _ => return Err(TlsError::Incomplete),
    };
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The file of authorities that is trusted: the configured one, otherwise the one that the
/// environment names as for OpenSSL; `None`: those of the web.
fn trusted_file(configured: Option<&Path>) -> Option<PathBuf> {
    configured.map(Path::to_owned).or_else(|| {
        std::env::var_os(AUTHORITIES_VARIABLE)
            .filter(|file| !file.is_empty())
            .map(PathBuf::from)
    })
}

/// The authorities that a client of another library trusts, instead of those of the web, where a
/// file was configured or [`AUTHORITIES_VARIABLE`] names one. They are read once.
///
/// # Errors
/// The file cannot be used.
pub fn private_authorities(
    configured: Option<&Path>,
) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    let Some(file) = trusted_file(configured) else {
        return Ok(None);
    };
    // That they can be used is seen here, with the file's name.
    authorities(&file)?;
    certificates(&file).map(Some)
}

fn unusable(certificate: &Path, key: &Path) -> impl Fn(rustls::Error) -> TlsError {
    move |source| TlsError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> TlsError {
    move |source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(unreadable(path))?;
    let no_certificate = || TlsError::Certificate(path.to_owned());
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| no_certificate())?;
    if certificates.is_empty() {
        return Err(no_certificate());
    }
    Ok(certificates)
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|_| TlsError::Authorities(path.to_owned()))?;
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mut file = File::open(path).map_err(unreadable(path))?;
    let metadata = file.metadata().map_err(unreadable(path))?;
    // Its group may read it: certificate tools and services often share one.
    if metadata.mode() & 0o037 != 0 {
        return Err(TlsError::Exposed {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        });
    }
    let mut pem = Zeroizing::new(Vec::with_capacity(
        usize::try_from(metadata.len()).unwrap_or(0) + 1,
    ));
    file.read_to_end(&mut pem).map_err(unreadable(path))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Key(path.to_owned()))
}
