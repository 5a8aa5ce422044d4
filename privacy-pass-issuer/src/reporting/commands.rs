//! The operator's queue, on the admin listener.

use std::sync::Arc;

use serde_json::json;
use service::hex;
use service::start::Commands;
use tokio::task::spawn_blocking;

use super::records::ReportContent;
use super::{Reporting, ReportingError};
use crate::store::Day;
use crate::store::reports::{Decision, Place, ReportId, Status, StoredReport};

/// Reports that are listed at once.
const PAGE: usize = 100;

const FAILED: &str = "the database failed";
const NO_REPORT: &str = "there is no such report";
const NO_PLACE: &str = "not what a page ends with";
const NO_ID: &str = "not the id of a report: 32 hexadecimal digits";

/// `reports [AFTER]` lists a page of the queue, a JSON document on each line, where the next one
/// begins on the last; `uphold ID [DAYS]`, `dismiss ID` and `release ID` decide;
/// `rotate-certificate-key` makes the next key.
pub fn offer(commands: &Commands, reporting: &Arc<Reporting>) {
    let this = Arc::clone(reporting);
    commands.offer_report("reports", move |after: String| {
        let this = Arc::clone(&this);
        async move {
            let after = match after.trim() {
                "" => None,
                after => Some(place(after).ok_or(NO_PLACE)?),
            };
            let listed = spawn_blocking(move || list(&this, after));
            listed.await.map_err(|_| FAILED)?.map_err(|_| FAILED)
        }
    });
    let this = Arc::clone(reporting);
    commands.offer("uphold", move |argument: String| {
        let this = Arc::clone(&this);
        async move {
            let (id, days) = argument.split_once(' ').unwrap_or((&argument, ""));
            let days = match days.trim() {
                "" => this.settings().withhold_days,
                days => days.parse().map_err(|_| "not a number of days")?,
            };
            let today = Day::of_unix_s(this.now_unix_s());
            let until = Day(today.0.saturating_add(days));
            decide(&this, id, Decision::Uphold { until }).await
        }
    });
    for (name, decision) in [
        ("dismiss", Decision::Dismiss),
        ("release", Decision::Release),
    ] {
        let this = Arc::clone(reporting);
        commands.offer(name, move |argument: String| {
            let this = Arc::clone(&this);
            async move { decide(&this, &argument, decision).await }
        });
    }
    let this = Arc::clone(reporting);
    commands.offer("rotate-certificate-key", move |_| {
        let this = Arc::clone(&this);
        async move {
            let rotated = spawn_blocking(move || this.parts.keys.rotate(this.now_unix_s())).await;
            let rotated = rotated.map_err(|_| "the key was not made")?;
            rotated.map_err(|_| "the key directory cannot be written")
        }
    });
}

async fn decide(this: &Reporting, id: &str, decision: Decision) -> Result<(), &'static str> {
    let id = report_id(id).ok_or(NO_ID)?;
    match this.decide(id, decision).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(NO_REPORT),
        Err(_) => Err(FAILED),
    }
}

fn list(this: &Reporting, after: Option<Place>) -> Result<String, ReportingError> {
    let mut lines = String::new();
    // One more than are shown: whether there are more.
    let reports = this.parts.reports.reports(after, PAGE + 1)?;
    for report in reports.iter().take(PAGE) {
        let content = ReportContent::open(&this.seal, &report.id, &report.sealed)?;
        lines.push_str(&line(report, &content));
        lines.push('\n');
    }
    if let [.., last, _] = &reports[..]
        && reports.len() > PAGE
    {
        let after = format!("{}-{}", last.day.0, hex::encode(&last.id.0));
        lines.push_str(&json!({ "after": after }).to_string());
        lines.push('\n');
    }
    Ok(lines)
}

fn line(report: &StoredReport, content: &ReportContent) -> String {
    json!({
        "id": hex::encode(&report.id.0),
        // Tells the reports of one account from those of others, and no more.
        "account": hex::encode(&report.account.0[..8]),
        "day": report.day.0,
        "status": match report.status {
            Status::Open => "open",
            Status::Upheld => "upheld",
            Status::Dismissed => "dismissed",
        },
        "reporters": report.reporters,
        "reason": content.reason.name(),
        "occasion": format!("{:?}", content.occasion).to_lowercase(),
        "introduced": content.day,
        "greeting": content.greeting(),
    })
    .to_string()
}

/// `DAY-ID`.
fn place(text: &str) -> Option<Place> {
    let (day, id) = text.split_once('-')?;
    Some((Day(day.parse().ok()?), report_id(id)?))
}

fn report_id(text: &str) -> Option<ReportId> {
    let id = hex::decode(text)?.try_into().ok()?;
    Some(ReportId(id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_day_and_the_id_of_a_report() {
        let id = "000102030405060708090a0b0c0d0e0f";
        let read = place(&format!("20000-{id}")).unwrap();
        assert_eq!((read.0, hex::encode(&read.1.0).as_str()), (Day(20_000), id));
        for wrong in ["", "20000", id, "-", &format!("-1-{id}"), "20000-00"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
