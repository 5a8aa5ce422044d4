#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use ohttp::ClientRequest;

use super::*;

const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

fn settings(directory: &Path) -> KeySettings {
    KeySettings {
        directory: directory.to_owned(),
        kems: vec![Kem::X25519, Kem::XWing],
        rotation_seconds: 30 * DAY / 1000,
        overlap_seconds: 2 * DAY / 1000,
        max_age_seconds: HOUR / 1000,
    }
}

fn ring(directory: &Path) -> KeyRing {
    KeyRing::load(&settings(directory), &ReplaySettings::default(), NOW).unwrap()
}

fn configs(ring: &KeyRing, now: u64) -> Vec<Vec<u8>> {
    let published = ring.published(now).configs;
    let mut rest = &published[..];
    let mut configs = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (config, next) = after.split_at(u16::from_be_bytes(*length).into());
        configs.push(config.to_vec());
        rest = next;
    }
    configs
}

fn ids(ring: &KeyRing, now: u64) -> Vec<u8> {
    configs(ring, now).iter().map(|config| config[0]).collect()
}

fn encapsulated(config: &[u8]) -> Vec<u8> {
    let client = ClientRequest::from_encoded_config(config).unwrap();
    client.encapsulate(b"request").unwrap().0
}

#[test]
fn keys_change_on_schedule_and_every_client_with_a_cached_list_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(directory.path());
    let first = configs(&ring, NOW);
    // The hybrid first, whatever the order in the configuration.
    assert_eq!(first[0][1..3], [0x64, 0x7a]);
    assert_eq!(first[1][1..3], [0, 0x20]);
    let shown = NOW + 30 * DAY;
    let mut now = NOW;
    while now < shown + 4 * DAY {
        ring.advance(now).unwrap();
        if now < shown {
            assert_eq!(ids(&ring, now), [1, 2]);
        }
        let published = ring.published(now);
        assert!(published.max_age_seconds <= HOUR / 1000);
        // Whatever is in a list now is accepted for as long as the list may be cached, and a while
        // longer.
        let until = now + published.max_age_seconds * 1000 + HOUR / 2;
        for config in configs(&ring, now) {
            ring.advance(until).unwrap();
            assert!(ring.decapsulate(&encapsulated(&config), until).is_ok());
        }
        now += HOUR / 2;
    }
    assert_eq!(ids(&ring, now), [3, 4]);
    for config in first {
        let refused = ring.decapsulate(&encapsulated(&config), now);
        assert_eq!(refused.err(), Some(Refusal::Key));
    }
    let files = std::fs::read_dir(directory.path()).unwrap();
    assert_eq!(files.count(), 1, "the seeds of dropped keys are gone");
}

#[test]
fn while_keys_overlap_the_new_ones_come_first_and_replays_of_old_ones_stay_refused() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(directory.path());
    let request = encapsulated(&configs(&ring, NOW)[0]);
    assert!(ring.decapsulate(&request, NOW).is_ok());
    ring.rotate(NOW).unwrap();
    assert_eq!(ids(&ring, NOW), [1, 2]);
    assert_eq!(ring.published(NOW + HOUR - 5000).max_age_seconds, 5);
    assert_eq!(ids(&ring, NOW + HOUR), [3, 4, 1, 2]);
    let replayed = ring.decapsulate(&request, NOW + 60_000);
    assert_eq!(replayed.err(), Some(Refusal::Replayed));
    assert_eq!(ids(&ring, NOW + HOUR + 2 * DAY), [3, 4]);
}

#[test]
fn a_node_that_shares_the_directory_accepts_a_key_before_another_one_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (ring(directory.path()), ring(directory.path()));
    assert_eq!(configs(&one, NOW), configs(&other, NOW));
    one.rotate(NOW).unwrap();
    other.advance(NOW + 30_000).unwrap();
    let shown = NOW + HOUR;
    assert_eq!(configs(&one, shown), configs(&other, shown));
    let request = encapsulated(&configs(&one, shown)[0]);
    assert!(other.decapsulate(&request, NOW + 30_001).is_ok());
}

#[test]
fn a_list_that_a_mirror_kept_for_a_minute_has_a_key_in_common_with_ours_however_short_the_overlap()
{
    let directory = tempfile::tempdir().unwrap();
    let settings = KeySettings {
        rotation_seconds: 0,
        overlap_seconds: 1,
        max_age_seconds: 1,
        ..settings(directory.path())
    };
    let ring = KeyRing::load(&settings, &ReplaySettings::default(), NOW).unwrap();
    let mut kept = std::collections::VecDeque::new();
    for second in 0..400 {
        let now = NOW + second * 1000;
        if second % 100 == 10 {
            ring.rotate(now).unwrap();
        }
        kept.push_back(configs(&ring, now));
        if kept.len() > 60 {
            let (behind, ours) = (kept.pop_front().unwrap(), kept.back().unwrap());
            assert!(behind.iter().any(|config| ours.contains(config)));
        }
    }
    assert_ne!(kept.back().unwrap()[0], configs(&ring, NOW)[0]);
}

fn hex(text: &str) -> Vec<u8> {
    service::hex::decode(text).unwrap()
}

#[test]
fn requests_of_other_implementations_are_opened_whole_and_in_chunks_and_once() {
    let recorded = include_str!("../../../ohttp/tests/vectors/other_clients.json");
    let recorded: serde_json::Value = serde_json::from_str(recorded).unwrap();
    let requests = recorded["requests"].as_array().unwrap();
    // The key file of the gateway that they were sent to.
    let seeds: std::collections::BTreeMap<_, _> = requests
        .iter()
        .map(|request| (request["key_id"].as_u64(), request["seed"].as_str()))
        .collect();
    let mut file = vec![1];
    file.extend(NOW.to_be_bytes());
    for ((id, seed), kem) in seeds.iter().zip([0x647a_u16, 0x0020, 0x0010]) {
        file.push(id.unwrap().try_into().unwrap());
        file.extend(kem.to_be_bytes());
        file.extend(hex(seed.unwrap()));
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, length) = (directory.path().join("keys-001"), file.len());
    let content = || Ok(zeroize::Zeroizing::new(file));
    service::secret_file::load_or_create_with(&path, content, length..=length).unwrap();
    let ring = ring(directory.path());
    for request in requests {
        let bytes = |member: &str| hex(request[member].as_str().unwrap());
        let (sealed, inside) = (bytes("request"), bytes("plaintext"));
        let open = || -> Result<Vec<u8>, Refusal> {
            if request["chunked"] == true {
                let (opened, mut response) = ring.decapsulate_chunked(&sealed, NOW)?;
                response.push(b"answer", &mut Vec::new()).unwrap();
                Ok(opened)
            } else {
                let (opened, response) = ring.decapsulate(&sealed, NOW)?;
                assert!(response.seal(b"answer").is_ok());
                Ok(opened)
            }
        };
        assert_eq!(open().as_ref(), Ok(&inside), "{request}");
        assert_eq!(open().err(), Some(Refusal::Replayed));
    }
}

#[test]
fn replacing_all_keys_leaves_nothing_of_the_old_ones() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(directory.path());
    let old = configs(&ring, NOW);
    ring.rotate(NOW).unwrap();
    let lines = ring.replace(NOW + 1).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert_eq!(ids(&ring, NOW + 1), [5, 6]);
    for config in old {
        let refused = ring.decapsulate(&encapsulated(&config), NOW + 1);
        assert_eq!(refused.err(), Some(Refusal::Key));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_rotation_waits_for_the_one_before_and_no_id_is_used_twice_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(directory.path());
    let mut now = NOW;
    for round in 0..400u32 {
        let before = configs(&ring, now);
        match ring.rotate(now) {
            Ok(_) => {
                let refused = ring.rotate(now + 1);
                assert!(matches!(refused, Err(RotationError::UnderWay)));
            }
            Err(error) => assert!(matches!(error, RotationError::TooMany), "{round}"),
        }
        now += HOUR;
        ring.advance(now).unwrap();
        let after = configs(&ring, now);
        let of_id = |id: u8| after.iter().filter(move |config| config[0] == id);
        for config in before.iter().chain(&after) {
            let id = config[0];
            assert!(of_id(id).all(|other| other == config) && of_id(id).count() <= 1);
        }
    }
}

#[test]
fn a_directory_that_is_emptied_does_not_cost_the_keys_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(directory.path());
    let request = encapsulated(&configs(&ring, NOW)[0]);
    for file in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(ring.advance(NOW).is_err() && ring.rotate(NOW).is_err());
    assert!(ring.decapsulate(&request, NOW).is_ok());
}

#[test]
fn the_operator_is_told_what_becomes_of_each_key() {
    let directory = tempfile::tempdir().unwrap();
    let ring = ring(directory.path());
    assert_eq!(
        ring.rotate(NOW).unwrap(),
        "  3 x-wing  accepted, published from Tue, 14 Nov 2023 23:13:20 GMT\n  \
         4 x25519  accepted, published from Tue, 14 Nov 2023 23:13:20 GMT\n  \
         1 x-wing  published until Thu, 16 Nov 2023 23:13:20 GMT\n  \
         2 x25519  published until Thu, 16 Nov 2023 23:13:20 GMT\n"
    );
}

#[test]
fn settings_that_would_break_a_promise_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let load = |change: &dyn Fn(&mut KeySettings)| {
        let mut settings = settings(directory.path());
        change(&mut settings);
        KeyRing::load(&settings, &ReplaySettings::default(), NOW)
    };
    assert!(load(&|settings| settings.kems.clear()).is_err());
    assert!(load(&|settings| settings.kems.push(Kem::XWing)).is_err());
    assert!(load(&|settings| settings.rotation_seconds = 2 * DAY / 1000).is_err());
    assert!(load(&|settings| settings.rotation_seconds = 0).is_ok());
}

#[test]
fn there_is_always_something_to_show_whatever_the_clocks_of_nodes_say() {
    let directory = tempfile::tempdir().unwrap();
    let first = ring(directory.path());
    // The other node's clock is behind.
    let other = KeyRing::load(
        &settings(directory.path()),
        &ReplaySettings::default(),
        NOW - 5_000,
    )
    .unwrap();
    assert_eq!(configs(&other, NOW - 5_000), configs(&first, NOW));
    first.replace(NOW + 1_000).unwrap();
    other.advance(NOW - 4_000).unwrap();
    assert_eq!(configs(&other, NOW - 4_000), configs(&first, NOW + 1_000));
    // One that was years ahead when the keys were made.
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    KeyRing::load(&settings, &ReplaySettings::default(), NOW + 3_000 * DAY).unwrap();
    let right = KeyRing::load(&settings, &ReplaySettings::default(), NOW).unwrap();
    assert_eq!(ids(&right, NOW), [1, 2]);
}

#[test]
fn a_schedule_that_needs_more_generations_than_there_may_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let often = |rotation_seconds| KeySettings {
        rotation_seconds,
        overlap_seconds: 0,
        max_age_seconds: 10,
        ..settings(directory.path())
    };
    let load = |rotation| KeyRing::load(&often(rotation), &ReplaySettings::default(), NOW);
    assert!(matches!(load(10), Err(GatewayError::Rotation)));
    let ring = load(60).unwrap();
    for step in 1..100 {
        ring.advance(NOW + step * 15_000).unwrap();
    }
    assert!(ring.describe(NOW + 1_500_000).lines().count() <= 2 * MAX_GENERATIONS);
}
