/** Small pieces that several pages show. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Missing, Score, Stage } from "./data";
import { saveCsv, savePng, saveSvg, type Field } from "./save";
import { digits } from "./scale";

/** A file name of a title. */
export const filed = (text: string): string => text.replace(/[^A-Za-z0-9]+/g, "-").slice(0, 60) || "figure";

export interface SaveProps {
  name: string;
  header: string[];
  rows: () => Field[][];
  svg?: { current: SVGSVGElement | null };
  table?: boolean;
}

/** A figure as SVG or PNG, its numbers as CSV, and to be read below if `table`. */
export function Save({ name, header, rows, svg, table = false }: SaveProps) {
  const [open, setOpen] = useState(false);
  const file = filed(name);
  const picture = (save: (name: string, svg: SVGSVGElement) => void) => () => svg?.current && save(file, svg.current);
  return (
    <div class="save">
      {svg && <button type="button" onClick={picture(saveSvg)} aria-label={`Save ${name} as SVG`}>SVG</button>}
      {svg && <button type="button" onClick={picture(savePng)} aria-label={`Save ${name} as PNG`}>PNG</button>}
      <button type="button" onClick={() => saveCsv(file, header, rows())} aria-label={`Save the table of ${name} as CSV`}>CSV</button>
      {table && <button type="button" aria-expanded={open} onClick={() => setOpen(!open)} aria-label={`Table of ${name}`}>Table</button>}
      {open && (
        <div class="scroll" tabIndex={0} role="region" aria-label={`Table of ${name}`}>
          <table>
            <thead><tr>{header.map((one) => <th scope="col">{one}</th>)}</tr></thead>
            <tbody>
              {rows().map((row) => <tr>{row.map((field) => <td class={typeof field === "number" ? "number" : ""}>{field ?? "–"}</td>)}</tr>)}
            </tbody>
          </table>
        </div>
      )}
    </div>
  );
}

interface SectionProps {
  title: string;
  children: ComponentChildren;
  note?: ComponentChildren;
}

export function Section({ title, note, children }: SectionProps) {
  return (
    <section aria-label={title}>
      <h2>{title}</h2>
      {note && <p class="note">{note}</p>}
      {children}
    </section>
  );
}

/** Why a part is not there. */
export function Absent({ what, stage, missing }: { what: string; stage: Stage; missing: Missing[] }) {
  const reason = missing.find((one) => one.stage === stage)?.reason;
  return <p class="absent">{what} is not in this site: {reason ?? "the study has none for this sample and question"}.</p>;
}

/** Someone's words: in their own direction, never as markup, scrolled if long. */
export function Words({ text, long = false }: { text: string; long?: boolean }) {
  const scrolls = long && text.length > 600;
  return <p class={scrolls ? "words scroll" : "words"} dir="auto" {...(scrolls && { tabIndex: 0 })}>{text || "(empty)"}</p>;
}

export function Scores({ scores }: { scores: Score[] }) {
  return (
    <dl class="scores">
      {scores.map((one) => (
        <div>
          <dt>{one.what} <span class="muted">by {one.judge}</span></dt>
          <dd>
            <b>{one.score === null ? `no score (${one.status})` : digits(one.score)}</b>
            {one.score !== null && <meter min={0} max={1} value={one.score} aria-label={`${one.what} score`} />}
            {one.reason && <Words text={one.reason} long />}
          </dd>
        </div>
      ))}
    </dl>
  );
}

interface PickProps {
  label: string;
  value: string;
  options: readonly (string | [string, string])[];
  onPick: (value: string) => void;
}

export function Pick({ label, value, options, onPick }: PickProps) {
  return (
    <label class="control">
      {label}
      <select value={value} aria-label={label} onChange={(event) => onPick(event.currentTarget.value)}>
        {options.map((one) => {
          const [key, name] = typeof one === "string" ? [one, one] : one;
          return <option value={key} selected={key === value}>{name}</option>;
        })}
      </select>
    </label>
  );
}

/** Two sliders for the ends of a range; they may not cross. */
export function Span({ label, value, last, onPick }: { label: string; value: [number, number]; last: number; onPick: (value: [number, number]) => void }) {
  const [from, to] = value;
  const slider = (end: string, at: number, picked: (value: number) => [number, number]) => (
    <input type="range" min={0} max={last} value={at} aria-label={`${end} ${label}`} onInput={(event) => onPick(picked(Number(event.currentTarget.value)))} />
  );
  return (
    <fieldset class="control span">
      <legend>{label}s <output>{from === to ? from : `${from}–${to}`}</output></legend>
      {slider("First", from, (one) => [one, Math.max(one, to)])}
      {slider("Last", to, (one) => [Math.min(from, one), one])}
    </fieldset>
  );
}
