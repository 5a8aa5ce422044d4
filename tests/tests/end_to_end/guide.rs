//! The guide's first message, line by line as it stands there.

use std::path::Path;
use std::process::Command;

use end_to_end::{LogLevel, Stack, program};

const CHAPTER: &str = include_str!("../../../guide/src/first-message.md");

/// What a reader types into the second terminal.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    let blocks = CHAPTER.split("```sh\n").skip(1);
    for block in blocks.map(|block| block.split("\n```").next().unwrap()) {
        let block = block.replace("\\\n", " ");
        lines.extend(block.lines().map(str::to_owned));
    }
    lines.retain(|line| !line.starts_with("make "));
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_first_message_of_the_guide_is_sent_as_it_says() {
    let stack = Stack::start(LogLevel::Info).await;
    let directory = tempfile::tempdir().unwrap();
    let words = |line: &str| -> Vec<String> {
        let words = line
            .split('\'')
            .enumerate()
            .flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            });
        let place = |word: String| match word.as_str() {
            "target/stack/stack.json" => stack.layout().stack_json(),
            "target/stack/accounts/account-01.jwt" => stack.account_token(0),
            "target/stack/accounts/account-02.jwt" => stack.account_token(1),
            other => match other.strip_prefix("target/first") {
                Some(rest) => directory.path().join(rest.trim_start_matches('/')),
                None => Path::new(other).to_owned(),
            },
        };
        let words = words.map(place).map(|it| it.to_str().unwrap().to_owned());
        words.collect()
    };
    let mut said = Vec::new();
    for line in lines() {
        let mut words = words(&line);
        let name = if words[0] == "cargo" {
            let at = words.iter().position(|it| it == "--").unwrap();
            let name = format!("examples/{}", words[at - 1]);
            words.drain(..=at);
            name
        } else {
            let name = words.remove(0);
            name.strip_prefix("target/release/").unwrap().to_owned()
        };
        let output = Command::new(program(&name)).args(&words).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {complaint}");
        said.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        CHAPTER.contains(&format!("```text\n{}```", said[0])),
        "{said:?}"
    );
    assert!(said[2].contains("ben: Sunday is better"), "{said:?}");
}
