//! The SDK in the browser, as its worker calls it (`worker.ts`): every call is a value in JSON,
//! with the names that `types.ts` has.
#![cfg(target_arch = "wasm32")]
#![allow(
    unsafe_code,
    reason = "wasm-bindgen writes the functions that are called from JavaScript; nothing here does"
)]

mod calls;
mod failure;
mod options;
mod shape;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use client::{Client, Endpoints};
use futures::future::{AbortHandle, Abortable};
use js_sys::Function;
use wasm_bindgen::prelude::wasm_bindgen;
use zeroize::Zeroizing;

use crate::calls::Call;
use crate::failure::{Failure, given};
use crate::options::{Key, Options};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// What ends the worker is said on its console.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}

/// One device of one user.
#[wasm_bindgen]
pub struct Handle {
    sdk: Client,
}

/// Makes a client in a home.
///
/// # Errors
/// As `createClient` in `types.ts`.
#[wasm_bindgen]
pub async fn create(
    home: String,
    endpoints: String,
    account_token: String,
    options: String,
    progress: Option<Function>,
) -> Result<Handle, Failure> {
    let account_token = Zeroizing::new(account_token);
    let options = given::<Options>(&options)?.for_sdk(progress);
    let endpoints = Endpoints::from_json(endpoints.as_bytes())?;
    let sdk = Client::init(Path::new(&home), &endpoints, &account_token, options).await?;
    Ok(Handle { sdk })
}

/// Opens the client in a home.
///
/// # Errors
/// As `openClient` in `types.ts`.
#[wasm_bindgen]
pub async fn open(
    home: String,
    options: String,
    progress: Option<Function>,
) -> Result<Handle, Failure> {
    let options = given::<Options>(&options)?.for_sdk(progress);
    let sdk = Client::open(Path::new(&home), options).await?;
    Ok(Handle { sdk })
}

/// Makes a client out of a backup.
///
/// # Errors
/// As `restoreClient` in `types.ts`.
#[wasm_bindgen]
pub async fn restore(
    home: String,
    backup: Vec<u8>,
    key: String,
    options: String,
    progress: Option<Function>,
) -> Result<Handle, Failure> {
    let options = given::<Options>(&options)?.for_sdk(progress);
    let key = given::<Key>(&key)?.for_sdk();
    let sdk = Client::restore(Path::new(&home), &backup, &key, options).await?;
    Ok(Handle { sdk })
}

/// A random key for a backup.
///
/// # Errors
/// No randomness.
#[wasm_bindgen(js_name = newRecoveryKey)]
pub fn new_recovery_key() -> Result<String, Failure> {
    Ok(client::new_recovery_key()?.to_string())
}

#[wasm_bindgen]
impl Handle {
    /// Does a call and returns its answer, both in JSON.
    ///
    /// # Errors
    /// As the call in `types.ts`.
    pub async fn call(&self, call: String) -> Result<String, Failure> {
        let call: Call = given(&call)?;
        Ok(call.carry_out(&self.sdk).await?.to_string())
    }

    /// An encrypted backup.
    ///
    /// # Errors
    /// As `backup` in `types.ts`.
    pub async fn backup(&self, key: String) -> Result<Vec<u8>, Failure> {
        Ok(self.sdk.backup(&given::<Key>(&key)?.for_sdk()).await?)
    }

    /// Events as they come.
    #[wasm_bindgen(js_name = eventStream)]
    pub fn event_stream(&self) -> Stream {
        Stream {
            sdk: RefCell::new(Some(Rc::new(self.sdk.event_stream()))),
            waiting: RefCell::default(),
        }
    }

    /// Ends the client; its home is free when this is done.
    pub async fn stop(&self) {
        self.sdk.clone().close().await;
    }
}

/// Events as they come.
#[wasm_bindgen]
pub struct Stream {
    sdk: RefCell<Option<Rc<client::Events>>>,
    waiting: RefCell<Option<AbortHandle>>,
}

#[wasm_bindgen]
impl Stream {
    /// The first event with a larger id, in JSON; nothing at the end.
    ///
    /// # Errors
    /// The client has ended by a failure of its own.
    pub async fn next(&self, after: f64) -> Result<Option<String>, Failure> {
        let Some(sdk) = self.sdk.borrow().clone() else {
            return Ok(None);
        };
        let (abort, registration) = AbortHandle::new_pair();
        *self.waiting.borrow_mut() = Some(abort);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "ids are small whole numbers"
        )]
        let next = Abortable::new(sdk.after(after as i64), registration).await;
        match next {
            Ok(Ok(stored)) => Ok(Some(shape::stored(&stored)?.to_string())),
            Ok(Err(error)) if !sdk.has_ended() => Err(error.into()),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Ends the stream; whoever waits gets nothing.
    pub fn end(&self) {
        *self.sdk.borrow_mut() = None;
        if let Some(waiting) = self.waiting.borrow_mut().take() {
            waiting.abort();
        }
    }
}
