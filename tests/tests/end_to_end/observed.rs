//! The demo once more, as a test of what relay and gateway say about it at their most talkative.

use std::fs;
use std::path::PathBuf;

use end_to_end::{Service, check_log, check_metrics, program};
use tokio::process::Command;

#[tokio::test]
async fn every_line_and_label_of_relay_and_gateway_in_the_demo_is_one_of_those_allowed() {
    let output = Command::new(program("xtask"))
        .args(["demo", "--keep"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let kept = said.lines().find_map(|line| line.strip_prefix("kept: "));
    let kept = PathBuf::from(kept.expect("the directory"));
    let logs = kept.join("stack/logs");
    for service in [Service::Relay, Service::Gateway] {
        let read = |extension| {
            let file = logs.join(format!("{}.{extension}", service.name()));
            fs::read_to_string(file).unwrap()
        };
        assert!(check_log(service, &read("log")) > 50, "{}", service.name());
        assert!(check_metrics(service, &read("metrics")) > 10);
    }
    fs::remove_dir_all(kept).unwrap();
}

#[test]
#[should_panic(expected = "relay: ")]
fn a_line_with_one_value_that_is_not_listed_is_noticed() {
    let line = "2026-11-21T15:36:45.002532Z DEBUG service::observe: request route=\"/\" method=\"POST\" \
                status=\"2xx\" milliseconds=3";
    assert_eq!(check_log(Service::Relay, line), 1);
    check_log(
        Service::Relay,
        &line.replace("POST", "POST\" client=\"127.0.0.1:4711"),
    );
}
