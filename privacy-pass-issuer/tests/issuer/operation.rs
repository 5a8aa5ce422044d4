//! The real binary in the hands of an operator: keys that follow each other, commands, metrics.

use std::time::Duration;

use serde_json::Value;
use service::SystemClock;

use crate::process::{FAR_FUTURE, Running, Stack, free_port, time_left_today};
use crate::support::{AccountService, BatchWallet, Wallet, issuer_public_key};

struct Seen {
    not_before: Vec<u64>,
    max_age: u64,
    etag: String,
}

impl Running {
    async fn look(&self) -> (Seen, Vec<u8>) {
        let url = format!("{}/.well-known/private-token-issuer-directory", self.base);
        let answer = reqwest::get(url).await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let cache_control = header("cache-control");
        let max_age = cache_control.strip_prefix("public, max-age=").unwrap();
        let (max_age, etag) = (max_age.parse().unwrap(), header("etag"));
        let document = answer.bytes().await.unwrap().to_vec();
        let directory: Value = serde_json::from_slice(&document).unwrap();
        let not_before = directory["token-keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["not-before"].as_u64().unwrap())
            .collect();
        let seen = Seen {
            not_before,
            max_age,
            etag,
        };
        (seen, document)
    }
}

impl Stack<'_> {
    async fn command(&self, name: &str, argument: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}/commands/{name}", self.admin_port);
        let answer = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/x-mimimi-admin")
            .body(argument.to_owned())
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }
}

fn stack(directory: &std::path::Path) -> Stack<'_> {
    Stack {
        directory,
        accounts: AccountService::new(),
        port: free_port(),
        admin_port: free_port(),
    }
}

#[tokio::test]
async fn keys_follow_each_other_without_a_restart_and_caches_never_outlive_them() {
    let directory = tempfile::tempdir().unwrap();
    let stack = stack(directory.path());
    stack.write_config(
        "directory_max_age_seconds = 1",
        "[rotation]\nperiod_seconds = 12\nlead_seconds = 5\noverlap_seconds = 6",
    );
    let issuer = stack.start().await;
    let (mut seen, document) = issuer.look().await;
    let first = seen.not_before[0];
    let token = stack.accounts.token("alice", FAR_FUTURE);
    let wallet = Wallet::new(&issuer_public_key(&document));
    let mut rotations = 0;
    let mut overlapped = false;
    while rotations < 2 || seen.not_before.contains(&first) {
        let now = SystemClock::shared().now_unix_ms() / 1000;
        assert!(now < first + 120, "two rotations take thirty seconds");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (next, _) = issuer.look().await;
        assert!(next.max_age <= 1);
        assert_eq!(next.etag == seen.etag, next.not_before == seen.not_before);
        if next.not_before[0] > seen.not_before[0] {
            rotations += 1;
            let now = SystemClock::shared().now_unix_ms() / 1000;
            assert!(next.not_before[0] >= now, "shown before it signs");
            // The old key still signs for who has not seen the new one.
            if rotations == 1 {
                overlapped = issuer.request(&token, &wallet.request).await.0 == 200;
            }
        }
        seen = next;
    }
    assert!(overlapped);
    let late = Wallet::new(&issuer_public_key(&document));
    assert_eq!(
        issuer.request(&token, &late.request).await.0,
        422,
        "the expired key signs no more"
    );
    let kept: Vec<_> = std::fs::read_dir(directory.path().join("keys"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!kept.contains(&format!("token-{first}.pk8")));
    issuer.kill();
}

#[tokio::test]
async fn an_operator_rotates_lists_reloads_and_blocks_while_it_runs() {
    time_left_today().await;
    let directory = tempfile::tempdir().unwrap();
    let stack = stack(directory.path());
    stack.write_config("", "");
    let issuer = stack.start().await;
    let (before, document) = issuer.look().await;
    let (status, keys) = stack.command("keys", "").await;
    assert_eq!(status, 200);
    assert_eq!(keys.lines().count(), 1);
    assert!(keys.contains(" current expires=-"));

    assert_eq!(stack.command("rotate", "").await.0, 200);
    let (after, _) = issuer.look().await;
    assert_eq!(after.not_before.len(), 2);
    assert_eq!(after.not_before[1], before.not_before[0]);
    assert_eq!(
        stack.command("rotate", "").await.0,
        400,
        "the next key is published already"
    );
    assert!(stack.command("keys", "").await.1.contains(" next "));

    // The operator takes the new key back.
    let path = directory.path().join("keys");
    let new = path.join(format!("token-{}.pk8", after.not_before[0]));
    std::fs::rename(&new, path.join("aside")).unwrap();
    assert_eq!(stack.command("reload-keys", "").await.0, 200);
    assert_eq!(issuer.look().await.1, document);
    std::fs::rename(path.join("aside"), &new).unwrap();
    assert_eq!(stack.command("reload-keys", "").await.0, 200);
    assert_eq!(issuer.look().await.0.not_before, after.not_before);

    let token = stack.accounts.token("mallory", FAR_FUTURE);
    let key = issuer_public_key(&document);
    let batch = BatchWallet::new(&key, 2);
    assert_eq!(issuer.batch(&token, &batch.request).await, 200);
    assert_eq!(issuer.batch(&token, &batch.request).await, 200);
    assert_eq!(stack.command("block", "mallory").await.0, 200);
    assert_eq!(issuer.batch(&token, &batch.request).await, 403);
    issuer.kill();
    let issuer = stack.start().await;
    let wallet = Wallet::new(&key);
    assert_eq!(
        issuer.request(&token, &wallet.request).await.0,
        403,
        "blocks survive a kill"
    );
    assert_eq!(stack.command("unblock", "mallory").await.0, 200);
    assert_eq!(stack.command("unblock", "mallory").await.0, 400);
    assert_eq!(issuer.batch(&token, &batch.request).await, 200);
    let fresh = BatchWallet::new(&key, 1);
    assert_eq!(issuer.batch(&token, &fresh.request).await, 429);
    let other = stack.accounts.token("alice", FAR_FUTURE);
    assert_eq!(issuer.batch(&other, &fresh.request).await, 200);

    let metrics = stack.metrics().await;
    for line in [
        "issuer_tokens_issued_total 1",
        "issuer_answers_repeated_total 1",
        "issuer_requests_refused_total{reason=\"account-blocked\"} 1",
        "issuer_requests_refused_total{reason=\"quota-exhausted\"} 1",
        "issuer_request_tokens_bucket{le=\"1\"} 1",
        "issuer_token_keys{key=\"next\"} 1",
        "issuer_token_keys{key=\"current\"} 1",
        "issuer_token_key_age_seconds{key=\"current\"} ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for account in ["mallory", "alice"] {
        assert!(!metrics.contains(account));
    }
    issuer.kill();
}

#[tokio::test]
async fn a_development_list_is_refused_without_being_called_so_and_works_when_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let stack = stack(directory.path());
    let tokens = "development_tokens = { \"t-1\" = \"alice\" }";
    stack.write_config_with_accounts(tokens);
    assert!(!stack.run_to_the_end(), "`development` is not set");
    stack.write_config_with_accounts(&format!("development = true\n{tokens}"));
    let issuer = stack.start().await;
    let (_, document) = issuer.look().await;
    let wallet = Wallet::new(&issuer_public_key(&document));
    assert_eq!(issuer.request("t-1", &wallet.request).await.0, 200);
    assert_eq!(issuer.request("t-2", &wallet.request).await.0, 401);
    issuer.kill();
}
