import { useState } from "preact/hooks";
import type { Messenger } from "../model/messenger.ts";
import { short } from "../text/times.ts";
import { Action, Avatar, Icon, IconButton } from "./parts.tsx";
import type { Show } from "./app.tsx";

export function Sidebar({ model, show }: { model: Messenger; show: Show }) {
  const [query, setQuery] = useState("");
  const wanted = query.trim().toLowerCase();
  const matches = (text: string): boolean => text.toLowerCase().includes(wanted);
  const chats = model.chats.value.filter((it) => matches(it.title) || matches(it.lastWords));
  const inChat = new Set(model.chats.value.map((it) => it.contact?.user));
  const others = model.contacts.value.filter((it) => !inChat.has(it.user) && matches(it.name));
  const handle = model.handle.value ?? "";
  return (
    <aside class="sidebar" aria-label="Chats">
      <header class="bar">
        <Avatar id={handle} name={handle} />
        <h1 class="own-name"><bdi>{handle}</bdi></h1>
        <IconButton icon="look" label="Look for news now" onClick={() => void model.attempt(() => model.lookNow())} />
        <IconButton icon="plus" label="New chat" onClick={() => show({ type: "new" })} />
        <IconButton icon="gear" label="Settings" onClick={() => show({ type: "settings" })} />
      </header>
      <label class="search">
        <Icon name="search" />
        <input type="search" aria-label="Search chats" placeholder="Search" value={query} dir="auto" onInput={(it) => setQuery(it.currentTarget.value)} />
      </label>
      <div class="scroller">
        {model.notices.value.map((notice) => (
          <div class="card notice" key={notice.id} role="status">
            <p dir="auto">{notice.text}</p>
            <button type="button" class="button quiet" onClick={() => void model.attempt(() => model.dismiss(notice.id))}>OK</button>
          </div>
        ))}
        {model.requests.value.map((request) => (
          <section class="card request" key={request.id} aria-label={`Request of ${request.name}`}>
            <p><b><bdi>{request.name}</bdi></b> wants to write to you</p>
            {request.greeting !== null && <p class="greeting" dir="auto">{request.greeting}</p>}
            <div class="row">
              <Action class="primary" onAct={() => model.attempt(() => model.act((it) => it.acceptRequest(request.id)))}>Accept</Action>
              <Action class="quiet" onAct={() => model.attempt(() => model.act((it) => it.declineRequest(request.id)))}>Decline</Action>
              {request.reportable && <Action class="quiet danger" onAct={() => model.attempt(() => model.act(async (it) => { await it.report(request.id, "spam"); await it.declineRequest(request.id); }))}>Report</Action>}
            </div>
          </section>
        ))}
        <ul class="chats" aria-label="Chats">
          {chats.map((chat) => (
            <li key={chat.id}>
              <button type="button" class="chat-row" aria-current={chat.id === model.openId.value ? "true" : undefined} onClick={() => void model.attempt(() => model.openChat(chat.id))}>
                <Avatar id={chat.contact?.user ?? chat.id} name={chat.title} picture={chat.group.profile.picture?.image} />
                <span class="chat-words">
                  <span class="chat-title"><bdi>{chat.title}</bdi></span>
                  <span class="chat-last" dir="auto">
                    {chat.last !== null && (chat.last.own || chat.contact === null) && <><bdi>{chat.last.own ? "You" : chat.last.sender}</bdi>: </>}
                    {chat.lastWords || (chat.last === null ? "No messages yet" : "")}
                  </span>
                </span>
                <span class="chat-side">
                  {chat.last !== null && <time>{short(chat.last.atMs, model.now())}</time>}
                  {chat.unread > 0 && <span class="badge" aria-label={`${chat.unread} unread`}>{chat.unread}</span>}
                </span>
              </button>
            </li>
          ))}
        </ul>
        {others.length > 0 && (
          <>
            <h2 class="section">Contacts</h2>
            <ul class="chats" aria-label="Contacts without a chat">
              {others.map((contact) => (
                <li key={contact.user}>
                  <button type="button" class="chat-row" onClick={() => void model.attempt(() => model.chatWith(contact))}>
                    <Avatar id={contact.user} name={contact.name} />
                    <span class="chat-words"><span class="chat-title"><bdi>{contact.name}</bdi></span><span class="chat-last">Say hello</span></span>
                  </button>
                </li>
              ))}
            </ul>
          </>
        )}
        {wanted !== "" && chats.length + others.length === 0 && <p class="nothing">Nothing is called like that.</p>}
        {wanted === "" && chats.length + others.length === 0 && (
          <div class="nothing">
            <p>You have no chats yet.</p>
            <button type="button" class="button primary" onClick={() => show({ type: "new" })}>Find somebody</button>
          </div>
        )}
      </div>
    </aside>
  );
}
