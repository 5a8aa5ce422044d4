//! The sample configurations with everything in them that is commented out: real processes with TLS
//! between all of them and private authorities, and a client that goes by them.
#![allow(clippy::disallowed_methods, reason = "processes run in real time")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use end_to_end::{free_address, program};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::certificates::Authority;

const RELAY: &str = include_str!("../../../ohttp-relay/sample.toml");
const GATEWAY: &str = include_str!("../../../ohttp-gateway/sample.toml");
const DS: &str = include_str!("../../../ds/sample.toml");
const ISSUER: &str = include_str!("../../../privacy-pass-issuer/sample.toml");
/// Who says it is behind a proxy takes nobody else: left out where somebody connects.
const PROXIES: &str = "proxies = [\"127.0.0.1\"]\n";
const WITHIN: Duration = Duration::from_secs(60);

/// The setting or table that a line shows in a comment.
fn shown(line: &str) -> Option<&str> {
    let shown = line.strip_prefix("# ")?;
    let is_table = shown.starts_with('[') && shown.ends_with(']');
    let is_setting = shown.split_once(" = ").is_some_and(|(name, _)| {
        name.bytes()
            .all(|it| it.is_ascii_lowercase() || b"_0123456789".contains(&it))
    });
    (is_table || is_setting).then_some(shown)
}

/// The sample with everything in it. A table that is there a second time, in a comment, takes the
/// place of the first where `replaced` names it, and is left out where not.
fn uncommented(sample: &str, replaced: &[&str]) -> String {
    let tables: BTreeSet<&str> = sample.lines().filter(|it| it.starts_with('[')).collect();
    let mut text = String::new();
    let mut skipping = false;
    for line in sample.lines() {
        let header = if line.starts_with('[') {
            Some((line, false))
        } else {
            shown(line)
                .filter(|it| it.starts_with('['))
                .map(|it| (it, true))
        };
        if let Some((header, in_comment)) = header {
            let is_other = in_comment && tables.contains(header);
            let is_replaced = replaced.contains(&header);
            skipping = if in_comment {
                is_other && !is_replaced
            } else {
                is_replaced
            };
        }
        if !skipping {
            text.push_str(shown(line).unwrap_or(line));
            text.push('\n');
        }
    }
    text
}

/// A machine: what the samples have under /var/lib and /etc lies in a directory, with certificates.
struct Machine {
    directory: TempDir,
    authority: Authority,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        for (part, certified) in [
            (
                "etc/mimimi",
                &["relay", "relay-client", "gateway", "issuer"][..],
            ),
            ("etc/privacy-pass-issuer", &[]),
            ("var/lib/mimimi", &[]),
            ("var/lib/privacy-pass-issuer", &[]),
        ] {
            let part = directory.path().join(part);
            fs::create_dir_all(&part).unwrap();
            for name in certified {
                authority.issue(&part, name, "localhost");
            }
        }
        let machine = Self {
            directory,
            authority,
        };
        for file in [
            "mimimi/gateway-ca.pem",
            "mimimi/relay-ca.pem",
            "mimimi/issuer-ca.pem",
            "mimimi/ds-ca.pem",
            "mimimi/push-ca.pem",
            "privacy-pass-issuer/gateway-ca.pem",
            "privacy-pass-issuer/accounts-ca.pem",
        ] {
            machine.authority.file(&machine.path("etc"), file);
        }
        fs::write(
            machine.path("etc/privacy-pass-issuer/accounts.jwks.json"),
            r#"{"keys": []}"#,
        )
        .unwrap();
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// The text with this machine's paths, and listeners wherever there is room.
    fn adapt(&self, text: &str, listen: Option<SocketAddr>) -> String {
        let root = self.directory.path().to_str().unwrap();
        text.replace("\"/var/lib/", &format!("\"{root}/var/lib/"))
            .replace("\"/etc/", &format!("\"{root}/etc/"))
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some(("listen", _)) => match listen {
                    Some(address) => format!("listen = \"{address}\"\n"),
                    None => "listen = \"127.0.0.1:0\"\n".to_owned(),
                },
                Some(("admin_listen", _)) => "admin_listen = \"127.0.0.1:0\"\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect()
    }

    async fn start(&self, binary: &str, name: &str, config: &str) -> Process {
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, config).unwrap();
        if binary != "ohttp-relay" {
            let output = Command::new(program(binary))
                .args(["init", "--config"])
                .arg(&file)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {said}");
        }
        let log = self.path(&format!("{name}.log"));
        let child = Command::new(program(binary))
            .arg("--config")
            .arg(&file)
            .env_remove("SSL_CERT_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process { child, log };
        let began = Instant::now();
        while !process.says(" ready") {
            let ended = process.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < WITHIN,
                "{name}: {}",
                process.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
        process
    }
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn says(&self, text: &str) -> bool {
        self.log().lines().any(|line| line.contains(text))
    }

    /// The address in the line that ends with it.
    fn address_after(&self, text: &str) -> SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(text)).unwrap();
        line.rsplit('=').next().unwrap().parse().unwrap()
    }

    fn port(&self) -> u16 {
        self.address_after(" listening address=").port()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mimimi(home: &Path, arguments: &[&str], authorities: Option<&Path>) -> Output {
    let mut command = Command::new(program("mimimi"));
    command
        .arg("--home")
        .arg(home)
        .args(arguments)
        .arg("--json")
        .env_remove("SSL_CERT_FILE")
        .stdin(Stdio::null());
    if let Some(file) = authorities {
        command.env("SSL_CERT_FILE", file);
    }
    command.output().unwrap()
}

#[tokio::test]
async fn the_samples_with_everything_in_them_start_and_serve_with_tls_and_private_authorities() {
    let machine = Machine::new();
    // Known beforehand, as the issuer's mirror has to know it.
    let gateway_address = free_address();
    let gateway_url = format!("https://localhost:{}/", gateway_address.port());

    // With the accounts of development, since no account service is here.
    let config = uncommented(ISSUER, &["[accounts]"])
        .replace(PROXIES, "")
        .replace("https://gateway.example.org/", &gateway_url)
        .replace(
            "\"a-token\" = \"alice\"",
            "\"a-token\" = \"alice\", \"b-token\" = \"bob\"",
        );
    let issuer = machine
        .start(
            "privacy-pass-issuer",
            "issuer",
            &machine.adapt(&config, None),
        )
        .await;
    let issuer_url = format!("https://localhost:{}", issuer.port());

    let config = uncommented(DS, &[]).replace("http://127.0.0.1:4203", &issuer_url);
    assert!(config.contains("\nca_file = "), "{config}");
    let ds = machine
        .start("ds", "ds", &machine.adapt(&config, None))
        .await;

    // The gateway knows the relay's second secret: the relay shows its certificate on that way.
    let config = uncommented(GATEWAY, &[])
        .replace(
            "http://127.0.0.1:4202",
            &format!("http://127.0.0.1:{}", ds.port()),
        )
        .replace("relay-secret-1", "relay-secret-2");
    assert!(config.contains("\n[tls]\n") && config.contains("\ntarget_ca_file = "));
    let config = machine.adapt(&config, Some(gateway_address));
    let gateway = machine.start("ohttp-gateway", "gateway", &config).await;

    let config = uncommented(RELAY, &[])
        .replace(PROXIES, "")
        .replace("https://gateway.example.org/", &gateway_url)
        .replace("https://gateway.example.net/ohttp", &gateway_url)
        .replace(
            "https://gateway.example.net/.well-known/ohttp-gateway",
            &format!("{gateway_url}.well-known/ohttp-gateway"),
        )
        .replace("192.0.2.1:443", &gateway_address.to_string())
        .replace("192.0.2.2:443", &gateway_address.to_string());
    let relay = machine
        .start("ohttp-relay", "relay", &machine.adapt(&config, None))
        .await;
    let relay_url = format!("https://localhost:{}", relay.port());

    // Each says what it is, and nothing is left open to others.
    for (process, name) in [
        (&relay, "ohttp-relay"),
        (&gateway, "ohttp-gateway"),
        (&ds, "ds"),
        (&issuer, "privacy-pass-issuer"),
    ] {
        let start = format!("starting service=\"{name}\" version=\"");
        assert!(process.says(&start), "{}", process.log());
    }
    assert!(ds.says("engine=\"rocksdb\""), "{}", ds.log());
    assert_private(&machine.path("var/lib"));
    assert_private(&machine.path("etc/privacy-pass-issuer/keys"));

    // An admin command leaves a line, without its argument.
    let admin = gateway.address_after(" listening for the operator");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let command = |name: &str| {
        http.post(format!("http://{admin}/commands/{name}"))
            .header("content-type", "application/x-mimimi-admin")
            .body("argument-of-the-operator")
            .send()
    };
    assert_eq!(command("reload-tls").await.unwrap().status(), 200);
    assert_eq!(command("no-such").await.unwrap().status(), 404);
    assert!(gateway.says("an admin command was carried out command=\"reload-tls\""));
    assert!(gateway.says("an unknown admin command was refused"));
    assert!(!gateway.says("argument-of-the-operator"));

    // A client: with the authority in a file, with the one of the environment, and with those of
    // the web.
    let stack = machine.path("stack.json");
    let description = json!({
        "relay": format!("{relay_url}/second"),
        "gateway": gateway_url,
        "ohttp_keys": format!("{relay_url}/ohttp-keys"),
        "ohttp_key_mirrors": [format!("{issuer_url}/ohttp-keys")],
        "ds": "https://ds.example.org",
        "issuer": issuer_url,
        "issuer_name": "issuer.example.net",
        "token_origin": "ds.example.org",
        "operators": {"relay": "Relays Ltd", "gateway": "Messenger Inc", "issuer": "Tokens SA"},
    });
    fs::write(&stack, description.to_string()).unwrap();
    let [token, other_token] = ["a-token", "b-token"].map(|token| {
        let file = machine.path(token);
        fs::write(&file, token).unwrap();
        file
    });
    let ca_file = machine.authority.file(machine.directory.path(), "ca.pem");
    let [stack, token, other_token, ca] =
        [&stack, &token, &other_token, &ca_file].map(|path| path.to_str().unwrap());
    let init = |token| vec!["init", "--stack", stack, "--account-token", token];
    let trusting = |ca| [&init(token)[..], &["--ca-file", ca]].concat();
    for (home, arguments, environment) in [
        ("a", &trusting(ca), None),
        ("b", &init(other_token), Some(ca_file.as_path())),
    ] {
        let home = machine.path(home);
        let output = mimimi(&home, arguments, environment);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{said}\n{}\n{}",
            relay.log(),
            gateway.log()
        );
        assert_private(&home);
        // What was trusted at first is trusted from then on.
        let output = mimimi(&home, &["receive"], environment);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
    }
    let output = mimimi(&machine.path("c"), &trusting(token), None);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(error["detail"].as_str().unwrap().contains(token), "{error}");
}

/// That only the owner may look into a directory and all below it.
fn assert_private(directory: &Path) {
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        // What this test has made itself is not theirs.
        if !path.ends_with("lib")
            && !path.ends_with("mimimi")
            && !path.ends_with("privacy-pass-issuer")
            || metadata.is_file()
        {
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        }
        if metadata.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
}

#[tokio::test]
async fn what_the_samples_show_in_place_of_something_is_valid_too() {
    // Both at once are refused: they are alternatives.
    let text = uncommented(ISSUER, &[]);
    for left_out in ["jwks_file", "jwks_url"] {
        let machine = Machine::new();
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with(left_out))
            .map(|line| format!("{line}\n"))
            .collect();
        let text = machine
            .adapt(&text, None)
            // Nobody is there: the keys of the file are used meanwhile.
            .replace("https://accounts.example.org/", "http://127.0.0.1:9/");
        let issuer = machine.start("privacy-pass-issuer", "issuer", &text).await;
        assert!(issuer.says(" ready"));
    }
    // Of another engine: the file is read, and the server is not there.
    let machine = Machine::new();
    let text = uncommented(DS, &["[store]"]);
    let text = machine
        .adapt(&text, None)
        .replace("/run/postgresql", machine.path("nowhere").to_str().unwrap());
    let config: ds_server::config::Config = service_config(&text);
    assert_eq!(config.store.engine(), "postgres");
    // And with blobs elsewhere.
    let text = uncommented(DS, &["[blobs]"]);
    assert!(text.contains("\nstore = \"s3\"\n") && !text.contains("\nstore = \"directory\"\n"));
    let _: ds_server::config::Config = service_config(&text);
}

fn service_config<T: serde::de::DeserializeOwned>(text: &str) -> T {
    toml::from_str(text).unwrap()
}
