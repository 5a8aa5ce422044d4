//! Welcomes: one blob for each client that joins, with its secrets only, found and sealed by what
//! only the members of its epoch know. A joiner is told where its own is by a pointer, in a journal
//! that both share.

use crypto::schedule::{WelcomeKey, WelcomeSecret};
use crypto::sealing::{self, Place};
use openmls::prelude::{KeyPackage, OpenMlsProvider as _};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::ids::WelcomeId;
use protocol::padding::bucket;
use protocol::welcome::{DevicePointer, WelcomeContent, WelcomeUpload};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, PeerError, mls};
use crate::store::provider::Provider;

/// An MLSMessage with a Welcome (RFC 9420 §6, §12.4.3.1).
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct WelcomeMessage {
    version: u16,
    wire_format: u16,
    ciphersuite: u16,
    secrets: Vec<EncryptedGroupSecrets>,
    encrypted_group_info: VLBytes,
}

#[derive(Debug, Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct EncryptedGroupSecrets {
    new_member: VLBytes,
    kem_output: VLBytes,
    ciphertext: VLBytes,
}

/// The name of a KeyPackage (RFC 9420 §5.2).
pub(crate) fn reference(
    provider: &Provider<'_>,
    key_package: &KeyPackage,
) -> Result<Vec<u8>, Error> {
    let reference = key_package.hash_ref(provider.crypto()).map_err(mls)?;
    Ok(reference.as_slice().to_vec())
}

fn place(id: &WelcomeId) -> Place<'_> {
    Place {
        table: "welcomes",
        row: &id.0,
        part: "welcome",
    }
}

/// Seals a blob for each of these KeyPackages, all of one size, and says where each is.
pub(crate) fn seal(
    secret: &WelcomeSecret,
    welcome: &[u8],
    references: &[Vec<u8>],
    join_info: &[u8],
) -> Result<(Vec<WelcomeUpload>, Vec<DevicePointer>), Error> {
    let whole = WelcomeMessage::decode(welcome).map_err(|_| LocalError::Damaged)?;
    let mut contents = Vec::new();
    for reference in references {
        let own = whole
            .secrets
            .iter()
            .find(|secrets| secrets.new_member.as_slice() == reference)
            .cloned()
            .ok_or(LocalError::Damaged)?;
        let alone = WelcomeMessage {
            version: whole.version,
            wire_format: whole.wire_format,
            ciphersuite: whole.ciphersuite,
            secrets: vec![own],
            encrypted_group_info: whole.encrypted_group_info.clone(),
        };
        let content = WelcomeContent {
            welcome: opaque(alone.encode()),
            join_info: opaque(join_info),
        };
        contents.push(Zeroizing::new(content.encode()));
    }
    // A length, then the content, then zeros.
    let longest = contents.iter().map(|content| content.len()).max();
    let size = bucket(longest.unwrap_or(0).saturating_add(4));
    let (mut uploads, mut pointers) = (Vec::new(), Vec::new());
    for (content, reference) in contents.iter().zip(references) {
        let (id, key) = secret.of(reference);
        let length = u32::try_from(content.len()).map_err(|_| LocalError::Damaged)?;
        let mut padded = Zeroizing::new(Vec::with_capacity(size));
        padded.extend_from_slice(&length.to_be_bytes());
        padded.extend_from_slice(content);
        padded.resize(size, 0);
        uploads.push(WelcomeUpload {
            id,
            sealed: opaque(sealing::seal(key.expose(), place(&id), &padded)?),
        });
        pointers.push(DevicePointer {
            key_package_ref: opaque(reference.as_slice()),
            id,
            key: key.to_wire(),
        });
    }
    Ok((uploads, pointers))
}

/// Opens a blob.
///
/// # Errors
/// [`PeerError::JoinRecord`].
pub(crate) fn open(
    id: &WelcomeId,
    key: &WelcomeKey,
    sealed: &[u8],
) -> Result<WelcomeContent, Error> {
    let fault = PeerError::JoinRecord;
    let padded = sealing::open(key.expose(), place(id), sealed).map_err(|_| fault)?;
    let (length, rest) = padded.split_first_chunk::<4>().ok_or(fault)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| fault)?;
    let content = rest.get(..length).ok_or(fault)?;
    WelcomeContent::decode(content).map_err(|_| fault.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn welcome() -> Vec<u8> {
        let secrets = |name: &[u8], len| EncryptedGroupSecrets {
            new_member: opaque(name),
            kem_output: opaque(vec![1; 32]),
            ciphertext: opaque(vec![2; len]),
        };
        WelcomeMessage {
            version: 1,
            wire_format: 3,
            ciphersuite: 1,
            secrets: vec![secrets(b"one", 80), secrets(b"other", 90)],
            encrypted_group_info: opaque(vec![3; 300]),
        }
        .encode()
    }

    #[test]
    fn each_joiner_gets_its_own_secrets_in_a_blob_of_one_size_that_opens_with_its_key() {
        let secret = WelcomeSecret::new([5; 32]);
        let references = [b"one".to_vec(), b"other".to_vec()];
        let (uploads, pointers) = seal(&secret, &welcome(), &references, b"info").unwrap();
        let sizes: Vec<usize> = uploads
            .iter()
            .map(|it| it.sealed.as_slice().len())
            .collect();
        assert_eq!(sizes.first(), sizes.get(1));
        for (at, (upload, pointer)) in uploads.iter().zip(&pointers).enumerate() {
            assert_eq!(upload.id, pointer.id);
            let key = WelcomeKey::from(&pointer.key);
            let content = open(&upload.id, &key, upload.sealed.as_slice()).unwrap();
            assert_eq!(content.join_info.as_slice(), b"info");
            let message = WelcomeMessage::decode(content.welcome.as_slice()).unwrap();
            let [own] = message.secrets.as_slice() else {
                unreachable!("one joiner's secrets")
            };
            assert_eq!(own.new_member.as_slice(), references.get(at).unwrap());
            let other = uploads.get(1 - at).unwrap();
            assert!(open(&other.id, &key, other.sealed.as_slice()).is_err());
        }
        assert!(seal(&secret, &welcome(), &[b"third".to_vec()], b"").is_err());
    }
}
