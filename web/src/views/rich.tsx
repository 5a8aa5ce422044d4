import { type Block, type Inline, parse } from "../text/markdown.ts";

/** What somebody wrote. There is no HTML in it: all of it becomes text nodes and known elements. */
export function Rich({ text, markdown }: { text: string; markdown: boolean }) {
  if (!markdown) return <p class="plain" dir="auto">{text}</p>;
  return <>{parse(text).map((block, at) => <BlockView key={at} block={block} />)}</>;
}

function BlockView({ block }: { block: Block }) {
  switch (block.type) {
    case "code":
      return <pre dir="ltr"><code>{block.text}</code></pre>;
    case "quote":
      return <blockquote>{block.children.map((it, at) => <BlockView key={at} block={it} />)}</blockquote>;
    case "list": {
      const items = block.items.map((item, at) => <li key={at} dir="auto"><Inlines nodes={item} /></li>);
      return block.ordered ? <ol>{items}</ol> : <ul>{items}</ul>;
    }
    case "heading":
      return <p class="heading" dir="auto"><Inlines nodes={block.children} /></p>;
    case "paragraph":
      return <p dir="auto"><Inlines nodes={block.children} /></p>;
  }
}

function Inlines({ nodes }: { nodes: Inline[] }) {
  return <>{nodes.map((node, at) => <InlineView key={at} node={node} />)}</>;
}

function InlineView({ node }: { node: Inline }) {
  switch (node.type) {
    case "text":
      return <>{node.text}</>;
    case "code":
      return <code>{node.text}</code>;
    case "break":
      return <br />;
    case "strong":
      return <strong><Inlines nodes={node.children} /></strong>;
    case "emphasis":
      return <em><Inlines nodes={node.children} /></em>;
    case "strike":
      return <s><Inlines nodes={node.children} /></s>;
    case "mention":
      return <bdi class="mention"><Inlines nodes={node.children} /></bdi>;
    case "link": {
      const words = node.children.map((it) => (it.type === "text" ? it.text : "")).join("");
      const host = new URL(node.href).host;
      // Words can lie about where a link leads: then its host stands behind it.
      const honest = words.replace(/^https?:\/\//i, "").startsWith(host);
      return (
        <>
          <a href={node.href} target="_blank" rel="noopener noreferrer nofollow"><bdi>{words}</bdi></a>
          {!honest && <span class="target"> (<bdi>{host}</bdi>)</span>}
        </>
      );
    }
  }
}
