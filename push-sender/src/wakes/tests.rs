use super::*;

const DEVICE: DeviceId = DeviceId([1; 16]);
const OTHER: DeviceId = DeviceId([2; 16]);
const TAG: Tag = Tag([1; 32]);
const MEAN_MS: u64 = 600_000;
const DAY_MS: u64 = 86_400_000;
/// Of the decoys' waits: the middle one. Of the jitter: none.
const MIDDLE: u64 = 1 << 52;

fn wakes() -> Wakes {
    Wakes::new(PaceSettings::default(), 3, 2)
}

fn reachable(device: DeviceId, tag: Tag) -> Reachable {
    Reachable {
        device,
        tag,
        lane: crate::keys::Keys::new(&[1; 32]).lane(&protocol::push::Address::Apns(
            protocol::push::AppAddress {
                app: protocol::codec::opaque(*b"chat"),
                token: protocol::codec::opaque([1; 32]),
            },
        )),
        pace: WakePace::Prompt,
        decoys: false,
    }
}

fn agrees(device: DeviceId, tag: Tag) -> Reachable {
    Reachable {
        decoys: true,
        ..reachable(device, tag)
    }
}

/// With a decoy each ten minutes on the average.
fn with_decoys() -> Wakes {
    let pace = PaceSettings {
        decoy_mean_ms: MEAN_MS,
        ..PaceSettings::default()
    };
    Wakes::new(pace, 3, 2)
}

/// Numbers that look like chance, the same each time (splitmix64).
fn chances() -> impl FnMut() -> u64 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What is pushed until `end_ms`, looked at each second, and when.
fn pushed(wakes: &mut Wakes, end_ms: u64) -> Vec<(u64, Due)> {
    let mut chance = chances();
    let mut pushed = Vec::new();
    for now_ms in (0..end_ms).step_by(1000) {
        while wakes.ask_decoy(now_ms, [chance(), chance()]).is_some() {}
        pushed.extend(wakes.take_due(now_ms).map(|due| (now_ms, due)));
    }
    pushed
}

/// The times at which the address is woken until `end_ms`, looked at each second.
fn woken(wakes: &mut Wakes, from_ms: u64, end_ms: u64) -> Vec<u64> {
    (from_ms..end_ms)
        .step_by(1000)
        .filter(|now| wakes.take_due(*now).is_some())
        .collect()
}

#[test]
fn many_wakes_of_a_device_become_one_push_an_interval() {
    let mut wakes = wakes();
    let mut pushes = 0;
    for now in (0..600_000).step_by(1000) {
        wakes.ask(reachable(DEVICE, TAG), now, 0);
        pushes += usize::from(wakes.take_due(now).is_some());
    }
    assert_eq!(pushes, 10, "one a minute, as documented");
}

#[test]
fn many_records_with_one_address_do_not_have_it_woken_more_often() {
    let mut wakes = wakes();
    for device in 0..50 {
        wakes.ask(reachable(DeviceId([device; 16]), TAG), 0, 0);
    }
    let due = wakes.take_due(0).unwrap();
    assert_eq!(due.devices.len(), 2, "bounded");
    assert!(wakes.take_due(0).is_none());
    wakes.ask(reachable(OTHER, TAG), 1, 0);
    assert_eq!(woken(&mut wakes, 0, 70_000), [60_000]);
}

#[test]
fn a_wake_comes_after_a_chance_within_the_documented_jitter() {
    let jitter = PaceSettings::default().prompt_jitter_ms;
    let mut seen = BTreeSet::new();
    for chance in 0..1000 {
        let mut wakes = wakes();
        wakes.ask(reachable(DEVICE, TAG), 100, chance * 7919);
        let due = wakes.next_due_ms().unwrap();
        assert!((100..=100 + jitter).contains(&due));
        seen.insert(due);
    }
    assert!(seen.len() > 500, "the chance spreads");
}

#[test]
fn the_number_of_those_that_wait_is_bounded() {
    let mut wakes = wakes();
    wakes.ask(reachable(DEVICE, TAG), 0, 0);
    for tag in 2..4 {
        let asked = wakes.ask(reachable(DEVICE, Tag([tag; 32])), 0, 0);
        assert_eq!(asked, Asked::Waits);
    }
    let asked = wakes.ask(reachable(DEVICE, Tag([9; 32])), 0, 0);
    assert_eq!(asked, Asked::Full);
    let asked = wakes.ask(reachable(DEVICE, TAG), 0, 0);
    assert_eq!(asked, Asked::Coalesced);
}

#[test]
fn a_device_that_is_awake_is_not_woken_and_after_a_crash_it_is() {
    let mut wakes = wakes();
    wakes.awake(DEVICE, Some(TAG), 60, 0);
    wakes.ask(reachable(DEVICE, TAG), 10_000, 0);
    assert_eq!(woken(&mut wakes, 10_000, 90_000), [60_000]);
    // One that waits when the device wakes up by itself.
    wakes.ask(reachable(DEVICE, TAG), 200_000, 0);
    wakes.awake(DEVICE, Some(TAG), 60, 200_000);
    assert_eq!(woken(&mut wakes, 200_000, 300_000), [260_000]);
}

#[test]
fn a_device_that_goes_to_sleep_is_woken_only_for_what_it_may_not_have_read() {
    let mut wakes = wakes();
    wakes.awake(DEVICE, Some(TAG), 600, 0);
    wakes.ask(reachable(DEVICE, TAG), 10_000, 0);
    wakes.awake(DEVICE, Some(TAG), 0, 50_000);
    assert_eq!(woken(&mut wakes, 50_000, 700_000), [0; 0]);
    wakes.awake(DEVICE, Some(TAG), 600, 700_000);
    wakes.ask(reachable(DEVICE, TAG), 740_000, 0);
    wakes.awake(DEVICE, Some(TAG), 0, 750_000);
    assert_eq!(woken(&mut wakes, 750_000, 900_000), [780_000]);
}

#[test]
fn going_to_sleep_neither_shortens_the_pace_nor_the_wait_that_a_push_service_asked_for() {
    let mut wakes = wakes();
    wakes.ask(reachable(DEVICE, TAG), 0, 0);
    wakes.take_due(0).unwrap();
    wakes.ask(reachable(DEVICE, TAG), 1_000, 0);
    wakes.awake(DEVICE, Some(TAG), 0, 2_000);
    assert_eq!(wakes.next_due_ms(), Some(60_000), "once a minute");
    let due = wakes.take_due(60_000).unwrap();
    wakes.retry(due, 3_600_000, 60_000);
    wakes.awake(DEVICE, Some(TAG), 0, 61_000);
    assert_eq!(wakes.next_due_ms(), Some(3_660_000));
}

#[test]
fn nobody_makes_another_records_device_seem_awake() {
    let mut wakes = wakes();
    wakes.awake(OTHER, Some(TAG), 3600, 0);
    wakes.ask(reachable(DEVICE, TAG), 10_000, 0);
    assert_eq!(woken(&mut wakes, 10_000, 20_000), [10_000]);
}

#[test]
fn who_agreed_gets_decoys_at_random_times_and_nobody_else_gets_any() {
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), 0, MIDDLE);
    wakes.heard(reachable(OTHER, Tag([2; 32])), 0, MIDDLE);
    let pushed = pushed(&mut wakes, 10 * DAY_MS);
    assert!(pushed.iter().all(|(_, due)| due.is_decoy && due.tag == TAG));
    let waits: Vec<u64> = pushed
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0)
        .collect();
    let expected = 10 * DAY_MS / MEAN_MS;
    assert!(
        pushed.len().abs_diff(expected as usize) < 150,
        "{}",
        pushed.len()
    );
    let longer = |than_ms: u64| waits.iter().filter(|wait| **wait > than_ms).count() as f64;
    // Without memory: of those that waited for the mean, a part of e waits for as long again.
    let parts = [
        longer(MEAN_MS) / waits.len() as f64,
        longer(2 * MEAN_MS) / longer(MEAN_MS),
    ];
    assert!(
        parts.iter().all(|part| (0.3..0.44).contains(part)),
        "{parts:?}"
    );
}

#[test]
fn a_decoy_keeps_to_the_pace_and_news_takes_its_place() {
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), 0, u64::MAX);
    assert_eq!(wakes.ask_decoy(1, [0, 0]), Some(Asked::Waits));
    assert_eq!(wakes.ask(agrees(DEVICE, TAG), 1, 3_000), Asked::Coalesced);
    assert!(wakes.take_due(3_000).is_none(), "by the chance of the news");
    let due = wakes.take_due(3_001).unwrap();
    assert!(!due.is_decoy);

    // One that is due now is not needed where news waits; the next comes when the pace allows it.
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), 0, u64::MAX);
    wakes.ask(agrees(DEVICE, TAG), 0, 0);
    assert_eq!(wakes.ask_decoy(1, [u64::MAX, 0]), Some(Asked::Coalesced));
    assert!(!wakes.take_due(1).unwrap().is_decoy);
    assert_eq!(wakes.ask_decoy(2, [0, 0]), Some(Asked::Waits));
    assert!(wakes.take_due(60_000).is_none(), "once a minute");
    let decoy = wakes.take_due(60_001).unwrap();
    assert!(decoy.is_decoy);
    // It was not taken, and news has come meanwhile.
    wakes.ask(agrees(DEVICE, TAG), 60_002, 0);
    wakes.retry(decoy, 5_000, 60_003);
    let due = wakes.take_due(u64::MAX).unwrap();
    assert_eq!((due.is_decoy, due.tried), (false, 1));
}

#[test]
fn decoys_at_any_rate_ring_no_more_often_than_the_pace_allows() {
    let pace = PaceSettings {
        decoy_mean_ms: 1,
        ..PaceSettings::default()
    };
    let mut wakes = Wakes::new(pace, 3, 2);
    for device in 0..8 {
        wakes.heard(agrees(DeviceId([device; 16]), TAG), 0, MIDDLE);
    }
    let decoys = pushed(&mut wakes, 600_000);
    assert!(
        (9..=10).contains(&decoys.len()),
        "once a minute: {}",
        decoys.len()
    );
}

#[test]
fn a_device_that_is_awake_gets_no_decoy_not_even_one_that_waits_or_is_tried_again() {
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), 0, u64::MAX);
    wakes.awake(DEVICE, Some(TAG), 600, 0);
    assert_eq!(wakes.ask_decoy(1, [u64::MAX, 0]), Some(Asked::Awake));
    wakes.awake(DEVICE, Some(TAG), 0, 1);
    assert_eq!(wakes.ask_decoy(2, [0, 3_000]), Some(Asked::Waits));
    wakes.awake(DEVICE, Some(TAG), 600, 3);
    assert!(wakes.take_due(500_000).is_none());
    // It is dropped, and not put off until the device sleeps.
    assert!(wakes.take_due(DAY_MS).is_none());

    wakes.forget_decoys(TAG);
    wakes.heard(agrees(DEVICE, Tag([2; 32])), DAY_MS, u64::MAX);
    wakes.ask_decoy(DAY_MS + 1, [0, 0]).unwrap();
    let due = wakes.take_due(DAY_MS + 1).unwrap();
    wakes.awake(DEVICE, None, 600, DAY_MS + 2);
    wakes.retry(due, 5_000, DAY_MS + 2);
    assert!(wakes.take_due(DAY_MS + 599_000).is_none());
}

#[test]
fn news_in_the_place_of_a_decoy_waits_until_its_device_sleeps() {
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), 0, u64::MAX);
    wakes.ask_decoy(1, [0, 3_000]).unwrap();
    wakes.awake(DEVICE, Some(TAG), 600, 2);
    wakes.ask(agrees(DEVICE, TAG), 3, 0);
    assert!(wakes.take_due(600_001).is_none());
    assert!(!wakes.take_due(600_002).unwrap().is_decoy);
}

#[test]
fn who_takes_back_its_consent_gets_no_decoy_and_another_record_of_the_address_keeps_its_own() {
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), 0, MIDDLE);
    wakes.heard(reachable(OTHER, TAG), 1, MIDDLE);
    assert!(
        wakes.next_due_ms().is_some(),
        "that is another record's consent"
    );
    wakes.heard(reachable(DEVICE, TAG), 2, MIDDLE);
    assert_eq!(wakes.next_due_ms(), None);
    wakes.heard(agrees(DEVICE, TAG), 3, MIDDLE);
    wakes.forget_decoys(TAG);
    assert_eq!(
        (wakes.next_due_ms(), wakes.ask_decoy(u64::MAX, [0, 0])),
        (None, None)
    );
}

#[test]
fn a_clock_that_jumps_brings_one_decoy_and_one_that_goes_back_brings_none() {
    let mut wakes = with_decoys();
    wakes.heard(agrees(DEVICE, TAG), DAY_MS, MIDDLE);
    assert!(pushed(&mut wakes, MEAN_MS).is_empty());
    let after_ms = 400 * DAY_MS;
    assert_eq!(wakes.ask_decoy(after_ms, [MIDDLE, 0]), Some(Asked::Waits));
    assert_eq!(wakes.ask_decoy(after_ms, [MIDDLE, 0]), None);
    assert!(wakes.take_due(after_ms).unwrap().is_decoy);
    let next_ms = wakes.next_due_ms().unwrap();
    assert!(
        next_ms.abs_diff(after_ms + MEAN_MS) < MEAN_MS,
        "from now on: {next_ms}"
    );
}

#[test]
fn decoys_that_are_planned_are_bounded_and_none_are_where_the_mean_is_nought() {
    let mut wakes = with_decoys();
    for tag in 0..50 {
        for _ in 0..2 {
            wakes.heard(agrees(DEVICE, Tag([tag; 32])), 0, MIDDLE);
        }
    }
    let mut due = 0;
    while wakes.ask_decoy(DAY_MS, [0, 0]).is_some() {
        due += 1;
    }
    assert_eq!(due, 3);
    let pace = PaceSettings {
        decoy_mean_ms: 0,
        ..PaceSettings::default()
    };
    let mut wakes = Wakes::new(pace, 3, 2);
    wakes.heard(agrees(DEVICE, TAG), 0, MIDDLE);
    assert_eq!(wakes.next_due_ms(), None);
}

#[test]
fn what_is_tried_again_waits_as_long_as_it_was_told_also_when_there_is_more_news() {
    let mut wakes = wakes();
    wakes.ask(reachable(DEVICE, TAG), 0, 0);
    let due = wakes.take_due(0).unwrap();
    wakes.ask(reachable(OTHER, TAG), 1, 0);
    wakes.retry(due, 120_000, 2);
    wakes.ask(reachable(DEVICE, TAG), 3, 0);
    assert_eq!(wakes.next_due_ms(), Some(120_002));
    let due = wakes.take_due(120_002).unwrap();
    assert_eq!((due.tried, due.devices.len()), (1, 2));
}

#[test]
fn what_binds_nobody_is_forgotten() {
    let mut wakes = wakes();
    wakes.ask(reachable(DEVICE, TAG), 0, 0);
    wakes.awake(OTHER, Some(TAG), 60, 0);
    wakes.take_due(0);
    wakes.tidy(59_999);
    assert_eq!((wakes.woken.len(), wakes.awake.len()), (1, 1));
    wakes.tidy(1_200_000);
    assert_eq!((wakes.woken.len(), wakes.awake.len()), (0, 0));
}
