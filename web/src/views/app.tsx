import { useSignalEffect } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import type { Endpoints, Messenger } from "../model/messenger.ts";
import { ChatView } from "./chat.tsx";
import { ContactDialog, GroupDialog, NewDialog, SettingsDialog } from "./dialogs.tsx";
import { Icon } from "./parts.tsx";
import { Sidebar } from "./sidebar.tsx";
import { Welcome } from "./welcome.tsx";

export type Shown = { type: "new" | "settings" } | { type: "group"; id: string } | { type: "contact"; user: string };
export type Show = (what: Shown | null) => void;

const TOAST_MS = 7_000;

export function App({ model, endpoints }: { model: Messenger; endpoints: Endpoints }) {
  useSignalEffect(() => {
    const unread = model.unread.value;
    document.title = unread > 0 ? `(${unread}) mimimi` : "mimimi";
  });
  return (
    <>
      <Phase model={model} endpoints={endpoints} />
      <Toast model={model} />
    </>
  );
}

function Phase({ model, endpoints }: { model: Messenger; endpoints: Endpoints }) {
  switch (model.phase.value) {
    case "starting":
      return <main class="whole" aria-busy="true"><img src="./favicon.svg" alt="" width="56" height="56" /><p>Opening your messages…</p></main>;
    case "welcome":
    case "naming":
      return <Welcome model={model} endpoints={endpoints} />;
    case "elsewhere":
      return <main class="whole"><Icon name="lock" /><h1>Open in another tab</h1><p>The messenger can be open in one tab at a time.</p><button type="button" class="button primary" onClick={() => location.reload()}>Use it here</button></main>;
    case "ended":
      return <main class="whole"><h1>The messenger has stopped</h1><p role="alert">{model.failure.value}</p><button type="button" class="button primary" onClick={() => location.reload()}>Reload</button></main>;
    case "ready":
      return <Main model={model} />;
  }
}

function Main({ model }: { model: Messenger }) {
  const [shown, setShown] = useState<Shown | null>(null);
  const chat = model.open.value;
  const close = (): void => setShown(null);
  // On a phone "back" leads from a chat to the list. No address says which chat it was.
  const isOpen = model.openId.value !== null;
  useEffect(() => {
    if (!isOpen) return undefined;
    history.pushState("chat", "");
    const back = (): void => void model.openChat(null);
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, [isOpen]);
  const trouble = !model.online.value ? "You are offline. What you write is sent when you are back."
    : model.unreachable.value ? "The service does not answer. What you write is kept and sent later." : null;
  return (
    <div class={chat === null ? "frame listing" : "frame talking"}>
      <Sidebar model={model} show={setShown} />
      <main class="stage">
        {trouble !== null && <p class="trouble" role="status">{trouble}</p>}
        {chat !== null ? <ChatView model={model} chat={chat} show={setShown} />
          : <div class="empty"><img src="./favicon.svg" alt="" width="72" height="72" /><h2>Choose a chat</h2><p><Icon name="lock" /> Encrypted from end to end. No operator sees who talks to whom.</p></div>}
      </main>
      {shown?.type === "new" && <NewDialog model={model} onClose={close} />}
      {shown?.type === "settings" && <SettingsDialog model={model} onClose={close} />}
      {shown?.type === "group" && model.chats.value.filter((it) => it.id === shown.id).map((it) => <GroupDialog key={it.id} model={model} chat={it} onClose={close} />)}
      {shown?.type === "contact" && model.contacts.value.filter((it) => it.user === shown.user).map((it) => <ContactDialog key={it.user} model={model} contact={it} onClose={close} />)}
    </div>
  );
}

function Toast({ model }: { model: Messenger }) {
  const text = model.toast.value;
  useEffect(() => {
    if (text === null) return undefined;
    const timer = setTimeout(() => {
      model.toast.value = null;
    }, TOAST_MS);
    return () => clearTimeout(timer);
  }, [text]);
  // A popover is above dialogs that are open.
  return (
    <div class="toast-place" role="alert">
      {text !== null && <p class="toast" popover="manual" ref={(it) => it?.showPopover()}>{text}</p>}
    </div>
  );
}
