#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::attachment::MAX_THUMBNAIL;

const GROUP: GroupId = GroupId([3; 16]);
const ALICE: &[u8] = b"mimi://example.org/p/alice";

fn nobody(_: &str) -> Result<Option<UserId>, Error> {
    Ok(None)
}

fn multi(semantics: Semantics, parts: Vec<NestedPart>) -> MimiContent {
    let part = Part::Multi { semantics, parts };
    let body = NestedPart {
        disposition: Disposition::Render,
        language: String::new(),
        part,
    };
    MimiContent::new([1; 16], body)
}

#[test]
fn an_id_is_of_one_message_of_one_sender_in_one_group() {
    let message = MimiContent::text([1; 16], "yes");
    let id = |pseudonym: &[u8], group, message: &MimiContent| {
        let bytes = message.encode().unwrap();
        read(&bytes, pseudonym, &group, 0).unwrap().0
    };
    let one = id(ALICE, GROUP, &message);
    assert_eq!(one, id(ALICE, GROUP, &message));
    assert_ne!(one, id(b"mimi://example.org/p/bob", GROUP, &message));
    assert_ne!(one, id(ALICE, GroupId([4; 16]), &message));
    // The same words, which the service may guess.
    assert_ne!(one, id(ALICE, GROUP, &MimiContent::text([2; 16], "yes")));
}

#[test]
fn who_names_itself_and_the_room_rightly_is_read() {
    let mut message = MimiContent::text([1; 16], "yes");
    message.extensions.sender_uri = Some("mimi://example.org/p/alice".to_owned());
    message.extensions.room_uri = Some(room_uri("mimi://example.org/p/alice", &GROUP));
    let bytes = message.encode().unwrap();
    assert!(read(&bytes, ALICE, &GROUP, 0).is_ok());
    assert!(read(&bytes, b"mimi://example.org/p/bob", &GROUP, 0).is_err());
    assert!(read(&bytes, ALICE, &GroupId([4; 16]), 0).is_err());
}

#[test]
fn of_several_parts_those_are_shown_that_are_understood() {
    let text = |text: &str| NestedPart::single("Text/Plain; charset=utf-8", text.as_bytes());
    let other = || NestedPart::single("application/x-other", b"\xff");
    let shows = |semantics, parts| {
        let (text, shown) = details(&multi(semantics, parts), nobody).unwrap();
        shown.unknown.map_or(Ok(text), Err)
    };
    let unknown = Err("application/x-other".to_owned());
    let (choose, all) = (Semantics::ChooseOne, Semantics::ProcessAll);
    let unit = Semantics::SingleUnit;
    assert_eq!(
        shows(choose, vec![other(), text("a"), text("b")]),
        Ok("a".to_owned())
    );
    assert_eq!(
        shows(all, vec![text("a"), other(), text("b")]),
        Ok("a\n\nb".to_owned())
    );
    assert_eq!(
        shows(unit, vec![text("a"), text("b")]),
        Ok("a\n\nb".to_owned())
    );
    for semantics in [choose, all] {
        assert_eq!(shows(semantics, vec![other(), other()]), unknown);
    }
    assert_eq!(shows(unit, vec![text("a"), other()]), unknown);
}

#[test]
fn a_reaction_that_is_longer_than_one_is_an_answer() {
    let to: content::MessageId = [1; 32].try_into().unwrap();
    let of = |texts: &[&str]| {
        let texts = texts.iter();
        let parts = texts.map(|text| NestedPart::single("text/plain", text.as_bytes()));
        let mut message = multi(Semantics::ProcessAll, parts.collect());
        message.body.disposition = Disposition::Reaction;
        message.in_reply_to = Some(to);
        said(&message)
    };
    let reaction = Said::Reaction(MessageId([1; 32]));
    let longest = "x".repeat(MAX_REACTION);
    assert_eq!(of(&["a", "b", "c", &longest]), reaction);
    assert_eq!(of(&["a", "b", "c", "d", "e"]), Said::Message);
    assert_eq!(of(&[&(longest + "x")]), Said::Message);
    assert_eq!(of(&[]), Said::Message);
}

#[test]
fn a_link_that_others_have_written_as_a_mention_is_none() {
    let user = UserId([1; 32]);
    let text = format!("[x](user:{user})");
    let message = MimiContent::markdown([1; 16], &text);
    let (shown, details) = details(&message, |_| Ok(Some(user))).unwrap();
    assert_eq!((shown, details.mentions), (text, Vec::new()));
}

/// What begins as a picture does.
fn webp(len: usize) -> Vec<u8> {
    let mut picture = b"RIFF....WEBP".to_vec();
    picture.resize(len, 1);
    picture
}

#[test]
fn an_attachment_comes_with_words_or_without() {
    let attachment = Attachment {
        media_type: "image/png".to_owned(),
        url: "https://example.org/x".to_owned(),
        key: vec![7; 16],
        ..Attachment::default()
    };
    let with_thumbnail = Attachment {
        thumbnail: Some(Thumbnail {
            media_type: "image/webp".to_owned(),
            content: webp(MAX_THUMBNAIL),
        }),
        ..attachment.clone()
    };
    for (words, attachment) in [
        ("", &attachment),
        ("look", &attachment),
        ("", &with_thumbnail),
        ("look", &with_thumbnail),
    ] {
        let draft = Draft::text(words).with_attachment(attachment.clone());
        assert_eq!(draft.check(0), Ok(()));
        let content = draft
            .content(|_| Err(LocalError::Damaged.into()), None)
            .unwrap();
        let content = MimiContent::decode(&content.encode().unwrap()).unwrap();
        let (text, details) = details(&content, nobody).unwrap();
        assert_eq!(
            (text.as_str(), details.attachment),
            (words, Some(attachment.clone()))
        );
    }
    // Other words leave it where it is.
    let draft = Draft::text("look").with_attachment(with_thumbnail.clone());
    let nobody_is = |_| Err(LocalError::Damaged.into());
    let before = draft.content(nobody_is, None).unwrap();
    let id = MessageId([1; 32]);
    let edit = Draft::edit(id, "see").content(nobody_is, Some((id, &before)));
    let (text, edited) = details(&edit.unwrap(), nobody).unwrap();
    assert_eq!(
        (text.as_str(), edited.attachment),
        ("see", Some(with_thumbnail))
    );
    let shown = format!("{attachment:?}");
    assert!(
        !shown.contains("example.org") && !shown.contains('7'),
        "{shown}"
    );
    let json = serde_json::to_string(&attachment).unwrap();
    assert_eq!(
        serde_json::from_str::<Attachment>(&json).unwrap(),
        attachment
    );
}

#[test]
fn a_thumbnail_that_is_no_picture_or_too_long_is_not_shown() {
    let svg = b"<svg><image href='https://example.org/who-looks'/></svg>".to_vec();
    for (media_type, content) in [
        ("text/html", webp(20)),
        ("image/webp", webp(MAX_THUMBNAIL + 1)),
        ("image/svg+xml", svg.clone()),
        ("image/webp", svg),
        ("image/png", webp(20)),
        ("image/webp", Vec::new()),
    ] {
        let attachment = Attachment {
            thumbnail: Some(Thumbnail {
                media_type: media_type.to_owned(),
                content,
            }),
            ..Attachment::default()
        };
        let draft = Draft::attachment(attachment);
        let content = draft.content(|_| Err(LocalError::Damaged.into()), None);
        let (text, details) = details(&content.unwrap(), nobody).unwrap();
        assert_eq!((text.as_str(), details.unknown), ("", None));
        assert_eq!(details.attachment.unwrap().thumbnail, None);
    }
}

#[test]
fn what_cannot_be_said_is_refused() {
    let id = MessageId([1; 32]);
    let long = "x".repeat(MAX_TEXT + 1);
    assert_eq!(Draft::text(" \n").check(0), Err(UsageError::EmptyText));
    assert_eq!(Draft::edit(id, "").check(0), Err(UsageError::EmptyText));
    assert_eq!(Draft::text(&long).check(0), Err(UsageError::TextTooLong));
    assert_eq!(
        Draft::reaction(id, "x".repeat(129)).check(0),
        Err(UsageError::TextTooLong)
    );
    assert_eq!(Draft::reaction(id, "").check(0), Err(UsageError::EmptyText));
    for at in [1, 1_799_999_999, 1_800_000_000] {
        let expires = Draft::text("x").expires(Expiry::At(at));
        assert_eq!(
            expires.check(1_800_000_000_000),
            Err(UsageError::InvalidExpiry)
        );
    }
    let soon = Draft::text("x").expires(Expiry::At(1_800_000_001));
    assert_eq!(soon.check(1_800_000_000_000), Ok(()));
    for misfit in [
        Draft::reaction(id, "x").reply_to(id),
        Draft::reaction(id, "x").as_markdown(),
        Draft::edit(id, "x").reply_to(id),
        Draft::edit(id, "x").with_attachment(Attachment::default()),
        Draft::edit(id, "x").expires(Expiry::AfterReading(9)),
        Draft::deletion(id).expires(Expiry::AfterReading(9)),
    ] {
        assert_eq!(misfit.check(0), Err(UsageError::DraftDoesNotFit));
    }
    assert_eq!(Draft::deletion(id).check(0), Ok(()));
    // No message has such an id.
    let foreign = Draft::text("x").reply_to(MessageId([2; 32]));
    assert!(
        foreign
            .content(|_| Err(LocalError::Damaged.into()), None)
            .is_err()
    );
}
