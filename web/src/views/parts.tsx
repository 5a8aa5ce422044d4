import type { ComponentChildren, ComponentProps } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { safePicture } from "../text/pixels.ts";

const PATHS: Readonly<Record<string, string>> = {
  back: "M15 5l-7 7 7 7",
  plus: "M12 5v14M5 12h14",
  gear: "M4 7h9m5 0h2M4 17h2m5 0h9M15.500 4.500v5M8.500 14.500v5",
  look: "M19 12a7 7 0 1 1-2-4.900M17.500 3.500v4h-4",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.500 4.500",
  send: "M5 12h13M12 5.500l6.500 6.500-6.500 6.500",
  clip: "M19 11.500l-7.300 7.300a4.500 4.500 0 0 1-6.400-6.400l8-8a3 3 0 0 1 4.300 4.300l-8 8a1.500 1.500 0 0 1-2.100-2.200l7-7",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.500l4.500 4.500L19 7.500",
  shield: "M12 3.500l7 2.800v5.200c0 4.300-2.900 7.400-7 9-4.100-1.600-7-4.700-7-9V6.300zM9 12l2.200 2.200L15.200 10",
  more: "M5.500 12a.5.5 0 1 0 .01 0M12 12a.5.5 0 1 0 .01 0M18.500 12a.5.5 0 1 0 .01 0",
  file: "M7 3.500h7l4 4v13H7zM14 3.500v4h4",
  lock: "M6.500 11h11v9h-11zM9 11V8a3 3 0 0 1 6 0v3",
  smile: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM9 10h.01M15 10h.01M8.500 14c1.800 2.300 5.200 2.300 7 0",
  reply: "M9 6l-5 5 5 5M4 11h9c4 0 7 2.500 7 7",
  people: "M9 5a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM2.500 19c.6-3.500 3-5 6.500-5s5.900 1.500 6.500 5M16 5.300a3.500 3.500 0 0 1 0 6.400M18 14.500c2 .7 3.200 2.200 3.500 4.500",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function IconButton(props: { icon: string; label: string; onClick: () => void; class?: string }) {
  return (
    <button type="button" class={`icon-button ${props.class ?? ""}`} aria-label={props.label} title={props.label} onClick={props.onClick}>
      <Icon name={props.icon} />
    </button>
  );
}

/** Shows bytes that a stranger chose, if they are a small picture. */
export function Picture({ bytes, label, class: name }: { bytes: Uint8Array; label: string; class: string }) {
  const url = useMemo(() => {
    const type = safePicture(bytes);
    return type === null ? null : URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>], { type }));
  }, [bytes]);
  useEffect(() => () => {
    if (url !== null) URL.revokeObjectURL(url);
  }, [url]);
  return url === null ? null : <img class={name} src={url} alt={label} />;
}

const HUES = 8;

export function Avatar(props: { id: string; name: string; picture?: Uint8Array | undefined; large?: boolean }) {
  let hash = 0;
  for (const char of props.id) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  const letter = [...props.name.replace(/^[^\p{L}\p{N}]+/u, "")][0] ?? "?";
  const shown = props.picture !== undefined && safePicture(props.picture) !== null;
  return (
    <span class={`avatar hue-${hash % HUES} ${props.large === true ? "large" : ""}`} aria-hidden="true">
      {shown && props.picture !== undefined ? <Picture bytes={props.picture} label="" class="avatar-picture" /> : letter.toUpperCase()}
    </span>
  );
}

export function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={props.title}
      onCancel={(event) => {
        event.preventDefault();
        props.onClose();
      }}
      onClick={(event) => {
        if (event.target === dialog.current) props.onClose();
      }}
    >
      <div class="dialog-body">
        <header class="dialog-head">
          <h2>{props.title}</h2>
          <IconButton icon="close" label="Close" onClick={props.onClose} />
        </header>
        <div class="dialog-content">{props.children}</div>
      </div>
    </dialog>
  );
}

/** A button that waits for what it does, and is not pressed twice. */
export function Action(props: { onAct: () => Promise<unknown>; children: ComponentChildren; class?: string; disabled?: boolean }) {
  const [busy, setBusy] = useState(false);
  const act = async (): Promise<void> => {
    setBusy(true);
    try {
      await props.onAct();
    } finally {
      setBusy(false);
    }
  };
  return (
    <button type="button" class={`button ${props.class ?? ""}`} disabled={busy || props.disabled === true} aria-busy={busy} onClick={() => void act()}>
      {props.children}
    </button>
  );
}

export function Field(props: { label: string; hint?: string } & ComponentProps<"input">) {
  const { label, hint, ...input } = props;
  return (
    <label class="field">
      <span>{label}</span>
      <input dir="auto" autocomplete="off" spellcheck={false} {...input} />
      {hint !== undefined && <small>{hint}</small>}
    </label>
  );
}

/** A secret that others have to be told. */
export function Secret({ label, text }: { label: string; text: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(text).then(() => setCopied(true), () => setCopied(false));
  };
  return (
    <div class="secret">
      <span class="secret-label">{label}</span>
      <output aria-label={label}>{text}</output>
      <button type="button" class="button quiet" onClick={() => void copy()}>
        {copied ? "Copied" : "Copy"}
      </button>
    </div>
  );
}
