//! Ticks of the activity feed, as relay, mirrors and the service show them. Everybody asks for the
//! same, and says nothing of itself: no header, and no number that is not everybody's.

use protocol::Wire as _;
use protocol::feed::{FEED_PATH, FeedPointer, MAX_TICK_BYTES, Resolution, TICK_MEDIA_TYPE, Tick};
use protocol::ids::TickNumber;

use crate::error::Error;
use crate::in_process::{FeedView, SharedService};
use crate::net::http as web;
use crate::net::transport::Transport;
use crate::purse::{HEAD, SharedPurse};

/// Where somebody shows the feed: beside its key configurations.
fn beside_keys(keys_url: &str, path: &str) -> String {
    let parent = keys_url.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/feed/{path}")
}

fn path_of(resolution: Resolution, number: TickNumber) -> String {
    format!("{}/{}", resolution.seconds(), number.0)
}

/// What comes of asking for something that is shown in the open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown<T> {
    Here(T),
    /// It is not there, or broke off.
    Missing,
    /// Nobody answers.
    Silence,
    /// Something is there, which cannot be it.
    Wrong,
    /// There is not so much left to pay with.
    TooDear,
}

impl<T> Shown<T> {
    fn ok(self) -> Option<T> {
        match self {
            Self::Here(shown) => Some(shown),
            Self::Missing | Self::Silence | Self::Wrong | Self::TooDear => None,
        }
    }

    fn and_then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Shown<U> {
        match self {
            Self::Here(shown) => read(shown).map_or(Shown::Wrong, Shown::Here),
            Self::Missing => Shown::Missing,
            Self::Silence => Shown::Silence,
            Self::Wrong => Shown::Wrong,
            Self::TooDear => Shown::TooDear,
        }
    }
}

/// What is asked for: a media type, and bytes that it has at most.
type Kind = (&'static str, usize);
const POINTER: Kind = ("application/json", 4 * 1024);
const TICK: Kind = (TICK_MEDIA_TYPE, MAX_TICK_BYTES);

/// Bytes of a body that may be read: as many as it can have, and as can be paid for.
fn longest(purse: &SharedPurse, kind: Kind) -> (u64, bool) {
    let most = u64::try_from(kind.1).unwrap_or(u64::MAX);
    let left = purse.lock().left();
    (most.min(left), left < most)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Asks, and pays for what comes.
async fn ask(
    http: &web::Client,
    url: &str,
    kind: Kind,
    (purse, now_ms): (&SharedPurse, u64),
) -> Shown<Vec<u8>> {
    if !begins(purse, now_ms) {
        return Shown::TooDear;
    }
    let Ok(mut answer) = http.get(url).send().await else {
        return Shown::Silence;
    };
    let head = answer.headers().iter().map(|(name, value)| {
        let value = length(value.as_bytes());
        length(name.as_str().as_bytes()).saturating_add(value)
    });
    let head = head.fold(0, u64::saturating_add);
    purse.lock().pay(head.saturating_sub(HEAD));
    let is_ours = answer
        .headers()
        .get("content-type")
        .is_some_and(|of| of.as_bytes().eq_ignore_ascii_case(kind.0.as_bytes()));
    if answer.status().as_u16() != 200 || !is_ours {
        return Shown::Missing;
    }
    let (most, is_all) = longest(purse, kind);
    let too_long = match is_all {
        true => Shown::TooDear,
        false => Shown::Wrong,
    };
    if answer.content_length().is_some_and(|said| said > most) {
        return too_long;
    }
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                purse.lock().pay(length(&chunk));
                body.extend_from_slice(&chunk);
                if length(&body) > most {
                    return too_long;
                }
            }
            Ok(None) => return Shown::Here(body),
            Err(_) => return Shown::Missing,
        }
    }
}

/// The same in this process.
fn ask_here(
    service: &SharedService,
    (path, view): (&str, FeedView),
    kind: Kind,
    (purse, now_ms): (&SharedPurse, u64),
) -> Shown<Vec<u8>> {
    if !begins(purse, now_ms) {
        return Shown::TooDear;
    }
    let Some(body) = service.feed(path, view) else {
        return Shown::Missing;
    };
    let (most, is_all) = longest(purse, kind);
    purse.lock().pay(length(&body).min(most));
    match (length(&body) > most, is_all) {
        (false, _) => Shown::Here(body),
        (true, true) => Shown::TooDear,
        (true, false) => Shown::Wrong,
    }
}

/// Whether the head of an answer can be paid for; then it is.
fn begins(purse: &SharedPurse, now_ms: u64) -> bool {
    let mut purse = purse.lock();
    purse.fill(now_ms);
    purse.can_pay(HEAD)
}

impl Transport {
    async fn of_relay(&self, path: &str, kind: Kind, purse: &SharedPurse) -> Shown<Vec<u8>> {
        let paid = (purse, self.time.now_unix_ms());
        match self.service() {
            Some(service) => ask_here(service, (path, FeedView::Relay), kind, paid),
            None => {
                let url = beside_keys(self.relay_keys_url(), path);
                ask(self.http(), &url, kind, paid).await
            }
        }
    }

    /// What the relay says that there is.
    pub(crate) async fn feed_pointer(&self, purse: &SharedPurse) -> Shown<FeedPointer> {
        let shown = self.of_relay("latest", POINTER, purse).await;
        shown.and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// A tick as the relay shows it.
    pub(crate) async fn tick_of_relay(
        &self,
        (resolution, number): (Resolution, TickNumber),
        purse: &SharedPurse,
    ) -> Shown<Tick> {
        let path = path_of(resolution, number);
        let shown = self.of_relay(&path, TICK, purse).await;
        shown.and_then(|bytes| Tick::decode(&bytes).ok())
    }

    /// The same as the service shows it to somebody of whom it knows nothing: through relay and
    /// gateway, like every request. `bytes`: as long as the relay's is.
    pub(crate) async fn tick_of_service(
        &mut self,
        (resolution, number): (Resolution, TickNumber),
        bytes: usize,
        purse: &SharedPurse,
    ) -> Result<Option<Tick>, Error> {
        let cost = HEAD.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if !purse.lock().can_pay(cost) {
            return Ok(None);
        }
        let path = path_of(resolution, number);
        let bytes = match self.service() {
            Some(service) => match service.feed(&path, FeedView::Service) {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
            None => self.fetch(&format!("{FEED_PATH}/{path}")).await?,
        };
        Ok(Tick::decode(&bytes).ok())
    }

    /// The same as each mirror shows it. A time of this client's own is right for it, and no other:
    /// who runs a mirror may know the account.
    pub(crate) async fn ticks_of_mirrors(
        &self,
        (resolution, number): (Resolution, TickNumber),
        purse: &SharedPurse,
    ) -> Vec<Option<Tick>> {
        let path = path_of(resolution, number);
        let paid = (purse, self.time.now_unix_ms());
        let decode = |shown: Shown<Vec<u8>>| Tick::decode(&shown.ok()?).ok();
        if let Some(service) = self.service() {
            let shown = ask_here(service, (&path, FeedView::Mirror), TICK, paid);
            return vec![decode(shown)];
        }
        let mut ticks = Vec::new();
        for mirror in self.mirrors_keys_urls() {
            let url = beside_keys(mirror, &path);
            ticks.push(decode(ask(self.to_mirrors(), &url, TICK, paid).await));
        }
        ticks
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::purse::Purse;

    const NOW: u64 = 1_800_000_000_000;
    const OURS: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/mimi-ds-tick\r\n";

    /// Asks somebody who answers with this once, and then writes that for as long as it is read.
    /// What came of it, and what was paid.
    async fn asked(first: String, again: &'static str, left: u64) -> (Shown<Vec<u8>>, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/feed/2/7", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let mut more = stream.write_all(first.as_bytes());
            while more.is_ok() && !again.is_empty() {
                more = stream.write_all(again.as_bytes());
            }
        });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        // An hour is the 720th part of a month.
        let purse = SharedPurse::new(Purse::new(left * 720, NOW));
        let shown = ask(&http, &url, TICK, (&purse, NOW)).await;
        drop(http);
        // What is open is closed meanwhile.
        let end = tokio::task::spawn_blocking(move || server.join());
        end.await.unwrap().unwrap();
        let paid = purse.lock().spent();
        (shown, paid)
    }

    #[tokio::test]
    async fn of_a_body_that_does_not_end_no_more_is_read_than_can_be_paid() {
        let endless = format!("{OURS}transfer-encoding: chunked\r\n\r\n");
        let (shown, paid) = asked(endless, "10\r\n0123456789abcdef\r\n", 100_000).await;
        assert_eq!(shown, Shown::TooDear);
        // And what had come with the last piece.
        assert!((100_000..600_000).contains(&paid), "{paid}");
    }

    #[tokio::test]
    async fn a_body_is_paid_for_however_it_ends() {
        let body = "x".repeat(1_000);
        let whole = format!("{OURS}content-length: 1000\r\n\r\n{body}");
        let (shown, paid) = asked(whole, "", 100_000).await;
        assert_eq!((shown, paid), (Shown::Here(body.clone().into()), 1_300));
        let broken = format!("{OURS}content-length: 2000\r\n\r\n{body}");
        let (shown, paid) = asked(broken, "", 100_000).await;
        assert_eq!((shown, paid), (Shown::Missing, 1_300));
        let with_head = format!("{OURS}x: {body}\r\ncontent-length: 0\r\n\r\n");
        let (_, paid) = asked(with_head, "", 100_000).await;
        assert!(paid > 1_000, "{paid}");
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read() {
        let dear = format!("{OURS}content-length: 200000\r\n\r\n");
        let (shown, paid) = asked(dear, "", 100_000).await;
        assert_eq!((shown, paid), (Shown::TooDear, 300));
        let wrong = format!("{OURS}content-length: 9000000\r\n\r\n");
        let (shown, paid) = asked(wrong, "", 100_000_000).await;
        assert_eq!((shown, paid), (Shown::Wrong, 300));
    }

    #[tokio::test]
    async fn who_has_nothing_left_does_not_ask_and_silence_is_heard_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/feed/2/7", listener.local_addr().unwrap());
        drop(listener);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let purse = SharedPurse::new(Purse::new(720 * 500, NOW));
        let shown = ask(&http, &url, TICK, (&purse, NOW)).await;
        assert_eq!(shown, Shown::Silence);
        let shown = ask(&http, &url, TICK, (&purse, NOW)).await;
        assert_eq!((shown, purse.lock().left()), (Shown::TooDear, 200));
    }

    #[test]
    fn the_feed_is_beside_the_keys() {
        let path = path_of(Resolution::Minutes2, TickNumber(7));
        for (keys, feed) in [
            (
                "https://a.example/ohttp-keys",
                "https://a.example/feed/120/7",
            ),
            ("https://a.example/b/keys", "https://a.example/b/feed/120/7"),
        ] {
            assert_eq!(beside_keys(keys, &path), feed);
        }
    }
}
