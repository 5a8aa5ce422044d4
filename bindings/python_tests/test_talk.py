"""Two clients talk through real services."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import mimimi
from mimimi import Draft, Event

from .conftest import Pair, Stack, befriend, until


async def news(client: mimimi.Client) -> list[Event]:
    """What has happened since the last call, once there is something."""
    stored = await client.receive(20_000)
    client.acknowledge([one.id for one in stored])
    return [one.event for one in stored]


async def only(client: mimimi.Client) -> Event:
    [event] = await news(client)
    return event


async def test_a_message_is_read_by_the_other_member_as_it_was_written(pair: Pair) -> None:
    sent = await pair.ann.send_message(pair.group, Draft.TEXT("Saturday? ☀"))
    event = await only(pair.ben)
    assert isinstance(event, Event.MESSAGE)
    assert (event.text, event.sender, event.message) == ("Saturday? ☀", pair.ann_handle, sent)
    assert event.group_id == pair.ann.group(pair.group).id
    [contact] = pair.ben.contacts()
    assert event.sender_id == contact.user


async def test_answers_reactions_edits_and_deletions_show_in_both_histories(pair: Pair) -> None:
    ann, ben, group = pair.ann, pair.ben, pair.group
    question = await ann.send_message(group, Draft.TEXT("Saturday?"))
    await only(ben)
    draft = Draft.TEXT("*Sunday*", mimimi.TextFormat.MARKDOWN, question)
    answer = await ben.send_message(group, draft)
    event = await only(ann)
    assert isinstance(event, Event.MESSAGE)
    assert event.details.reply_to == question
    assert event.details.format == mimimi.TextFormat.MARKDOWN
    await ann.send_message(group, Draft.REACTION(answer, "👍"))
    reaction = await only(ben)
    assert isinstance(reaction, Event.REACTION)
    assert (reaction.to, reaction.reactions) == (answer, ["👍"])
    await ben.send_message(group, Draft.EDIT(answer, "Sunday, then"))
    assert isinstance(await only(ann), Event.MESSAGE_EDITED)
    await ann.send_message(group, Draft.DELETION(question))
    assert isinstance(await only(ben), Event.MESSAGE_DELETED)
    await ben.sync(0)
    for client, own in ((ann, False), (ben, True)):
        last, first = client.messages(group)
        assert (last.text, last.edited, last.own) == ("Sunday, then", True, own)
        assert [one.reactions for one in last.reactions] == [["👍"]]
        assert (first.text, first.gone) == ("", mimimi.Gone.DELETED)
    [page] = ann.messages(group, before=answer, limit=1)
    assert page.message == question


class Progress(mimimi.TransferListener):
    """What was heard of a transfer."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def transferred(self, bytes: int, of: int) -> None:  # noqa: A002
        self.heard.append((bytes, of))


async def test_a_file_arrives_as_it_was_sent_until_it_is_deleted(
    pair: Pair, tmp_path: Path
) -> None:
    content = os.urandom(300_000)
    (tmp_path / "garden.png").write_bytes(content)
    picture = mimimi.Thumbnail(
        media_type="image/png", content=b"\x89PNG\r\n\x1a\n and the rest"
    )
    options = mimimi.UploadOptions(media_type="image/png", thumbnail=picture)
    progress = Progress()
    sent = await pair.ann.upload(str(tmp_path / "garden.png"), options, progress)
    assert progress.heard[-1] == (len(content), len(content))
    await pair.ann.send_message(pair.group, Draft.TEXT("look", attachment=sent))
    event = await only(pair.ben)
    assert isinstance(event, Event.MESSAGE)
    came = event.details.attachment
    assert came is not None
    assert (came.file_name(), came.media_type()) == ("garden.png", "image/png")
    assert (came.size(), came.thumbnail(), event.text) == (len(content), picture, "look")
    assert came == pair.ben.messages(pair.group)[0].details.attachment
    fetched = tmp_path / "fetched.png"
    await pair.ben.download(came, str(fetched))
    assert fetched.read_bytes() == content
    with pytest.raises(mimimi.UsageError) as error:
        await pair.ben.download(came, str(fetched))
    assert error.value.code == "file-exists"
    await pair.ann.delete_upload(sent)
    with pytest.raises(mimimi.UsageError) as error:
        await pair.ben.download(came, str(tmp_path / "again.png"))
    assert error.value.code == "attachment-gone"


async def test_what_is_in_memory_is_sent_as_a_file(pair: Pair, tmp_path: Path) -> None:
    options = mimimi.UploadOptions(name="note.txt", media_type="text/plain")
    sent = await pair.ann.upload_from(b"roses", options)
    await pair.ann.send_message(pair.group, Draft.TEXT("", attachment=sent))
    event = await only(pair.ben)
    assert isinstance(event, Event.MESSAGE)
    assert event.details.attachment is not None
    await pair.ben.download(event.details.attachment, str(tmp_path / "note.txt"))
    assert (tmp_path / "note.txt").read_bytes() == b"roses"


async def test_a_mention_and_an_expiry_arrive(pair: Pair) -> None:
    [contact] = pair.ann.contacts()
    text = f"[you](user:{contact.user}), look"
    expires = mimimi.Expiry.AFTER_READING(1)
    draft = Draft.TEXT(text, mimimi.TextFormat.MARKDOWN, expires=expires)
    await pair.ann.send_message(pair.group, draft)
    event = await only(pair.ben)
    assert isinstance(event, Event.MESSAGE)
    assert event.details.mentions == [contact.user]
    assert event.details.expires == expires
    # Its time has begun with the acknowledgement.
    await until(lambda: pair.ben.messages(pair.group)[0].gone == mimimi.Gone.EXPIRED)
    [gone] = pair.ben.messages(pair.group)
    assert gone.text == ""


async def test_a_read_receipt_is_told_where_it_is_switched_on(pair: Pair) -> None:
    assert pair.ben.receipts(pair.group) == mimimi.Receipts.OFF
    await pair.ben.set_receipts(pair.group, mimimi.Receipts.READ)
    sent = await pair.ann.send_message(pair.group, Draft.TEXT("read?"))
    event = await only(pair.ben)
    assert isinstance(event, Event.MESSAGE)
    pair.ben.mark_read(pair.group, [event.message])

    def is_read() -> bool:
        [said] = pair.ann.messages(pair.group)
        return said.message == sent and any(receipt.read for receipt in said.receipts)

    await until(is_read, pair.ben, pair.ann)


async def test_a_queued_message_is_sent_and_its_end_is_told(pair: Pair) -> None:
    queued = pair.ann.queue_message(pair.group, Draft.TEXT("later"))
    async with asyncio.timeout(30):
        async for stored in mimimi.follow(pair.ann):
            if isinstance(stored.event, Event.MESSAGE_SENT):
                assert stored.event.message == queued
                break
    assert pair.ann.queued_messages() == []


async def test_whoever_follows_the_group_in_front_hears_at_once(pair: Pair) -> None:
    await pair.ben.bring_to_front(pair.group)
    heard: list[str] = []

    async def listen() -> None:
        async for stored in mimimi.follow(pair.ben):
            if isinstance(stored.event, Event.MESSAGE):
                heard.append(stored.event.text)

    listening = asyncio.create_task(listen())
    for number in range(3):
        await pair.ann.send_message(pair.group, Draft.TEXT(str(number)))
    await until(lambda: len(heard) == 3)
    assert heard == ["0", "1", "2"]
    # The iteration ends with the client, without an error.
    await pair.ben.stop()
    async with asyncio.timeout(60):
        await listening


async def test_an_event_that_a_cancelled_call_had_got_comes_again(pair: Pair) -> None:
    await pair.ann.send_message(pair.group, Draft.TEXT("still there?"))
    [stored] = await pair.ben.receive(20_000)
    events = pair.ben.event_stream()
    asking = asyncio.create_task(events.next_event(0))
    # It has asked, the answer is there, and nobody has fetched it.
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(60):
        assert await events.next_event(0) == stored


async def test_a_stream_that_was_ended_gives_nothing_and_whoever_waits_hears_of_it(
    pair: Pair,
) -> None:
    await pair.ann.send_message(pair.group, Draft.TEXT("never asked for"))
    [stored] = await pair.ben.receive(20_000)
    events = pair.ben.event_stream()
    waiting = asyncio.create_task(events.next_event(stored.id))
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    events.end()
    async with asyncio.timeout(60):
        assert await waiting is None
        assert await events.next_event(0) is None


async def test_an_iteration_that_is_closed_ends_its_stream(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[mimimi.Events] = []
    end = mimimi.Events.end

    def ends(events: mimimi.Events) -> None:
        ended.append(events)
        end(events)

    monkeypatch.setattr(mimimi.Events, "end", ends)
    await pair.ann.send_message(pair.group, Draft.TEXT("one"))
    await pair.ben.receive(20_000)
    async with contextlib.aclosing(mimimi.follow(pair.ben)) as happened:
        async for _ in happened:
            break
    assert len(ended) == 1


async def test_nothing_is_done_after_the_end_of_a_client(pair: Pair) -> None:
    await pair.ben.stop()
    calls: list[Callable[[], object]] = [
        lambda: pair.ben.queue_message(pair.group, Draft.TEXT("twice?")),
        pair.ben.contacts,
        pair.ben.events,
    ]
    for call in calls:
        with pytest.raises(mimimi.LocalError) as stopped:
            call()
        assert stopped.value.code == "stopped"
    assert [one async for one in mimimi.follow(pair.ben)] == []


async def test_members_come_and_go_by_role_code_and_removal(stack: Stack, pair: Pair) -> None:
    ann, ben, group = pair.ann, pair.ben, pair.group
    with pytest.raises(mimimi.UsageError) as refused:
        await ben.remove_from_group(group, [pair.ann_handle])
    assert refused.value.code == "not-permitted"
    await ann.set_role(group, pair.ben_handle, "admin")
    await ben.sync(0)
    assert {one.name: one.role for one in ben.members(group)}[pair.ben_handle] == "admin"
    profile = mimimi.GroupProfile(name="walls", description="Where we climb")
    await ben.set_group_profile(group, profile)
    await ann.sync(0)
    assert ann.group("walls").profile == profile

    cem = await stack.client("cem", f"cem{stack.used}")
    await befriend(ann, cem)
    code = await ann.invite("walls", 1)
    assert await cem.join_by_code(code) == "walls"
    for client in (ann, ben):
        await client.sync(0)
    assert len(ben.members("walls")) == 3
    await ann.remove_from_group("walls", [cem.own_handle() or ""])
    await cem.sync(0)
    assert not cem.group("walls").active
    await ben.leave_group("walls")
    await ann.sync(0)
    assert [one.name for one in ann.members("walls")] == [pair.ann_handle]
    await cem.stop()


async def test_an_id_means_its_group_whatever_others_call_theirs(pair: Pair) -> None:
    # Of a group that Ann does not know, and never will.
    await pair.ben.create_group("later")
    meant = pair.ben.group("later").id
    with pytest.raises(mimimi.UsageError) as refused:
        await pair.ben.set_group_profile(pair.group, mimimi.GroupProfile(name=meant))
    assert refused.value.code == "invalid-group-name"
    with pytest.raises(mimimi.UsageError) as unknown:
        await pair.ann.send_message(meant, Draft.TEXT("to the later one"))
    assert unknown.value.code == "unknown-group"
    await pair.ben.send_message(meant, Draft.TEXT("a note"))
    assert [one.text for one in pair.ben.messages("later")] == ["a note"]


async def test_an_error_says_what_kind_it_is_and_has_a_name_for_programs(
    stack: Stack, pair: Pair
) -> None:
    with pytest.raises(mimimi.UsageError) as usage:
        await pair.ann.send_message("nowhere", Draft.TEXT("hello"))
    assert usage.value.code == "unknown-group"
    assert usage.value.fault == mimimi.Fault.CALLER
    assert "nowhere" in usage.value.detail
    with pytest.raises(mimimi.UsageError) as wrong_id:
        pair.ann.messages(pair.group, before="no id")
    assert wrong_id.value.code == "invalid-id"
    with pytest.raises(mimimi.RefusedError) as refused:
        await pair.ann.connect("nobody-has-this")
    assert (refused.value.code, refused.value.retry_after_s) == ("unknown-handle", None)
    with pytest.raises(mimimi.UsageError) as nothing:
        await mimimi.Client.open(str(stack.directory / "homes" / "nothing"))
    assert nothing.value.code == "not-initialised"
    await pair.ben.stop()
    with pytest.raises(mimimi.LocalError) as stopped:
        await pair.ben.sync(0)
    assert stopped.value.code == "stopped"
    assert isinstance(stopped.value, mimimi.ClientError)


class Heard(mimimi.WaitListener):
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def waits(self, reason: str, so_far_ms: int) -> None:
        self.reasons.append(reason)
        raise RuntimeError("the application's own")


async def test_no_answer_is_a_network_error_and_a_listener_that_fails_changes_nothing(
    stack: Stack,
) -> None:
    endpoints = stack.description.read_text()
    heard = Heard()
    options = mimimi.Options(call_ms=7_000, attempt_ms=1_000, progress=heard)
    home = str(stack.directory / "homes" / "cut-off")
    token = stack.account().read_text()
    client = await mimimi.Client.create(home, endpoints, token, options)
    relay = json.loads(endpoints)["relay"]
    await client.stop()
    nowhere = endpoints.replace(relay, "http://127.0.0.1:9/")
    with pytest.raises(mimimi.NetworkError) as error:
        client = await mimimi.Client.create(home, nowhere, token, options)
        await client.register_handle("cutoff")
    assert (error.value.code, error.value.fault) == ("unreachable", mimimi.Fault.NETWORK)
    assert heard.reasons


async def test_a_cancelled_call_leaves_the_client_usable_and_takes_nothing_away(
    pair: Pair,
) -> None:
    waiting = asyncio.create_task(pair.ben.receive(60_000))
    events = pair.ben.event_stream()
    last = max((stored.id for stored in pair.ben.events()), default=0)
    next_event = asyncio.create_task(events.next_event(last))
    await asyncio.sleep(1)
    for task in (waiting, next_event):
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await pair.ann.send_message(pair.group, Draft.TEXT("still there?"))
    async with asyncio.timeout(20):
        [stored] = await pair.ben.receive(20_000)
        assert stored == await events.next_event(last)
        await pair.ben.send_message(pair.group, Draft.TEXT("yes"))
    event = await only(pair.ann)
    assert isinstance(event, Event.MESSAGE) and event.text == "yes"


async def hear(newcomer: mimimi.Client, pair: Pair) -> None:
    """Ben says something: who came in from outside sends nothing before somebody is heard."""
    with pytest.raises(mimimi.UsageError) as too_soon:
        await newcomer.send_message(pair.group, Draft.TEXT("hello?"))
    assert too_soon.value.code == "nobody-heard"
    await pair.ben.sync(0)
    await pair.ben.send_message(pair.group, Draft.TEXT("welcome"))

    def is_welcome() -> bool:
        return any(one.text == "welcome" for one in newcomer.messages(pair.group))

    await until(is_welcome, newcomer)


async def test_a_backup_comes_back_and_only_with_its_key(stack: Stack, pair: Pair) -> None:
    text = mimimi.new_recovery_key()
    key = mimimi.BackupKey.recovery_key(text)
    assert text not in f"{key!s} {key!r}"
    backup = await pair.ann.backup(key)
    await pair.ann.stop()
    home = str(stack.directory / "homes" / f"restored-{stack.used}")
    with pytest.raises(mimimi.UsageError) as wrong:
        await mimimi.Client.restore(home, backup, mimimi.BackupKey.passphrase(text))
    assert wrong.value.code == "wrong-backup-key"
    restored = await mimimi.Client.restore(home, backup, key)
    assert restored.own_handle() == pair.ann_handle
    assert [one.handle for one in restored.contacts()] == [pair.ben_handle]
    await hear(restored, pair)
    await restored.send_message(pair.group, Draft.TEXT("back"))
    texts = [one.text for one in await news(pair.ben) if isinstance(one, Event.MESSAGE)]
    assert texts == ["back"]
    await restored.stop()


async def test_a_linked_device_speaks_for_its_user(stack: Stack, pair: Pair) -> None:
    phone = await stack.client("phone")
    code = await phone.link_code("phone")
    number = await pair.ann.approve_link(code.code, code.number)
    assert await phone.complete_link(number, 20_000) == pair.ann_handle
    for _ in range(4):
        for client in (pair.ann, phone):
            await client.sync(0)
    assert [one.name for one in pair.ann.devices() if not one.own] == ["phone"]
    await hear(phone, pair)
    await phone.send_message(pair.group, Draft.TEXT("from afar"))
    said = [one for one in await news(pair.ben) if isinstance(one, Event.MESSAGE)]
    assert [(one.sender, one.text) for one in said] == [(pair.ann_handle, "from afar")]
    await phone.stop()


async def test_a_home_is_opened_again_with_all_that_was_said(stack: Stack) -> None:
    client = await stack.client("dan", f"dan{stack.used}")
    await client.create_group("notes")
    await client.send_message("notes", Draft.TEXT("milk"))
    await client.stop()
    # The home is named by how many accounts were used before it was made.
    home = str(stack.directory / "homes" / f"dan-{stack.used - 1}")
    again = await mimimi.Client.open(home)
    assert [one.text for one in again.messages("notes")] == ["milk"]
    assert (await again.verify_group("notes")).members == 1
    await again.stop()


async def test_a_history_is_written_and_read_in_under_its_key_only(
    pair: Pair, tmp_path: Path
) -> None:
    await pair.ann.send_message(pair.group, Draft.TEXT("Saturday?"))
    key = mimimi.BackupKey.recovery_key(mimimi.new_recovery_key())
    file = str(tmp_path / "history")
    scope = mimimi.HistoryScope(groups=[pair.group])
    assert await pair.ann.export_history(file, key, scope) == 1
    imported = await pair.ann.import_history(file, key)
    assert (imported.added, imported.passed_over, imported.of_unknown_groups) == (0, 1, 0)
    other = mimimi.BackupKey.recovery_key(mimimi.new_recovery_key())
    with pytest.raises(mimimi.UsageError) as wrong:
        await pair.ann.import_history(file, other)
    assert wrong.value.code == "wrong-backup-key"
