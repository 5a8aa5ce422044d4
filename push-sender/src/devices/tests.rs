#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod disk;

use std::path::Path;

use crypto::sign::SignatureKeyPair;
use protocol::codec::{WireSecret, opaque};
use protocol::push::{WakePace, WebhookAddress};
use service::MovedClock;
use service::founding::BoundKey;

use super::*;

const WEEK_MS: u64 = MS_PER_WEEK;
const KEY: [u8; 32] = [7; 32];
const TAKEN: &str = "https://hooks.example/";

struct Kit {
    clock: Arc<MovedClock>,
    devices: Devices,
    directory: tempfile::TempDir,
}

fn settings() -> DeviceSettings {
    DeviceSettings {
        records_per_address: 3,
        handles_per_week: 300,
        revoked_handles: 5,
        requests_per_hour: 100,
        registrations_per_hour: 20,
        max_devices: 15,
        ..DeviceSettings::default()
    }
}

fn bound(key: &[u8; 32]) -> [BoundKey<'_>; 1] {
    let file = Path::new("push.key");
    [BoundKey { file, key }]
}

fn open(directory: &Path, clock: &Arc<MovedClock>) -> Devices {
    open_with(directory, clock, settings())
}

fn open_with(directory: &Path, clock: &Arc<MovedClock>, settings: DeviceSettings) -> Devices {
    let (store, _) = Store::open(directory, &bound(&KEY)).unwrap();
    let is_taken = |address: &Address| match address {
        Address::Webhook(it) => it.url.as_slice().starts_with(TAKEN.as_bytes()),
        _ => false,
    };
    let clock = Arc::clone(clock) as SharedClock;
    Devices::new(store, Keys::new(&KEY), clock, settings, Box::new(is_taken))
}

fn kit() -> Kit {
    kit_with(settings())
}

fn kit_with(settings: DeviceSettings) -> Kit {
    let directory = tempfile::tempdir().unwrap();
    Store::create(directory.path(), &bound(&KEY)).unwrap();
    let clock = MovedClock::at(3000 * WEEK_MS);
    Kit {
        devices: open_with(directory.path(), &clock, settings),
        clock,
        directory,
    }
}

struct Owner {
    key: SignatureKeyPair,
    number: u64,
}

impl Owner {
    fn new() -> Self {
        Self {
            key: SignatureKeyPair::random().unwrap(),
            number: 0,
        }
    }

    fn request(&mut self, act: DeviceAct) -> Vec<u8> {
        self.number += 1;
        signed(&self.key, self.key.public(), self.number, act)
    }
}

fn signed(key: &SignatureKeyPair, owner_key: [u8; 32], number: u64, act: DeviceAct) -> Vec<u8> {
    let request = DeviceRequestTbs {
        version: VERSION,
        owner_key,
        number,
        act,
    }
    .encode();
    let signature = key.sign(DEVICE_LABEL, &request).try_into().unwrap();
    DeviceRequest {
        request: opaque(request),
        signature,
    }
    .encode()
}

fn webhook(name: &str) -> Address {
    Address::Webhook(WebhookAddress {
        url: opaque(format!("{TAKEN}{name}")),
        secret: WireSecret::new([1; 32]),
    })
}

fn consent(decoys: u8) -> Consent {
    Consent {
        pace: WakePace::Prompt,
        decoys,
    }
}

fn registration(name: &str, decoys: u8) -> DeviceAct {
    DeviceAct::Register(Registration {
        address: webhook(name),
        consent: consent(decoys),
    })
}

impl Kit {
    fn act(&self, owner: &mut Owner, act: DeviceAct) -> Result<Vec<Handle>, DeviceError> {
        let request = owner.request(act);
        Ok(self.devices.act(&request)?.0.handles)
    }

    fn registered(&self, name: &str, decoys: u8) -> Owner {
        let mut owner = Owner::new();
        self.act(&mut owner, registration(name, decoys)).unwrap();
        owner
    }

    fn handle(&self, owner: &mut Owner) -> Handle {
        self.act(owner, DeviceAct::IssueHandles(1)).unwrap()[0]
    }

    fn reach(&self, handle: Handle) -> Result<Reachable, Dropped> {
        self.devices.reach(&handle).unwrap()
    }

    /// Where a push for it goes.
    fn target(&self, it: Reachable, is_decoy: bool) -> Option<Address> {
        let Reachable { device, tag, .. } = it;
        self.devices.address(device, tag, is_decoy).unwrap()
    }

    fn reopened(self) -> Self {
        let Self {
            clock,
            devices,
            directory,
        } = self;
        drop(devices);
        Self {
            devices: open(directory.path(), &clock),
            clock,
            directory,
        }
    }
}

fn reached(url: &str) -> impl Fn(Option<Address>) -> bool {
    move |address| matches!(address, Some(Address::Webhook(it)) if it.url.as_slice() == format!("{TAKEN}{url}").as_bytes())
}

#[test]
fn a_handle_wakes_its_device_and_goes_on_when_the_device_has_another_address() {
    let kit = kit();
    let mut alice = kit.registered("old", 0);
    let handle = kit.handle(&mut alice);
    let it = kit.reach(handle).unwrap();
    assert!(reached("old")(kit.target(it, false)));
    kit.act(&mut alice, registration("new", 0)).unwrap();
    let moved = kit.reach(handle).unwrap();
    assert!(reached("new")(kit.target(moved, false)));
    assert!(
        kit.target(it, false).is_none(),
        "a wake that waited for the old address is not sent to the new one in its place"
    );
}

#[test]
fn nobody_can_turn_a_handle_to_another_device() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    let handle = kit.handle(&mut alice);
    let of_alice = kit.reach(handle).unwrap();

    let mut mallory = kit.registered("mallory", 0);
    // Under her own key he can't sign; his own acts concern his own record, also with her handle.
    let forged = signed(
        &mallory.key,
        alice.key.public(),
        99,
        registration("mallory", 0),
    );
    assert!(matches!(
        kit.devices.act(&forged),
        Err(DeviceError::Signature)
    ));
    kit.act(&mut mallory, DeviceAct::RevokeHandles(vec![handle]))
        .unwrap();
    kit.act(&mut mallory, DeviceAct::RevokeAllHandles).unwrap();
    kit.act(&mut mallory, registration("elsewhere", 0)).unwrap();
    kit.act(&mut mallory, DeviceAct::Remove).unwrap();
    assert_eq!(kit.reach(handle), Ok(of_alice));
    assert!(reached("alice")(kit.target(of_alice, false)));
}

#[test]
fn a_request_that_is_sent_again_has_no_second_effect() {
    let kit = kit();
    let mut alice = Owner::new();
    let first = alice.request(registration("first", 0));
    kit.devices.act(&first).unwrap();
    kit.act(&mut alice, registration("second", 0)).unwrap();
    let handle = kit.handle(&mut alice);
    assert!(matches!(
        kit.devices.act(&first),
        Err(DeviceError::Stale { last: 3 })
    ));
    let it = kit.reach(handle).unwrap();
    assert!(reached("second")(kit.target(it, false)));
}

#[test]
fn a_handle_that_was_ended_wakes_nobody_and_the_others_go_on() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    let (of_left_group, other) = (kit.handle(&mut alice), kit.handle(&mut alice));
    kit.act(&mut alice, DeviceAct::RevokeHandles(vec![of_left_group]))
        .unwrap();
    assert_eq!(kit.reach(of_left_group), Err(Dropped::Revoked));
    assert!(kit.reach(other).is_ok());
    kit.act(&mut alice, DeviceAct::RevokeAllHandles).unwrap();
    assert_eq!(kit.reach(other), Err(Dropped::Revoked));
    assert!(kit.reach(kit.handle(&mut alice)).is_ok());
}

#[test]
fn a_device_that_was_removed_is_not_woken_by_any_handle() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    let handle = kit.handle(&mut alice);
    kit.act(&mut alice, DeviceAct::Remove).unwrap();
    assert_eq!(kit.reach(handle), Err(Dropped::NoDevice));
    assert!(matches!(
        kit.act(&mut alice, DeviceAct::IssueHandles(1)),
        Err(DeviceError::UnknownDevice)
    ));
}

#[test]
fn a_request_that_was_held_back_brings_no_removed_device_or_handle_to_life() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    let handle = kit.handle(&mut alice);
    let withheld = alice.request(registration("before", 0));
    kit.act(&mut alice, DeviceAct::Remove).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            kit.devices.act(&withheld),
            Err(DeviceError::Stale { last: 4 })
        ));
        assert_eq!(kit.reach(handle), Err(Dropped::NoDevice));
    }
    let kit = kit.reopened();
    assert!(kit.devices.act(&withheld).is_err());
    // She may come back, and what was ended stays ended.
    kit.act(&mut alice, registration("again", 0)).unwrap();
    assert_eq!(kit.reach(handle), Err(Dropped::Revoked));
    assert!(kit.reach(kit.handle(&mut alice)).is_ok());
}

#[test]
fn a_handle_is_good_to_the_end_of_its_last_week_and_no_longer() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    let handle = kit.handle(&mut alice);
    let weeks = u64::from(settings().handle_weeks);
    kit.clock.set((3000 + weeks + 1) * WEEK_MS - 1);
    assert!(kit.reach(handle).is_ok());
    kit.clock.set((3000 + weeks + 1) * WEEK_MS);
    assert_eq!(kit.reach(handle), Err(Dropped::Expired));
}

#[test]
fn a_decoy_is_sent_only_to_who_agrees_at_that_moment() {
    let kit = kit();
    let (mut agrees, mut does_not) = (kit.registered("a", 1), kit.registered("b", 0));
    let [first, second] = [&mut agrees, &mut does_not].map(|owner| {
        let handle = kit.handle(owner);
        kit.reach(handle).unwrap()
    });
    assert_eq!((first.decoys, second.decoys), (true, false));
    assert!(reached("a")(kit.target(first, true)));
    assert!(kit.target(second, true).is_none());
    assert!(reached("b")(kit.target(second, false)));
    kit.act(&mut agrees, DeviceAct::SetConsent(consent(0)))
        .unwrap();
    assert!(kit.target(first, true).is_none());
    kit.act(&mut agrees, registration("moved", 1)).unwrap();
    assert!(kit.target(first, true).is_none(), "another address");
    kit.act(&mut agrees, registration("a", 1)).unwrap();
    assert!(kit.target(first, true).is_some());
    kit.act(&mut agrees, DeviceAct::Remove).unwrap();
    assert!(kit.target(first, true).is_none());
}

#[test]
fn what_a_device_says_tells_how_it_is_woken_from_now_on() {
    let kit = kit();
    let mut alice = Owner::new();
    let mut said = |act| kit.devices.act(&alice.request(act)).unwrap().1;
    let decoys = |effect: &Effect| effect.reachable.map(|it| it.decoys);
    assert_eq!(decoys(&said(registration("alice", 1))), Some(true));
    let awake = said(DeviceAct::Awake(7));
    assert_eq!((decoys(&awake), awake.awake), (Some(true), Some(7)));
    assert_eq!(
        decoys(&said(DeviceAct::SetConsent(consent(0)))),
        Some(false)
    );
    assert_eq!(decoys(&said(DeviceAct::Remove)), None);
}

#[test]
fn what_one_device_can_have_is_bounded() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    for count in [0, 257] {
        let refused = kit.act(&mut alice, DeviceAct::IssueHandles(count));
        assert!(matches!(refused, Err(DeviceError::LimitExceeded)));
    }
    let handles = kit.act(&mut alice, DeviceAct::IssueHandles(256)).unwrap();
    assert_eq!(handles.len(), 256);
    let refused = kit.act(&mut alice, DeviceAct::IssueHandles(45));
    assert!(matches!(refused, Err(DeviceError::TooMany { .. })));
    let refused = kit.act(&mut alice, DeviceAct::RevokeHandles(handles[..6].to_vec()));
    assert!(matches!(refused, Err(DeviceError::TooManyRevoked)));
    assert!(kit.reach(handles[0]).is_ok(), "refused as a whole");
    kit.act(&mut alice, DeviceAct::RevokeHandles(handles[..5].to_vec()))
        .unwrap();
    kit.clock.advance(WEEK_MS);
    kit.act(&mut alice, DeviceAct::IssueHandles(45)).unwrap();
    let mut tried = 0;
    while kit
        .act(&mut alice, DeviceAct::SetConsent(consent(0)))
        .is_ok()
    {
        tried += 1;
    }
    assert!(tried <= 100, "requests of an hour");
}

#[test]
fn an_address_has_a_bounded_number_of_records_and_so_has_everybody_together() {
    let kit = kit();
    let mut owners: Vec<Owner> = (0..3).map(|_| kit.registered("same", 0)).collect();
    let mut one_more = Owner::new();
    let refused = kit.act(&mut one_more, registration("same", 0));
    assert!(matches!(refused, Err(DeviceError::AddressInUse)));
    kit.act(&mut owners[0], registration("same", 0)).unwrap();
    kit.act(&mut owners[1], DeviceAct::Remove).unwrap();
    kit.act(&mut one_more, registration("same", 0)).unwrap();
    let tags: std::collections::BTreeSet<Tag> = [0, 2]
        .map(|it| {
            let handle = kit.handle(&mut owners[it]);
            kit.reach(handle).unwrap().tag
        })
        .into();
    assert_eq!(tags.len(), 1, "woken as one");

    let mut more = (0..).map(|name| {
        let mut owner = Owner::new();
        kit.act(&mut owner, registration(&format!("{name}"), 0))
    });
    let full = more.find_map(Result::err).unwrap();
    assert!(matches!(full, DeviceError::Full), "{full}");
}

#[test]
fn registrations_are_so_many_an_hour() {
    let kit = kit_with(DeviceSettings {
        max_devices: 100,
        ..settings()
    });
    let mut done = 0;
    let refused = loop {
        let mut owner = Owner::new();
        match kit.act(&mut owner, registration(&format!("{done}"), 0)) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        kit.act(&mut owner, DeviceAct::Remove).unwrap();
    };
    assert!(matches!(refused, DeviceError::TooMany { .. }));
    assert_eq!(done, 20);
}

#[test]
fn an_address_that_no_sender_takes_is_refused_and_the_one_before_stays() {
    let kit = kit();
    let mut alice = kit.registered("alice", 0);
    let inward = || {
        DeviceAct::Register(Registration {
            address: Address::Webhook(WebhookAddress {
                url: opaque(*b"https://169.254.169.254/"),
                secret: WireSecret::new([0; 32]),
            }),
            consent: consent(0),
        })
    };
    assert!(matches!(
        kit.act(&mut alice, inward()),
        Err(DeviceError::Address)
    ));
    assert!(matches!(
        kit.act(&mut Owner::new(), inward()),
        Err(DeviceError::Address)
    ));
    let handle = kit.handle(&mut alice);
    assert!(kit.reach(handle).is_ok());
}

#[test]
fn an_address_that_is_gone_is_dropped_and_another_one_takes_up_the_handles() {
    let kit = kit();
    let mut alice = kit.registered("gone", 0);
    let handle = kit.handle(&mut alice);
    let it = kit.reach(handle).unwrap();
    kit.act(&mut alice, registration("moved", 0)).unwrap();
    kit.devices.drop_address(it.device, it.tag).unwrap();
    assert!(
        kit.reach(handle).is_ok(),
        "what is gone is the address before"
    );
    let it = kit.reach(handle).unwrap();
    kit.devices.drop_address(it.device, it.tag).unwrap();
    assert_eq!(kit.reach(handle), Err(Dropped::NoDevice));
    kit.act(&mut alice, registration("back", 0)).unwrap();
    assert!(kit.reach(handle).is_ok());
}

#[test]
fn who_was_not_here_for_long_is_forgotten() {
    let kit = kit();
    let (_alice, mut bob) = (kit.registered("alice", 0), kit.registered("bob", 0));
    let idle = u64::from(settings().idle_weeks);
    kit.clock.advance(idle * WEEK_MS);
    assert_eq!(kit.devices.tidy().unwrap(), 2);
    kit.act(&mut bob, DeviceAct::SetConsent(consent(0)))
        .unwrap();
    kit.clock.advance(WEEK_MS);
    assert_eq!(kit.devices.tidy().unwrap(), 1);
    assert!(kit.act(&mut bob, DeviceAct::IssueHandles(1)).is_ok());
}
