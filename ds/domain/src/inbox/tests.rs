use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, HandleRecord};
use protocol::ids::{InboxId, Week};
use protocol::inbox::{
    DeleteFromInboxRequest, DeleteHandleRequest, INBOX_CAPACITY, InboxEntryName,
    LookupHandleRequest, MAX_READ, REQUEST_SIZE, ReadInboxRequest, RegisterHandleRequest,
    RequestConnectionRequest,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::{
    DeleteFromInbox, DeleteHandle, LookupHandle, ReadInbox, RegisterHandle, RequestConnection,
};
use crate::engine::{Batch, Found, Read, Table};
use crate::execution::Failure;
use crate::testing::{DAY_MS, Service, key, same};

const INBOX: InboxId = InboxId([9; 32]);

fn refused(problem: ProblemType) -> Failure {
    Failure::Refused(problem.into())
}

fn registration(service: &Service, handle: &str, inbox: InboxId) -> RegisterHandleRequest {
    let credential = key(10);
    let record = crypto::connection::sign_handle_record(
        handle.as_bytes(),
        &ClientCredential {
            name: opaque(*b"Alice"),
            signature_public_key: opaque(credential.public()),
        },
        &credential,
        &[1; 32],
    );
    RegisterHandleRequest {
        handle: opaque(handle.as_bytes()),
        record: opaque(HandleRecord::encode(&record)),
        inbox,
        inbox_owner: key(11).public(),
        expiry: Week(Week::of(service.now_ms).0 + 8),
    }
}

fn registered(seed: u64) -> Service {
    let mut service = Service::new(seed);
    let body = registration(&service, "alice", INBOX);
    service.call::<RegisterHandle>(&key(1), &body).unwrap();
    service
}

fn request(content: u8) -> RequestConnectionRequest {
    RequestConnectionRequest {
        handle: opaque(*b"alice"),
        encrypted_request: opaque(vec![content; REQUEST_SIZE]),
    }
}

fn read(service: &mut Service, owner: &SignatureKeyPair) -> Result<Vec<u8>, Failure> {
    let body = ReadInboxRequest {
        inbox: INBOX,
        limit: MAX_READ,
    };
    let answer = service.call::<ReadInbox>(owner, &body)?;
    let mut contents: Vec<u8> = answer
        .requests
        .iter()
        .map(|entry| entry.encrypted_request.as_slice()[0])
        .collect();
    contents.sort_unstable();
    Ok(contents)
}

fn price(service: &mut Service) -> u8 {
    let body = LookupHandleRequest {
        handle: opaque(*b"alice"),
    };
    service.call::<LookupHandle>(&key(3), &body).unwrap().price
}

#[test]
fn a_request_waits_for_the_inboxs_owner_until_it_is_deleted() {
    let mut service = registered(1);
    service
        .call::<RequestConnection>(&key(3), &request(1))
        .unwrap();
    service
        .call::<RequestConnection>(&key(4), &request(2))
        .unwrap();
    for stranger in [1, 3, 10] {
        assert_eq!(
            read(&mut service, &key(stranger)).unwrap_err(),
            refused(ProblemType::UnknownInbox)
        );
    }
    assert_eq!(read(&mut service, &key(11)).unwrap(), [1, 2]);
    let body = ReadInboxRequest {
        inbox: INBOX,
        limit: 1,
    };
    let one = service.call::<ReadInbox>(&key(11), &body).unwrap();
    assert_eq!((one.requests.len(), one.more), (1, 1));
    let gone = one.requests[0].encrypted_request.as_slice()[0];
    let deletion = DeleteFromInboxRequest {
        inbox: INBOX,
        entries: vec![InboxEntryName {
            day: one.requests[0].day,
            id: one.requests[0].id,
        }],
    };
    assert_eq!(
        service
            .call::<DeleteFromInbox>(&key(1), &deletion)
            .unwrap_err(),
        refused(ProblemType::UnknownInbox)
    );
    for _ in 0..2 {
        service
            .call::<DeleteFromInbox>(&key(11), &deletion)
            .unwrap();
        assert_eq!(read(&mut service, &key(11)).unwrap(), [3 - gone]);
    }
}

#[test]
fn the_price_rises_with_the_fill_and_a_full_inbox_takes_nothing() {
    let mut service = registered(2);
    assert_eq!(price(&mut service), 1);
    let quarter = INBOX_CAPACITY / 4;
    for fill in 0..INBOX_CAPACITY {
        let bytes = service.signed(Number::RequestConnection, &key(3), &request(1));
        let expected = 1 << (fill / quarter);
        let short = service.tokens(expected - 1);
        let answer = service.run::<RequestConnection>(&bytes, short);
        assert_eq!(answer.unwrap_err(), refused(ProblemType::TokenRequired));
        let enough = service.tokens(expected);
        service.run::<RequestConnection>(&bytes, enough).unwrap();
    }
    assert_eq!(
        service
            .call::<RequestConnection>(&key(3), &request(1))
            .unwrap_err(),
        refused(ProblemType::InboxFull)
    );
    // They expire: the fill is of today.
    service.now_ms += 31 * DAY_MS;
    assert_eq!(price(&mut service), 1);
    assert_eq!(read(&mut service, &key(11)).unwrap(), [0; 0]);
}

#[test]
fn requests_have_one_size() {
    let mut service = registered(3);
    for len in [0, 1, REQUEST_SIZE - 1, REQUEST_SIZE + 1] {
        let mut body = request(1);
        body.encrypted_request = opaque(vec![1; len]);
        assert_eq!(
            service
                .call::<RequestConnection>(&key(3), &body)
                .unwrap_err(),
            refused(ProblemType::LimitExceeded)
        );
    }
}

#[test]
fn a_handle_has_one_owner_until_it_expires_or_is_given_up() {
    let mut service = registered(4);
    let other = registration(&service, "alice", InboxId([8; 32]));
    let bytes = service.signed(Number::RegisterHandle, &key(2), &other);
    let token = service.token();
    assert_eq!(
        service
            .run::<RegisterHandle>(&bytes, vec![same(&token)])
            .unwrap_err(),
        refused(ProblemType::HandleTaken)
    );
    // Trying names is not free.
    let again = service.signed(Number::RegisterHandle, &key(2), &other);
    assert_eq!(
        service
            .run::<RegisterHandle>(&again, vec![token])
            .unwrap_err(),
        refused(ProblemType::TokenRejected)
    );
    let deletion = DeleteHandleRequest {
        handle: opaque(*b"alice"),
    };
    assert_eq!(
        service
            .call::<DeleteHandle>(&key(2), &deletion)
            .unwrap_err(),
        refused(ProblemType::UnknownHandle)
    );
    service
        .call::<RequestConnection>(&key(3), &request(1))
        .unwrap();
    service.call::<DeleteHandle>(&key(1), &deletion).unwrap();
    let left = service
        .engine
        .rows()
        .filter(|(key, _)| {
            matches!(
                key.table,
                Table::Handles | Table::Inboxes | Table::InboxEntries
            )
        })
        .count();
    assert_eq!(left, 0);
    service.call::<RegisterHandle>(&key(2), &other).unwrap();
    service.now_ms += 9 * 7 * DAY_MS;
    let later = registration(&service, "alice", InboxId([7; 32]));
    service.call::<RegisterHandle>(&key(1), &later).unwrap();
}

#[test]
fn nobody_takes_over_the_inbox_of_another_handle() {
    let mut service = registered(5);
    let body = registration(&service, "mallory", INBOX);
    assert_eq!(
        service.call::<RegisterHandle>(&key(2), &body).unwrap_err(),
        refused(ProblemType::NotAllowed)
    );
    service
        .call::<RequestConnection>(&key(3), &request(1))
        .unwrap();
    let renewed = registration(&service, "alice", INBOX);
    service.call::<RegisterHandle>(&key(1), &renewed).unwrap();
    assert_eq!(read(&mut service, &key(11)).unwrap(), [1]);
}

#[test]
fn a_renewal_loses_no_request_that_comes_at_the_same_moment() {
    let mut service = registered(8);
    let body = registration(&service, "alice", INBOX);
    let renewal = service.signed(Number::RegisterHandle, &key(1), &body);
    let tokens = service.tokens(8);
    let renewing = service.until_apply::<RegisterHandle>(&renewal, tokens);
    service
        .call::<RequestConnection>(&key(2), &request(7))
        .unwrap();
    service.finish(renewing).answer.unwrap();
    assert_eq!(read(&mut service, &key(11)).unwrap(), [7]);
}

#[test]
fn rows_that_never_fit_each_other_are_damage_and_no_conflict() {
    let mut service = registered(9);
    let (env, engine) = service.env();
    let batch = Batch {
        deletes: vec![env.rows().inbox(&INBOX).key()],
        ..Batch::default()
    };
    engine.apply(batch).unwrap();
    let found = service.call::<LookupHandle>(
        &key(2),
        &LookupHandleRequest {
            handle: opaque(*b"alice"),
        },
    );
    assert!(matches!(found, Err(Failure::Internal(_))), "{found:?}");
}

#[test]
fn the_inbox_that_a_handle_leaves_is_gone() {
    let mut service = registered(10);
    let inboxes = |service: &mut Service| {
        let (env, engine) = service.env();
        let rows = [INBOX, InboxId([8; 32])].map(|id| Read::Row(env.rows().inbox(&id).key()));
        let found = engine.read(&rows).into_iter();
        found
            .map(|found| found != Found::Row(None))
            .collect::<Vec<_>>()
    };
    assert_eq!(inboxes(&mut service), [true, false]);
    let body = registration(&service, "alice", InboxId([8; 32]));
    service.call::<RegisterHandle>(&key(1), &body).unwrap();
    assert_eq!(inboxes(&mut service), [false, true]);
}

#[test]
fn an_unknown_handle_costs_a_token_and_says_nothing_of_inboxes() {
    let mut service = Service::new(6);
    let body = LookupHandleRequest {
        handle: opaque(*b"nobody"),
    };
    let bytes = service.signed(Number::LookupHandle, &key(3), &body);
    let token = service.token();
    for _ in 0..2 {
        let answer = service.run::<LookupHandle>(&bytes, vec![same(&token)]);
        assert_eq!(answer.unwrap_err(), refused(ProblemType::UnknownHandle));
    }
    let other = service.signed(Number::LookupHandle, &key(3), &body);
    let answer = service.run::<LookupHandle>(&other, vec![token]);
    assert_eq!(answer.unwrap_err(), refused(ProblemType::TokenRejected));
}
