//! A copy of what another server shows, handed out to everybody alike.
//!
//! Relay and issuer mirror the gateway's key configurations and the delivery service's directory,
//! so that clients can hold the views of several operators against each other. One fetch is for
//! everybody: the server cannot show each client something else. Nor can it show something else
//! every minute, and so mark clients by when they asked: of one document there are so many versions
//! a day and no more.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use hyper::body::Body;
use tokio::sync::Mutex;

use crate::body::read_at_most;
use crate::{Problem, SharedClock, Shutdown};

/// For so long nobody asks a server again that did not answer.
const RETRY_MS: u64 = 1_000;
/// After a sign that a document has been replaced, a copy older than this is fetched again. Clients
/// go on trying for longer, and nobody can have it fetched more often.
const DOUBTED_MS: u64 = 20_000;
const DAY_MS: u64 = 86_400_000;
/// New versions of a document in any 24 hours. Rotations and replacements of keys, changes of
/// settings: an operator needs a few on a bad day.
pub const VERSIONS_A_DAY: usize = 8;

/// What is mirrored is there at once or not at all.
const EXCHANGE: Duration = Duration::from_secs(10);

/// A kind of document that mirrors show: its name, media type and greatest length.
#[derive(Debug)]
pub struct Document {
    /// Its place, beside others.
    pub name: &'static str,
    /// A document of another media type is not shown.
    pub media_type: &'static str,
    max_bytes: usize,
}

/// A gateway's key configurations.
pub const KEYS: Document = Document {
    name: "ohttp-keys",
    media_type: "application/ohttp-keys",
    // 255 configurations of the longest kind would fit.
    max_bytes: 512 * 1024,
};

/// The directory of the service behind it.
pub const DIRECTORY: Document = Document {
    name: "service-directory",
    media_type: "application/json",
    max_bytes: 64 * 1024,
};

/// The pointer to the last ticks of an activity feed.
pub const FEED: Document = Document {
    name: "feed",
    media_type: "application/json",
    max_bytes: 4 * 1024,
};

/// A tick of it.
pub const TICK: Document = Document {
    name: "feed",
    media_type: "application/mimi-ds-tick",
    max_bytes: 4 << 20,
};

impl Document {
    /// Reads a server's answer. `None` if the server does not show the document now.
    pub async fn read<B>(&self, response: http::Response<B>) -> Option<Fetched>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = response.into_parts();
        let is_ours = head.headers.get(CONTENT_TYPE).is_some_and(|kind| {
            let expected = self.media_type.as_bytes();
            kind.as_bytes().eq_ignore_ascii_case(expected)
        });
        if head.status != StatusCode::OK || !is_ours {
            return None;
        }
        Some(Fetched {
            document: read_at_most(body, self.max_bytes).await.ok()?,
            max_age_s: head
                .headers
                .get(CACHE_CONTROL)
                .and_then(|value| max_age(value.to_str().ok()?)),
        })
    }
}

/// How long a copy is kept, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// A copy is kept at least so long, whatever the server says. A server that is asked anew for
    /// each client could answer each with something else.
    pub shortest_ms: u64,
    /// A copy is kept at most so long, whatever the server says.
    pub longest_ms: u64,
    /// If the server does not say.
    pub default_ms: u64,
    /// Shown for so long after it was fetched while the server does not answer.
    pub last_known_ms: u64,
}

impl Keeping {
    /// For a document that must reach clients soon after a change: a mirror that fails with every
    /// hiccup keeps clients from sending anything, so it is shown for ten minutes more.
    pub const BRIEFLY: Self = Self {
        shortest_ms: 20_000,
        longest_ms: 20_000,
        default_ms: 20_000,
        last_known_ms: 600_000,
    };
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its bytes, which are not looked into.
    pub document: Bytes,
    /// For how many seconds it may be kept, if the server says so.
    pub max_age_s: Option<u64>,
}

/// A document as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirrored {
    document: Bytes,
    /// For how many seconds others may keep it.
    remaining_s: u64,
}

/// The mirror of one document.
pub struct Mirror {
    document: &'static Document,
    clock: SharedClock,
    keeping: Keeping,
    /// Locked during a fetch, so that many clients cause one.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    known: Option<Known>,
    /// When the server is asked again.
    until_ms: u64,
    /// When there was a new version.
    changes_ms: VecDeque<u64>,
}

struct Known {
    document: Bytes,
    fetched_ms: u64,
}

impl Mirror {
    /// One that has nothing yet.
    #[must_use]
    pub fn new(document: &'static Document, clock: SharedClock, keeping: Keeping) -> Self {
        Self {
            document,
            clock,
            keeping,
            kept: Mutex::default(),
        }
    }

    /// Somebody says that the document has been replaced.
    pub fn doubt(&self) {
        // If it is locked, somebody fetches right now.
        if let Ok(mut kept) = self.kept.try_lock()
            && let Some(known) = &kept.known
        {
            let doubted = known.fetched_ms.saturating_add(DOUBTED_MS);
            kept.until_ms = kept.until_ms.min(doubted);
        }
    }

    /// The answer to everybody: no ETag, nothing that varies. 502 if there is nothing to show; and
    /// nobody waits for another server any more when the process is to end.
    pub async fn show(
        &self,
        shutdown: &Shutdown,
        fetch: impl Future<Output = Option<Fetched>>,
    ) -> Response {
        let fetch = async { tokio::time::timeout(EXCHANGE, fetch).await.ok()? };
        let mirrored = tokio::select! {
            mirrored = self.current(fetch) => mirrored,
            () = shutdown.requested() => None,
        };
        let Some(Mirrored {
            document,
            remaining_s,
        }) = mirrored
        else {
            return Problem::plain(StatusCode::BAD_GATEWAY).into_response();
        };
        let cached = HeaderValue::try_from(format!("public, max-age={remaining_s}"));
        let headers = [
            (
                CONTENT_TYPE,
                HeaderValue::from_static(self.document.media_type),
            ),
            (
                CACHE_CONTROL,
                cached.unwrap_or(HeaderValue::from_static("no-store")),
            ),
        ];
        (headers, document).into_response()
    }

    /// The document; `fetch` is carried out if the copy is too old. `None`: there is nothing to
    /// show.
    async fn current(&self, fetch: impl Future<Output = Option<Fetched>>) -> Option<Mirrored> {
        let mut kept = self.kept.lock().await;
        if kept.until_ms <= self.clock.monotonic_ms() {
            let fetched = fetch.await;
            // The time after a fetch, which may have taken long: who waited meanwhile does not ask
            // again.
            let now = self.clock.monotonic_ms();
            kept.take(fetched, now, &self.keeping);
        }
        let left_ms = kept.until_ms.saturating_sub(self.clock.monotonic_ms());
        kept.known.as_ref().map(|known| Mirrored {
            document: known.document.clone(),
            remaining_s: left_ms.div_ceil(1000).min(self.keeping.longest_ms / 1000),
        })
    }
}

impl Kept {
    fn take(&mut self, fetched: Option<Fetched>, now: u64, keeping: &Keeping) {
        let Some(Fetched {
            document,
            max_age_s,
        }) = fetched
        else {
            self.until_ms = now.saturating_add(RETRY_MS);
            if let Some(known) = &self.known
                && now.saturating_sub(known.fetched_ms) > keeping.last_known_ms
            {
                self.known = None;
            }
            return;
        };
        let good_for = max_age_s
            .map_or(keeping.default_ms, |seconds| seconds.saturating_mul(1000))
            .clamp(keeping.shortest_ms, keeping.longest_ms);
        self.until_ms = now.saturating_add(good_for);
        let is_new = self
            .known
            .as_ref()
            .is_some_and(|known| known.document != document);
        if is_new && !self.may_change(now) {
            tracing::warn!("a mirrored document changes too often: the former one is shown");
            return;
        }
        self.known = Some(Known {
            document,
            fetched_ms: now,
        });
    }

    /// Counts a new version, if there may be one.
    fn may_change(&mut self, now: u64) -> bool {
        while self
            .changes_ms
            .front()
            .is_some_and(|change| now.saturating_sub(*change) >= DAY_MS)
        {
            self.changes_ms.pop_front();
        }
        if self.changes_ms.len() >= VERSIONS_A_DAY {
            return false;
        }
        self.changes_ms.push_back(now);
        true
    }
}

/// `max-age` of a `Cache-Control` value in seconds (RFC 9111 §5.2.2.1); 0 for what forbids keeping.
/// `None`: it says nothing.
fn max_age(cache_control: &str) -> Option<u64> {
    let mut seconds = None;
    for directive in cache_control.split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return Some(0);
        }
        if let Some((name, value)) = directive.split_once('=')
            && name.trim().eq_ignore_ascii_case("max-age")
        {
            seconds = Some(value.trim().trim_matches('"').parse().unwrap_or(0));
        }
    }
    seconds
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::MovedClock;

    /// Up to a minute and a day, as a server says.
    const KEEPING: Keeping = Keeping {
        shortest_ms: 60_000,
        longest_ms: 86_400_000,
        default_ms: 300_000,
        last_known_ms: 600_000,
    };

    fn mirror(keeping: Keeping) -> (Arc<MovedClock>, Mirror) {
        let clock = MovedClock::at(1_800_000_000_000);
        let mirror = Mirror::new(&DIRECTORY, clock.clone(), keeping);
        (clock, mirror)
    }

    async fn asked(mirror: &Mirror, shows: Option<(&str, Option<u64>)>) -> Option<(String, u64)> {
        let fetched = shows.map(|(document, max_age_s)| Fetched {
            document: Bytes::copy_from_slice(document.as_bytes()),
            max_age_s,
        });
        let mirrored = mirror.current(async { fetched }).await?;
        let document = String::from_utf8(mirrored.document.to_vec()).unwrap();
        Some((document, mirrored.remaining_s))
    }

    fn shown(document: &str, remaining_s: u64) -> Option<(String, u64)> {
        Some((document.to_owned(), remaining_s))
    }

    #[test]
    fn max_age_is_read_and_what_forbids_keeping_is_none_at_all() {
        assert_eq!(max_age("public, max-age=600"), Some(600));
        assert_eq!(max_age("Max-Age=\"90\""), Some(90));
        assert_eq!(max_age("public"), None);
        for fleeting in [
            "no-store, max-age=600",
            "no-cache",
            "max-age=0",
            "max-age=x",
        ] {
            assert_eq!(max_age(fleeting), Some(0), "{fleeting}");
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_once_for_everybody_however_short_it_says_its_word_is_good() {
        let (clock, mirror) = mirror(KEEPING);
        assert_eq!(
            asked(&mirror, Some(("one", Some(0)))).await,
            shown("one", 60)
        );
        clock.advance(59_999);
        assert_eq!(
            asked(&mirror, Some(("two", Some(0)))).await,
            shown("one", 1)
        );
        clock.advance(1);
        let forever = Some(u64::MAX);
        assert_eq!(
            asked(&mirror, Some(("two", forever))).await,
            shown("two", 86_400)
        );
    }

    #[tokio::test]
    async fn of_many_who_ask_at_once_one_causes_a_fetch() {
        let (_, mirror) = mirror(KEEPING);
        let fetches = AtomicUsize::new(0);
        let ask = || {
            mirror.current(async {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Some(Fetched {
                    document: Bytes::from_static(b"one"),
                    max_age_s: None,
                })
            })
        };
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        assert!(first.is_some() && first == second && second == third);
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_server_that_does_not_answer_when_the_process_is_to_end() {
        let (_, mirror) = mirror(KEEPING);
        let (trigger, shutdown) = Shutdown::channel();
        let (answer, ()) = tokio::join!(mirror.show(&shutdown, std::future::pending()), async {
            trigger.request()
        });
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    }

    #[tokio::test]
    async fn what_the_server_last_said_is_shown_while_it_fails_for_a_limited_time() {
        let (clock, mirror) = mirror(Keeping::BRIEFLY);
        let one = Some(("one", Some(3600)));
        assert_eq!(asked(&mirror, one).await, shown("one", 20));
        clock.advance(20_000);
        assert_eq!(asked(&mirror, None).await, shown("one", 1));
        clock.advance(580_000);
        assert_eq!(asked(&mirror, None).await, shown("one", 1));
        clock.advance(RETRY_MS);
        assert_eq!(asked(&mirror, None).await, None);
        assert_eq!(asked(&mirror, one).await, None, "it was just asked");
        clock.advance(RETRY_MS);
        assert_eq!(asked(&mirror, one).await, shown("one", 20));
    }

    #[tokio::test]
    async fn after_a_sign_of_a_replacement_a_copy_of_twenty_seconds_is_fetched_again() {
        let (clock, mirror) = mirror(KEEPING);
        asked(&mirror, Some(("one", Some(3600)))).await;
        mirror.doubt();
        clock.advance(DOUBTED_MS - 1);
        assert_eq!(asked(&mirror, Some(("two", None))).await, shown("one", 1));
        clock.advance(1);
        assert_eq!(asked(&mirror, Some(("two", None))).await, shown("two", 300));
    }

    #[tokio::test]
    async fn a_document_that_is_another_one_every_minute_marks_nobody_by_the_minute() {
        let (clock, mirror) = mirror(KEEPING);
        let mut versions = std::collections::BTreeSet::new();
        for minute in 0..1439 {
            let document = format!("for those who ask in minute {minute}");
            let (shown, _) = asked(&mirror, Some((&document, Some(0)))).await.unwrap();
            versions.insert(shown);
            clock.advance(60_000);
        }
        assert_eq!(versions.len(), 1 + VERSIONS_A_DAY);
        // A day after the first changes others may come.
        clock.advance(DAY_MS);
        assert_eq!(asked(&mirror, Some(("new", None))).await, shown("new", 300));
    }
}
