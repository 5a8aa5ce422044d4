import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import * as kept from "../model/kept.ts";
import type { Chat, Line, Messenger } from "../model/messenger.ts";
import type { Message } from "../sdk.ts";
import { preview } from "../text/markdown.ts";
import { bytes, clock, day } from "../text/times.ts";
import type { Show } from "./app.tsx";
import { Avatar, Icon, IconButton, Picture } from "./parts.tsx";
import { Rich } from "./rich.tsx";
import { thumbnailOf } from "./thumbnails.ts";

const EMOJI = ["👍", "❤️", "😂", "😮", "🙏"];

export function ChatView({ model, chat, show }: { model: Messenger; chat: Chat; show: Show }) {
  const [editing, setEditing] = useState<Message | null>(null);
  const [replying, setReplying] = useState<Message | null>(null);
  const list = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const messages = model.messages.value;
  const lines = model.lines.value.get(chat.id) ?? [];
  useEffect(() => {
    setEditing(null);
    setReplying(null);
    atEnd.current = true;
  }, [chat.id]);
  useLayoutEffect(() => {
    if (atEnd.current) list.current?.scrollTo(0, list.current.scrollHeight);
  }, [messages, lines.length]);
  const scrolled = (): void => {
    const it = list.current;
    if (it !== null) atEnd.current = it.scrollHeight - it.scrollTop - it.clientHeight < 60;
  };
  const people = new Set(chat.members.map((it) => it.user ?? it.leafIndex)).size;
  const verified = chat.contact !== null && model.verified.value.has(chat.contact.user);
  const changed = !verified && chat.contact !== null && model.numbers.value.has(chat.contact.user) && kept.verifiedNumber(chat.contact.user) !== null;
  const standing = verified ? "Safety number compared" : changed ? "The safety number has changed" : "Safety number not compared yet";
  const details = (): void => show(chat.contact === null ? { type: "group", id: chat.id } : { type: "contact", user: chat.contact.user });
  const byId = new Map(messages.map((it) => [it.message, it]));
  return (
    <section class="chat" aria-label={`Chat ${chat.title}`}>
      <header class="bar">
        <IconButton class="only-narrow" icon="back" label="Back to the list" onClick={() => history.back()} />
        <button type="button" class="who" onClick={details}>
          <span class="unseen">About </span>
          <Avatar id={chat.contact?.user ?? chat.id} name={chat.title} picture={chat.group.profile.picture?.image} />
          <span class="chat-words">
            <span class="chat-title"><bdi>{chat.title}</bdi>{verified && <span class="verified" title="Safety number compared"><Icon name="shield" /></span>}</span>
            <span class="chat-last">{chat.contact === null ? `${people} ${people === 1 ? "member" : "members"}` : standing}</span>
          </span>
        </button>
        <IconButton icon="more" label="Chat settings" onClick={() => show({ type: "group", id: chat.id })} />
      </header>
      <div class="messages scroller" ref={list} onScroll={scrolled} role="log" aria-label="Messages" tabIndex={0}>
        <p class="encrypted"><Icon name="lock" /> Encrypted from end to end</p>
        {model.hasEarlier.value && <button type="button" class="button quiet earlier" onClick={() => void model.attempt(() => model.loadEarlier())}>Earlier messages</button>}
        {messages.map((message, at) => {
          const before = messages[at - 1];
          const newDay = before === undefined || day(before.atMs, model.now()) !== day(message.atMs, model.now());
          const grouped = !newDay && before?.senderId === message.senderId && before.sender === message.sender && message.atMs - before.atMs < 300_000;
          return (
            <div key={message.message} class={grouped ? "said grouped" : "said"}>
              <Lines lines={lines.filter((it) => it.atMs < message.atMs && it.atMs >= (before?.atMs ?? 0))} />
              {newDay && <p class="day"><span>{day(message.atMs, model.now())}</span></p>}
              <MessageView
                model={model}
                chat={chat}
                message={message}
                named={chat.contact === null && !message.own && !grouped}
                answered={message.details.replyTo === null ? null : (byId.get(message.details.replyTo) ?? "unknown")}
                onReply={() => { setReplying(message); setEditing(null); }}
                onEdit={() => { setEditing(message); setReplying(null); }}
              />
            </div>
          );
        })}
        <Lines lines={lines.filter((it) => it.atMs >= (messages.at(-1)?.atMs ?? 0))} />
      </div>
      {chat.group.active ? (
        <Composer key={chat.id} model={model} chat={chat} editing={editing} replying={replying} onDone={() => { setEditing(null); setReplying(null); atEnd.current = true; }} />
      ) : (
        <p class="closed">You cannot write here any more. <button type="button" class="link" onClick={() => show({ type: "group", id: chat.id })}>What can I do?</button></p>
      )}
    </section>
  );
}

function Lines({ lines }: { lines: readonly Line[] }) {
  return <>{lines.map((line) => <p class="line" key={line.id} dir="auto">{line.text}</p>)}</>;
}

function MessageView(props: { model: Messenger; chat: Chat; message: Message; named: boolean; answered: Message | "unknown" | null; onReply: () => void; onEdit: () => void }) {
  const { model, chat, message } = props;
  const [menu, setMenu] = useState(false);
  const gone = message.gone !== null;
  const own = message.own ? "own" : "other";
  const react = (emoji: string): void => {
    setMenu(false);
    void model.attempt(() => model.react(message, emoji));
  };
  const counts = new Map<string, number>();
  for (const emoji of message.reactions.flatMap((it) => it.reactions)) counts.set(emoji, (counts.get(emoji) ?? 0) + 1);
  return (
    <article class={`message ${own} ${message.state}`} aria-label={`${message.own ? "You" : message.sender}, ${clock(message.atMs)}`}>
      <div class="bubble">
        {props.named && <p class="sender"><bdi>{message.sender}</bdi></p>}
        {props.answered !== null && (
          <blockquote class="answered">
            {props.answered === "unknown" ? <p>An earlier message</p> : <><b><bdi>{props.answered.own ? "You" : props.answered.sender}</bdi></b><p dir="auto">{preview(props.answered.text) || "A file"}</p></>}
          </blockquote>
        )}
        {message.details.attachment !== null && !gone && <AttachmentView model={model} message={message} />}
        {gone ? <p class="gone">{message.gone === "deleted" ? "This message was deleted" : "This message has expired"}</p>
          : message.details.unknown !== null ? <p class="gone">This cannot be shown here yet</p>
          : message.text !== "" && <div class="text"><Rich text={message.text} markdown={message.details.format === "markdown"} /></div>}
        <p class="meta">
          {message.edited && !gone && <span>edited</span>}
          {message.details.expires !== null && !gone && <span title="Expires">⏱</span>}
          <time>{clock(message.atMs)}</time>
          {message.own && <Marks message={message} />}
        </p>
      </div>
      {!gone && chat.group.active && (
        <div class="tools">
          <button type="button" class="icon-button small" aria-label="React, reply and more" aria-expanded={menu} onClick={() => setMenu(!menu)}><Icon name="smile" /></button>
          {menu && (
            <div class="menu" role="group" aria-label="Message" onKeyDown={(it) => it.key === "Escape" && setMenu(false)}>
              <div class="emoji">{EMOJI.map((emoji) => <button type="button" key={emoji} aria-label={`React ${emoji}`} onClick={() => react(emoji)}>{emoji}</button>)}</div>
              <button type="button" onClick={() => { setMenu(false); props.onReply(); }}>Reply</button>
              {message.own && message.details.attachment === null && <button type="button" onClick={() => { setMenu(false); props.onEdit(); }}>Edit</button>}
              {message.own && <button type="button" class="danger" onClick={() => { setMenu(false); void model.attempt(() => model.say(chat.id, { type: "deletion", message: message.message })); }}>Delete</button>}
            </div>
          )}
        </div>
      )}
      {counts.size > 0 && (
        <div class="reactions">
          {[...counts].map(([emoji, count]) => (
            <button type="button" key={emoji} onClick={() => react(emoji)} aria-label={`${emoji} ${count}, react the same`}><bdi>{emoji}</bdi>{count > 1 && ` ${count}`}</button>
          ))}
        </div>
      )}
    </article>
  );
}

function Marks({ message }: { message: Message }) {
  const [mark, label] =
    message.state === "waiting" ? ["◷", "Waiting to be sent"]
    : message.state === "failed" ? ["!", "Not sent"]
    : message.receipts.some((it) => it.read) ? ["✓✓", "Read"]
    : message.receipts.length > 0 ? ["✓✓", "Delivered"]
    : ["✓", "Sent"];
  return <span class={`mark ${label === "Read" ? "read" : ""}`} role="img" aria-label={label} title={label}>{mark}</span>;
}

function AttachmentView({ model, message }: { model: Messenger; message: Message }) {
  const [progress, setProgress] = useState<{ done: number; of: number } | null>(null);
  const attachment = message.details.attachment;
  if (attachment === null) return null;
  const name = attachment.fileName ?? "File";
  const save = async (): Promise<void> => {
    setProgress({ done: 0, of: attachment.size || 1 });
    try {
      const file = await model.fetchFile(attachment, (done, of) => setProgress({ done, of }));
      // Never opened here: a page of somebody else's would be of this origin.
      const url = URL.createObjectURL(new Blob([file], { type: "application/octet-stream" }));
      const link = document.createElement("a");
      link.href = url;
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } finally {
      setProgress(null);
    }
  };
  return (
    <div class="attachment">
      {attachment.thumbnail !== null && <Picture bytes={attachment.thumbnail.content} label={attachment.description || `Preview of ${name}`} class="thumbnail" />}
      <button type="button" class="file" aria-label={`Save ${name}`} onClick={() => void model.attempt(save)} disabled={progress !== null || !model.hasFiles}>
        <Icon name="file" />
        <span><bdi>{name}</bdi><small>{bytes(attachment.size)}{!model.hasFiles && ", to be fetched on another device"}</small></span>
      </button>
      {progress !== null && <progress value={progress.done} max={progress.of} aria-label={`Fetching ${name}`} />}
    </div>
  );
}

function Composer(props: { model: Messenger; chat: Chat; editing: Message | null; replying: Message | null; onDone: () => void }) {
  const { model, chat, editing, replying } = props;
  const [text, setText] = useState(() => kept.draftOf(chat.id));
  const input = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  // Before anything is typed: an effect later would write over it.
  useLayoutEffect(() => {
    if (editing !== null) setText(editing.text);
    if (editing !== null || replying !== null) input.current?.focus();
  }, [editing, replying]);
  useEffect(() => {
    if (matchMedia("(min-width: 46rem)").matches) input.current?.focus();
  }, []);
  const change = (next: string): void => {
    setText(next);
    // The text of an edit is no draft.
    if (editing === null) kept.keepDraft(chat.id, next);
  };
  const done = (): void => {
    setText(editing === null ? "" : kept.draftOf(chat.id));
    props.onDone();
  };
  const send = async (): Promise<void> => {
    const said = text.trim();
    if (said === "") return;
    const target = editing;
    if (target === null) kept.keepDraft(chat.id, "");
    done();
    const ok = await model.attempt(() =>
      target !== null
        ? model.say(chat.id, { type: "edit", message: target.message, text: said, format: "markdown" })
        : model.sayText(said, replying?.message ?? null),
    );
    if (!ok) change(said);
  };
  const attach = async (file: File | undefined): Promise<void> => {
    if (file === undefined || !model.hasFiles) return;
    await model.attempt(async () => model.sendFile(file, await thumbnailOf(file)));
    if (picker.current !== null) picker.current.value = "";
  };
  const keys = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      void send();
    } else if (event.key === "Escape" && (editing !== null || replying !== null)) {
      done();
    }
  };
  const upload = model.upload.value;
  const about = editing ?? replying;
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); void send(); }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => { event.preventDefault(); void attach(event.dataTransfer?.files[0]); }}>
      {about !== null && (
        <div class="about">
          <Icon name="reply" />
          <p dir="auto"><b>{editing !== null ? "Edit" : "Reply to "}<bdi>{editing !== null ? "" : about.own ? "yourself" : about.sender}</bdi></b> {preview(about.text)}</p>
          <IconButton icon="close" label="Cancel" onClick={done} />
        </div>
      )}
      {upload !== null && <div class="about"><Icon name="clip" /><p><bdi>{upload.name}</bdi></p><progress value={upload.done} max={upload.of || 1} aria-label={`Sending ${upload.name}`} /></div>}
      <div class="composer-row">
        {model.hasFiles && <input ref={picker} type="file" class="hidden-input" tabIndex={-1} aria-label="File to send" onChange={(it) => void attach(it.currentTarget.files?.[0])} />}
        {model.hasFiles && <IconButton icon="clip" label="Send a file" onClick={() => picker.current?.click()} />}
        <textarea ref={input} rows={1} dir="auto" aria-label="Message" placeholder="Message" value={text} onInput={(it) => change(it.currentTarget.value)} onKeyDown={keys} />
        <button class="icon-button send" aria-label="Send" title="Send" disabled={text.trim() === ""}><Icon name="send" /></button>
      </div>
    </form>
  );
}
