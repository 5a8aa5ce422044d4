//! Why a call failed, as `types.ts` says it.

use client::{Error, Fault, IssuerError, UsageError};
use serde::de::DeserializeOwned;
use serde_json::json;
use wasm_bindgen::JsValue;

/// An error in JSON, which the worker hands on.
pub struct Failure(String);

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        Self::from_str(&failure.0)
    }
}

/// What the worker has handed in.
pub(crate) fn given<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| {
        let detail = format!("a call is not as it should be: {error}");
        Failure::says(
            "usage",
            ("invalid-call", "caller", &detail),
            Vec::new(),
            None,
            None,
        )
    })
}

impl Failure {
    fn says(
        kind: &str,
        (code, fault, detail): (&str, &str, &str),
        names: Vec<String>,
        problem: Option<String>,
        retry_after_s: Option<u64>,
    ) -> Self {
        let error = json!({
            "kind": kind, "code": code, "fault": fault, "detail": detail, "names": names,
            "problem": problem, "retryAfterS": retry_after_s,
        });
        Self(error.to_string())
    }
}

fn names(error: &UsageError) -> Vec<String> {
    match error {
        UsageError::NewMembers { names, .. }
        | UsageError::WouldLeaveBehind(names)
        | UsageError::PartlyRestored(names) => names.clone(),
        UsageError::UnknownContact(name)
        | UsageError::AlreadyAMember(name)
        | UsageError::NotInGroup(name)
        | UsageError::LacksPostQuantum(name)
        | UsageError::Banned(name) => vec![name.clone()],
        _ => Vec::new(),
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let fault = match error.fault() {
            Fault::Caller => "caller",
            Fault::Peer => "peer",
            Fault::Service => "service",
            Fault::Issuer => "issuer",
            Fault::Network => "network",
            Fault::Local => "local",
        };
        let (mut problem, mut retry_after_s, mut about) = (None, None, Vec::new());
        let kind = match &error {
            Error::Usage(error) => {
                about = names(error);
                "usage"
            }
            Error::Attachment(_) if fault == "caller" => "usage",
            Error::Peer(_) | Error::Attachment(_) => "peer",
            Error::Refused(refusal) => {
                retry_after_s = refusal.retry_after_s;
                "refused"
            }
            Error::Push(refusal) => {
                problem = Some(refusal.problem.clone());
                retry_after_s = refusal.retry_after_s;
                "refused"
            }
            Error::Issuer(error) => {
                (problem, retry_after_s) = match error {
                    IssuerError::Refused(problem) => (Some(problem.clone()), None),
                    IssuerError::Limited {
                        problem,
                        retry_after_s,
                    } => (Some(problem.clone()), *retry_after_s),
                    IssuerError::WalletEmpty { filled_in_s } => (None, Some(*filled_in_s)),
                    _ => (None, None),
                };
                "issuer"
            }
            Error::Unreachable(no_answer) => {
                retry_after_s = no_answer.retry_after_s;
                "network"
            }
            Error::Local(_) => "local",
            _ => "service",
        };
        let detail = error.to_string();
        Self::says(
            kind,
            (error.code(), fault, &detail),
            about,
            problem,
            retry_after_s,
        )
    }
}
