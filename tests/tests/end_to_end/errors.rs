//! What goes wrong when something is started names the file, the address or the URL, and the cause:
//! each case by the real condition, with the real program.
#![allow(clippy::disallowed_methods, reason = "processes run in real time")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Endpoints, Error, Options, Patience};
use end_to_end::{LogLevel, Stack, program};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::certificates::Authority;

const WITHIN: Duration = Duration::from_secs(60);

/// Files for the processes of one test.
struct Files {
    directory: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn with(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn relay(&self, settings: &str) -> String {
        format!("listen = '127.0.0.1:0'\ngateway = 'http://127.0.0.1:9/'\n{settings}\n{KIT}")
    }

    fn gateway(&self, settings: &str) -> String {
        let root = self.directory.path().display();
        format!(
            "listen = '127.0.0.1:0'\ngateway_secret_file = '{root}/gateway-secret'\n{settings}\n\
             [[targets]]\nscheme = 'http'\nauthority = 'a'\nmethods = ['GET']\npath_prefix = '/'\n\
             forward_to = 'http://127.0.0.1:9'\n[keys]\ndirectory = '{root}/ohttp-keys'\n{KIT}"
        )
    }

    fn ds(&self, issuer: &str) -> String {
        let root = self.directory.path().display();
        format!(
            "listen = '127.0.0.1:0'\ndomain = 'd'\nservice_key_file = '{root}/service-keys'\n\
             gateway_secret_file = '{root}/gateway-secret'\n\
             [store]\nengine = 'rocksdb'\ndirectory = '{root}/data'\n\
             [blobs]\nstore = 'memory'\n\
             [issuer]\nname = 'i'\norigin = 'o'\n{issuer}\n{KIT}"
        )
    }

    fn issuer(&self, settings: &str) -> String {
        let root = self.directory.path().display();
        format!(
            "listen = '127.0.0.1:0'\ndata_directory = '{root}/quota'\nkey_directory = '{root}/keys'\n\
             tokens_per_account_per_day = 9\n{settings}\n{KIT}"
        )
    }
}

const KIT: &str = "[service]\nadmin_listen = '127.0.0.1:0'\n";
const ACCOUNTS: &str = "[accounts]\ndevelopment = true\ndevelopment_tokens = { t = 'a' }";
/// Nobody listens there.
const NOBODY: &str = "directory = 'http://user:word@127.0.0.1:9/directory?secret=1'";

/// The services that have something to make before their first start.
const MADE: [&str; 3] = ["ohttp-gateway", "ds", "privacy-pass-issuer"];

/// Says `init` to one.
fn init(binary: &str, files: &Files) {
    let config = match binary {
        "ohttp-gateway" => files.gateway(""),
        "ds" => files.ds(NOBODY),
        _ => files.issuer(ACCOUNTS),
    };
    let file = files.path("config.toml");
    fs::write(&file, config).unwrap();
    let output = Command::new(program(binary))
        .args(["init", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{binary}: {said}");
}

/// Starts a program whose start must fail, or until it says `until`; what it said.
async fn said(binary: &str, files: &Files, config: &str, until: Option<&str>) -> String {
    let file = files.path("config.toml");
    fs::write(&file, config).unwrap();
    said_with(binary, files, &file, until).await
}

async fn said_with(binary: &str, files: &Files, config: &Path, until: Option<&str>) -> String {
    let log = files.path("log");
    let mut child = Command::new(program(binary))
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(&log).unwrap();
        let status = child.try_wait().unwrap();
        if until.is_some_and(|until| text.contains(until)) {
            child.kill().unwrap();
            child.wait().unwrap();
            return text;
        }
        if let Some(status) = status {
            assert_eq!(status.code(), Some(1), "{binary}: {text}");
            return fs::read_to_string(&log).unwrap();
        }
        if began.elapsed() > WITHIN {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{binary} goes on: {text}");
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn assert_names(what: &str, text: &str, named: &[&str]) {
    for name in named {
        assert!(text.contains(name), "{what}: {name:?} is not in {text}");
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_service_that_cannot_start_names_its_configuration_file_and_address() {
    let files = Files::new();
    MADE.iter().for_each(|binary| init(binary, &files));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for binary in ["ohttp-relay", "ohttp-gateway", "ds", "privacy-pass-issuer"] {
        let missing = files.path("nowhere.toml");
        let text = said_with(binary, &files, &missing, None).await;
        assert_names(binary, &text, &[shown(&missing), "No such file"]);
        let text = said(binary, &files, "listen = 7\n", None).await;
        assert_names(
            binary,
            &text,
            &[shown(&files.path("config.toml")), "listen"],
        );
        let config = match binary {
            "ohttp-relay" => files.relay(""),
            "ohttp-gateway" => files.gateway(""),
            "ds" => files.ds(NOBODY),
            _ => files.issuer(ACCOUNTS),
        };
        let admin = config.replace(
            "admin_listen = '127.0.0.1:0'",
            &format!("admin_listen = '{taken}'"),
        );
        let text = said(binary, &files, &admin, None).await;
        assert_names(
            binary,
            &text,
            &["admin", &format!("cannot listen on {taken}"), "in use"],
        );
        if binary == "ds" {
            // It listens when it has the issuer's keys.
            continue;
        }
        let own = config.replacen("listen = '127.0.0.1:0'", &format!("listen = '{taken}'"), 1);
        let text = said(binary, &files, &own, None).await;
        assert_names(
            binary,
            &text,
            &[&format!("cannot listen on {taken}"), "in use"],
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_tls_names_the_file() {
    let files = Files::new();
    MADE.iter().for_each(|binary| init(binary, &files));
    let good = files
        .authority
        .issue(files.directory.path(), "good", "localhost");
    let other = files
        .authority
        .issue(files.directory.path(), "other", "localhost");
    let open = files.with("open.key", &fs::read(&good.key).unwrap(), 0o644);
    let garbage = files.with("garbage.pem", b"garbage", 0o600);
    let missing = files.path("missing.pem");
    let tls = |certificate: &Path, key: &Path| {
        format!(
            "[tls]\ncertificate_file = '{}'\nkey_file = '{}'",
            shown(certificate),
            shown(key)
        )
    };
    let cases: [(String, Vec<&str>); 5] = [
        (
            tls(&missing, &good.key),
            vec![shown(&missing), "No such file"],
        ),
        (
            tls(&good.certificate, &open),
            vec![shown(&open), "0644", "chmod 640"],
        ),
        (
            tls(&garbage, &good.key),
            vec![shown(&garbage), "no certificate"],
        ),
        (
            tls(&good.certificate, &garbage),
            vec![shown(&garbage), "no usable key"],
        ),
        (
            tls(&good.certificate, &other.key),
            vec![shown(&good.certificate), shown(&other.key)],
        ),
    ];
    for (tls, named) in &cases {
        for (binary, config) in [
            ("ohttp-relay", files.relay(tls)),
            ("ohttp-gateway", files.gateway(tls)),
            (
                "privacy-pass-issuer",
                files.issuer(&format!("{ACCOUNTS}\n{tls}")),
            ),
        ] {
            let text = said(binary, &files, &config, None).await;
            assert_names(binary, &text, named);
        }
    }
    // Authorities, wherever there can be some.
    for (file, why) in [(&missing, "No such file"), (&garbage, "no certificate")] {
        let file = shown(file);
        let tls_of_relay = format!(
            "[[gateways]]\npath = '/b'\nurl = 'https://localhost:9/'\n[gateways.tls]\nca_file = '{file}'"
        );
        for (binary, config) in [
            ("ohttp-relay", files.relay(&tls_of_relay)),
            ("ohttp-gateway", files.gateway(&format!("target_ca_file = '{file}'"))),
            ("ds", files.ds(&format!("{NOBODY}\nca_file = '{file}'"))),
            (
                "privacy-pass-issuer",
                files.issuer(&format!(
                    "ohttp_gateway = 'https://localhost:9/'\nohttp_gateway_ca_file = '{file}'\n{ACCOUNTS}"
                )),
            ),
        ] {
            let text = said(binary, &files, &config, None).await;
            assert_names(binary, &text, &[file, why]);
        }
    }
}

/// What somebody does to a file.
#[derive(Clone, Copy)]
enum Change {
    Mode(u32),
    Is(&'static [u8]),
}

#[tokio::test]
async fn what_is_wrong_with_keys_and_data_names_the_file_its_mode_and_what_to_do() {
    let (gateway, ds, issuer) = ("ohttp-gateway", "ds", "privacy-pass-issuer");
    let file = Change::Is(b"a file");
    let short: &[u8] = &[1; 9];
    let no_key: &[u8] = &[1; 40];
    let no_directory: &[&str] = &["Not a directory"];
    let exposed: &[&str] = &["0644", "chmod 600"];
    let cases: [(&str, &str, Change, &[&str]); 17] = [
        (gateway, "gateway-secret", Change::Mode(0o644), exposed),
        (
            gateway,
            "gateway-secret",
            Change::Is(short),
            &["bytes, not"],
        ),
        (gateway, "ohttp-keys", file, no_directory),
        (
            gateway,
            "ohttp-keys/keys-200",
            Change::Is(short),
            &["bytes, not"],
        ),
        (gateway, "ohttp-keys/founded", Change::Mode(0o644), exposed),
        (ds, "service-keys", Change::Mode(0o644), exposed),
        (ds, "gateway-secret", Change::Mode(0o644), exposed),
        (ds, "data", file, no_directory),
        (issuer, "quota", file, no_directory),
        (issuer, "keys", file, no_directory),
        (
            issuer,
            "keys/token-soon.pk8",
            Change::Is(no_key),
            &["unix time"],
        ),
        (issuer, "keys/token-1.pk8", Change::Is(no_key), &["RSA"]),
        (
            issuer,
            "keys/account-hash.key",
            Change::Mode(0o644),
            exposed,
        ),
        (issuer, "keys/reports.key", Change::Mode(0o644), exposed),
        (
            issuer,
            "keys/reports.key",
            Change::Is(short),
            &["bytes, not"],
        ),
        (
            issuer,
            "keys/certificate-1.key",
            Change::Is(short),
            &["bytes, not"],
        ),
        (
            issuer,
            "keys/certificate-soon.key",
            Change::Is(no_key),
            &["unix time"],
        ),
    ];
    for (binary, name, change, named) in cases {
        let files = Files::new();
        init(binary, &files);
        let path = files.path(name);
        match change {
            Change::Mode(mode) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            Change::Is(content) => {
                let _ = fs::remove_dir_all(&path);
                files.with(name, content, 0o600);
            }
        }
        let config = fs::read_to_string(files.path("config.toml")).unwrap();
        let text = said(binary, &files, &config, None).await;
        let what = format!("{binary} with {name}");
        assert_names(&what, &text, &[shown(&path)]);
        assert_names(&what, &text, named);
        assert!(path.exists(), "{what}");
    }
    // A database that another process has open.
    let files = Files::new();
    init("privacy-pass-issuer", &files);
    let config = files.issuer(ACCOUNTS);
    let (first, second) = (files.path("first.toml"), files.path("config.toml"));
    fs::write(&first, &config).unwrap();
    fs::write(&second, &config).unwrap();
    let log = files.path("first.log");
    let mut running = Command::new(program("privacy-pass-issuer"))
        .arg("--config")
        .arg(&first)
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    while !fs::read_to_string(&log).unwrap().contains(" ready") {
        sleep(Duration::from_millis(10)).await;
    }
    let text = said("privacy-pass-issuer", &files, &config, None).await;
    running.kill().unwrap();
    running.wait().unwrap();
    assert_names(
        "a second issuer",
        &text,
        &[shown(&files.path("quota")), "in use"],
    );
}

#[tokio::test]
async fn another_operator_who_does_not_answer_is_named_with_the_address_and_no_password() {
    let files = Files::new();
    for binary in ["ds", "privacy-pass-issuer"] {
        init(binary, &files);
    }
    let text = said("ds", &files, &files.ds(NOBODY), Some("not available yet")).await;
    assert_names("ds", &text, &["http://127.0.0.1:9/directory", "refused"]);
    assert!(
        !text.contains("word") && !text.contains("secret=1"),
        "{text}"
    );

    let missing = files.path("accounts.json");
    let accounts = |source: &str| format!("[accounts]\nissuer = 'i'\naudience = 'a'\n{source}");
    let config = files.issuer(&accounts(&format!("jwks_file = '{}'", shown(&missing))));
    let text = said(
        "privacy-pass-issuer",
        &files,
        &config,
        Some("was not refreshed"),
    )
    .await;
    assert_names("issuer", &text, &[shown(&missing), "No such file"]);
    let config = files.issuer(&accounts("jwks_url = 'http://127.0.0.1:9/jwks'"));
    let text = said(
        "privacy-pass-issuer",
        &files,
        &config,
        Some("was not refreshed"),
    )
    .await;
    assert_names("issuer", &text, &["http://127.0.0.1:9/jwks", "refused"]);
}

/// What `mimimi` says when it fails.
fn complaint(home: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program("mimimi"))
        .arg("--home")
        .arg(home)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_client_names_the_file_that_it_cannot_use_and_why() {
    let files = Files::new();
    let stack = files.with(
        "stack.json",
        br#"{"relay": "http://127.0.0.1:9/", "gateway": "g", "ohttp_keys": "http://127.0.0.1:9/k",
            "ds": "http://ds", "issuer": "http://127.0.0.1:9",
            "operators": {"relay": "A", "gateway": "B", "issuer": "C"}}"#,
        0o600,
    );
    let (garbage, empty) = (
        files.with("garbage", b"{", 0o600),
        files.with("empty", b"", 0o600),
    );
    let (token, missing) = (files.with("token", b"t", 0o600), files.path("missing"));
    let (home, file) = (files.path("home"), files.with("file", b"", 0o600));
    let [stack, garbage, empty, token, missing] =
        [&stack, &garbage, &empty, &token, &missing].map(|path| shown(path));
    let init = |stack, token| ["init", "--stack", stack, "--account-token", token];
    let init_trusting = |ca| {
        [
            "init",
            "--stack",
            stack,
            "--account-token",
            token,
            "--ca-file",
            ca,
        ]
    };
    let restore = |file| ["restore", file, "--passphrase-file", token];
    for (arguments, named) in [
        (&init(missing, token)[..], [missing, "No such file"]),
        (&init(garbage, token), [garbage, "relay, gateway"]),
        (&init(stack, missing), [missing, "No such file"]),
        (&init(stack, empty), [empty, "no token"]),
        (&init_trusting(missing), [missing, "No such file"]),
        (&init_trusting(garbage), [garbage, "PEM"]),
        (&restore(missing), [missing, "No such file"]),
        (&restore(garbage), [garbage, "no backup"]),
        (
            &["restore", garbage, "--recovery-key-file", missing],
            [missing, "No such file"],
        ),
        (&["contacts"], [shown(&home), "init"]),
    ] {
        let text = complaint(&home, arguments);
        assert_names(&format!("{arguments:?}"), &text, &named);
    }
    let text = complaint(&file, &init(stack, token));
    assert_names("a file as home", &text, &[shown(&file), "exists"]);
    let damaged = files.with("damaged/client.sqlite", &[7; 5000], 0o600);
    let damaged = damaged.parent().unwrap();
    let text = complaint(damaged, &["contacts"]);
    assert_names(
        "a damaged database",
        &text,
        &[shown(damaged), "not a database"],
    );
}

/// The error of an attempt to set a client up with other endpoints.
async fn failure(stack: &Stack, home: &str, change: impl FnOnce(&mut Endpoints)) -> Error {
    let description = stack.description().to_string();
    let mut endpoints = Endpoints::from_json(description.as_bytes()).unwrap();
    change(&mut endpoints);
    let token = fs::read_to_string(stack.account_token(0)).unwrap();
    let options = Options {
        patience: Patience {
            attempt: Duration::from_secs(10),
            call: Duration::from_secs(3),
        },
        ..Options::default()
    };
    Client::init(&stack.home(home), &endpoints, &token, options)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn an_operator_whom_the_client_cannot_reach_is_named_with_the_address_and_the_cause() {
    let stack = Stack::start(LogLevel::Info).await;
    let nobody = "http://127.0.0.1:9/x";
    // Who answers there speaks no TLS.
    let description: Value = stack.description();
    let clear = description["issuer"]
        .as_str()
        .unwrap()
        .replace("http:", "https:");
    let mut errors = Vec::new();
    for (name, change) in [
        (
            "relay",
            (|it, url| it.relay = url) as fn(&mut Endpoints, String),
        ),
        ("keys", |it, url| it.ohttp_keys = url),
        ("mirror", |it, url| it.ohttp_key_mirrors = vec![url]),
        ("issuer", |it, url| it.issuer = url),
    ] {
        for (kind, url, cause) in [("nobody", nobody, "refused"), ("clear", &clear, "")] {
            let home = format!("{name}-{kind}");
            let error = failure(&stack, &home, |it| change(it, url.to_owned())).await;
            let text = error.to_string();
            assert_names(name, &text, &[url, cause]);
            assert_eq!(error.code(), "unreachable", "{text}");
            errors.push(text);
        }
    }
    assert_names("the relay", &errors[0], &["relay"]);
    assert_names("the issuer", &errors[6], &["issuer"]);
}
