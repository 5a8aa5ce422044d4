// A safe part of GitHub Flavored Markdown, as a tree. Nothing is HTML: what looks like it is text.

export type Inline =
  | { type: "text"; text: string }
  | { type: "code"; text: string }
  | { type: "strong" | "emphasis" | "strike"; children: Inline[] }
  | { type: "link"; href: string; children: Inline[] }
  | { type: "mention"; children: Inline[] }
  | { type: "break" };

export type Block =
  | { type: "paragraph" | "heading"; children: Inline[] }
  | { type: "code"; text: string }
  | { type: "quote"; children: Block[] }
  | { type: "list"; ordered: boolean; items: Inline[][] };

const DEEPEST = 8;
const URL_START = /^https?:\/\/[^\s<>]+/i;
const ENTITIES: Readonly<Record<string, string>> = {
  "&lt;": "<",
  "&gt;": ">",
  "&amp;": "&",
  "&quot;": '"',
  "&#39;": "'",
};
const SPANS: readonly [string, "strong" | "emphasis" | "strike"][] = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "strike"],
  ["*", "emphasis"],
  ["_", "emphasis"],
];

/** An address that may be a link: of the web only. */
export function webAddress(text: string): string | null {
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return null;
  const url = new URL(text);
  // `https://bank.example@evil.example/` shows one host and leads to another.
  return url.username === "" && url.password === "" ? url.href : null;
}

export function parse(source: string, depth = 0): Block[] {
  const lines = source.replaceAll("\r\n", "\n").split("\n");
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; ) {
    const line = lines[at] ?? "";
    const take = (matches: (line: string) => boolean): string[] => {
      const begin = at;
      while (at < lines.length && matches(lines[at] ?? "")) at += 1;
      return lines.slice(begin, at);
    };
    if (line.trim() === "") {
      at += 1;
    } else if (/^ {0,3}```/.test(line)) {
      at += 1;
      const text = take((next) => !/^ {0,3}```\s*$/.test(next)).join("\n");
      at += 1;
      blocks.push({ type: "code", text });
    } else if (/^#{1,6}\s/.test(line)) {
      at += 1;
      blocks.push({ type: "heading", children: inline(line.replace(/^#+\s+/, "")) });
    } else if (line.startsWith(">") && depth < DEEPEST) {
      const inner = take((next) => next.startsWith(">")).map((next) => next.replace(/^> ?/, ""));
      blocks.push({ type: "quote", children: parse(inner.join("\n"), depth + 1) });
    } else if (BULLET.test(line) || NUMBER.test(line)) {
      const pattern = BULLET.test(line) ? BULLET : NUMBER;
      const items = take((next) => pattern.test(next)).map((next) => next.replace(pattern, ""));
      blocks.push({ type: "list", ordered: pattern === NUMBER, items: items.map((i) => inline(i)) });
    } else {
      const first = line;
      at += 1;
      const rest = take((next) => next.trim() !== "" && !STARTS_BLOCK.test(next));
      blocks.push({ type: "paragraph", children: inline([first, ...rest].join("\n")) });
    }
  }
  return blocks;
}

const BULLET = /^ {0,3}[-*+]\s+/;
const NUMBER = /^ {0,3}\d{1,9}[.)]\s+/;
const STARTS_BLOCK = /^( {0,3}```|#{1,6}\s|>| {0,3}[-*+]\s| {0,3}\d{1,9}[.)]\s)/;

export function inline(source: string, depth = 0): Inline[] {
  const found: Inline[] = [];
  const say = (text: string): void => {
    const last = found.at(-1);
    if (last?.type === "text") last.text += text;
    else found.push({ type: "text", text });
  };
  for (let at = 0; at < source.length; ) {
    const rest = source.slice(at);
    const char = rest[0] ?? "";
    if (char === "\\" && /^\\[!-/:-@[-`{-~]/.test(rest)) {
      say(rest[1] ?? "");
      at += 2;
      continue;
    }
    if (char === "\n") {
      found.push({ type: "break" });
      at += 1;
      continue;
    }
    const entity = char === "&" ? /^&(lt|gt|amp|quot|#39);/.exec(rest)?.[0] : undefined;
    if (entity !== undefined) {
      say(ENTITIES[entity] ?? entity);
      at += entity.length;
      continue;
    }
    const special = depth < DEEPEST ? spanAt(source, at, depth) : null;
    if (special !== null) {
      found.push(special.node);
      at = special.end;
      continue;
    }
    say(char);
    at += 1;
  }
  return found;
}

function spanAt(source: string, at: number, depth: number): { node: Inline; end: number } | null {
  const rest = source.slice(at, at + 4096);
  const code = /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/.exec(rest);
  if (code !== null) return { node: { type: "code", text: code[2] ?? "" }, end: at + code[0].length };
  const link = /^\[((?:\\.|[^\]\\\n])*)\]\(([^\s()<>]+)\)/.exec(rest);
  if (link !== null) {
    const [whole, words = "", target = ""] = link;
    const children: Inline[] = [{ type: "text", text: plain(inline(words, DEEPEST)) }];
    if (target.startsWith("user:")) return { node: { type: "mention", children }, end: at + whole.length };
    const href = webAddress(target);
    if (href !== null) return { node: { type: "link", href, children }, end: at + whole.length };
    return null;
  }
  const begins = at === 0 || /[\s(<*_~]/.test(source[at - 1] ?? "");
  const bare = begins ? URL_START.exec(rest)?.[0]?.replace(/[.,;:!?)'"*_~]+$/, "") : undefined;
  const href = bare === undefined ? null : webAddress(bare);
  if (bare !== undefined && href !== null) {
    return { node: { type: "link", href, children: [{ type: "text", text: bare }] }, end: at + bare.length };
  }
  for (const [mark, type] of SPANS) {
    if (!rest.startsWith(mark) || /^\s|^$/.test(rest.slice(mark.length, mark.length + 1))) continue;
    if (mark[0] === "_" && /\w/.test(source[at - 1] ?? "")) continue;
    const close = closing(rest, mark);
    if (close === null) continue;
    const children = inline(rest.slice(mark.length, close), depth + 1);
    return { node: { type, children }, end: at + close + mark.length };
  }
  return null;
}

function closing(rest: string, mark: string): number | null {
  for (let at = mark.length + 1; ; at += 1) {
    at = rest.indexOf(mark, at);
    if (at < 0) return null;
    // Of three stars the last two close what two have opened.
    while (mark.length > 1 && rest[at + mark.length] === mark[0]) at += 1;
    const before = rest[at - 1] ?? "";
    const inWord = mark[0] === "_" && /\w/.test(rest[at + mark.length] ?? "");
    // One star does not close at the first of two.
    const longer = mark.length === 1 && (before === mark || rest[at + 1] === mark);
    if (!/\s|\\/.test(before) && !inWord && !longer) return at;
  }
}

/** What is left without marks: for previews and titles. */
export function plain(nodes: readonly Inline[]): string {
  return nodes
    .map((node) => {
      if (node.type === "text" || node.type === "code") return node.text;
      return node.type === "break" ? " " : plain(node.children);
    })
    .join("");
}

/** The first words of a text, in one line. */
export function preview(source: string): string {
  const words = (blocks: readonly Block[]): string =>
    blocks
      .map((block) => {
        if (block.type === "code") return block.text;
        if (block.type === "quote") return words(block.children);
        if (block.type === "list") return block.items.map(plain).join(" ");
        return plain(block.children);
      })
      .join(" ");
  return words(parse(source.slice(0, 400))).replaceAll(/\s+/g, " ").trim().slice(0, 140);
}
