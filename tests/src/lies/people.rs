//! Lies about people: KeyPackages, handles, inboxes.

use crypto::connection::sign_handle_record;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, HandleRecord};
use protocol::ids::{Day, InboxEntryId, Week};
use protocol::inbox::{InboxEntry, LookupHandleResponse, REQUEST_SIZE, ReadInboxResponse};
use protocol::key_packages::{ClaimKeyPackagesResponse, CountKeyPackagesResponse, KeyPackageCount};
use protocol::operation::Operation;
use tls_codec::VLBytes;

use super::Does::{Add, Connect, Count, Look};
use super::Outcome::{Harmless, Pinned, Refused};
use super::alter;
use super::means::{GARBAGE, Lie, own_identity, own_key};
use crate::liar::Liar;

fn claimed(liar: &Liar, change: impl Fn(&mut Vec<VLBytes>) + Send + 'static) {
    let operation = Operation::ClaimKeyPackages;
    alter(liar, operation, move |it: &mut ClaimKeyPackagesResponse| {
        change(&mut it.sets)
    });
}

fn counted(liar: &Liar, change: impl Fn(&mut Vec<KeyPackageCount>) + Send + 'static) {
    let operation = Operation::CountKeyPackages;
    alter(liar, operation, move |it: &mut CountKeyPackagesResponse| {
        change(&mut it.counts)
    });
}

fn read(liar: &Liar, change: impl Fn(&mut ReadInboxResponse) + Send + 'static) {
    alter(liar, Operation::ReadInbox, change);
}

fn found(liar: &Liar, change: impl Fn(&mut VLBytes) + Send + 'static) {
    let operation = Operation::LookupHandle;
    alter(liar, operation, move |it: &mut LookupHandleResponse| {
        change(&mut it.record)
    });
}

fn found_record(liar: &Liar, change: impl Fn(&mut HandleRecord) + Send + 'static) {
    found(liar, move |record| {
        let mut decoded = HandleRecord::decode(record.as_slice()).expect("a record");
        change(&mut decoded);
        *record = opaque(decoded.encode());
    });
}

/// A record that the service has signed itself.
fn own_record(handle: &str, name: &str, key: &[u8]) -> VLBytes {
    let identity = own_identity();
    let credential = ClientCredential {
        name: opaque(name.as_bytes()),
        signature_public_key: opaque(identity.public()),
    };
    opaque(sign_handle_record(handle.as_bytes(), &credential, &identity, key).encode())
}

pub(super) const CLAIM_KEY_PACKAGES: &[Lie] = &[
    (
        "ClaimKeyPackages.sets: none",
        Add,
        |liar, _| claimed(liar, Vec::clear),
        Refused("protocol"),
    ),
    (
        "ClaimKeyPackages.sets: twice",
        Add,
        |liar, _| claimed(liar, |it| it.extend(it.clone())),
        Refused("protocol"),
    ),
    (
        "ClaimKeyPackages.sets: the highest number",
        Add,
        |liar, _| claimed(liar, |it| *it = vec![it[0].clone(); 200]),
        Refused("protocol"),
    ),
    (
        "ClaimKeyPackages.sets[0]: nothing",
        Add,
        |liar, _| claimed(liar, |it| it[0] = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets[0]: cut short",
        Add,
        |liar, _| {
            claimed(liar, |it| {
                let bytes = it[0].as_slice();
                it[0] = opaque(&bytes[..bytes.len() - 1]);
            })
        },
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets[0]: garbage",
        Add,
        |liar, _| claimed(liar, |it| it[0] = opaque(GARBAGE)),
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets[0]: one that this client has used elsewhere",
        Add,
        |liar, means| {
            let former = opaque(means.claimed.as_slice());
            claimed(liar, move |it| it[0] = former.clone());
        },
        Refused("peer"),
    ),
];

pub(super) const COUNT_KEY_PACKAGES: &[Lie] = &[
    (
        "CountKeyPackages.counts: none",
        Count,
        |liar, _| counted(liar, Vec::clear),
        Harmless,
    ),
    (
        "CountKeyPackages.counts: each a thousand times",
        Count,
        |liar, _| counted(liar, |it| *it = vec![it[0]; 1000]),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.ciphersuite: no such",
        Count,
        |liar, _| {
            counted(liar, |it| {
                it.iter_mut().for_each(|it| it.ciphersuite = u16::MAX)
            })
        },
        Harmless,
    ),
    (
        "CountKeyPackages.counts.expiry: long ago",
        Count,
        |liar, _| counted(liar, |it| it.iter_mut().for_each(|it| it.expiry = Week(0))),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.expiry: the highest number",
        Count,
        |liar, _| {
            counted(liar, |it| {
                it.iter_mut().for_each(|it| it.expiry = Week(u16::MAX))
            })
        },
        Harmless,
    ),
    (
        "CountKeyPackages.counts.sets: 0",
        Count,
        |liar, _| counted(liar, |it| it.iter_mut().for_each(|it| it.sets = 0)),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.sets: the highest number, twice",
        Count,
        |liar, _| {
            counted(liar, |it| {
                it.iter_mut().for_each(|it| it.sets = u32::MAX);
                it.extend(it.clone());
            })
        },
        Harmless,
    ),
];

pub(super) const LOOKUP_HANDLE: &[Lie] = &[
    (
        "LookupHandle.record: nothing",
        Connect,
        |liar, _| found(liar, |it| *it = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: garbage",
        Connect,
        |liar, _| found(liar, |it| *it = opaque(GARBAGE)),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: with a byte more",
        Connect,
        |liar, _| found(liar, |it| *it = opaque([it.as_slice(), &[0]].concat())),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: of somebody else",
        Connect,
        |liar, means| {
            let record = opaque(means.record.as_slice());
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.name: another one",
        Connect,
        |liar, _| found_record(liar, |it| it.credential.name = opaque(*b"another")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.name: another one, signed by the service's own key",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, "another", own_key().public());
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.signature_public_key: the service's own",
        Connect,
        |liar, _| {
            found_record(liar, |it| {
                it.credential.signature_public_key = opaque(own_identity().public());
            })
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.signature_public_key: nothing",
        Connect,
        |liar, _| found_record(liar, |it| it.credential.signature_public_key = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record.connection_establishment_key: the service's own",
        Connect,
        |liar, _| {
            found_record(liar, |it| {
                it.connection_establishment_key = opaque(own_key().public());
            })
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.signature: nothing",
        Connect,
        |liar, _| found_record(liar, |it| it.signature = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: the service's own, with no key",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, means.handle, b"");
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record: the service's own, with a key of zeros",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, means.handle, &[0; 32]);
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record: the service's own",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, means.handle, own_key().public());
            found(liar, move |it| *it = record.clone());
        },
        Pinned,
    ),
    (
        "LookupHandle.price: 0",
        Connect,
        |liar, _| {
            alter(
                liar,
                Operation::LookupHandle,
                |it: &mut LookupHandleResponse| {
                    it.price = 0;
                },
            )
        },
        Harmless,
    ),
    (
        "LookupHandle.price: the highest number",
        Connect,
        |liar, _| {
            alter(
                liar,
                Operation::LookupHandle,
                |it: &mut LookupHandleResponse| {
                    it.price = u8::MAX;
                },
            )
        },
        // It pays as much as it pays for one request at most.
        Harmless,
    ),
];

fn entry(encrypted_request: Vec<u8>) -> InboxEntry {
    InboxEntry {
        day: Day(30_000),
        id: InboxEntryId([7; 16]),
        encrypted_request: opaque(encrypted_request),
    }
}

pub(super) const READ_INBOX: &[Lie] = &[
    (
        "ReadInbox.requests: none",
        Look,
        |liar, _| read(liar, |it| it.requests.clear()),
        Harmless,
    ),
    (
        "ReadInbox.requests: garbage of the right size",
        Look,
        |liar, _| {
            read(liar, |it| {
                it.requests = vec![entry(vec![0xa5; REQUEST_SIZE])]
            })
        },
        Harmless,
    ),
    (
        "ReadInbox.requests: nothing in one",
        Look,
        |liar, _| read(liar, |it| it.requests = vec![entry(Vec::new())]),
        Harmless,
    ),
    (
        "ReadInbox.requests: the same one a hundred times",
        Look,
        |liar, _| {
            read(liar, |it| {
                it.requests = vec![entry(vec![1; REQUEST_SIZE]); 100]
            })
        },
        Refused("limit-exceeded"),
    ),
    (
        "ReadInbox.requests.day: the highest number",
        Look,
        |liar, _| {
            read(liar, |it| {
                it.requests.iter_mut().for_each(|it| it.day = Day(u32::MAX))
            })
        },
        Harmless,
    ),
    (
        "ReadInbox.requests.id: of none",
        Look,
        |liar, _| {
            read(liar, |it| {
                it.requests
                    .iter_mut()
                    .for_each(|it| it.id = InboxEntryId([9; 16]))
            })
        },
        Harmless,
    ),
    (
        "ReadInbox.requests.encrypted_request: garbage",
        Look,
        |liar, _| {
            read(liar, |it| {
                it.requests
                    .iter_mut()
                    .for_each(|it| it.encrypted_request = opaque(GARBAGE))
            })
        },
        Harmless,
    ),
    (
        "ReadInbox.more: 1, for ever",
        Look,
        |liar, _| read(liar, |it| it.more = 1),
        Harmless,
    ),
    (
        "ReadInbox.more: 1, for ever, with something new each time",
        Look,
        |liar, _| {
            read(liar, |it| {
                it.more = 1;
                it.requests = vec![entry(crypto::random::<64>().expect("randomness").to_vec())];
            })
        },
        // So many pages are read at a time.
        Harmless,
    ),
    (
        "ReadInbox.more: no such number",
        Look,
        |liar, _| read(liar, |it| it.more = 255),
        Harmless,
    ),
];
