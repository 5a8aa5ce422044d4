//! Answers that are none: what stands in no protocol, and problems that do not belong to the
//! request.

use client::StopReason;
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::operation::Operation;
use serde_json::json;

use super::Outcome::{Harmless, Refused, Stops, Waits};
use super::{Does, Outcome};
use crate::liar::Told;

/// An answer that the operation does not have.
#[derive(Debug, Clone, Copy)]
pub struct Wrong {
    /// What it is.
    pub what: &'static str,
    status: u16,
    /// The last part of the problem's type; for none, a page of HTML.
    problem: &'static str,
    retry_after: Option<&'static str>,
    challenge: bool,
}

impl Wrong {
    const fn problem(what: &'static str, status: u16, problem: &'static str) -> Self {
        Self {
            what,
            status,
            problem,
            retry_after: None,
            challenge: false,
        }
    }

    /// The answer of HTTP.
    ///
    /// # Panics
    /// When the table has no such status.
    #[must_use]
    pub fn told(&self) -> Told {
        let mut headers = HeaderMap::new();
        let mut set = |name, value| drop(headers.insert(name, HeaderValue::from_static(value)));
        if let Some(seconds) = self.retry_after {
            set("retry-after", seconds);
        }
        if self.challenge {
            set("www-authenticate", "PrivateToken challenge=\"AAAA\"");
        }
        let body = if self.problem.is_empty() {
            set("content-type", "text/html");
            b"<h1>It works!</h1>".to_vec()
        } else {
            set("content-type", "application/problem+json");
            let problem = json!({
                "type": format!("urn:mimi-ds:problem:{}", self.problem),
                "epoch": 0,
                "now_ms": u64::MAX,
                "for": "you",
            });
            problem.to_string().into_bytes()
        };
        Told {
            status: StatusCode::from_u16(self.status).expect("a status"),
            headers,
            body,
        }
    }
}

/// Sending has to wait for a commit.
#[must_use]
pub fn pending_proposals() -> Told {
    Wrong::problem("", 409, "pending-proposals").told()
}

/// What is said in the place of every answer.
pub const WRONG: &[Wrong] = &[
    Wrong::problem("a page", 200, ""),
    Wrong::problem("a page, forbidden", 403, ""),
    Wrong::problem("a problem of handles", 409, "handle-taken"),
    Wrong::problem("a problem of KeyPackages", 404, "no-key-packages"),
    Wrong::problem("a problem of records", 404, "unknown-record"),
    Wrong::problem("a problem of groups", 404, "unknown-group"),
    Wrong::problem("a problem of signatures", 403, "bad-signature"),
    Wrong::problem("epoch 0", 409, "wrong-epoch"),
    Wrong::problem("proposals that are not there", 409, "pending-proposals"),
    Wrong::problem("the end of time", 400, "stale-timestamp"),
    Wrong {
        challenge: true,
        ..Wrong::problem("a token is not taken", 401, "token-rejected")
    },
    Wrong {
        retry_after: Some("999999999999"),
        challenge: true,
        ..Wrong::problem(
            "the allowance is used up for ever",
            429,
            "too-many-requests",
        )
    },
    Wrong {
        retry_after: Some("86400"),
        ..Wrong::problem("tomorrow", 503, "unavailable")
    },
];

impl Wrong {
    /// What comes of it where [`EXCEPT`] says nothing else: the client says what it was told.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.problem, self.status) {
            ("", _) => Refused("protocol"),
            (_, 503) => Refused("unreachable"),
            (problem, _) => Refused(problem),
        }
    }
}

/// A byte string in the place of another one.
pub type Mangle = (&'static str, fn(&mut Vec<u8>));

/// What is done to the encoding of every answer.
pub const MANGLED: &[Mangle] = &[
    ("nothing", Vec::clear),
    ("cut short", |answer| {
        answer.truncate(answer.len().saturating_sub(1))
    }),
    ("with a byte more", |answer| answer.push(0)),
    ("a megabyte of the highest number", |answer| {
        *answer = vec![0xff; 1 << 20]
    }),
];

/// What is answered wrongly while the client does something that needs it.
pub const ASKED: &[(Operation, Does)] = &[
    (Operation::InspectGroup, Does::Verify),
    (Operation::SendMessage, Does::Send),
    (Operation::UpdateClient, Does::Renew),
    (Operation::ClaimKeyPackages, Does::Add),
    (Operation::AddUsers, Does::Add),
    (Operation::ReserveGroupId, Does::Create),
    (Operation::CreateGroup, Does::Create),
    (Operation::SetJoinCode, Does::Invite),
    (Operation::CountKeyPackages, Does::Count),
    (Operation::LookupHandle, Does::Connect),
    (Operation::RequestConnection, Does::Connect),
    (Operation::RecoveryRow, Does::Enter),
    (Operation::ExternalCommitInfo, Does::Enter),
    (Operation::ExternalJoin, Does::Enter),
    (Operation::FetchWelcome, Does::Join),
    (Operation::JoinRecord, Does::Join),
    (Operation::SetLeafExtras, Does::Join),
    (Operation::ReadInbox, Does::Look),
    (Operation::DeleteFromInbox, Does::Look),
    (Operation::ReadJournal, Does::Send),
];

/// What comes of it otherwise.
pub const EXCEPT: &[(Operation, &str, Outcome)] = &[
    // On the service's word alone nothing leads back.
    (
        Operation::InspectGroup,
        "a problem of groups",
        Stops(StopReason::Missing),
    ),
    (
        Operation::SendMessage,
        "a problem of groups",
        Stops(StopReason::Missing),
    ),
    (
        Operation::SetJoinCode,
        "a problem of groups",
        Stops(StopReason::Missing),
    ),
    // It has lost what it accepted.
    (
        Operation::InspectGroup,
        "epoch 0",
        Stops(StopReason::Behind),
    ),
    (Operation::SetJoinCode, "epoch 0", Stops(StopReason::Behind)),
    (Operation::SendMessage, "epoch 0", Stops(StopReason::Behind)),
    (
        Operation::UpdateClient,
        "epoch 0",
        Stops(StopReason::Behind),
    ),
    (
        Operation::UpdateClient,
        "a problem of groups",
        Stops(StopReason::Behind),
    ),
    (Operation::AddUsers, "epoch 0", Stops(StopReason::Behind)),
    (
        Operation::AddUsers,
        "a problem of groups",
        Stops(StopReason::Behind),
    ),
    // As often as there are rounds.
    (
        Operation::SendMessage,
        "proposals that are not there",
        Refused("contention"),
    ),
    (
        Operation::AddUsers,
        "proposals that are not there",
        Refused("contention"),
    ),
    (Operation::ExternalJoin, "epoch 0", Refused("contention")),
    // The true answer has nothing in it.
    (Operation::SetJoinCode, "nothing", Harmless),
    (Operation::SetJoinCode, "cut short", Harmless),
    (Operation::RequestConnection, "nothing", Harmless),
    (Operation::RequestConnection, "cut short", Harmless),
    (Operation::DeleteFromInbox, "nothing", Harmless),
    (Operation::DeleteFromInbox, "cut short", Harmless),
    // What a code that has expired meets too.
    (
        Operation::RecoveryRow,
        "a problem of records",
        Refused("join-code-expired"),
    ),
    (
        Operation::ExternalCommitInfo,
        "a problem of groups",
        Refused("join-code-expired"),
    ),
    (
        Operation::ExternalJoin,
        "a problem of groups",
        Refused("join-code-expired"),
    ),
];

/// The same rounds as of others above, which take seconds.
pub const LEFT_OUT: &[(Operation, &str)] = &[
    (Operation::UpdateClient, "proposals that are not there"),
    (Operation::ExternalJoin, "proposals that are not there"),
];

/// What comes of an answer, by its operation and what it is.
#[must_use]
pub fn expected(operation: Operation, what: &str, usual: Outcome) -> Outcome {
    match operation {
        // An invitation waits for its record, and whoever has come in for a time to say how it
        // would come back.
        Operation::JoinRecord | Operation::FetchWelcome => return Waits,
        Operation::SetLeafExtras => {
            return match what {
                "a problem of groups" => Stops(StopReason::Missing),
                "epoch 0" => Stops(StopReason::Behind),
                _ => Harmless,
            };
        }
        // What cannot be read holds up nothing that is sent.
        Operation::ReadJournal if what != "tomorrow" => return Harmless,
        _ => {}
    }
    let except = EXCEPT.iter();
    let mut except = except.filter(|(of, it, _)| *of == operation && *it == what);
    except.next().map_or(usual, |(_, _, outcome)| *outcome)
}
