//! Whose certificates are taken.

use std::sync::Arc;

use reqwest::ClientBuilder;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::endpoints::{Endpoints, certificates};
use crate::error::{Error, LocalError};

/// Names a file of authorities, PEM, as for OpenSSL.
const VARIABLE: &str = "SSL_CERT_FILE";

/// How TLS is done: version 1.3, with X25519MLKEM768 first, trusting the authorities of the
/// endpoints, otherwise those that the environment names, otherwise those of the web.
pub(crate) fn apply(builder: ClientBuilder, endpoints: &Endpoints) -> Result<ClientBuilder, Error> {
    Ok(builder.use_preconfigured_tls(config(endpoints)?))
}

fn config(endpoints: &Endpoints) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|_| LocalError::Http)?
        .with_root_certificates(authorities(endpoints)?)
        .with_no_client_auth();
    Ok(config)
}

fn authorities(endpoints: &Endpoints) -> Result<RootCertStore, Error> {
    let (pem, origin) = match &endpoints.authorities {
        Some(pem) => (pem.clone().into_bytes(), "the profile".to_owned()),
        None => match std::env::var_os(VARIABLE).filter(|file| !file.is_empty()) {
            None => return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()),
            Some(file) => {
                let path = std::path::Path::new(&file);
                let pem = std::fs::read(path)
                    .map_err(crate::error::FileError::at(path, "read"))
                    .map_err(LocalError::File)?;
                (pem, format!("{} ({VARIABLE})", path.display()))
            }
        },
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&pem).map_err(|_| LocalError::Authorities(origin.clone()))? {
        roots
            .add(certificate)
            .map_err(|_| LocalError::Authorities(origin.clone()))?;
    }
    Ok(roots)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Who listens at a relay opens nothing later by breaking X25519.
    #[tokio::test]
    async fn a_handshake_has_a_share_of_ml_kem_and_no_version_before_1_3() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}/",
            listener.local_addr().unwrap().port()
        );
        let endpoints = serde_json::json!({
            "relay": url, "gateway": "https://b.example", "ohttp_keys": url, "ds": "https://b.example",
            "issuer": "https://c.example",
            "operators": { "relay": "A", "gateway": "B", "issuer": "C" },
        });
        let endpoints = Endpoints::from_json(endpoints.to_string().as_bytes()).unwrap();
        let http = apply(reqwest::Client::builder().no_proxy(), &endpoints).unwrap();
        let http = http.build().unwrap();
        tokio::spawn(async move { http.get(url).send().await });
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 5];
        socket.read_exact(&mut hello).await.unwrap();
        let length = u16::from_be_bytes([hello[3], hello[4]]);
        hello.resize(5 + usize::from(length), 0);
        socket.read_exact(&mut hello[5..]).await.unwrap();
        let offers = |part: &[u8]| hello.windows(part.len()).any(|window| window == part);
        // RFC 8446, section 4.2.8: the first share is of 0x11ec and has 1,184 and 32 bytes.
        let share = hello.windows(10).any(|window| {
            window.starts_with(&[0, 51]) && window.ends_with(&[0x11, 0xec, 0x04, 0xc0])
        });
        assert!(share, "no share of ML-KEM comes first");
        // Section 4.2.1: a list of one version, 1.3.
        assert!(offers(&[0, 43, 0, 3, 2, 3, 4]));
    }
}
