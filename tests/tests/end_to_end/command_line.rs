//! `mimimi` as its users and programs meet it: the README's lines, the documented JSON, texts from
//! others, standard input and output, exit statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use end_to_end::{LogLevel, Stack, User, free_address, program};
use serde_json::{Value, json};

const ALICE: &str = "alice";
const BOB: &str = "bob";
const GROUP: &str = "lab";
const README: &str = include_str!("../../../README.md");
const CLI: &str = include_str!("../../../docs/cli.md");

/// `mimimi` in a directory.
fn mimimi(directory: &Path) -> Command {
    let mut command = Command::new(program("mimimi"));
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn run(directory: &Path, words: &[String]) -> Output {
    mimimi(directory).args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What stands in fences of one language.
fn fenced<'a>(markdown: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let mut blocks = markdown.split(fence.as_str());
    blocks.next();
    blocks
        .map(|block| block.split("\n```").next().unwrap())
        .collect()
}

/// The words of a line of the shell, without its comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            '#' if !quoted && words.last().unwrap().is_empty() => break,
            ' ' if !quoted => words.push(String::new()),
            it => words.last_mut().unwrap().push(it),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The examples of docs/cli.md, by heading.
struct Documents {
    examples: BTreeMap<String, Value>,
    events: Vec<Value>,
    seen: BTreeSet<String>,
}

impl Documents {
    fn read() -> Self {
        let (commands, events) = CLI.split_once("\n## Events\n").unwrap();
        let sections = commands.split("\n### `").skip(1);
        let examples = sections.map(|section| {
            let (name, rest) = section.split_once('`').unwrap();
            let example = serde_json::from_str(fenced(rest, "json")[0]).unwrap();
            (name.to_owned(), example)
        });
        let events = fenced(events, "json")[0].lines();
        Self {
            examples: examples.collect(),
            events: events
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            seen: BTreeSet::new(),
        }
    }

    /// Holds a document against what is said of it.
    fn check(&mut self, command: &[String], document: &Value) {
        let name = self.name(command, document);
        if name == "receive" {
            for event in document.as_array().unwrap() {
                let documented = self.events.iter().find(|it| it["type"] == event["type"]);
                same_shape(
                    "event",
                    documented.unwrap_or_else(|| panic!("{event}")),
                    event,
                );
            }
        } else {
            same_shape(&name, &self.examples[&name], document);
        }
        self.seen.insert(name);
    }

    fn name(&self, command: &[String], document: &Value) -> String {
        let mut words = command.iter().map(String::as_str).collect::<Vec<_>>();
        while let Some(at) = words.iter().position(|it| *it == "--home") {
            words.drain(at..at + 2);
        }
        if words[0] == "verify" {
            let kind = document.get("contact").map_or("GROUP", |_| "CONTACT");
            return format!("verify {kind}");
        }
        let longest = (1..=words.len().min(2)).rev().map(|n| words[..n].join(" "));
        longest
            .into_iter()
            .find(|name| self.examples.contains_key(name))
            .unwrap_or_else(|| panic!("docs/cli.md does not have {words:?}"))
    }

    fn all_were_checked(&self) {
        let documented: BTreeSet<String> = self.examples.keys().cloned().collect();
        assert_eq!(self.seen, documented);
    }
}

/// The example of a file that comes with a message.
fn attachment() -> Value {
    let (_, messages) = CLI.split_once("\n### `messages`\n").unwrap();
    serde_json::from_str(fenced(messages, "json")[1]).unwrap()
}

/// The same members with values of the same kind; what may be null may be something too.
fn same_shape(place: &str, example: &Value, found: &Value) {
    match (example, found) {
        (Value::Null, Value::Null | Value::String(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => {}
        (Value::Null, Value::Object(_)) if place.ends_with(".details.attachment") => {
            same_shape(place, &attachment(), found);
        }
        (Value::Array(examples), Value::Array(found)) => {
            for item in found {
                same_shape(place, &examples[0], item);
            }
        }
        (Value::Object(example), Value::Object(found)) => {
            assert_eq!(
                example.keys().collect::<Vec<_>>(),
                found.keys().collect::<Vec<_>>(),
                "{place}"
            );
            for (member, value) in example {
                same_shape(&format!("{place}.{member}"), value, &found[member]);
            }
        }
        _ => panic!("{place}: {found} is not as {example}"),
    }
}

/// Fills in what a line of the README leaves open, from what was printed last.
struct Filling<'a> {
    stack: &'a Stack,
    directory: &'a Path,
    last: BTreeMap<String, String>,
}

impl Filling<'_> {
    fn fill(&self, word: &str) -> Vec<String> {
        let last = |member: &str| self.last[member].clone();
        let path = |path: PathBuf| vec![path.to_str().unwrap().to_owned()];
        match word {
            "target/stack/stack.json" => path(self.stack.layout().stack_json()),
            "ID" => vec![last("id")],
            "CODE" => vec![last("code")],
            // As the screen shows it: in four words.
            "NUMBER" => last("number").split(' ').map(str::to_owned).collect(),
            "FILE" => path(self.directory.join("alice.backup")),
            "HISTORY" => path(self.directory.join("alice.history")),
            "KEYFILE" => {
                let file = self.directory.join("recovery-key");
                fs::write(&file, last("recovery_key")).unwrap();
                path(file)
            }
            _ => match word.strip_prefix("target/stack/accounts/account-") {
                Some(rest) => {
                    let number: usize = rest.strip_suffix(".jwt").unwrap().parse().unwrap();
                    path(self.stack.account_token(number - 1))
                }
                None => vec![word.to_owned()],
            },
        }
    }

    fn learn(&mut self, document: &Value) {
        let first = document.get(0).unwrap_or(document);
        for (member, value) in first.as_object().into_iter().flatten() {
            if let Some(value) = value.as_str() {
                self.last.insert(member.clone(), value.to_owned());
            }
        }
    }
}

/// Runs a command that must be done, and holds what it prints against docs/cli.md.
fn done(directory: &Path, documents: &mut Documents, words: &[String]) -> Value {
    let mut command = words.to_vec();
    command.push("--json".to_owned());
    let output = run(directory, &command);
    assert!(
        output.status.success(),
        "{words:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let document = serde_json::from_slice(&output.stdout).unwrap();
    documents.check(words, &document);
    document
}

/// As [`done`] for a user at home in `NAME`.
fn says(directory: &Path, documents: &mut Documents, home: &str, line: &[&str]) -> Value {
    let mut command = vec!["--home".to_owned(), home.to_owned()];
    command.extend(line.iter().map(|word| (*word).to_owned()));
    done(directory, documents, &command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_readme_can_be_followed_line_by_line_and_every_command_prints_what_is_documented() {
    let hook = free_address();
    let stack = Stack::start_with_push(LogLevel::Info, &crate::push::settings(hook)).await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut documents = Documents::read();
    let mut filling = Filling {
        stack: &stack,
        directory,
        last: BTreeMap::new(),
    };
    let lines: Vec<Vec<String>> = fenced(README, "sh")
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| line.starts_with("mimimi "))
        .map(words)
        .collect();
    assert!(lines.len() > 20, "{lines:?}");
    let d = &mut documents;
    for line in &lines {
        let line: Vec<String> = line
            .iter()
            .skip(1)
            .flat_map(|it| filling.fill(it))
            .collect();
        // While both are members: what the table says of groups, and the rest of the commands.
        if line.ends_with(&["disconnect".to_owned(), ALICE.to_owned()]) {
            the_rest(directory, d, &stack);
            pushes(directory, d, hook);
        }
        let document = done(directory, d, &line);
        filling.learn(&document);
        if line.contains(&"remove".to_owned()) && line.contains(&"device".to_owned()) {
            assert_eq!(document, json!({ "removed": ["laptop"], "left": [] }));
            let devices = says(directory, d, ALICE, &["device", "list"]);
            assert_eq!(devices.as_array().unwrap().len(), 1, "{devices}");
        }
    }
    d.all_were_checked();
}

/// Being woken; nobody listens at the hook.
fn pushes(directory: &Path, d: &mut Documents, hook: std::net::SocketAddr) {
    let secret = directory.join("hook-secret");
    fs::write(&secret, "5a".repeat(32)).unwrap();
    let url = format!("http://{hook}/");
    let on = ["push", "on", "--webhook", &url, "--secret-file"];
    let on = [&on[..], &[secret.to_str().unwrap(), "--decoys"]].concat();
    says(directory, d, "carol", &on);
    says(directory, d, "carol", &["push", "awake", "60"]);
    says(directory, d, "carol", &["push", "off"]);
}

/// Every command that the README's lines leave out.
fn the_rest(directory: &Path, d: &mut Documents, stack: &Stack) {
    let alice = |d: &mut Documents, line: &[&str]| says(directory, d, ALICE, line);
    let bob = |d: &mut Documents, line: &[&str]| says(directory, d, BOB, line);
    let carol = |d: &mut Documents, line: &[&str]| says(directory, d, "carol", line);
    let stack_json = stack.layout().stack_json();
    let token = stack.account_token(3);
    let paths = [&stack_json, &token].map(|path| path.to_str().unwrap());
    carol(
        d,
        &["init", "--stack", paths[0], "--account-token", paths[1]],
    );
    carol(d, &["handle", "register", "carol"]);

    alice(d, &["tokens"]);
    alice(d, &["top-up"]);
    bob(d, &["top-up"]);
    alice(d, &["contacts"]);
    alice(d, &["verify", "garden"]);
    alice(d, &["group", "list"]);
    let members = alice(d, &["group", "members", "garden"]);
    assert_eq!(members.as_array().unwrap().len(), 2);
    let messages = bob(d, &["messages", "garden"]);
    assert_eq!(messages[0]["text"], "The roses are out");
    fs::write(directory.join("roses.txt"), "a list of all roses").unwrap();
    let sent = alice(d, &["send", "garden", "Look", "--file", "roses.txt"]);
    let id = sent["message"].as_str().unwrap();
    bob(d, &["save", "garden", id, "--to", "of-alice.txt"]);
    assert_eq!(
        fs::read_to_string(directory.join("of-alice.txt")).unwrap(),
        "a list of all roses"
    );
    let sent = alice(d, &["send", "garden", "The tulips are out"]);
    let id = sent["message"].as_str().unwrap();
    alice(d, &["edit", "garden", id, "The tulips are gone"]);
    bob(d, &["react", "garden", id.get(..8).unwrap(), "\u{2764}"]);
    alice(d, &["delete", "garden", id]);
    alice(d, &["receipts", "garden"]);
    alice(
        d,
        &[
            "group",
            "profile",
            "garden",
            "--description",
            "Roses and hedges",
        ],
    );
    alice(d, &["rename", "bob", "bob"]);
    alice(d, &["group", "role", "garden", BOB, "admin"]);
    alice(d, &["group", "mute", "garden", BOB]);
    alice(d, &["group", "unmute", "garden", BOB]);
    alice(d, &["group", "rejoin", "garden"]);
    alice(d, &["group", "return", "garden"]);
    alice(d, &["group", "accept-unverified", "garden"]);
    let code = alice(d, &["group", "invite", "garden"]);
    carol(d, &["group", "join", code["code"].as_str().unwrap()]);
    alice(d, &["group", "revoke", code["code"].as_str().unwrap()]);
    bob(d, &["receive"]);
    carol(d, &["group", "leave", "garden"]);
    alice(d, &["receive"]);
    carol(d, &["receive"]);
    carol(d, &["group", "forget", "garden"]);
    alice(d, &["group", "remove", "garden", BOB]);
    alice(d, &["group", "add", "garden", BOB]);
    bob(d, &["receive"]);
    alice(d, &["group", "replace", "garden", BOB]);
    bob(d, &["receive"]);
    alice(d, &["group", "ban", "garden", BOB]);
    alice(d, &["group", "unban", "garden", BOB]);
    alice(d, &["group", "upgrade", "garden", "2"]);
    alice(d, &["group", "delete", "garden"]);

    carol(d, &["connect", BOB, "--greeting", "from the market"]);
    carol(d, &["cancel", BOB]);
    alice(d, &["connect", "carol"]);
    let request = carol(d, &["requests"]);
    let id = request[0]["id"].as_str().unwrap();
    carol(d, &["report", id]);
    carol(d, &["requests", "--decline", id]);
    carol(d, &["handle", "delete"]);
}

/// What people and programs have tried elsewhere: terminal commands, forged lines, hidden order.
const HOSTILE: &[&str] = &[
    "\u{1b}[2J\u{1b}[Hyou are logged out",
    "\u{1b}]0;title\u{7}\u{1b}]8;;https://evil.example\u{1b}\\click\u{1b}]8;;\u{1b}\\",
    "\u{1b}]52;c;cm0gLXJmIH4K\u{7}",
    "\u{9b}31mred",
    "hi\n[lab] carol: send me the code",
    "hi\r[lab] carol: send me the code",
    "hi\r\n[lab] carol: send me the code",
    "hi\u{85}[lab] carol: x",
    "hi\u{2028}[lab] carol: x",
    "hi\u{0b}[lab] carol: x\u{0c}",
    "abc\u{8}\u{8}\u{8}xyz",
    "invoice\u{202e}fdp.exe",
    "a\u{2066}b\u{2069}\u{200f}c",
    "zero\u{200b}width\u{feff}",
    "\u{e0041}\u{e0042}",
    "\u{7f}\u{0}end",
];

/// Whether something in it acts on a terminal or cannot be seen.
fn acts(output: &str) -> Option<char> {
    output.chars().find(|it| {
        it.is_control() && !matches!(it, '\n' | '\t')
            || matches!(it, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
                | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
    })
}

#[tokio::test]
async fn no_text_of_others_acts_on_the_terminal_or_forges_a_line_of_it() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, ALICE).await;
    let bob = User::register(&stack, 1, BOB).await;
    let carol = User::register(&stack, 2, "carol").await;
    let mallory = User::register(&stack, 3, "mallory").await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, BOB]).await;
    bob.receive().await;
    let plain = |user: &User, words: &[&str]| {
        let mut command = vec!["--home".to_owned(), home(&stack, user)];
        command.extend(words.iter().map(|word| (*word).to_owned()));
        run(Path::new("/"), &command)
    };

    // Messages, as lines and as JSON.
    for text_sent in HOSTILE {
        // The operating system lets no command line have a zero byte: standard input does.
        send_by_stdin(&stack, &alice, text_sent.as_bytes());
    }
    let shown = plain(&bob, &["receive"]);
    let lines = text(&shown.stdout);
    assert_eq!(acts(lines), None, "{lines:?}");
    let own = lines
        .lines()
        .filter(|line| line.starts_with("[lab] alice: "));
    assert_eq!(own.count(), HOSTILE.len(), "{lines}");
    for line in lines.lines() {
        let known = line.starts_with("[lab] alice: ") || line.starts_with("  | ");
        assert!(known, "{line:?} in {lines}");
    }
    for text_sent in HOSTILE {
        send_by_stdin(&stack, &alice, text_sent.as_bytes());
    }
    let document = plain(&bob, &["receive", "--json"]);
    let line = text(&document.stdout);
    assert_eq!(acts(line), None, "{line:?}");
    let events: Value = serde_json::from_str(line).unwrap();
    let texts: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, HOSTILE);

    // The greeting of a stranger.
    let greeting = "hi\u{1b}[1A\n5f0c1d\tbank\tyour account is blocked\u{202e}";
    mallory
        .run(&["connect", "carol", "--greeting", greeting])
        .await;
    let requests = plain(&carol, &["requests"]);
    let lines = text(&requests.stdout);
    assert!(lines.contains("mallory"), "{lines}");
    assert_eq!(acts(lines), None, "{lines:?}");
    for line in lines.lines().skip(1) {
        assert!(line.starts_with("  | "), "{lines}");
    }

    // Names that this user would give are refused; those in a database are escaped wherever they
    // come from.
    for name in ["a\nb", "a\u{1b}[2Jb", "x\u{202e}y", "lab\u{200b}", "", " "] {
        let refused = alice.try_run(&["group", "create", name]).await;
        assert_eq!(refused.unwrap_err().error, "invalid-group-name", "{name:?}");
    }
    let hostile = "lab] carol: hi\u{1b}[2J\u{202e}\n[lab] carol: x";
    let database = Path::new(&home(&stack, &bob)).join("client.sqlite");
    rusqlite::Connection::open(database)
        .unwrap()
        .execute(
            "UPDATE groups SET name = ? WHERE name = ?",
            [hostile, GROUP],
        )
        .unwrap();
    alice.run(&["send", GROUP, "hello"]).await;
    for command in [
        &["receive"][..],
        &["group", "list"],
        &["group", "members", hostile],
    ] {
        let shown = plain(&bob, command);
        let lines = format!("{}{}", text(&shown.stdout), text(&shown.stderr));
        assert_eq!(acts(&lines), None, "{lines:?}");
        for line in lines.lines() {
            assert!(!line.starts_with("[lab] carol"), "{lines}");
        }
    }

    // A name in another form is the same name.
    alice.run(&["group", "create", "Caf\u{e9} noir"]).await;
    let twice = alice
        .try_run(&["group", "create", "Cafe\u{301}  noir"])
        .await;
    assert_eq!(twice.unwrap_err().error, "group-exists");
    alice.run(&["send", "Cafe\u{301} noir", "x"]).await;
}

fn home(stack: &Stack, user: &User) -> String {
    stack.home(&user.handle).to_str().unwrap().to_owned()
}

/// `mimimi send GROUP -` with these bytes on standard input.
fn send_by_stdin(stack: &Stack, user: &User, bytes: &[u8]) -> (Option<i32>, Value) {
    let mut child = mimimi(Path::new("/"))
        .args(["--home", &home(stack, user), "send", GROUP, "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have read enough before all is written.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    let output = child.wait_with_output().unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), document)
}

#[tokio::test]
async fn a_text_from_standard_input_may_have_what_the_protocol_allows_and_no_more() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, ALICE).await;
    let bob = User::register(&stack, 1, BOB).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, BOB]).await;
    bob.receive().await;

    let longest = "ä".repeat(client::MAX_TEXT / 2);
    let line = format!("{longest}\n");
    let sent = send_by_stdin(&stack, &alice, line.as_bytes());
    assert_eq!((sent.0, &sent.1["sent"]), (Some(0), &json!(true)));
    let read = bob.receive().await;
    assert_eq!(read.len(), 1);
    assert!(read[0].1 == longest);
    for (bytes, error) in [
        (vec![b'a'; client::MAX_TEXT + 1], "text-too-long"),
        (Vec::new(), "empty-text"),
        (b"\n".to_vec(), "empty-text"),
        (vec![0xff, 0xfe], "text-not-utf8"),
    ] {
        let (status, document) = send_by_stdin(&stack, &alice, &bytes);
        assert_eq!((status, &document["error"]), (Some(1), &json!(error)));
        if error == "text-too-long" {
            let limit = client::MAX_TEXT.to_string();
            let detail = document["detail"].as_str().unwrap();
            assert!(detail.contains(&limit), "{detail}");
        }
    }
    let refused = alice.try_run(&["send", GROUP, ""]).await.unwrap_err();
    assert_eq!(refused.error, "empty-text");
    assert_eq!(bob.receive().await, []);
}

#[tokio::test]
async fn an_event_that_could_not_be_written_out_comes_again() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, ALICE).await;
    let bob = User::register(&stack, 1, BOB).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, BOB]).await;
    bob.receive().await;
    alice.run(&["send", GROUP, "not to be lost"]).await;

    let bobs = home(&stack, &bob);
    for json in [false, true] {
        let shell = |redirection: &str| {
            let json = if json { " --json" } else { "" };
            Command::new("sh")
                .arg("-c")
                .arg(format!(
                    "exec \"$0\" --home \"$1\" receive{json} {redirection}"
                ))
                .arg(program("mimimi"))
                .arg(&bobs)
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .output()
                .unwrap()
        };
        let closed = shell(">&-");
        assert_eq!(closed.status.code(), Some(1), "json: {json}");
        let full = shell(">/dev/full");
        assert_eq!(full.status.code(), Some(1), "json: {json}");
        if !json {
            assert!(text(&closed.stderr).contains("standard output"));
            assert!(text(&full.stderr).contains("standard output"));
        }
        // Nobody reads the pipe.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = mimimi(Path::new("/"));
        command.args(["--home", &bobs, "receive"]).stdout(writer);
        command.stderr(Stdio::null()).args(json.then_some("--json"));
        assert_eq!(command.status().unwrap().code(), Some(1), "json: {json}");
    }
    bob.reads(&[(&alice, "not to be lost")]).await;
    assert_eq!(bob.receive().await, []);

    // A recovery key that nobody would see is not made: nor is the backup that only it opens.
    let directory = tempfile::tempdir().unwrap();
    let backup = directory.path().join("backup");
    let closed = Command::new("sh")
        .arg("-c")
        .arg("exec \"$0\" --home \"$1\" backup \"$2\" >&-")
        .arg(program("mimimi"))
        .arg(&bobs)
        .arg(&backup)
        .output()
        .unwrap();
    assert_eq!(closed.status.code(), Some(1));
    assert!(!backup.exists());
}

#[test]
fn a_wrong_command_line_ends_alike_for_people_and_for_programs() {
    let directory = tempfile::tempdir().unwrap();
    for line in [
        &["no-such-command"][..],
        &["send"],
        &["send", "lab"],
        &["group", "create"],
        &["receive", "--wait", "long"],
        &["receive", "--profile", "batched"],
        &["receive", "--follow", "--profile", "fast"],
        &["device", "remove"],
        &["device", "remove", "laptop", "--all"],
        &["requests", "--accept", "1", "--decline", "1"],
    ] {
        let plain = mimimi(directory.path()).args(line).output().unwrap();
        assert_eq!(plain.status.code(), Some(2), "{line:?}");
        assert!(plain.stdout.is_empty(), "{line:?}");
        assert!(text(&plain.stderr).starts_with("mimimi: "), "{line:?}");
        let mut command = mimimi(directory.path());
        let output = command.args(line).arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["error"], "arguments", "{line:?}");
        assert!(document["detail"].is_string(), "{line:?}");
    }
    // What is wrong with the home directory is no matter of the command line.
    for json in [None, Some("--json")] {
        let mut command = mimimi(directory.path());
        command.args(["--home", "nowhere", "contacts"]).args(json);
        assert_eq!(command.output().unwrap().status.code(), Some(1));
    }
    // A text is not an option.
    let mut command = mimimi(directory.path());
    command.args(["--home", "nowhere", "send", "lab", "--", "--json"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for help in ["--help", "--version"] {
        let mut command = mimimi(directory.path());
        command.arg(help).stdout(File::create("/dev/full").unwrap());
        assert_eq!(command.output().unwrap().status.code(), Some(1), "{help}");
        let output = mimimi(directory.path()).arg(help).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{help}");
        assert!(!output.stdout.is_empty());
    }
}
