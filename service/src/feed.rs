//! Copies of the ticks of an activity feed, handed out to everybody alike.
//!
//! A tick never changes once it is made. So each is fetched once, whoever asks, and kept while
//! there is room. Which ticks there can be is known by the clock: for others the server is never
//! asked. What is handed out is the same for all; what is in it is not looked into.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex as Held, PoisonError};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tokio::sync::Mutex;

use crate::mirror::{Document, FEED, Fetched, TICK};
use crate::{Problem, SharedClock, Shutdown};

/// How long ticks can be, seconds; and for how many days after its own one is shown. As the service
/// that makes them has it.
pub const TICKS: [(u64, u64); 6] = [
    (2, 1),
    (20, 1),
    (120, 7),
    (1_200, 7),
    (7_200, 35),
    (86_400, 35),
];

const DAY_MS: u64 = 86_400_000;
/// The clocks of who makes ticks and who shows them may be so far from each other.
const SKEW_MS: u64 = 5_000;
/// A tick that was not there is asked for again after so long: it may be made at any moment.
const MISSING_MS: u64 = 100;
/// For so long the pointer to the last ticks is good.
const LATEST_MS: u64 = 500;
/// What is kept.
const MOST_TICKS: usize = 8_192;
const MOST_BYTES: usize = 64 << 20;
/// What is copied is there at once or not at all.
const EXCHANGE: Duration = Duration::from_secs(10);

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// The pointer to the last ticks.
    Latest,
    /// A tick of so many seconds.
    Tick {
        /// Its length.
        seconds: u64,
        number: u64,
    },
}

impl Asked {
    /// From the parts of a path, written in the one way that numbers have.
    #[must_use]
    pub fn of(seconds: &str, number: &str) -> Option<Self> {
        let parse = |text: &str| {
            let value: u64 = text.parse().ok()?;
            (value.to_string() == text).then_some(value)
        };
        let (seconds, number) = (parse(seconds)?, parse(number)?);
        TICKS
            .iter()
            .any(|(of, _)| *of == seconds)
            .then_some(Self::Tick { seconds, number })
    }

    /// Its place below that of the feed.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Tick { seconds, number } => format!("{seconds}/{number}"),
        }
    }

    /// What the answer must be.
    #[must_use]
    pub fn document(self) -> &'static Document {
        match self {
            Self::Latest => &FEED,
            Self::Tick { .. } => &TICK,
        }
    }

    /// Whether there can be such a tick.
    fn is_possible(self, now_ms: u64) -> bool {
        let Self::Tick { seconds, number } = self else {
            return true;
        };
        let kept = TICKS.iter().find(|(of, _)| *of == seconds);
        let kept_ms = kept.map_or(0, |(_, days)| (days + 2) * DAY_MS);
        let ends_ms = number.saturating_add(1).saturating_mul(seconds * 1_000);
        ends_ms <= now_ms.saturating_add(SKEW_MS) && ends_ms.saturating_add(kept_ms) >= now_ms
    }
}

/// A copy; locked during a fetch, so that many clients cause one.
#[derive(Default)]
struct Copied {
    document: Option<Bytes>,
    /// When the server is asked again.
    until_ms: u64,
}

#[derive(Default)]
struct Copies {
    of: HashMap<Asked, Arc<Mutex<Copied>>>,
    /// Ticks, from the first that was asked for on, with their bytes.
    order: VecDeque<(Asked, usize)>,
    bytes: usize,
}

/// The mirror of one feed.
pub struct FeedMirror {
    clock: SharedClock,
    copies: Held<Copies>,
}

impl FeedMirror {
    /// One that has nothing yet.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            copies: Held::default(),
        }
    }

    /// The answer to everybody: no ETag, nothing that varies. 404 if it is not there.
    pub async fn show<F>(
        &self,
        asked: Option<Asked>,
        shutdown: &Shutdown,
        fetch: impl FnOnce(Asked) -> F,
    ) -> Response
    where
        F: Future<Output = Option<Fetched>>,
    {
        let shown = async {
            let asked = asked.filter(|asked| asked.is_possible(self.clock.now_unix_ms()))?;
            let document = self.current(asked, fetch(asked)).await?;
            Some((asked, document))
        };
        let shown = tokio::select! {
            shown = shown => shown,
            () = shutdown.requested() => None,
        };
        let Some((asked, document)) = shown else {
            return Problem::plain(StatusCode::NOT_FOUND).into_response();
        };
        let cached = match asked {
            Asked::Latest => "public, max-age=1",
            Asked::Tick { .. } => "public, max-age=31536000, immutable",
        };
        let headers = [
            (
                CONTENT_TYPE,
                HeaderValue::from_static(asked.document().media_type),
            ),
            (CACHE_CONTROL, HeaderValue::from_static(cached)),
        ];
        (headers, document).into_response()
    }

    async fn current(
        &self,
        asked: Asked,
        fetch: impl Future<Output = Option<Fetched>>,
    ) -> Option<Bytes> {
        let copy = self.copy(asked);
        let mut copy = copy.lock().await;
        let is_tick = asked != Asked::Latest;
        let is_good = self.clock.monotonic_ms() < copy.until_ms;
        if is_good || (is_tick && copy.document.is_some()) {
            return copy.document.clone();
        }
        let fetched = tokio::time::timeout(EXCHANGE, fetch).await.ok().flatten();
        let (document, good_ms) = match fetched {
            Some(fetched) => (Some(fetched.document), LATEST_MS),
            None => (None, MISSING_MS),
        };
        copy.until_ms = self.clock.monotonic_ms().saturating_add(good_ms);
        copy.document.clone_from(&document);
        if let Some(document) = document.as_ref().filter(|_| is_tick) {
            self.grown(asked, document.len());
        }
        document
    }

    fn copy(&self, asked: Asked) -> Arc<Mutex<Copied>> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.of.get(&asked) {
            return Arc::clone(copy);
        }
        if asked != Asked::Latest {
            copies.order.push_back((asked, 0));
        }
        copies.make_room();
        Arc::clone(copies.of.entry(asked).or_default())
    }

    fn grown(&self, asked: Asked, bytes: usize) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        // From the back: it was asked for just now.
        if let Some((_, size)) = copies.order.iter_mut().rfind(|(of, _)| *of == asked) {
            let before = std::mem::replace(size, bytes);
            copies.bytes = copies.bytes.saturating_sub(before).saturating_add(bytes);
        }
        copies.make_room();
    }
}

impl Copies {
    fn make_room(&mut self) {
        while self.order.len() > MOST_TICKS || (self.bytes > MOST_BYTES && self.order.len() > 1) {
            if let Some((asked, bytes)) = self.order.pop_front() {
                self.of.remove(&asked);
                self.bytes = self.bytes.saturating_sub(bytes);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::MovedClock;

    const NOW: u64 = 1_800_000_000_000;

    struct Scene {
        clock: Arc<MovedClock>,
        mirror: FeedMirror,
        shutdown: Shutdown,
        fetches: AtomicUsize,
    }

    impl Scene {
        fn new() -> Self {
            let clock = MovedClock::at(NOW);
            let (trigger, shutdown) = Shutdown::channel();
            std::mem::forget(trigger);
            Self {
                mirror: FeedMirror::new(clock.clone()),
                clock,
                shutdown,
                fetches: AtomicUsize::new(0),
            }
        }

        async fn ask(
            &self,
            asked: Option<Asked>,
            shows: Option<&'static [u8]>,
        ) -> Option<(Bytes, String)> {
            let fetch = |_| async {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                shows.map(|document| Fetched {
                    document: Bytes::from_static(document),
                    max_age_s: None,
                })
            };
            let answer = self.mirror.show(asked, &self.shutdown, fetch).await;
            if answer.status() == StatusCode::NOT_FOUND {
                assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
                return None;
            }
            let cached = answer.headers()[CACHE_CONTROL].to_str().unwrap().to_owned();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            Some((body, cached))
        }

        fn fetches(&self) -> usize {
            self.fetches.swap(0, Ordering::SeqCst)
        }
    }

    fn tick(number: u64) -> Option<Asked> {
        Some(Asked::Tick { seconds: 2, number })
    }

    #[tokio::test]
    async fn a_tick_is_fetched_once_for_everybody_and_never_again() {
        let scene = Scene::new();
        let last = tick(NOW / 2_000 - 1);
        let asked = || scene.ask(last, Some(b"one"));
        let (one, other, third) = tokio::join!(asked(), asked(), asked());
        let shown = (
            Bytes::from_static(b"one"),
            "public, max-age=31536000, immutable".to_owned(),
        );
        assert_eq!(one, Some(shown));
        assert!(one == other && one == third);
        scene.clock.advance(3_600_000);
        assert_eq!(scene.ask(last, Some(b"other")).await, one);
        assert_eq!(scene.fetches(), 1);
    }

    #[tokio::test]
    async fn what_is_not_made_yet_is_asked_for_again_ten_times_a_second_whoever_asks() {
        let scene = Scene::new();
        let last = tick(NOW / 2_000 - 1);
        for _ in 0..50 {
            assert_eq!(scene.ask(last, None).await, None);
        }
        assert_eq!(scene.fetches(), 1);
        scene.clock.advance(MISSING_MS);
        assert!(scene.ask(last, Some(b"one")).await.is_some());
    }

    #[tokio::test]
    async fn for_a_tick_that_cannot_be_there_the_server_is_not_asked() {
        let scene = Scene::new();
        let now = NOW / 2_000;
        for number in [now + 10, u64::MAX, now - 4 * 43_200, 0] {
            assert_eq!(scene.ask(tick(number), Some(b"one")).await, None);
        }
        for (seconds, number) in [("3", "1"), ("2", "01"), ("+2", "1"), ("2", "x"), ("2", "")] {
            assert_eq!(Asked::of(seconds, number), None);
        }
        assert_eq!(scene.ask(None, Some(b"one")).await, None);
        assert_eq!(scene.fetches(), 0);
    }

    #[tokio::test]
    async fn the_pointer_is_good_for_half_a_second() {
        let scene = Scene::new();
        let (shown, cached) = scene.ask(Some(Asked::Latest), Some(b"one")).await.unwrap();
        assert_eq!(
            (&shown[..], &cached[..]),
            (&b"one"[..], "public, max-age=1")
        );
        assert_eq!(
            scene
                .ask(Some(Asked::Latest), Some(b"two"))
                .await
                .unwrap()
                .0,
            "one"
        );
        scene.clock.advance(LATEST_MS);
        assert_eq!(
            scene
                .ask(Some(Asked::Latest), Some(b"two"))
                .await
                .unwrap()
                .0,
            "two"
        );
        scene.clock.advance(LATEST_MS);
        assert_eq!(scene.ask(Some(Asked::Latest), None).await, None);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_there_is_room_for() {
        let scene = Scene::new();
        let large: &'static [u8] = Vec::leak(vec![0; 4 << 20]);
        let now = NOW / 2_000;
        for number in now - 40..now {
            scene.ask(tick(number), Some(large)).await.unwrap();
        }
        for number in now - 20_000..now - 10_000 {
            scene.ask(tick(number), None).await;
        }
        let copies = scene.mirror.copies.lock().unwrap();
        assert!(copies.bytes <= MOST_BYTES);
        assert!(copies.of.len() <= MOST_TICKS && copies.order.len() <= MOST_TICKS);
    }
}
