/** Where did a word look? On the picture's own patches, and on the time of the sound. */

import { useMemo, useRef, useState } from "preact/hooks";
import { useWidth } from "./chart";
import { Sheet, Timeline } from "./clip";
import type { AttentionMeta, Clip, VideoGrid } from "./data";
import { usePromise } from "./load";
import { Save, Span } from "./parts";
import { change, range, spelled } from "./route";
import { digits } from "./scale";
import { look, onFrames, unpack, type Choice, type Weights } from "./weights";

const SHOWN = 32;

/** The frame of the sheet nearest in time; where times are not known, as far into the clip. */
function nearest(times: number[], grid: VideoGrid, frame: number): number {
  const time = grid.times[frame];
  if (time === undefined) return Math.floor(((frame + 0.5) / grid.frames) * times.length);
  return times.reduce((best, one, i) => (Math.abs(one - time) < Math.abs(times[best]! - time) ? i : best), 0);
}

const named = (grid: VideoGrid, frame: number): string =>
  grid.times[frame] === undefined ? `frame ${frame + 1}` : `${digits(grid.times[frame])} s`;

interface FramesProps {
  clip: Clip;
  grid: VideoGrid;
  weights: Float64Array[];
  sums: Map<number, number>;
  label: string;
  picture: { current: SVGSVGElement | null };
}

/** Frames side by side with their patches coloured; of very many, those that were looked at most. */
function Frames({ clip, grid, weights, sums: known, label, picture }: FramesProps) {
  const [ref, total] = useWidth<HTMLDivElement>();
  const [said, say] = useState("");
  const sheet = clip.frames ?? { width: grid.columns * 16, height: grid.rows * 16, times: [] };
  const most = Math.max(...weights.map((frame) => Math.max(...frame)), 1e-9);
  const sums = weights.map((_, frame) => known.get(frame) ?? 0);
  const chosen = [...sums.keys()].sort((a, b) => sums[b]! - sums[a]!).slice(0, SHOWN).sort((a, b) => a - b);
  const columns = Math.max(1, Math.min(chosen.length, Math.floor(total / 200) || 1));
  const across = Math.min(280, total / columns); // of a frame, on the screen
  const [wide, high, gap, line] = [sheet.width, sheet.height, sheet.width / 25, (20 * sheet.width) / Math.max(across, 1)];
  const [width, height] = [columns * (wide + gap) - gap, Math.ceil(chosen.length / columns) * (high + line + gap)];
  const [w, h] = [wide / grid.columns, high / grid.rows];
  const point = (frame: number) => (event: PointerEvent) => {
    const box = (event.currentTarget as Element).querySelector(".dim")!.getBoundingClientRect();
    const column = Math.min(grid.columns - 1, Math.floor(((event.clientX - box.left) / box.width) * grid.columns));
    const row = Math.min(grid.rows - 1, Math.floor(((event.clientY - box.top) / box.height) * grid.rows));
    const share = weights[frame]?.[row * grid.columns + column];
    say(share === undefined ? "" : `${named(grid, frame)}, row ${row + 1}, column ${column + 1}: ${digits(100 * share)} %`);
  };
  return (
    <div ref={ref}>
      <svg class="frames" ref={picture} viewBox={`0 0 ${width} ${height}`} style={{ maxWidth: `${across * columns}px` }} role="img" aria-label={label}>
        {chosen.map((frame, k) => (
          <g transform={`translate(${(k % columns) * (wide + gap)},${Math.floor(k / columns) * (high + line + gap)})`}>
            <g onPointerMove={point(frame)} onPointerLeave={() => say("")}>
              <rect class="blank" width={wide} height={high} />
              {clip.frames && <Sheet clip={clip} i={nearest(sheet.times, grid, frame)} x={0} y={0} />}
              <rect class="dim" width={wide} height={high} />
              {[...weights[frame]!].map((share, cell) =>
                share > 0 && <rect class="heat" x={(cell % grid.columns) * w} y={Math.floor(cell / grid.columns) * h} width={w} height={h} fill-opacity={((0.85 * share) / most).toFixed(3)} />)}
            </g>
            <text class="time" x={2} y={high + line * 0.75} style={{ fontSize: `${line * 0.65}px` }}>{`${named(grid, frame)}   ${digits(100 * sums[frame]!)} %`}</text>
          </g>
        ))}
      </svg>
      <p class="scale">
        <span>0 %</span><span class="ramp" aria-hidden="true" /><span>{digits(100 * most)} % of the attention on one patch</span>
        <output>{said}</output>
      </p>
      {chosen.length < weights.length && <p class="note">{SHOWN} of {weights.length} frames: those with the most.</p>}
    </div>
  );
}

interface ShownProps {
  clip: Clip;
  meta: AttentionMeta;
  all: Weights;
  choice: Choice;
  phrase: string;
}

function Shown({ clip, meta, all, choice, phrase }: ShownProps) {
  const picture = useRef<SVGSVGElement>(null);
  const seen = useMemo(() => look(meta, all, choice), [all, JSON.stringify(choice)]);
  const { grid: video, why } = meta;
  const patches = useMemo(() => (video ? onFrames(video, seen.at) : []), [seen]);
  if (!seen.queries) return <p class="absent">Nothing is kept for “{phrase}”: the first token is read off the question's last position. Choose a later one.</p>;
  const header = ["tower", "second", "row", "column", "share"];
  const rows = () => [
    ...patches.flatMap((frame, f) => [...frame].map((share, i) => ["video", video!.times[f] ?? f, Math.floor(i / video!.columns), i % video!.columns, share])),
    ...patches.map((_, f) => ["video", video!.times[f] ?? f, null, null, seen.frames.get(f) ?? 0]),
    ...[...seen.sounds].flatMap(([of, seconds]) => seconds.map(({ second, share }) => [of, second, null, null, share])),
  ];
  return (
    <div class="looks">
      <p class="shares" role="status">
        {seen.segments.map((one) => <span><b>{digits(100 * one.share)} %</b> {one.name}</span>)}
        <span class="muted">Sums over all weights, within {digits(100 * seen.bound)} %; patches are of the largest weights, each within {digits(100 * meta.bound)} %.</span>
      </p>
      {video ? <Frames clip={clip} grid={video} weights={patches} sums={seen.frames} label={`Attention of ${phrase} on the frames`} picture={picture} /> : <p class="absent">No patches to look at: {why || "no picture was in the prompt"}.</p>}
      {video && <Save name="attention on the frames" svg={picture} header={header} rows={rows} />}
      {[...seen.sounds].map(([of, seconds]) => <Timeline key={of} clip={clip} name={`attention over the sound${of.slice(5)}`} header={header} rows={rows} sound={seconds} label={`Attention of ${phrase} over the sound${of.slice(5)}`} />)}
      {!seen.sounds.size && <p class="absent">No seconds to listen to: the prompt has no sound, or none whose seconds are known.</p>}
    </div>
  );
}

interface AttentionProps {
  study: string;
  clip: Clip;
  meta: AttentionMeta;
  params: Record<string, string>;
  tokens: [number, number];
  phrase: string;
}

export function Attention({ study, clip, meta, params, tokens, phrase }: AttentionProps) {
  const { value, error } = usePromise(`${study}/${meta.file}`, (name) => unpack(name, meta));
  const [lastLayer, lastHead] = [meta.layers - 1, meta.heads - 1];
  const layers = range(params.layers, lastLayer) ?? [0, lastLayer];
  const heads = range(params.heads, lastHead) ?? [0, lastHead];
  const choice: Choice = { tokens, layers, heads, sinks: params.sinks === "shown" };
  const one = heads[0] === heads[1];
  return (
    <div class="attention">
      <div class="controls">
        <Span label="layer" value={layers} last={lastLayer} onPick={(picked) => change({ layers: spelled(picked) })} />
        {params.one ? (
          <fieldset class="control span">
            <legend>head <output>{heads[0]}</output></legend>
            <input type="range" min={0} max={lastHead} value={heads[0]} aria-label="Head" onInput={(event) => change({ heads: event.currentTarget.value })} />
          </fieldset>
        ) : (
          <Span label="head" value={heads} last={lastHead} onPick={(picked) => change({ heads: spelled(picked) })} />
        )}
        <label class="control check"><input type="checkbox" checked={Boolean(params.one)} onChange={(event) => change(event.currentTarget.checked ? { one: "1", heads: String(heads[0]) } : { one: "", heads: "" })} /> One head</label>
        <label class="control check"><input type="checkbox" checked={choice.sinks} onChange={(event) => change({ sinks: event.currentTarget.checked ? "shown" : "" })} /> Show {meta.sinks.length} sinks</label>
      </div>
      <p class="note">“<bdi>{phrase}</bdi>”: {one ? `head ${heads[0]}` : `mean of heads ${heads.join("–")}`}, layers {layers.join("–")}.</p>
      {error && <p class="absent" role="alert">{error}</p>}
      {value && <Shown clip={clip} meta={meta} all={value} choice={choice} phrase={phrase} />}
    </div>
  );
}
