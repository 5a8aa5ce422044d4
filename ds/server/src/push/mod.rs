//! Has the push sender wake the devices of a group after a message (`docs/push.md`).
//!
//! The service can read the roster only with a key that a request brings. So the handles are looked
//! up when the first message of an interval was accepted, with its key, behind the request and not
//! in it. The key is gone then; the handles wait in memory, apart from each other and from any name
//! of their group, until the interval is over and their own delay behind it.

mod passes;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use ds_domain::rows::SegmentRow;
use ds_domain::view::View;
use protocol::Wire as _;
use protocol::push::{REQUEST_MEDIA_TYPE, Reason, VERSION, WAKE_PATH, Wake, WakeRequest};
use service::SharedClock;
use service::gateway_auth::GatewaySecret;
use tokio::sync::mpsc;

use crate::config::PushSettings;
use crate::news::{News, NewsQueue};
use crate::server::Server;
use passes::{Pass, Passes};
use waiting::{Waiter, Waiting};

/// How the push sender knows this service.
const AUTHORIZATION: &str = "push-authorization";
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// What hands wakes to the push sender.
pub(crate) struct Pusher {
    news: mpsc::Receiver<News>,
    passes: Passes<SegmentRow>,
    waiting: Waiting,
    client: reqwest::Client,
    url: String,
    secret: GatewaySecret,
    flush: Duration,
    clock: SharedClock,
}

impl Pusher {
    pub(crate) fn new(
        settings: &PushSettings,
        client: reqwest::Client,
        secret: GatewaySecret,
        clock: SharedClock,
    ) -> (NewsQueue, Self) {
        let (queue, news) = NewsQueue::new();
        let pusher = Self {
            news,
            passes: Passes::new(settings.interval_ms, settings.max_groups),
            waiting: Waiting::new(settings.max_waiting, settings.spread_ms),
            client,
            url: format!("{}{WAKE_PATH}", settings.url.trim_end_matches('/')),
            secret,
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
                _ = flush.tick() => self.hand_over().await,
            }
        }
    }

    async fn look_up(&mut self, server: &Server, news: News) {
        let News { segment, message } = news;
        let now_ms = self.clock.monotonic_ms();
        let pass = self.passes.message(segment, message.sender, now_ms);
        let Some(Pass { whose, end_ms }) = pass else {
            return;
        };
        let mut view = View::default();
        let found = server
            .look(&mut view, |view, env| message.handles(whose, view, env))
            .await;
        let outcome = match found {
            Ok(handles) => {
                let chance = || crypto::random().map_or(0, u64::from_be_bytes);
                let left_out = self.waiting.add(handles, end_ms, chance);
                metrics::counter!("ds_push_handles_dropped_total").increment(left_out as u64);
                "done"
            }
            // A commit has rotated the group's keys meanwhile, say.
            Err(_) => "failed",
        };
        metrics::counter!("ds_push_passes_total", "outcome" => outcome).increment(1);
    }

    async fn hand_over(&mut self) {
        loop {
            let taken = self.waiting.take(self.clock.monotonic_ms());
            if taken.is_empty() {
                return;
            }
            let is_taken = self.post(&taken).await;
            let outcome = if is_taken { "taken" } else { "refused" };
            metrics::counter!("ds_push_requests_total", "outcome" => outcome).increment(1);
            if !is_taken {
                let now_ms = self.clock.monotonic_ms();
                let given_up = self.waiting.put_back(taken, now_ms);
                metrics::counter!("ds_push_handles_dropped_total").increment(given_up as u64);
                return;
            }
        }
    }

    async fn post(&self, taken: &[Waiter]) -> bool {
        let wake = |waiter: &Waiter| Wake {
            handle: waiter.handle,
            reason: Reason::News,
            // It has waited here.
            delay_ms: 0,
        };
        let request = WakeRequest {
            version: VERSION,
            wakes: taken.iter().map(wake).collect(),
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
