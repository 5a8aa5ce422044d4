//! What goes out and what comes back, as bytes: binary HTTP, encapsulations and problems.

use protocol::padding::{BULK, request_bucket};

use super::*;

pub(super) fn inner(
    method: &str,
    scheme: &str,
    authority: &str,
    path: &str,
    date: &str,
) -> Message {
    let mut message = Message::request(
        method.as_bytes().to_vec(),
        scheme.as_bytes().to_vec(),
        authority.as_bytes().to_vec(),
        path.as_bytes().to_vec(),
    );
    // RFC 9458 §6.5.1: with it the gateway can refuse old requests without keeping all of them.
    message.put_header("date", date);
    message
}

/// An operation's request, with the tokens that it brings.
pub(super) fn of_operation(
    (scheme, authority): (&str, &str),
    path: &str,
    date: &str,
    tokens: &[Vec<u8>],
    request: &[u8],
) -> Message {
    let mut message = inner("POST", scheme, authority, path, date);
    message.put_header("content-type", protocol::REQUEST_MEDIA_TYPE);
    for token in tokens {
        message.put_header(
            "authorization",
            format!("PrivateToken token=\"{}\"", URL_SAFE.encode(token)),
        );
    }
    message.write_content(request);
    message
}

/// In binary HTTP, padded; for a bulk exchange to the size that all have.
pub(super) fn encoded(message: &Message, is_bulk: bool) -> Result<Vec<u8>, Error> {
    let mut encoded = Vec::new();
    message
        .write_bhttp(Mode::KnownLength, &mut encoded)
        .map_err(|_| Error::Protocol("a request cannot be encoded"))?;
    let padded = match is_bulk {
        true if encoded.len() > BULK => {
            return Err(Error::Protocol("a bulk request is too long"));
        }
        true => BULK,
        false => request_bucket(encoded.len()),
    };
    encoded.resize(padded, 0);
    Ok(encoded)
}

pub(super) fn encapsulate(
    config: &[u8],
    encoded: &[u8],
) -> Result<(Vec<u8>, ResponseOpener), Error> {
    PublicKey::of_config(config)
        .and_then(|key| whole::seal(&key, Aead::Aes128Gcm, encoded).ok())
        .ok_or(Error::Protocol("a request cannot be encapsulated"))
}

/// When to come back, in seconds (RFC 9110 §10.2.3; the form with a date is not read).
pub(crate) fn retry_after(answer: &web::Response) -> Option<u64> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().map(in_steps)
}

/// `None`: it broke off, or is longer.
pub(crate) async fn limited_body(response: web::Response, limit: usize) -> Option<Vec<u8>> {
    match bounded_body(response, limit).await {
        Body::Whole(body) => Some(body),
        Body::Broken | Body::TooLong => None,
    }
}

/// What relay or gateway say outside the encapsulation.
pub(super) fn outer_refusal(status: u16, body: &[u8], retry_after_s: Option<u64>) -> Attempt {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let kind = problem
        .as_ref()
        .and_then(|problem| problem.get("type")?.as_str());
    match (status, kind) {
        (_, Some(OHTTP_KEY_PROBLEM)) => Attempt::NewKeys,
        (408 | 409 | 425 | 429 | 500..=599, _) => Attempt::Again(NoAnswer {
            reason: format!("relay or gateway cannot answer now (status {status})"),
            retry_after_s,
        }),
        // What is no fault of ours was cut or changed on the way there, or its answer on the way
        // back.
        (400, None | Some("about:blank")) => again("the request was damaged"),
        _ => Attempt::Refused("relay or gateway refused the request"),
    }
}

pub(super) fn read_answer(opened: &[u8]) -> Result<Answer, Error> {
    const NOT_HTTP: Error = Error::Protocol("the answer is not binary HTTP");
    let message = Message::read_bhttp(&mut Cursor::new(opened)).map_err(|_| NOT_HTTP)?;
    let status = message.control().status().ok_or(NOT_HTTP)?.code();
    let text = |name: &[u8]| {
        message
            .header()
            .get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    };
    Ok(Answer {
        status,
        problem: text(b"content-type")
            .is_some_and(|kind| kind.starts_with("application/problem+json")),
        challenge: text(b"www-authenticate").is_some_and(|value| value.starts_with("PrivateToken")),
        retry_after_s: text(b"retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .map(in_steps),
        date_ms: text(b"date").and_then(http_date::parse),
        content: message.content().to_vec(),
    })
}

/// What the gateway or the delivery service say inside it.
pub(super) fn judge(answer: Answer) -> Result<Vec<u8>, Attempt> {
    if answer.status == 200 {
        return Ok(answer.content);
    }
    let document = answer
        .problem
        .then(|| serde_json::from_slice::<serde_json::Value>(&answer.content).ok())
        .flatten()
        .unwrap_or_default();
    let kind = document
        .get("type")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    if kind == DATE_PROBLEM {
        return Err(Attempt::Date(answer.date_ms));
    }
    let later = Attempt::Again(NoAnswer {
        reason: format!(
            "the delivery service cannot answer now (status {})",
            answer.status
        ),
        retry_after_s: answer.retry_after_s,
    });
    if let Some(problem) = kind.strip_prefix(push::PROBLEM_PREFIX)
        && answer.status < 500
    {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        let known = problem.len() <= 64 && problem.bytes().all(is_name);
        return Err(Attempt::Failed(Error::Push(PushRefusal {
            problem: if known { problem } else { "unknown" }.to_owned(),
            last: document.get("last").and_then(serde_json::Value::as_u64),
            retry_after_s: answer.retry_after_s,
        })));
    }
    let Some(problem) = ProblemType::from_uri(kind) else {
        return Err(match answer.status {
            408 | 425 | 429 | 500..=599 => later,
            _ => Attempt::Failed(Error::Protocol("the gateway refused the request")),
        });
    };
    match problem {
        // The same request again is safe: what had an effect is answered from its record.
        ProblemType::Unavailable | ProblemType::Internal => Err(later),
        ProblemType::Conflict => Err(again("concurrent requests were first")),
        _ => {
            let number = |member: &str| document.get(member).and_then(serde_json::Value::as_u64);
            Err(Attempt::Failed(Error::Refused(Refusal {
                problem,
                epoch: number("epoch"),
                now_ms: number("now_ms"),
                retry_after_s: answer.retry_after_s,
                token_helps: answer.challenge,
            })))
        }
    }
}
