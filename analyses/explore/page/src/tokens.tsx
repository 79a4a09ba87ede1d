/** How far did each token move from what the base model says? Click one, or drag over a phrase. */

import { useRef, useState } from "preact/hooks";
import type { Token } from "./data";
import { Save } from "./parts";
import { digits } from "./scale";

const SHIFTS = {
  unshifted: "the base's first choice",
  marginal: "among the base's first three",
  shifted: "not among the base's first three",
} as const;

/** Line breaks and spaces as they can be seen. */
export const visible = (text: string): string =>
  text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ +| +$/g, (blank) => "␣".repeat(blank.length)) || "∅";

const percent = (logprob: number | null): string => (logprob === null ? "–" : `${digits(100 * Math.exp(logprob))} %`);

function Details({ token }: { token: Token | undefined }) {
  if (!token) return <p class="note details">Point at a token for its rank, probabilities and the base model's own choices.</p>;
  return (
    <div class="details" role="status">
      <p><b class="piece" dir="auto">{visible(token.text)}</b> {token.shift ? `${token.shift}: ${SHIFTS[token.shift]}` : "not compared with a base model"}</p>
      <dl>
        <div><dt>Probability</dt><dd>{percent(token.logprob)}</dd></div>
        <div><dt>in the base</dt><dd>{percent(token.base_logprob)}</dd></div>
        <div><dt>Rank in the base</dt><dd>{digits(token.rank)}</dd></div>
        <div><dt>KL</dt><dd>{digits(token.kl)}{token.kl !== null && " nats"}</dd></div>
      </dl>
      {token.base_top.length > 0 && (
        <ol aria-label="What the base model would say">
          {token.base_top.map(([text, logprob]) => <li><span class="piece" dir="auto">{visible(text)}</span> {percent(logprob)}</li>)}
        </ol>
      )}
    </div>
  );
}

const put = (parent: Element, name: string, text: string, attributes: Record<string, string | number>) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  node.textContent = text;
  parent.append(node);
};

/** The answer as a figure to save, letters where the browser has put them, whatever their direction. */
function drawn(list: HTMLElement, picture: SVGSVGElement): SVGSVGElement {
  picture.replaceChildren();
  const box = list.getBoundingClientRect();
  const piece = (text: string, shift: string, [left, right, top, bottom]: [number, number, number, number], start: number) => {
    const [x, y, width, height] = [left - box.left, top - box.top + list.scrollTop, right - left, bottom - top];
    put(picture, "rect", "", { class: `token ${shift}`, x, y, width, height });
    put(picture, "path", "", { class: `under ${shift}`, d: `M${x},${y + height}h${width}` });
    put(picture, "text", text.trim(), { x: start - box.left, y: y + height * 0.78 });
  };
  for (const span of list.children) {
    const [node, shift] = [span.firstChild!, span.classList[1] ?? ""];
    let [text, at, start] = ["", [0, 0, 0, 0] as [number, number, number, number], Infinity];
    let end = 0;
    for (const letter of node.textContent!) {
      const range = new Range();
      range.setStart(node, end);
      range.setEnd(node, (end += letter.length));
      const { left, right, top, bottom } = range.getBoundingClientRect();
      if (text && Math.abs(top - at[2]) > 3) {
        piece(text, shift, at, start);
        [text, start] = ["", Infinity];
      }
      at = text ? [Math.min(at[0], left), Math.max(at[1], right), at[2], at[3]] : [left, right, top, bottom];
      text += letter;
      if (letter.trim()) start = Math.min(start, left);
    }
    if (text) piece(text, shift, at, Math.min(start, at[1]));
  }
  const [bottom, top] = [list.scrollHeight + 40, box.top - list.scrollTop];
  Object.keys(SHIFTS).forEach((shift, i) => {
    const left = box.left + 14 + 130 * i;
    piece(shift, shift, [left, left + 96, top + bottom - 32, top + bottom - 8], left);
  });
  picture.setAttribute("viewBox", `0 0 ${Math.max(list.clientWidth, 400)} ${bottom}`);
  return picture;
}

interface TokensProps {
  tokens: Token[];
  words?: { from: number; to: number }[];
  chosen?: [number, number] | null;
  onChoose?: (range: [number, number]) => void;
}

export function Tokens({ tokens, words = [], chosen = null, onChoose }: TokensProps) {
  const [over, setOver] = useState<number | null>(null);
  const [dragged, setDragged] = useState<[number, number] | null>(null);
  const [list, picture] = [useRef<HTMLDivElement>(null), useRef<SVGSVGElement>(null)];
  const shown = dragged ? ([Math.min(...dragged), Math.max(...dragged)] as const) : chosen;
  const focus = Math.min(over ?? chosen?.[0] ?? 0, tokens.length - 1);

  const keys = (event: KeyboardEvent, i: number) => {
    const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") onChoose?.([i, i]);
    else if (to !== undefined) {
      const next = Math.max(0, Math.min(tokens.length - 1, to));
      (list.current!.children[next] as HTMLElement).focus();
      const [from, last] = chosen ?? [i, i];
      if (event.shiftKey) onChoose?.(next < from ? [next, last] : i === last || next > last ? [from, next] : [next, last]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="tokens">
      <div class="answer" ref={list} dir="auto" role="group" aria-label="Tokens of the answer" onPointerLeave={() => setDragged(null)}>
        {tokens.map((token, i) => (
          <span role="button" tabIndex={i === focus ? 0 : -1} class={`token ${token.shift ?? ""}`}
            aria-pressed={shown !== null && i >= shown[0] && i <= shown[1]}
            aria-label={`${token.text.trim() || visible(token.text)}${token.shift ? `, ${token.shift}` : ""}`}
            onPointerDown={(event) => {
              (event.target as Element).releasePointerCapture?.(event.pointerId);
              setDragged([i, i]);
            }}
            onPointerEnter={() => {
              setOver(i);
              if (dragged) setDragged([dragged[0], i]);
            }}
            onPointerUp={() => {
              if (dragged) onChoose?.([Math.min(dragged[0], i), Math.max(dragged[0], i)]);
              setDragged(null);
            }}
            onDblClick={() => {
              const word = words.find(({ from, to }) => i >= from && i < to);
              if (word) onChoose?.([word.from, word.to - 1]);
            }}
            onFocus={() => setOver(i)} onKeyDown={(event) => keys(event, i)}>
            {/^\s+$/.test(token.text) || !token.text ? visible(token.text) : token.text}
          </span>
        ))}
      </div>
      <p class="legend-line">
        {Object.entries(SHIFTS).map(([shift, meaning]) => <span><span class={`token ${shift}`}>{shift}</span> {meaning}</span>)}
      </p>
      <svg class="aside answered" aria-hidden="true" ref={picture} />
      <Save name="tokens of the answer" svg={{ get current() { return drawn(list.current!, picture.current!); } }} header={["index", "token", "shift", "rank", "logprob", "base logprob", "KL", "base's first"]}
        rows={() => tokens.map((t, i) => [i, t.text, t.shift, t.rank, t.logprob, t.base_logprob, t.kl, t.base_top.map(([text]) => text).join(" | ")])} />
      <Details token={tokens[over ?? chosen?.[0] ?? -1]} />
    </div>
  );
}
