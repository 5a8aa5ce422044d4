//! How a client is asked to behave, and what opens a backup.

use std::sync::Arc;
use std::time::Duration;

use client::{BackupKey, Bundle, Profile, RequestPolicy, Waiting};
use js_sys::Function;
use serde::Deserialize;
use wasm_bindgen::JsValue;
use zeroize::Zeroizing;

/// As `types.ts` has them, without the listener.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct Options {
    profile: Option<ProfileName>,
    bundle: Option<BundleName>,
    feed_bytes: Option<u64>,
    requests: Option<RequestsName>,
    ciphersuites: Option<Vec<u16>>,
    attempt_ms: Option<u64>,
    call_ms: Option<u64>,
    lock_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProfileName {
    Live,
    Even,
    Batched,
    LowData,
    Periodic,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Live => Self::Live,
            ProfileName::Even => Self::Even,
            ProfileName::Batched => Self::Batched,
            ProfileName::LowData => Self::LowData,
            ProfileName::Periodic => Self::Periodic,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum BundleName {
    Separate,
    Bundled,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum RequestsName {
    Announced,
    All,
    Reportable,
}

impl Options {
    pub(crate) fn for_sdk(self, progress: Option<Function>) -> client::Options {
        let usual = client::Options::default();
        let span = |ms: Option<u64>, usual| ms.map_or(usual, Duration::from_millis);
        client::Options {
            profile: self.profile.map_or(usual.profile, Into::into),
            bundle: match self.bundle {
                Some(BundleName::Separate) => Bundle::Separate,
                Some(BundleName::Bundled) => Bundle::Bundled,
                None => usual.bundle,
            },
            feed_bytes: match self.feed_bytes {
                None => usual.feed_bytes,
                Some(0) => None,
                bytes => bytes,
            },
            requests: match self.requests {
                Some(RequestsName::Announced) => RequestPolicy::Announced,
                Some(RequestsName::All) => RequestPolicy::All,
                Some(RequestsName::Reportable) => RequestPolicy::Reportable,
                None => usual.requests,
            },
            ciphersuites: self.ciphersuites.unwrap_or(usual.ciphersuites),
            patience: client::Patience {
                attempt: span(self.attempt_ms, usual.patience.attempt),
                call: span(self.call_ms, usual.patience.call),
            },
            lock_patience: span(self.lock_ms, usual.lock_patience),
            progress: progress.map(heard),
            ..client::Options::default()
        }
    }
}

/// Listeners of the SDK can be called from any thread; this one is called in its worker.
fn heard(by: Function) -> client::Progress {
    thread_local! {
        static LISTENERS: std::cell::RefCell<Vec<Function>> = std::cell::RefCell::default();
    }
    let number = LISTENERS.with_borrow_mut(|listeners| {
        listeners.push(by);
        listeners.len().saturating_sub(1)
    });
    Arc::new(move |Waiting { reason, so_far }| {
        let listener = LISTENERS.with_borrow(|listeners| listeners.get(number).cloned());
        if let Some(listener) = listener {
            let so_far_ms = JsValue::from_f64(so_far.as_secs_f64() * 1_000.0);
            // An error in it changes nothing.
            let _ = listener.call2(&JsValue::NULL, &reason.into(), &so_far_ms);
        }
    })
}

/// What opens a backup.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Key {
    Passphrase(String),
    RecoveryKey(String),
}

impl Key {
    pub(crate) fn for_sdk(self) -> BackupKey {
        match self {
            Self::Passphrase(words) => BackupKey::Passphrase(Zeroizing::new(words)),
            Self::RecoveryKey(key) => BackupKey::RecoveryKey(Zeroizing::new(key)),
        }
    }
}
