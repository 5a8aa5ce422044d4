//! The way through relay and gateway to a target that says what it sees, on loopback.

use std::sync::Arc;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use ohttp::ClientRequest;
use service::{MovedClock, Shutdown};

use crate::support::{
    NOW, Opened, Served, Target, gateway_config, http_client, http_date, inner, open, serve, target,
};

pub(crate) struct Path {
    pub(crate) relay: Served,
    pub(crate) gateway: Served,
    pub(crate) target: Target,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) http: reqwest::Client,
    pub(crate) handle: ohttp_gateway::Gateway,
    pub(crate) keys: Vec<u8>,
    _directory: tempfile::TempDir,
}

pub(crate) async fn path() -> Path {
    path_with("", None).await
}

pub(crate) async fn path_with(settings: &str, forward_to: Option<String>) -> Path {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings.replace("DIRECTORY", &directory.path().display().to_string());
    let target = target().await;
    let forward_to = forward_to.unwrap_or_else(|| target.served.url(""));
    let text = gateway_config(
        directory.path(),
        "127.0.0.1:0",
        "127.0.0.1:0",
        &forward_to,
        &settings,
    );
    let config: ohttp_gateway::Config = service::config::parse(&text).unwrap();
    let clock = MovedClock::at(NOW);
    let (trigger, shutdown) = Shutdown::channel();
    std::mem::forget(trigger);
    let secret = directory.path().join("relay-secret");
    let handle = ohttp_gateway::Gateway::new(&config, clock.clone(), shutdown.clone()).unwrap();
    let gateway = serve(handle.router()).await;
    let text = format!(
        "listen = '127.0.0.1:0'\ngateway = '{}'\nrelay_secret_file = '{}'\n\
         [service]\nadmin_listen = '127.0.0.1:0'",
        gateway.url("/"),
        secret.display()
    );
    let config: ohttp_relay::Config = service::config::parse(&text).unwrap();
    let relay = serve(ohttp_relay::router(&config, clock.clone(), shutdown).unwrap()).await;
    let http = http_client();
    let keys = http
        .get(relay.url("/ohttp-keys"))
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    Path {
        relay,
        gateway,
        target,
        clock,
        http,
        handle,
        keys: keys.to_vec(),
        _directory: directory,
    }
}

impl Path {
    pub(crate) fn configs(&self) -> Vec<Vec<u8>> {
        let mut configs = Vec::new();
        let mut rest = self.keys.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (config, next) = after.split_at(u16::from_be_bytes(*length).into());
            configs.push(config.to_vec());
            rest = next;
        }
        configs
    }

    pub(crate) fn encapsulate(&self, inner: &[u8]) -> (Vec<u8>, ohttp::ClientResponse) {
        ClientRequest::from_encoded_config_list(&self.keys)
            .unwrap()
            .encapsulate(inner)
            .unwrap()
    }

    pub(crate) async fn post_to(
        &self,
        served: &Served,
        encapsulated: Vec<u8>,
    ) -> reqwest::Response {
        self.http
            .post(served.url("/"))
            .header(CONTENT_TYPE, "message/ohttp-req")
            .header("cookie", "who=alice")
            .header("user-agent", "alices-phone")
            .header("x-forwarded-for", "203.0.113.7")
            .body(encapsulated)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn ask_inner(&self, inner: &[u8]) -> Opened {
        let (encapsulated, response) = self.encapsulate(inner);
        let answer = self.post_to(&self.relay, encapsulated).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()[CONTENT_TYPE], "message/ohttp-res");
        open(response, &answer.bytes().await.unwrap())
    }

    pub(crate) async fn ask(&self, path: &str, fields: &[(&str, &str)], content: &[u8]) -> Opened {
        let date = http_date(NOW);
        let mut all = vec![("date", date.as_str())];
        all.extend_from_slice(fields);
        self.ask_inner(&inner(path, &all, content)).await
    }

    /// What the gateway itself says in the clear.
    pub(crate) async fn refusal(&self, encapsulated: Vec<u8>) -> (StatusCode, String) {
        let answer = self.post_to(&self.gateway, encapsulated).await;
        let status = answer.status();
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
        let document: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (status, document["type"].as_str().unwrap().to_owned())
    }
}
