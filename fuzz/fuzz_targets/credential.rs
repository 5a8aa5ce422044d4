//! Pseudonymous credentials and wrapped link keys as other members send them.
#![no_main]

use crypto::credential::{PseudonymousCredential, unwrap_link_key};
use crypto::keys::{ConnectionKey, IdentityLinkWrapperKey};
use libfuzzer_sys::fuzz_target;
use protocol::Wire;

fuzz_target!(|bytes: &[u8]| {
    assert!(unwrap_link_key(&IdentityLinkWrapperKey::new([1; 32]), bytes).is_err());
    if let Ok(credential) = PseudonymousCredential::decode(bytes) {
        assert_eq!(credential.encode(), bytes);
        let key = credential.link_key(&ConnectionKey::new([2; 32]));
        assert!(credential.open_identity_link(&key).is_err());
    }
});
