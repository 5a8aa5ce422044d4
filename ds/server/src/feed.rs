//! The activity feed: makes ticks as they are due, beside whoever else does, and shows them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use ds_domain::engine::{ApplyError, EngineError, Found, Read};
use ds_domain::feed::{Due, StoredState, tick_key};
use ds_domain::refusal::Stop;
use http::{HeaderValue, StatusCode, header};
use protocol::feed::{FeedPointer, LastTick, Resolution, TICK_MEDIA_TYPE};
use protocol::ids::TickNumber;
use service::problem::Problem;

use crate::chance::fresh_rng;
use crate::server::Server;

/// A tick is made so long after its end: what was accepted at its end is written by then. Nodes do
/// not all look at the same moment, but within [`SPREAD_MS`] after that.
const GRACE_MS: u64 = 100;
const SPREAD_MS: u64 = 100;

/// Ticks from one look for all notes to the next: five minutes, if no other node makes any.
const LOOK_TURNS: u32 = 150;

/// Why a tick was not made. It is made later, with what it should have had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TickError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("a row of the feed is damaged, or there is no randomness")]
    Internal,
}

impl From<Stop> for TickError {
    fn from(_: Stop) -> Self {
        Self::Internal
    }
}

/// Makes ticks for as long as the service runs.
pub(crate) async fn keep(server: Arc<Server>) {
    // What an absence or another clock has left is looked for at first, and every few minutes.
    let mut turns = 0u32;
    loop {
        let spread = match crypto::random::<1>() {
            Ok([random]) => SPREAD_MS * u64::from(random) / 256,
            Err(_) => 0,
        };
        let now_ms = server.clock.now_unix_ms();
        let into_ms = now_ms % Resolution::Seconds2.ms();
        let wait_ms = (Resolution::Seconds2.ms() + GRACE_MS + spread).saturating_sub(into_ms);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = server.shutdown.requested() => return,
        }
        match make_due(&server, turns == 0).await {
            Ok(0) => {}
            Ok(_) => turns = (turns + 1) % LOOK_TURNS,
            Err(error) => {
                metrics::counter!("ds_feed_failures_total").increment(1);
                tracing::warn!(%error, "a tick of the feed was not made");
            }
        }
    }
}

/// Makes all ticks that are due and that nobody else has made. How many.
///
/// # Errors
/// [`TickError`].
pub(crate) async fn make_due(server: &Server, after_absence: bool) -> Result<usize, TickError> {
    let mut made = 0;
    loop {
        // A clock that is not believed dates nothing.
        let now = server.now();
        if !now.may_tick() {
            return Ok(made);
        }
        let stored = state(server).await?;
        let generation = server.settings.store.generation;
        let Some(due) = stored.state.due(now.unix_ms, generation) else {
            return Ok(made);
        };
        if make(server, stored, due, after_absence).await? {
            made += 1;
        }
    }
}

async fn state(server: &Server) -> Result<StoredState, TickError> {
    let read = vec![Read::Row(StoredState::key())];
    let found = server.engine.read(read).await?.pop();
    let Some(Found::Row(value)) = found else {
        return Err(TickError::Internal);
    };
    Ok(StoredState::read(value.as_deref())?)
}

/// Whether it was made here: not if another node has made it meanwhile.
async fn make(
    server: &Server,
    stored: StoredState,
    due: Due,
    after_absence: bool,
) -> Result<bool, TickError> {
    let range = due.rows(&stored.state, after_absence);
    let found = server.engine.read(vec![Read::Range(range)]).await?.pop();
    let Some(Found::Range(rows)) = found else {
        return Err(TickError::Internal);
    };
    let mut rng = fresh_rng().map_err(|_| TickError::Internal)?;
    let made = due.make(stored, &rows, &mut server.env(&mut rng))?;
    match server.engine.apply(made.batch).await {
        Ok(()) => {}
        Err(ApplyError::Condition { .. }) => return Ok(false),
        Err(ApplyError::Engine(error)) => return Err(error.into()),
    }
    let seconds = label(due.resolution);
    metrics::counter!("ds_feed_ticks_total", "seconds" => seconds).increment(1);
    metrics::histogram!("ds_feed_segments", "seconds" => seconds).record(made.announced as f64);
    if made.left_out > 0 {
        let left_out = u64::try_from(made.left_out).unwrap_or(u64::MAX);
        metrics::counter!("ds_feed_left_out_total").increment(left_out);
    }
    Ok(true)
}

fn label(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Seconds2 => "2",
        Resolution::Seconds20 => "20",
        Resolution::Minutes2 => "120",
        Resolution::Minutes20 => "1200",
        Resolution::Hours2 => "7200",
        Resolution::Day => "86400",
    }
}

fn unavailable(error: &TickError) -> Response {
    metrics::counter!("ds_feed_failures_total").increment(1);
    tracing::warn!(%error, "the feed cannot be shown");
    Problem::plain(StatusCode::SERVICE_UNAVAILABLE).into_response()
}

/// `GET /v1/feed/latest`.
pub(crate) async fn latest(State(server): State<Arc<Server>>) -> Response {
    let stored = match state(&server).await {
        Ok(stored) => stored,
        Err(error) => return unavailable(&error),
    };
    let shown = |resolution: Resolution| {
        let last = stored.state.last(resolution)?;
        Some(LastTick {
            seconds: resolution.seconds(),
            number: last.number.0,
            bytes: last.bytes,
        })
    };
    let pointer = FeedPointer {
        generation: server.settings.store.generation,
        ticks: Resolution::ALL.into_iter().filter_map(shown).collect(),
    };
    let cached = HeaderValue::from_static("max-age=1");
    ([(header::CACHE_CONTROL, cached)], Json(pointer)).into_response()
}

/// `GET /v1/feed/SECONDS/NUMBER`.
pub(crate) async fn tick(
    State(server): State<Arc<Server>>,
    Path((seconds, number)): Path<(u64, u64)>,
) -> Response {
    let not_found = || Problem::plain(StatusCode::NOT_FOUND).into_response();
    let Some(resolution) = Resolution::of_seconds(seconds) else {
        return not_found();
    };
    let key = tick_key(resolution, TickNumber(number));
    match server.engine.read(vec![Read::Row(key)]).await {
        Ok(mut found) => match found.pop() {
            Some(Found::Row(Some(tick))) => {
                let headers = [
                    (
                        header::CONTENT_TYPE,
                        HeaderValue::from_static(TICK_MEDIA_TYPE),
                    ),
                    (
                        header::CACHE_CONTROL,
                        HeaderValue::from_static("max-age=31536000, immutable"),
                    ),
                ];
                (headers, tick).into_response()
            }
            _ => not_found(),
        },
        Err(error) => unavailable(&error.into()),
    }
}
