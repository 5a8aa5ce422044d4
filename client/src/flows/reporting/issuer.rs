//! The way to the issuer for certificates and reports, as this account.

use std::time::Duration;

use crypto::reporting::{OwnCertificate, request_certificate, verify_certificate};
use protocol::Wire as _;
use protocol::reporting::{
    AbuseReport, CERTIFICATE_PATH, CERTIFICATE_REQUEST_MEDIA_TYPE, DIRECTORY_PATH,
    REPORT_MEDIA_TYPE, REPORT_PATH, ReportingCertificate, ReportingDirectory,
};
use zeroize::Zeroizing;

use crate::encoding::decode_base64url;
use crate::engine::Engine;
use crate::error::{Error, IssuerError, NoAnswer};
use crate::net::http as web;
use crate::net::issuer::{problem_name, read};
use crate::net::trust::unreached;

/// A report is worth some patience; keys and certificates are asked for again anyway.
/// Certificate keys that are taken over: a rotation needs three.
const MAX_KEYS: usize = 8;
const REPORT_ATTEMPTS: u32 = 5;

pub(super) struct ReportingIssuer {
    http: web::Client,
    url: String,
    account: Zeroizing<String>,
}

/// The issuer's directory; without keys when it offers no certificates.
pub(super) struct Offered {
    pub(super) required: bool,
    pub(super) keys: Vec<[u8; 32]>,
}

impl Engine {
    pub(super) fn reporting_issuer(&self) -> ReportingIssuer {
        ReportingIssuer {
            http: self.transport.http().clone(),
            url: self.transport.issuer().to_owned(),
            account: Zeroizing::new(format!("Bearer {}", self.profile.account_token.as_str())),
        }
    }
}

impl ReportingIssuer {
    /// Asked for without the account: everybody gets the same.
    pub(super) async fn directory(&self) -> Result<Offered, Error> {
        let request = self.http.get(format!("{}{DIRECTORY_PATH}", self.url));
        let (status, body) = send(request).await?;
        let none = Offered {
            required: false,
            keys: Vec::new(),
        };
        if status == 404 {
            return Ok(none);
        }
        let body = answer(status, body)?;
        let directory: ReportingDirectory =
            serde_json::from_slice(&body).map_err(|_| IssuerError::Answer)?;
        if directory.certificate_keys.len() > MAX_KEYS {
            return Err(IssuerError::Answer.into());
        }
        let keys = directory
            .certificate_keys
            .iter()
            .map(|key| {
                let key = decode_base64url(key).map_err(|_| IssuerError::Answer)?;
                <[u8; 32]>::try_from(key).map_err(|_| IssuerError::Answer.into())
            })
            .collect::<Result<_, Error>>()?;
        Ok(Offered {
            required: directory.required,
            keys,
        })
    }

    /// A certificate over `identity`, which the issuer does not learn, under one of the keys that
    /// everybody gets.
    pub(super) async fn certify(
        &self,
        identity: &[u8; 32],
        keys: &[[u8; 32]],
        today: u32,
    ) -> Result<OwnCertificate, Error> {
        let (request, salt) = request_certificate(identity)?;
        let (status, body) = send(self.post(
            CERTIFICATE_PATH,
            CERTIFICATE_REQUEST_MEDIA_TYPE,
            request.encode(),
        ))
        .await?;
        let body = answer(status, body)?;
        let certificate = ReportingCertificate::decode(&body).map_err(|_| IssuerError::Answer)?;
        let own = OwnCertificate { certificate, salt };
        verify_certificate(&own, identity, keys, today).map_err(|_| IssuerError::Answer)?;
        Ok(own)
    }

    /// The issuer takes the same report once, so it can be repeated.
    pub(super) async fn report(&self, report: &AbuseReport) -> Result<(), Error> {
        let body = report.encode();
        let mut pause = Duration::from_millis(200);
        for _ in 0..REPORT_ATTEMPTS {
            let request = self.post(REPORT_PATH, REPORT_MEDIA_TYPE, body.clone());
            match send(request).await {
                Err(Error::Unreachable(_)) | Ok((500..=599, _)) => {}
                other => {
                    let (status, body) = other?;
                    return answer(status, body).map(|_| ());
                }
            }
            crate::runtime::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(NoAnswer::from(format!("the issuer at {} cannot answer", self.url)).into())
    }

    fn post(&self, path: &str, media_type: &str, body: Vec<u8>) -> web::RequestBuilder {
        self.http
            .post(format!("{}{path}", self.url))
            .header("content-type", media_type)
            .header("authorization", self.account.as_str())
            .body(body)
    }
}

async fn send(request: web::RequestBuilder) -> Result<(u16, Vec<u8>), Error> {
    let answer = request.send().await.map_err(|error| {
        let url = error.url().map(ToString::to_string).unwrap_or_default();
        NoAnswer::from(unreached("the issuer", &url, &error))
    })?;
    let status = answer.status().as_u16();
    let broken = || NoAnswer::from("the answer of the issuer broke off");
    let body = read(answer).await.ok_or_else(broken)?;
    Ok((status, body))
}

fn answer(status: u16, body: Vec<u8>) -> Result<Vec<u8>, Error> {
    match status {
        200..=299 => Ok(body),
        500..=599 => Err(NoAnswer::from("the issuer cannot answer").into()),
        _ => Err(IssuerError::Refused(problem_name(&body)).into()),
    }
}
