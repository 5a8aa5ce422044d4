//! Has the push sender wake the devices of a group after a message (`docs/push.md`).
//!
//! The service can read the roster only with a key that a request brings. So the handles are looked
//! up when the first message of an interval was accepted, with its key, behind the request and not
//! in it. The key is gone then; the handles wait in memory, apart from each other and from any name
//! of their group, until the interval is over and their own delay behind it.

mod waiting;

use std::sync::Arc;
use std::time::Duration;

use ds_domain::view::View;
use protocol::Wire as _;
use protocol::push::{REQUEST_MEDIA_TYPE, VERSION, WAKE_PATH, WakeRequest};
use service::SharedClock;
use service::gateway_auth::GatewaySecret;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::PushSettings;
use crate::news::{News, NewsQueue};
use crate::server::Server;
use waiting::{Waiter, Waiting};

/// How the push sender knows this service.
const AUTHORIZATION: &str = "push-authorization";
/// Messages behind it wait, and with them their keys.
const LOOKS_WITHIN: Duration = Duration::from_secs(2);
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// What hands wakes to the push sender.
pub(crate) struct Pusher {
    news: mpsc::Receiver<News>,
    waiting: Waiting,
    door: Arc<Door>,
    /// The request that is under way, if there is one: what was taken for it, and whether the push
    /// sender has. A task of its own: a push sender that is slow holds up no look-up, whose key is
    /// in memory meanwhile.
    posts: JoinSet<(Vec<Waiter>, bool)>,
    flush: Duration,
    clock: SharedClock,
}

/// Where the push sender takes wakes.
struct Door {
    client: reqwest::Client,
    url: String,
    secret: GatewaySecret,
}

impl Pusher {
    pub(crate) fn new(
        settings: &PushSettings,
        client: reqwest::Client,
        secret: GatewaySecret,
        clock: SharedClock,
    ) -> (NewsQueue, Self) {
        let (interval_ms, most) = (settings.interval_ms, settings.max_groups);
        let (queue, news) = NewsQueue::new(interval_ms, most, Arc::clone(&clock));
        let pusher = Self {
            news,
            waiting: Waiting::new(settings.max_waiting, settings.spread_ms),
            door: Arc::new(Door {
                client,
                url: format!("{}{WAKE_PATH}", settings.url.trim_end_matches('/')),
                secret,
            }),
            posts: JoinSet::new(),
            flush: Duration::from_millis(settings.flush_ms.max(1)),
            clock,
        };
        (queue, pusher)
    }

    /// Looks up and hands over, for good.
    pub(crate) async fn run(mut self, server: Arc<Server>) {
        let mut flush = tokio::time::interval(self.flush);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(news) => self.look_up(&server, news).await,
                    None => return,
                },
                Some(posted) = self.posts.join_next() => self.posted(posted.ok()),
                _ = flush.tick() => self.hand_over(),
            }
        }
    }

    async fn look_up(&mut self, server: &Server, news: News) {
        let Some(message) = news.message(self.clock.monotonic_ms()) else {
            metrics::counter!("ds_push_messages_dropped_total").increment(1);
            return;
        };
        let mut view = View::default();
        let found = server.look(&mut view, |view, env| message.handles(view, env));
        let found = tokio::time::timeout(LOOKS_WITHIN, found).await;
        let outcome = match found {
            Ok(Ok(handles)) => {
                let chance = || crypto::random().map_or(0, u64::from_be_bytes);
                let left_out = self.waiting.add(handles, news.end_ms, chance);
                metrics::counter!("ds_push_handles_dropped_total").increment(left_out as u64);
                "done"
            }
            // A commit has rotated the group's keys meanwhile, or the store is slow.
            Ok(Err(_)) | Err(_) => "failed",
        };
        metrics::counter!("ds_push_passes_total", "outcome" => outcome).increment(1);
    }

    /// Asks for the wakes that are due, unless the request before is still under way.
    fn hand_over(&mut self) {
        if !self.posts.is_empty() {
            return;
        }
        let taken = self.waiting.take(self.clock.monotonic_ms());
        if taken.is_empty() {
            return;
        }
        let door = Arc::clone(&self.door);
        self.posts.spawn(async move {
            let is_taken = door.post(&taken).await;
            (taken, is_taken)
        });
    }

    /// `None`: the request broke off, and its handles are gone.
    fn posted(&mut self, posted: Option<(Vec<Waiter>, bool)>) {
        let is_taken = posted.as_ref().is_some_and(|(_, is_taken)| *is_taken);
        let outcome = if is_taken { "taken" } else { "refused" };
        metrics::counter!("ds_push_requests_total", "outcome" => outcome).increment(1);
        if is_taken {
            // There may be more than one request holds.
            self.hand_over();
        } else if let Some((taken, _)) = posted {
            let now_ms = self.clock.monotonic_ms();
            let given_up = self.waiting.put_back(taken, now_ms);
            metrics::counter!("ds_push_handles_dropped_total").increment(given_up as u64);
        }
    }
}

impl Door {
    async fn post(&self, taken: &[Waiter]) -> bool {
        let request = WakeRequest {
            version: VERSION,
            handles: taken.iter().map(|waiter| waiter.handle).collect(),
        };
        let sent = self
            .client
            .post(&self.url)
            .header(AUTHORIZATION, self.secret.header_value())
            .header(http::header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .timeout(ANSWERS_WITHIN)
            .body(request.encode())
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == http::StatusCode::ACCEPTED => true,
            Ok(answer) => {
                let status = answer.status().as_u16();
                tracing::warn!(status, "the push sender does not take wakes");
                false
            }
            // The error's own text holds the URL.
            Err(_) => {
                tracing::warn!("the push sender is not there");
                false
            }
        }
    }
}

/// By TLS, or on this machine.
pub(crate) fn may_be_asked(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = || {
        let address: Result<std::net::IpAddr, _> = host.parse();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|it| it.is_loopback())
    };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_here(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::may_be_asked;

    #[test]
    fn wakes_go_over_a_network_by_tls_only() {
        for url in [
            "https://push.example",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
        ] {
            assert!(may_be_asked(url), "{url}");
        }
        for url in [
            "http://push.example",
            "http://10.0.0.1",
            "push.example",
            "ftp://127.0.0.1",
            "",
        ] {
            assert!(!may_be_asked(url), "{url}");
        }
    }
}
