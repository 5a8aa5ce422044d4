//! The addresses of the services, and whose certificates are taken there.

#[cfg(not(target_arch = "wasm32"))]
use rustls::pki_types::CertificateDer;
#[cfg(not(target_arch = "wasm32"))]
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

#[cfg(not(target_arch = "wasm32"))]
use crate::error::LocalError;
use crate::error::{Error, UsageError};

/// The addresses of the services, as `stack.json` has them. Members that are not listed are
/// ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Where `message/ohttp-req` is posted.
    pub relay: String,
    /// The gateway; never contacted by a client.
    pub gateway: String,
    /// Where the gateway's key configurations are fetched from.
    pub ohttp_keys: String,
    /// Where else they are shown, by somebody who is not the relay's operator; asked before a new
    /// key is used. Each must answer.
    #[serde(default)]
    pub ohttp_key_mirrors: Vec<String>,
    /// The delivery service, as the gateway knows it; reached through relay and gateway only.
    pub ds: String,
    /// The token issuer; reached directly, since it knows the account anyway.
    pub issuer: String,
    /// The issuer's name in token challenges (RFC 9577 §2.1.1). Without it: host and port of
    /// `issuer`.
    #[serde(default)]
    pub issuer_name: Option<String>,
    /// The origin that tokens are for. Without it: host and port of `ds`.
    #[serde(default)]
    pub token_origin: Option<String>,
    /// The authorities, in PEM, that the certificates of relay, mirrors and issuer must be from,
    /// instead of those of the web. See [`Endpoints::trust`].
    #[serde(default)]
    pub authorities: Option<String>,
    /// Where devices register to be woken. Without it they read by their own clocks.
    #[serde(default)]
    pub push: Option<PushEndpoint>,
    /// Who runs them.
    pub operators: Operators,
}

/// Who runs each service, by any name that is the operator's own. What one of them alone does not
/// learn, two together may: so a client takes no two for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operators {
    /// Of the relay: it knows addresses.
    pub relay: String,
    /// Of gateway and delivery service: it knows requests.
    pub gateway: String,
    /// Of the issuer: it knows accounts.
    pub issuer: String,
    /// Of the push sender: it knows devices. The issuer's operator can be the same.
    #[serde(default)]
    pub push_sender: Option<String>,
}

impl Operators {
    /// # Errors
    /// [`UsageError::SameOperator`], [`UsageError::InvalidStack`].
    fn check(&self, needs_push_sender: bool) -> Result<(), UsageError> {
        let push_sender = self.push_sender.as_deref();
        if needs_push_sender && push_sender.is_none() {
            return Err(UsageError::InvalidStack(
                "operators do not name that of the push sender",
            ));
        }
        let (relay, gateway) = (("relay", &*self.relay), ("gateway", &*self.gateway));
        let issuer = ("issuer", &*self.issuer);
        let push_sender = push_sender.map(|name| ("push sender", name));
        let named = [relay, gateway, issuer].into_iter().chain(push_sender);
        for (_, name) in named {
            if name.trim().is_empty() || name.len() > LONGEST_NAME {
                return Err(UsageError::InvalidStack(
                    "the name of an operator is empty or too long",
                ));
            }
        }
        let pairs = [(relay, gateway), (relay, issuer), (gateway, issuer)];
        let of_push = push_sender.map(|it| [(relay, it), (gateway, it)]);
        for ((one, name), (other, others)) in pairs.into_iter().chain(of_push.into_iter().flatten())
        {
            if name.trim().to_lowercase() == others.trim().to_lowercase() {
                return Err(UsageError::SameOperator(one, other));
            }
        }
        Ok(())
    }
}

/// The way to a push sender: through a relay and the push sender's own gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushEndpoint {
    /// Where `message/ohttp-req` is posted for the push sender's gateway.
    pub relay: String,
    /// Where that gateway's key configurations are fetched from.
    pub ohttp_keys: String,
    /// Where else they are shown. Each must answer.
    #[serde(default)]
    pub ohttp_key_mirrors: Vec<String>,
    /// The push sender, as its gateway knows it.
    pub sender: String,
}

impl Endpoints {
    /// Reads the content of a `stack.json`.
    ///
    /// # Errors
    /// [`UsageError::InvalidStack`], [`UsageError::SameOperator`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let endpoints: Self = serde_json::from_slice(json).map_err(|_| {
            UsageError::InvalidStack(
                "relay, gateway, ohttp_keys, ds, issuer and operators are needed",
            )
        })?;
        endpoints.check()?;
        Ok(endpoints)
    }

    /// # Errors
    /// [`UsageError::InvalidStack`], [`UsageError::SameOperator`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.ds_origin()?;
        self.operators.check(self.push.is_some())?;
        let mirrors = self.ohttp_key_mirrors.iter();
        for url in [&self.relay, &self.ohttp_keys, &self.issuer]
            .into_iter()
            .chain(mirrors)
        {
            url.parse::<http::Uri>()
                .ok()
                .filter(|uri| uri.authority().is_some())
                .ok_or(UsageError::InvalidStack("an address is not a URL"))?;
        }
        for name in [self.issuer_name(), self.token_origin()] {
            let is_name = name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b',');
            if name.is_empty() || name.len() > LONGEST_NAME || !is_name {
                return Err(UsageError::InvalidStack(
                    "issuer_name and token_origin are visible ASCII without commas",
                )
                .into());
            }
        }
        Ok(())
    }

    pub(crate) fn issuer_name(&self) -> String {
        self.issuer_name
            .clone()
            .unwrap_or_else(|| authority(&self.issuer))
    }

    pub(crate) fn token_origin(&self) -> String {
        self.token_origin
            .clone()
            .unwrap_or_else(|| authority(&self.ds))
    }

    /// Has only certificates from these authorities taken, PEM; `origin` says where they are from.
    ///
    /// # Errors
    /// [`LocalError::Authorities`]: there is none, or something else.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn trust(&mut self, pem: &[u8], origin: &str) -> Result<(), Error> {
        let unusable = || LocalError::Authorities(origin.to_owned());
        let text = String::from_utf8(pem.to_vec()).map_err(|_| unusable())?;
        certificates(text.as_bytes()).map_err(|_| unusable())?;
        self.authorities = Some(text);
        Ok(())
    }

    /// Scheme and authority of the delivery service, for the inner requests.
    pub(crate) fn ds_origin(&self) -> Result<(String, String), Error> {
        let uri: http::Uri = self
            .ds
            .parse()
            .map_err(|_| UsageError::InvalidStack("ds is not a URL"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) => Ok((scheme.to_owned(), authority.to_string())),
            _ => Err(UsageError::InvalidStack("ds is not a URL").into()),
        }
    }
}

pub(crate) const LONGEST_NAME: usize = 255;

/// Host and port of a URL.
pub(crate) fn authority(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    uri.and_then(|uri| Some(uri.authority()?.to_string()))
        .unwrap_or_default()
}

/// There is no certificate, or something else.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) struct NoCertificates;

/// All certificates of a PEM file, of which there is one at least.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, NoCertificates> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or(NoCertificates)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn operators() -> Operators {
        Operators {
            relay: "A".into(),
            gateway: "B".into(),
            issuer: "C".into(),
            push_sender: Some("D".into()),
        }
    }

    #[test]
    fn no_operator_may_run_two_services_that_together_know_who_asks_what() {
        type Change = fn(&mut Operators);
        assert_eq!(operators().check(true), Ok(()));
        let refused: [(Change, (&str, &str)); 5] = [
            (|it| it.gateway = " a".into(), ("relay", "gateway")),
            (|it| it.issuer = "a ".into(), ("relay", "issuer")),
            (|it| it.issuer = "b".into(), ("gateway", "issuer")),
            (|it| it.relay = "d".into(), ("relay", "push sender")),
            (|it| it.gateway = "D".into(), ("gateway", "push sender")),
        ];
        for (change, (one, other)) in refused {
            let mut operators = operators();
            change(&mut operators);
            let same = Err(UsageError::SameOperator(one, other));
            assert_eq!(operators.check(true), same);
        }
    }

    #[test]
    fn every_operator_has_a_name_and_that_of_a_push_sender_if_there_is_one() {
        let unnamed = Operators {
            relay: " ".into(),
            ..operators()
        };
        assert!(matches!(
            unnamed.check(true),
            Err(UsageError::InvalidStack(_))
        ));
        let without = Operators {
            push_sender: None,
            ..operators()
        };
        assert_eq!(without.check(false), Ok(()));
        assert!(matches!(
            without.check(true),
            Err(UsageError::InvalidStack(_))
        ));
    }
}
