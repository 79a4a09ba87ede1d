/** Curves and bars with bands, n and published points, to point at, save and read as a table. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Figure, Panel, Series } from "./data";
import { Save } from "./parts";
import { digits, domain, linear, ticks } from "./scale";

const MARGIN = { top: 26, right: 10, bottom: 42, left: 48 };
const HEIGHT = 230;
// Names that keep one look in all figures, those of analyses/plots/figures.py; others get what is no modality's first.
const NAMED = new Map(Object.entries({
  audio: 0, "G !-> A": 0, video: 1, "G !-> V": 1, text: 2, "query text": 2, both: 3, image: 4, other: 5,
  "no intervention": 6, untouched: 6, unshifted: 6, marginal: 7, shifted: 8,
}));
const FREE = [5, 4, 3, 6, 7, 8, 2, 0, 1];
const SHAPES = ["M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0Z", "M-3,-3H3V3H-3Z", "M0,-4L4,3H-4Z", "M0,-4.5L4.5,0L0,4.5L-4.5,0Z"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

interface Look {
  name: string;
  color: string;
  shape: string;
  dash: string;
}

/** One look for each name: sound and picture keep theirs in every figure; the others take what is left. */
function looks(figure: Figure): Look[] {
  const names = [...new Set(figure.panels.flatMap((panel) => panel.series.map((one) => one.name)))];
  const free = FREE.filter((i) => !names.some((name) => NAMED.get(name) === i));
  return names.map((name, order) => {
    const i = NAMED.get(name) ?? free.shift() ?? order % 9;
    return { name, color: `var(--c${i})`, shape: SHAPES[i % 4]!, dash: DASHES[i % 4]! };
  });
}

export function useWidth<E extends Element>(): [{ current: E | null }, number] {
  const ref = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(() => setWidth(Math.floor(ref.current?.clientWidth ?? 0)));
    if (ref.current) watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

type X = number | string;
interface Axes {
  xs: X[];
  x(value: X): number;
  y(value: number): number;
  xTicks: X[];
  yTicks: number[];
  step: number;
}

function axes(panel: Panel, bars: boolean, width: number): Axes {
  const points = panel.series.flatMap((one) => [...one.points, ...one.published]);
  const values = panel.series.flatMap((one) => [
    ...one.points.flatMap(({ y, low, high }) => [y, low ?? y, high ?? y]),
    ...one.published.map(({ y }) => y),
  ]);
  const inner: [number, number] = [MARGIN.left, width - MARGIN.right];
  const yDomain = domain(values, bars ? [0] : []);
  const y = linear(yDomain, [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const yTicks = ticks(yDomain, 5);
  const xs = [...new Set(points.map((point) => point.x))];
  const numbers = xs.filter((one): one is number => typeof one === "number").sort((a, b) => a - b);
  if (!bars && numbers.length === xs.length) {
    const xDomain = domain([], [numbers[0] ?? 0, numbers.at(-1) ?? 1]);
    const whole = numbers.every(Number.isInteger);
    const scale = linear(xDomain, [inner[0] + 6, inner[1] - 6]);
    return { xs: numbers, x: (value) => scale(Number(value)), y, xTicks: ticks(xDomain, width < 320 ? 4 : 7).filter((one) => !whole || Number.isInteger(one)), yTicks, step: 0 };
  }
  const step = (inner[1] - inner[0]) / Math.max(xs.length, 1);
  const order = new Map(xs.map((value, i) => [value, inner[0] + (i + 0.5) * step]));
  return { xs, x: (value) => order.get(value) ?? 0, y, xTicks: xs, yTicks, step };
}

const clipped = (text: string, room: number): string =>
  text.length > room ? `${text.slice(0, Math.max(1, room - 1))}…` : text;

/** Consecutive points, cut where a value is missing. */
const path = (points: [number, number][]): string => (points.length ? `M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}` : "");

function Curve({ one, look, at }: { one: Series; look: Look; at: Axes }) {
  const known = one.points.filter((point) => Number.isFinite(point.y));
  const banded = known.filter((point) => point.low !== null && point.high !== null);
  const upper = banded.map((p): [number, number] => [at.x(p.x), at.y(p.high!)]);
  const lower = banded.map((p): [number, number] => [at.x(p.x), at.y(p.low!)]).reverse();
  return (
    <g style={{ color: look.color }}>
      <path class="band" d={path([...upper, ...lower])} />
      <path class="line" d={path(known.map((p) => [at.x(p.x), at.y(p.y)]))} stroke-dasharray={look.dash} />
      {known.map((p) => <path class="dot" d={look.shape} transform={`translate(${at.x(p.x)},${at.y(p.y)})`} />)}
      <path class="published" d={path(one.published.map((p) => [at.x(p.x), at.y(p.y)]))} />
      {one.published.map((p) => <path class="hollow" d={look.shape} transform={`translate(${at.x(p.x)},${at.y(p.y)})`} />)}
    </g>
  );
}

function Bars({ one, look, at, i, n }: { one: Series; look: Look; at: Axes; i: number; n: number }) {
  const width = Math.min(46, (at.step * 0.8) / n);
  const left = (x: X) => at.x(x) + (i - n / 2) * width;
  return (
    <g style={{ color: look.color }}>
      {one.points.filter((p) => Number.isFinite(p.y)).map((p) => (
        <>
          <rect class="bar" x={left(p.x) + 1} width={Math.max(1, width - 2)} y={Math.min(at.y(p.y), at.y(0))} height={Math.abs(at.y(p.y) - at.y(0))} />
          {p.low !== null && p.high !== null && (
            <path class="whisker" d={`M${left(p.x) + width / 2},${at.y(p.low)}V${at.y(p.high)}`} />
          )}
        </>
      ))}
      {one.published.map((p) => (
        <path class="hollow" d={SHAPES[3]} transform={`translate(${left(p.x) + width / 2},${at.y(p.y)})`} />
      ))}
    </g>
  );
}

function PanelAxes({ panel, at, width }: { panel: Panel; at: Axes; width: number }) {
  const room = Math.floor((at.step || 40) / 6.2);
  return (
    <g class="axes">
      <text class="panel-title" x={MARGIN.left} y={14}>{clipped(panel.title, Math.floor(width / 7.5))}</text>
      {at.yTicks.map((value) => (
        <g transform={`translate(0,${at.y(value)})`}>
          <path class={value === 0 ? "zero" : "rule"} d={`M${MARGIN.left},0H${width - MARGIN.right}`} />
          <text x={MARGIN.left - 6} y={4} text-anchor="end">{digits(value)}</text>
        </g>
      ))}
      {at.xTicks.map((value) => (
        <text x={at.x(value)} y={HEIGHT - MARGIN.bottom + 16} text-anchor="middle">
          {typeof value === "number" ? digits(value) : clipped(value, room)}
        </text>
      ))}
      <text x={(MARGIN.left + width) / 2} y={HEIGHT - 8} text-anchor="middle">{panel.x}</text>
      <text transform={`translate(11,${(HEIGHT - MARGIN.bottom + MARGIN.top) / 2}) rotate(-90)`} text-anchor="middle">{clipped(panel.y, 30)}</text>
    </g>
  );
}

function Legend({ shown, bars, published, width }: { shown: Look[]; bars: boolean; published: boolean; width: number }) {
  const entries = [...shown.map((look) => ({ look, label: clipped(look.name, 40) }))];
  let [x, y] = [0, 0];
  const place = (label: string) => {
    const wide = 34 + label.length * 6.6;
    if (x && x + wide > width) [x, y] = [0, y + 18];
    const at = `translate(${x},${y})`;
    x += wide + 12;
    return at;
  };
  return (
    <g class="legend" transform="translate(6,12)">
      {entries.map(({ look, label }) => (
        <g transform={place(label)} style={{ color: look.color }}>
          {bars ? <rect class="bar" x={4} y={-6} width={12} height={12} /> : <path class="line" d="M0,0H22" stroke-dasharray={look.dash} />}
          {!bars && <path class="dot" d={look.shape} transform="translate(11,0)" />}
          <text x={28} y={4}>{label}</text>
        </g>
      ))}
      {published && (
        <g transform={place("published (hollow)")} class="muted">
          <path class="hollow" d={SHAPES[3]} transform="translate(11,0)" />
          <text x={28} y={4}>published (hollow)</text>
        </g>
      )}
    </g>
  );
}

const legendRows = (shown: Look[], width: number): number =>
  Math.max(1, Math.ceil((shown.reduce((sum, one) => sum + 46 + Math.min(one.name.length, 40) * 6.6, 0) + 170) / Math.max(width - 60, 60)));

interface Hover {
  panel: number;
  x: X;
  left: number;
  top: number;
}

function Readout({ figure, hover }: { figure: Figure; hover: Hover }) {
  const panel = figure.panels[hover.panel]!;
  return (
    <div class="readout" role="status" style={{ left: `${hover.left}px`, top: `${hover.top}px` }}>
      <b>{panel.x} {typeof hover.x === "number" ? digits(hover.x) : hover.x}</b>
      {panel.series.map((one) => {
        const point = one.points.find((p) => p.x === hover.x);
        const published = one.published.find((p) => p.x === hover.x);
        if (!point && !published) return null;
        const band = point && point.low !== null && point.high !== null ? ` [${digits(point.low)}, ${digits(point.high)}]` : "";
        return (
          <div>
            {one.name}: {point ? `${digits(point.y)}${band}` : "–"}
            {point?.n != null && `, n = ${point.n}`}
            {published && `; published ${digits(published.y)}`}
          </div>
        );
      })}
    </div>
  );
}

export const CSV = ["panel", "x axis", "y axis", "series", "x", "y", "low", "high", "n", "published"];

export const figureRows = (figure: Figure) =>
  figure.panels.flatMap((panel) =>
    panel.series.flatMap((one) => {
      const published = new Map(one.published.map((p) => [p.x, p.y]));
      const row = [panel.title, panel.x, panel.y, one.name];
      const ours = one.points.map((p) => [...row, p.x, p.y, p.low, p.high, p.n, published.get(p.x)]);
      const seen = new Set(one.points.map((p) => p.x));
      return [...ours, ...one.published.filter((p) => !seen.has(p.x)).map((p) => [...row, p.x, null, null, null, null, p.y])];
    }),
  );

export function Chart({ figure, small = false }: { figure: Figure; small?: boolean }) {
  const [ref, total] = useWidth<HTMLDivElement>();
  const svg = useRef<SVGSVGElement>(null);
  const [hover, setHover] = useState<Hover | null>(null);
  const bars = figure.form === "bar";
  const shown = useMemo(() => looks(figure), [figure]);
  const most = Math.max(1, Math.min(figure.panels.length, Math.floor(total / 300)));
  const columns = [most, most - 1].find((n) => n > 1 && figure.panels.length % n === 0) ?? most; // full rows, if it can be
  const width = Math.floor(Math.min(total / columns, small ? 900 : 620));
  const head = legendRows(shown, total) * 18 + 8;
  const height = head + Math.ceil(figure.panels.length / columns) * HEIGHT;
  const all = useMemo(() => figure.panels.map((panel) => axes(panel, bars, width)), [figure, width]);
  const corner = (i: number) => [(i % columns) * width, head + Math.floor(i / columns) * HEIGHT] as const;

  const point = (i: number, x: X) => {
    const [left, top] = corner(i);
    const across = left + all[i]!.x(x);
    setHover({ panel: i, x, left: Math.max(0, Math.min(across + 12, total - 200)), top: top + 24 });
  };
  const follow = (event: PointerEvent) => {
    const box = svg.current!.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top - head];
    const i = Math.floor(py / HEIGHT) * columns + Math.floor(px / width);
    const at = px < columns * width && py >= 0 ? all[i] : undefined;
    if (!at?.xs.length) return setHover(null);
    const near = px - corner(i)[0];
    point(i, at.xs.reduce((best, x) => (Math.abs(at.x(x) - near) < Math.abs(at.x(best) - near) ? x : best)));
  };
  const step = (event: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.stopPropagation();
    const every = all.flatMap((at, i) => at.xs.map((x) => [i, x] as const));
    const now = every.findIndex(([i, x]) => i === hover?.panel && x === hover.x);
    const next = every[Math.max(0, Math.min(every.length - 1, now + by))];
    if (next) point(...next);
  };
  return (
    <div class="chart" ref={ref}>
      {total > 0 && (
        <svg ref={svg} viewBox={`0 0 ${total} ${height}`} width={total} height={height} role="img" tabIndex={0}
          aria-label={`${figure.title}. Arrow keys read the points; the table below has them all.`}
          onPointerMove={follow} onPointerLeave={() => setHover(null)} onKeyDown={step} onBlur={() => setHover(null)}>
          <Legend shown={shown} bars={bars} width={total - 20} published={figure.panels.some((p) => p.series.some((s) => s.published.length))} />
          {figure.panels.map((panel, i) => (
            <g transform={`translate(${corner(i)})`}>
              <PanelAxes panel={panel} at={all[i]!} width={width} />
              {hover?.panel === i && <path class="cursor" d={`M${all[i]!.x(hover.x)},${MARGIN.top}V${HEIGHT - MARGIN.bottom}`} />}
              {panel.series.map((one, k) => {
                const look = shown.find(({ name }) => name === one.name)!;
                return bars ? <Bars one={one} look={look} at={all[i]!} i={k} n={panel.series.length} /> : <Curve one={one} look={look} at={all[i]!} />;
              })}
            </g>
          ))}
        </svg>
      )}
      {hover && <Readout figure={figure} hover={hover} />}
      <Save name={figure.id} svg={svg} header={CSV} rows={() => figureRows(figure)} table />
    </div>
  );
}
