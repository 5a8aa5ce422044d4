//! One thread of its own for each client: it owns the [`Engine`], does what handles ask for, one
//! thing after the other, and between these what nobody asks for: it sends queued messages and, as
//! long as somebody looks at events, takes slots and follows the group in front.
//!
//! The thread has a runtime of its own, so that handles can be used in any executor, and a slow
//! step of cryptography or a write to the disk holds up nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::Engine;
use crate::error::{Error, LocalError};
use crate::flows::news::News;
use crate::runtime::{Aside, JoinHandle, sleep, spawn};

/// Something that is done with the engine.
pub(crate) type Job =
    Box<dyn for<'e> FnOnce(&'e mut Engine) -> Pin<Box<dyn Future<Output = ()> + 'e>> + Send>;

/// What a handle asks for.
pub(crate) enum Order {
    /// To do something.
    Do(Job),
    /// To look again at what is to be done without being asked for.
    Look,
    /// To delete the account with everything, and to end if that has worked.
    Delete(oneshot::Sender<Result<(), Error>>),
    /// To end when everything before it is done.
    Close(oneshot::Sender<()>),
}

/// What handles and driver both see.
#[derive(Default)]
pub(crate) struct Interest {
    /// So many look at events.
    watchers: AtomicUsize,
    /// The client was closed or its account deleted.
    ended: AtomicBool,
}

impl Interest {
    pub(crate) fn begin(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the client was closed or its account deleted.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn end_all(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn is_there(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }
}

/// A driver that runs.
pub(crate) struct Driver {
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) interest: Arc<Interest>,
    /// Changes whenever something was done.
    pub(crate) changes: watch::Receiver<u64>,
    stop: Option<oneshot::Sender<()>>,
    aside: Option<Aside>,
}

/// The longest that a client waits between two tries when nobody answers.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Driver {
    /// Starts the thread; `make` runs on it.
    pub(crate) async fn start<T, F>(
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Result<(Self, T), Error>
    where
        F: Future<Output = Result<(Engine, T), Error>> + 'static,
        T: Send + 'static,
    {
        let (orders, taken) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (made, is_made) = oneshot::channel();
        let (change, changes) = watch::channel(0);
        let interest = Arc::new(Interest::default());
        let run = {
            let interest = Arc::clone(&interest);
            async move || {
                let work = async move {
                    match make().await {
                        Ok((engine, beside)) => {
                            if made.send(Ok(beside)).is_ok() {
                                work(engine, taken, &interest, &change).await;
                            }
                        }
                        Err(error) => drop(made.send(Err(error))),
                    }
                };
                // What is under way is dropped where it stands, as by the end of the process.
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = work => {}
                }
            }
        };
        let aside = Aside::run(run)?;
        let driver = Self {
            orders,
            interest,
            changes,
            stop: Some(stop),
            aside: Some(aside),
        };
        let beside = is_made.await.map_err(|_| LocalError::Stopped)??;
        Ok((driver, beside))
    }
}

impl Drop for Driver {
    /// The database is closed when this returns; in a browser, soon after.
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.aside.take());
    }
}

/// What comes next.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Next {
    Order(Option<Order>),
    Outbox,
    News(Result<News, Error>),
    /// A message expires.
    Due,
}

/// How long is waited before something is tried again: as long as an attempt takes, and longer each
/// time.
struct Pause {
    first: Duration,
    next: Duration,
}

impl Pause {
    fn of(engine: &Engine) -> Self {
        let first = engine.transport.budget().attempt();
        Self { first, next: first }
    }

    fn after<T>(&mut self, done: &Result<T, Error>) -> Duration {
        match done {
            Ok(_) => {
                self.next = self.first;
                Duration::ZERO
            }
            Err(_) => {
                let now = self.next;
                self.next = now.saturating_mul(2).min(LONGEST_PAUSE);
                now
            }
        }
    }
}

/// A wait for news, or for the next try. It goes on while something else is done.
struct Waiting(JoinHandle<Result<News, Error>>);

impl Waiting {
    fn pause(time: Duration) -> Self {
        Self(spawn(async move {
            sleep(time).await;
            Ok(News::Look(None))
        }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says what nobody has asked for and is told of: the kind of the error, and nothing that names
/// anybody.
fn tell<T>(doing: &'static str, done: &Result<T, Error>) {
    if let Err(error) = done {
        tracing::warn!(doing, code = error.code(), "will try again");
    }
}

/// Never, if nothing is waited for.
async fn news(waiting: Option<&mut Waiting>) -> Result<News, Error> {
    match waiting {
        Some(waiting) => (&mut waiting.0).await.unwrap_or(Ok(News::Look(None))),
        None => std::future::pending().await,
    }
}

async fn work(
    mut engine: Engine,
    mut orders: mpsc::UnboundedReceiver<Order>,
    interest: &Interest,
    change: &watch::Sender<u64>,
) {
    let mut waiting: Option<Waiting> = None;
    let (mut of_outbox, mut of_news) = (Pause::of(&engine), Pause::of(&engine));
    let mut outbox = Box::pin(sleep(Duration::ZERO));
    loop {
        if !interest.is_there() {
            waiting = None;
            // Nobody takes in what it tells: it says of no group that everything was read.
            engine.streams.stop();
            engine.slots.end();
        } else if waiting.is_none() {
            let begun = engine.begin_to_follow().await;
            let pause = of_news.after(&begun);
            tell("reading", &begun);
            waiting = Some(match begun {
                Ok(watch) => Waiting(spawn(watch.news())),
                Err(_) => Waiting::pause(pause),
            });
        }
        let is_sending = engine.is_sending();
        let expired = engine.expire();
        tell("forgetting what has expired", &expired);
        let due = expired.unwrap_or(Some(LONGEST_PAUSE));
        let next = tokio::select! {
            biased;
            order = orders.recv() => Next::Order(order),
            () = outbox.as_mut(), if is_sending => Next::Outbox,
            news = news(waiting.as_mut()) => Next::News(news),
            // The clock may be set meanwhile: it is looked at now and then.
            () = sleep(due.unwrap_or_default().min(LONGEST_PAUSE)), if due.is_some() => Next::Due,
        };
        match next {
            Next::Due => {}
            Next::Order(None) => return,
            Next::Order(Some(Order::Do(job))) => {
                let front = engine.front;
                job(&mut engine).await;
                // What is waited for is another thing now.
                if engine.front != front || engine.slots.next_ms().is_none() {
                    waiting = None;
                }
            }
            Next::Order(Some(Order::Look)) => outbox.set(sleep(Duration::ZERO)),
            Next::Order(Some(Order::Close(reply))) => {
                drop(engine);
                // Nobody may wait for it any more.
                let _ = reply.send(());
                return;
            }
            Next::Order(Some(Order::Delete(reply))) => match engine.delete_account().await {
                Ok(()) => {
                    interest.end_all();
                    let _ = reply.send(engine.wipe());
                    return;
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            },
            Next::Outbox => {
                let sent = engine.send_queued().await;
                tell("sending", &sent);
                outbox.set(sleep(of_outbox.after(&sent)));
            }
            Next::News(news) => {
                let followed = match news {
                    Ok(news) => engine.take_news(news).await,
                    Err(error) => Err(error),
                };
                tell("reading", &followed);
                let pause = of_news.after(&followed);
                waiting = match followed {
                    Ok(watch) => watch.map(|watch| Waiting(spawn(watch.news()))),
                    Err(_) => Some(Waiting::pause(pause)),
                };
            }
        }
        change.send_modify(|count| *count = count.wrapping_add(1));
    }
}
