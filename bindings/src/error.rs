//! Why a call failed.

use client::{Error, IssuerError, UsageError};

use crate::mirror::word;

word! {
    /// Who has to act for the same call to succeed.
    Fault {
        /// Whoever called: a name that is not there, a group that one is no member of.
        Caller,
        /// Another user: what they sent does not verify.
        Peer,
        /// The delivery service, the gateway or the relay.
        Service,
        /// The token issuer, or the account with it.
        Issuer,
        /// Nobody that can be told apart: no answer came.
        Network,
        /// This machine: its disk, its files, another process.
        Local,
    }
}

/// Why a call failed. `code` is a stable name for programs, `fault` says who has to act. `detail`
/// is a sentence in English for whoever looks for the reason. What users are told follows from
/// `code`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
pub enum ClientError {
    /// The call cannot be done as it was made: a name that is not there, a group that one is no
    /// member of.
    #[error("{detail}")]
    Usage {
        /// Such as `unknown-group`.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
        /// The contacts, members or groups that the error is about, as they are shown, where a call
        /// concerns several. Empty for other errors. Members choose their names themselves.
        names: Vec<String>,
    },
    /// What another user sent, or a service in their name, does not verify.
    #[error("{detail}")]
    Peer {
        /// `peer`, `unauthenticated-group`, `attachment-damaged`, or `attachment-incomplete`.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
    },
    /// The delivery service or the push sender refused the request.
    #[error("{detail}")]
    Refused {
        /// The service's problem type, such as `unknown-handle`; `push-refused` for the push
        /// sender.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
        /// The push sender's problem type.
        problem: Option<String>,
        /// When to come back, in seconds, if it says so.
        retry_after_s: Option<u64>,
    },
    /// A service answered or announced something that is not taken. Where it could mark or deceive
    /// this client, nothing with a content was sent.
    #[error("{detail}")]
    Service {
        /// Such as `key-config-mismatch`.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
    },
    /// No token could be had.
    #[error("{detail}")]
    Issuer {
        /// Such as `wallet-empty`.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
        /// The issuer's problem type, if it refused.
        problem: Option<String>,
        /// When to come back, in seconds, if that is known.
        retry_after_s: Option<u64>,
    },
    /// No usable answer within the time that was given. Whether the request had an effect is not
    /// known; what was queued stays queued.
    #[error("{detail}")]
    Network {
        /// `unreachable`.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
        /// When to come back, in seconds, if somebody on the way said so.
        retry_after_s: Option<u64>,
    },
    /// This machine: its disk, its files, another process.
    #[error("{detail}")]
    Local {
        /// Such as `busy`, and `stopped` for a client that has ended.
        code: String,
        /// Who has to act.
        fault: Fault,
        /// In words.
        detail: String,
    },
}

impl From<UsageError> for ClientError {
    fn from(error: UsageError) -> Self {
        Error::from(error).into()
    }
}

/// What somebody's implementation of an interface failed at, where it is called.
impl From<uniffi::UnexpectedUniFFICallbackError> for ClientError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Local {
            code: "local".to_owned(),
            fault: Fault::Local,
            detail: error.reason,
        }
    }
}

fn names(error: UsageError) -> Vec<String> {
    match error {
        UsageError::NewMembers { names, .. }
        | UsageError::WouldLeaveBehind(names)
        | UsageError::PartlyRestored(names) => names,
        UsageError::UnknownContact(name)
        | UsageError::AlreadyAMember(name)
        | UsageError::NotInGroup(name)
        | UsageError::LacksPostQuantum(name)
        | UsageError::Banned(name) => vec![name],
        _ => Vec::new(),
    }
}

/// The problem type of a refusal, and when to come back.
fn refusal(error: IssuerError) -> (Option<String>, Option<u64>) {
    match error {
        IssuerError::Refused(problem) => (Some(problem), None),
        IssuerError::Limited {
            problem,
            retry_after_s,
        } => (Some(problem), retry_after_s),
        IssuerError::WalletEmpty { filled_in_s } => (None, Some(filled_in_s)),
        _ => (None, None),
    }
}

impl From<Error> for ClientError {
    fn from(error: Error) -> Self {
        let (code, detail) = (error.code().to_owned(), error.to_string());
        let fault = error.fault().into();
        match error {
            Error::Usage(error) => Self::Usage {
                code,
                fault,
                detail,
                names: names(error),
            },
            Error::Attachment(_) if fault == Fault::Caller => Self::Usage {
                code,
                fault,
                detail,
                names: Vec::new(),
            },
            Error::Peer(_) | Error::Attachment(_) => Self::Peer {
                code,
                fault,
                detail,
            },
            Error::Refused(refusal) => Self::Refused {
                code,
                fault,
                detail,
                problem: None,
                retry_after_s: refusal.retry_after_s,
            },
            Error::Push(refusal) => Self::Refused {
                code,
                fault,
                detail,
                problem: Some(refusal.problem),
                retry_after_s: refusal.retry_after_s,
            },
            Error::Issuer(error) => {
                let (problem, retry_after_s) = refusal(error);
                Self::Issuer {
                    code,
                    fault,
                    detail,
                    problem,
                    retry_after_s,
                }
            }
            Error::Unreachable(no_answer) => Self::Network {
                code,
                fault,
                detail,
                retry_after_s: no_answer.retry_after_s,
            },
            Error::Local(_) => Self::Local {
                code,
                fault,
                detail,
            },
            // What services announce and answer, and what the SDK learns to tell later.
            _ => Self::Service {
                code,
                fault,
                detail,
            },
        }
    }
}
