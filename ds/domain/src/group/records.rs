//! Records that nobody signs for: a capability in the request finds them, and only who has a key
//! opens them.

use crypto::records::open_recovery_row;
use protocol::WIRE_VERSION;
use protocol::codec::opaque;
use protocol::ids::Day;
use protocol::join::{
    JoinRecordRequest, JoinRecordResponse, RecoveryRowRequest, RecoveryRowResponse,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use protocol::welcome::{FetchWelcomeRequest, FetchWelcomeResponse};

use crate::engine::Key;
use crate::env::Env;
use crate::operation::UnsignedRead;
use crate::refusal::Stop;
use crate::rows::{Bucket, Rows};
use crate::view::View;

/// Records of several days are dropped together: who looks for one does not know its day, and a
/// copy of the disk shows it more coarsely.
const SHELF_DAYS: u32 = 14;

/// The last day on which a record of today is kept.
pub(super) fn shelf(today: Day, env: &Env<'_>) -> Day {
    let until = today.0.saturating_add(env.settings.join_record_days);
    Day(until.div_ceil(SHELF_DAYS).saturating_mul(SHELF_DAYS))
}

/// The last days that a record which is still kept can have.
fn shelves(env: &Env<'_>) -> impl Iterator<Item = Day> {
    let first = env.today().0.div_ceil(SHELF_DAYS);
    let last = shelf(env.today(), env).0 / SHELF_DAYS;
    (first..=last).map(|shelf| Day(shelf.saturating_mul(SHELF_DAYS)))
}

/// What stands under one of these keys.
fn find(view: &View, keys: &[Key]) -> Result<Vec<u8>, Stop> {
    let found = view.all(keys)?.into_iter().flatten().next();
    found
        .map(<[u8]>::to_vec)
        .ok_or_else(|| ProblemType::UnknownRecord.into())
}

fn check_version(version: u16) -> Result<(), Stop> {
    if version == WIRE_VERSION {
        Ok(())
    } else {
        Err(ProblemType::UnsupportedVersion.into())
    }
}

/// [`Number::JoinRecord`].
#[derive(Debug)]
pub struct JoinRecord;

impl UnsignedRead for JoinRecord {
    type Request = JoinRecordRequest;
    type Response = JoinRecordResponse;
    const OPERATION: Number = Number::JoinRecord;

    fn bucket(request: &JoinRecordRequest, rows: &Rows<'_>) -> Bucket {
        rows.join_record_bucket(&request.id)
    }

    fn read(
        request: &JoinRecordRequest,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<JoinRecordResponse, Stop> {
        check_version(request.version)?;
        let row = env.rows().join_record(&request.id);
        let keys: Vec<Key> = shelves(env)
            .map(|day| row.page(day, request.page))
            .collect();
        let stored = find(view, &keys)?;
        let (pages, sealed) = stored
            .split_first_chunk::<2>()
            .ok_or(Stop::Internal("a page of a join record"))?;
        Ok(JoinRecordResponse {
            pages: u16::from_be_bytes(*pages),
            sealed: opaque(sealed),
        })
    }
}

/// [`Number::FetchWelcome`].
#[derive(Debug)]
pub struct FetchWelcome;

impl UnsignedRead for FetchWelcome {
    type Request = FetchWelcomeRequest;
    type Response = FetchWelcomeResponse;
    const OPERATION: Number = Number::FetchWelcome;

    fn bucket(request: &FetchWelcomeRequest, rows: &Rows<'_>) -> Bucket {
        rows.welcome_bucket(&request.id)
    }

    fn read(
        request: &FetchWelcomeRequest,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<FetchWelcomeResponse, Stop> {
        check_version(request.version)?;
        let row = env.rows().welcome(&request.id);
        let keys: Vec<Key> = shelves(env).map(|day| row.key(day)).collect();
        Ok(FetchWelcomeResponse {
            sealed: opaque(find(view, &keys)?),
        })
    }
}

/// [`Number::RecoveryRow`].
#[derive(Debug)]
pub struct RecoveryRow;

impl UnsignedRead for RecoveryRow {
    type Request = RecoveryRowRequest;
    type Response = RecoveryRowResponse;
    const OPERATION: Number = Number::RecoveryRow;

    fn bucket(request: &RecoveryRowRequest, rows: &Rows<'_>) -> Bucket {
        rows.recovery_bucket(&request.id)
    }

    fn read(
        request: &RecoveryRowRequest,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<RecoveryRowResponse, Stop> {
        check_version(request.version)?;
        let key = env.rows().recovery(&request.id).key();
        let stored = find(view, &[key])?;
        Ok(open_recovery_row(&request.id, &stored)?)
    }
}
