//! What a signed account token says (RFC 7519 §4.1).

use serde_json::{Map, Value};

/// Whom the claims are about, and when.
pub(crate) struct Claimed {
    /// `sub`.
    pub(crate) name: String,
    pub(crate) plan: Option<String>,
    not_before: Option<f64>,
    expires: f64,
}

/// Claims that are about nobody now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimsError {
    Invalid,
    Expired,
}

/// Reads claims whose signature, issuer and audience have been checked.
pub(crate) fn read(claims: &Map<String, Value>, plan_claim: &str) -> Result<Claimed, ClaimsError> {
    let time = |claim: &str| match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(ClaimsError::Invalid),
    };
    let text = |claim: &str| claims.get(claim)?.as_str().map(str::to_owned);
    Ok(Claimed {
        not_before: time("nbf")?,
        expires: time("exp")?.ok_or(ClaimsError::Invalid)?,
        name: text("sub").ok_or(ClaimsError::Invalid)?,
        plan: text(plan_claim),
    })
}

impl Claimed {
    /// Whether the claims hold at `now_unix_s`; `clock_skew_s` is how far the clock that wrote them
    /// may be off.
    #[allow(
        clippy::cast_precision_loss,
        reason = "seconds since 1970 are exact in an f64"
    )]
    pub(crate) fn check_times(
        &self,
        clock_skew_s: f64,
        now_unix_s: u64,
    ) -> Result<(), ClaimsError> {
        let now = now_unix_s as f64;
        if self
            .not_before
            .is_some_and(|not_before| not_before > now + clock_skew_s)
        {
            return Err(ClaimsError::Invalid);
        }
        if self.expires <= now - clock_skew_s {
            return Err(ClaimsError::Expired);
        }
        Ok(())
    }
}
