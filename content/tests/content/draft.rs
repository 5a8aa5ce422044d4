//! The examples of the drafts: see draft.txt.

use content::{
    Disposition, Expiration, MessageId, MimiContent, Part, Semantics, Status, decode_report,
    encode_report, links,
};

fn examples() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let lines = include_str!("draft.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            let bytes = basis::hex::decode(words.next().unwrap()).unwrap();
            (name, bytes, words.next())
        })
        .collect()
}

fn example(name: &str) -> MimiContent {
    let examples = examples();
    let (_, bytes, _) = examples.iter().find(|(it, ..)| *it == name).unwrap();
    MimiContent::decode(bytes).unwrap()
}

fn id_of(name: &str) -> MessageId {
    let examples = examples();
    let (.., id) = examples.iter().find(|(it, ..)| *it == name).unwrap();
    let id = basis::hex::decode(id.unwrap()).unwrap();
    id.as_slice().try_into().unwrap()
}

#[test]
fn every_example_is_read_written_as_it_was_and_has_the_id_that_the_draft_says() {
    let mut count = 0;
    for (name, bytes, id) in examples() {
        let Some(id) = id else { continue };
        let message = MimiContent::decode(&bytes).unwrap();
        assert_eq!(message.encode().unwrap(), bytes, "{name}");
        let sender = message.extensions.sender_uri.clone().unwrap();
        let room = message.extensions.room_uri.clone().unwrap();
        let made = message.id(&sender, &room).unwrap();
        assert_eq!(basis::hex::encode(&made.octets()), id, "{name}");
        // Sender, room and message all matter.
        let other = "mimi://example.com/u/mallory";
        assert_ne!(message.id(other, &room).unwrap(), made);
        assert_ne!(message.id(&sender, other).unwrap(), made);
        count += 1;
    }
    assert_eq!(count, 13);
}

#[test]
fn plain_constructors_make_what_the_draft_shows() {
    let with = |made: MimiContent, name| {
        let shown = example(name);
        let extensions = shown.extensions.clone();
        assert_eq!(MimiContent { extensions, ..made }, shown, "{name}");
    };
    let salt = |name| example(name).salt;
    let (original, reply, reaction) = (id_of("original"), id_of("reply"), id_of("reaction"));
    let text = "Hi everyone, we just shipped release 2.0. __Good  work__!";
    with(MimiContent::markdown(salt("original"), text), "original");
    let text = "Right on! _Congratulations_ 'all!";
    let made = MimiContent::markdown(salt("reply"), text).replying_to(original);
    with(made, "reply");
    let made = MimiContent::reaction(salt("reaction"), original, "\u{2764}");
    with(made, "reaction");
    let text = "Right on! _Congratulations_ y'all!";
    let made = MimiContent::markdown(salt("edit"), text).replying_to(original);
    with(made.replacing(reply), "edit");
    let made = MimiContent::delete(salt("delete"), reply).replying_to(original);
    with(made, "delete");
    let made = MimiContent::unlike(salt("unlike"), reaction, original);
    with(made, "unlike");
    let text = "__*VPN GOING DOWN*__ I'm rebooting the VPN in ten minutes unless anyone objects.";
    let made = MimiContent::markdown(salt("expiring"), text);
    with(made.expiring(Expiration::At(1_644_390_004)), "expiring");
}

#[test]
fn a_mention_is_a_link_to_the_uri_of_a_member() {
    let Part::Single { content, .. } = example("mention").body.part else {
        panic!("a single part");
    };
    let text = String::from_utf8(content).unwrap();
    let [mention] = links(&text).try_into().unwrap();
    assert_eq!(&text[mention.target], "mimi://example.com/u/alice-smith");
    assert_eq!(&text[mention.words], "@Alice Smith");
}

#[test]
fn parts_are_numbered_depth_first() {
    let nested = example("multipart-3");
    let parts = nested.body.flat();
    assert_eq!(parts.len(), 11);
    for (index, media_type) in [(5, "image/gif"), (10, "image/png")] {
        assert_eq!(parts[index].disposition, Disposition::Inline);
        let Part::Single { content_type, .. } = &parts[index].part else {
            panic!("a single part");
        };
        assert_eq!(content_type, media_type);
    }
    let choose = Semantics::ChooseOne;
    assert!(matches!(&parts[0].part, Part::Multi { semantics, .. } if *semantics == choose));
}

#[test]
fn an_attachment_says_where_it_lies_and_shows_its_key_to_nobody() {
    let Part::External(external) = example("attachment").body.part else {
        panic!("an external part");
    };
    assert_eq!(external.size, 708_234_961);
    assert_eq!((external.encryption, external.key.len()), (1, 16));
    let shown = format!("{external:?}");
    assert!(
        !shown.contains("storage") && !shown.contains("33, 57"),
        "{shown}"
    );
    let made = MimiContent::attachment(example("attachment").salt, *external.clone());
    assert_eq!(made.body.part, Part::External(external));
}

#[test]
fn a_report_says_what_became_of_each_message() {
    let examples = examples();
    let (_, bytes, _) = examples
        .iter()
        .find(|(name, ..)| *name == "report")
        .unwrap();
    let statuses = decode_report(bytes).unwrap();
    let said = [
        (id_of("original"), Status::Read),
        (id_of("reply"), Status::Read),
        (id_of("mention"), Status::Unread),
        (id_of("expiring"), Status::Expired),
    ];
    assert_eq!(statuses, said);
    assert_eq!(encode_report(&said), *bytes);
}
