//! Keys that Apple and Google hand out: PEM with PKCS#8.

use std::path::{Path, PathBuf};

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use service::secret_file::{self, SecretFileError};

/// A key file of the operator's cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("the file {} holds no key of the kind that is needed", .0.display())]
    Key(PathBuf),
    #[error("the file {} is no service account", .0.display())]
    ServiceAccount(PathBuf),
}

/// The longest file that somebody else made.
const MOST: usize = 16 * 1024;

/// The content of a file that only its owner may read.
pub(super) fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, KeyFileError> {
    Ok(secret_file::load_within(path, 1..=MOST)?)
}

pub(super) fn pkcs8(text: &[u8]) -> Option<PrivatePkcs8KeyDer<'static>> {
    PrivatePkcs8KeyDer::from_pem_slice(text).ok()
}
