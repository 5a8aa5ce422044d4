//! Telling every part of a process that it is to end.

use std::time::Duration;

use tokio::sync::watch;

/// Learns of the shutdown. Cheap to clone; every long-running response (a long poll, a stream)
/// holds one and ends early when [`Shutdown::requested`] resolves.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Requests the shutdown. Dropping it requests the shutdown too, so that nothing waits for a
/// trigger that is gone.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl Shutdown {
    /// A trigger and the shutdown that it triggers.
    #[must_use]
    pub fn channel() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Resolves once the shutdown was requested, at once if it already was.
    pub async fn requested(&self) {
        // An error means that the trigger is gone, which counts as a request.
        let _ = self.0.clone().wait_for(|requested| *requested).await;
    }

    /// Resolves `grace` after the shutdown was requested: for work that is worth finishing, but not
    /// worth the whole drain time.
    pub async fn requested_before(&self, grace: Duration) {
        self.requested().await;
        tokio::time::sleep(grace).await;
    }

    /// Whether the shutdown was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl ShutdownTrigger {
    /// Requests the shutdown; a second call changes nothing.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_a_requested_shutdown() {
        let (trigger, shutdown) = Shutdown::channel();
        let clone = shutdown.clone();
        assert!(!shutdown.is_requested());
        trigger.request();
        clone.requested().await;
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_dropped_trigger_counts_as_a_request() {
        let (trigger, shutdown) = Shutdown::channel();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
