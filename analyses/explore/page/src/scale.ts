/** Numbers of an axis. */

export type Scale = (value: number) => number;

export const linear =
  ([a, b]: [number, number], [from, to]: [number, number]): Scale =>
  (value) =>
    b === a ? (from + to) / 2 : from + ((value - a) / (b - a)) * (to - from);

/** Round values within the domain, about `count` of them. */
export function ticks([a, b]: [number, number], count: number): number[] {
  if (!(b > a)) return [a];
  const rough = (b - a) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((k) => k * power >= rough) ?? 10);
  const first = Math.ceil(a / step - 1e-9);
  const last = Math.floor(b / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** From least to largest, a little wider; `also` is always within. */
export function domain(values: number[], also: number[] = []): [number, number] {
  const all = [...values, ...also].filter(Number.isFinite);
  if (!all.length) return [0, 1];
  let [low, high] = [all[0]!, all[0]!];
  for (const value of all) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low === high) return low === 0 ? [0, 1] : low > 0 ? [0, high * 1.1] : [low * 1.1, 0];
  const room = (high - low) * 0.05;
  return [also.includes(low) ? low : low - room, also.includes(high) ? high : high + room];
}

/** A number as it is read: three digits, an en dash for none. */
export function digits(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  const text = Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
  return text.replace("-", "−");
}
