//! Ticks of the activity feed, as relay, mirrors and the service show them. Everybody asks for the
//! same, and says nothing of itself: no header, and no number that is not everybody's.

use protocol::Wire as _;
use protocol::feed::{FEED_PATH, FeedPointer, MAX_TICK_BYTES, Resolution, TICK_MEDIA_TYPE, Tick};
use protocol::ids::TickNumber;

use crate::error::Error;
use crate::in_process::FeedView;
use crate::net::transport::{Transport, limited_body};

/// A pointer has at most so many bytes.
const MAX_POINTER: usize = 4 * 1024;

/// Where somebody shows the feed: beside its key configurations.
fn beside_keys(keys_url: &str, path: &str) -> String {
    let parent = keys_url.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/feed/{path}")
}

fn path_of(resolution: Resolution, number: TickNumber) -> String {
    format!("{}/{}", resolution.seconds(), number.0)
}

/// What is shown in the open; none if it is not there, or something else is.
async fn shown(
    http: &reqwest::Client,
    url: &str,
    media_type: &str,
    longest: usize,
) -> Option<Vec<u8>> {
    let answer = http.get(url).send().await.ok()?;
    let is_ours = answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(media_type.as_bytes()));
    if answer.status().as_u16() != 200 || !is_ours {
        return None;
    }
    limited_body(answer, longest).await
}

impl Transport {
    /// What the relay says that there is.
    pub(crate) async fn feed_pointer(&self) -> Option<FeedPointer> {
        let bytes = match self.service() {
            Some(service) => service.feed("latest", FeedView::Relay)?,
            None => {
                let url = beside_keys(self.relay_keys_url(), "latest");
                shown(self.http(), &url, "application/json", MAX_POINTER).await?
            }
        };
        serde_json::from_slice(&bytes).ok()
    }

    /// A tick as the relay shows it; none if it does not.
    pub(crate) async fn tick_of_relay(
        &self,
        resolution: Resolution,
        number: TickNumber,
    ) -> Option<Tick> {
        let path = path_of(resolution, number);
        let bytes = match self.service() {
            Some(service) => service.feed(&path, FeedView::Relay)?,
            None => {
                let url = beside_keys(self.relay_keys_url(), &path);
                shown(self.http(), &url, TICK_MEDIA_TYPE, MAX_TICK_BYTES).await?
            }
        };
        Tick::decode(&bytes).ok()
    }

    /// The same as the service shows it to somebody of whom it knows nothing: through relay and
    /// gateway, like every request.
    pub(crate) async fn tick_of_service(
        &mut self,
        resolution: Resolution,
        number: TickNumber,
    ) -> Result<Option<Tick>, Error> {
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
        resolution: Resolution,
        number: TickNumber,
    ) -> Vec<Option<Tick>> {
        let path = path_of(resolution, number);
        if let Some(service) = self.service() {
            let shown = service.feed(&path, FeedView::Mirror);
            return vec![shown.and_then(|bytes| Tick::decode(&bytes).ok())];
        }
        let mut ticks = Vec::new();
        for mirror in self.mirrors_keys_urls() {
            let url = beside_keys(mirror, &path);
            let bytes = shown(self.to_mirrors(), &url, TICK_MEDIA_TYPE, MAX_TICK_BYTES).await;
            ticks.push(bytes.and_then(|bytes| Tick::decode(&bytes).ok()));
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
