//! What is on the disk, and what is not.

use super::*;

#[test]
fn what_was_registered_is_there_after_a_restart_and_only_under_its_key() {
    let kit = kit();
    let mut alice = kit.registered("alice", 1);
    let (ended, handle) = (kit.handle(&mut alice), kit.handle(&mut alice));
    kit.act(&mut alice, DeviceAct::RevokeHandles(vec![ended]))
        .unwrap();
    let kit = kit.reopened();
    assert!(kit.reach(handle).unwrap().decoys);
    assert_eq!(kit.reach(ended), Err(Dropped::Revoked));
    let Kit {
        devices, directory, ..
    } = kit;
    drop(devices);
    let other = Store::open(directory.path(), &bound(&[8; 32]));
    assert!(matches!(other, Err(StoreError::Refused(_))));
}

#[test]
fn a_copy_of_the_disk_shows_no_address_owner_or_device() {
    let kit = kit();
    let name = "name-of-the-address";
    let alice = kit.registered(name, 0);
    let device = kit.devices.keys.device(&alice.key.public());
    for file in std::fs::read_dir(kit.directory.path()).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        for secret in [name.as_bytes(), &alice.key.public(), &device.0, &[1; 32]] {
            assert!(!content.windows(secret.len()).any(|it| it == secret));
        }
    }
}

#[test]
fn what_a_row_was_before_is_gone_from_the_disk_after_some_further_requests() {
    let kit = kit();
    let (mut alice, mut bob) = (kit.registered("alice", 0), kit.registered("bob", 0));
    let row = kit
        .devices
        .keys
        .row(kit.devices.keys.device(&alice.key.public()));
    let before = kit.devices.store().load(&row).unwrap().unwrap();
    let is_there = |bytes: &[u8]| {
        std::fs::read_dir(kit.directory.path())
            .unwrap()
            .any(|file| {
                let content = std::fs::read(file.unwrap().path()).unwrap();
                content.windows(bytes.len()).any(|it| it == bytes)
            })
    };
    // Behind version and salt: what is the same in no two rows.
    assert!(is_there(&before.sealed[33..65]) && is_there(&before.tag));
    kit.act(&mut alice, DeviceAct::Remove).unwrap();
    for _ in 0..50 {
        kit.act(&mut bob, DeviceAct::SetConsent(consent(0)))
            .unwrap();
    }
    assert!(!is_there(&before.sealed[33..65]) && !is_there(&before.tag));
    let removed = kit.devices.store().load(&row).unwrap().unwrap();
    assert_eq!(removed.sealed.len(), before.sealed.len());
}

#[test]
fn a_store_that_is_open_is_not_opened_again() {
    let kit = kit();
    let second = Store::open(kit.directory.path(), &bound(&KEY));
    assert!(matches!(
        second,
        Err(StoreError::Refused(
            service::founding::Refusal::InUse { .. }
        ))
    ));
}
