//! How what the MLS library keeps is written.

use rmp_serde::Serializer;
use rmp_serde::config::BytesMode;

/// MessagePack with the names of fields, which forgives as JSON does when the library's types gain
/// some; and bytes as bytes.
#[derive(Debug, Default)]
pub(crate) struct StateCodec;

/// Why something of the library's state is not written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Write(#[from] rmp_serde::encode::Error),
    #[error(transparent)]
    Read(#[from] rmp_serde::decode::Error),
}

impl StateCodec {
    pub(super) fn to_vec<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, StateError> {
        let mut written = Vec::new();
        let mut serializer = Serializer::new(&mut written)
            .with_struct_map()
            .with_bytes(BytesMode::ForceIterables);
        value.serialize(&mut serializer)?;
        Ok(written)
    }

    pub(super) fn from_slice<T: serde::de::DeserializeOwned>(
        slice: &[u8],
    ) -> Result<T, StateError> {
        Ok(rmp_serde::from_slice(slice)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize)]
    struct Later {
        added: Vec<String>,
        secret: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Known {
        #[serde(default)]
        since: Option<u64>,
        secret: Vec<u8>,
    }

    #[test]
    fn fields_that_the_library_gains_stop_nobody_and_bytes_take_their_own_space() {
        let secret = vec![200; 1000];
        let written = StateCodec::to_vec(&Later {
            added: vec!["x".to_owned()],
            secret: secret.clone(),
        })
        .unwrap();
        assert!(written.len() < 1_050, "{}", written.len());
        let since = None;
        assert_eq!(
            StateCodec::from_slice::<Known>(&written).unwrap(),
            Known { since, secret }
        );
    }
}
