/** Where did the chosen tokens look? Sums over everything, and on the patches the weights that were kept. */

import type { AttentionMeta, VideoGrid } from "./data";
import { load } from "./load";

const NONE = 65535;

export interface Weights {
  positions: Uint16Array;
  weights: Uint8Array;
  /** Codes of [layers][heads][parts][queries]. */
  sums: Int32Array;
}

export interface Choice {
  tokens: [number, number];
  layers: [number, number];
  heads: [number, number];
  sinks: boolean;
}

/** The blocks of a file's bytes, see `AttentionMeta`. */
export async function unpack(name: string, meta: AttentionMeta): Promise<Weights> {
  const packed = Uint8Array.from(atob(await load<string>(name)), (one) => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = await new Response(stream).arrayBuffer();
  const rows = meta.queries * meta.layers * meta.heads;
  const all = rows * meta.parts.length;
  const wanted = 3 * (rows * meta.kept + all);
  if (bytes.byteLength !== wanted)
    throw new Error(`expected ${wanted} bytes of attention, got ${bytes.byteLength}. Write the site again.`);
  const n = rows * meta.kept;
  const folded = new Uint8Array(bytes, 3 * n);
  const sums = new Int32Array(all);
  for (let i = 0; i < all; i++) {
    const change = folded[i]! + (folded[i + all]! << 8) + (folded[i + 2 * all]! << 16);
    sums[i] = (i % meta.queries ? sums[i - 1]! : 0) + (change & 1 ? -(change + 1) / 2 : change / 2);
  }
  return { positions: new Uint16Array(bytes, 0, n), weights: new Uint8Array(bytes, 2 * n, n), sums };
}

export interface Look {
  /** Tokens' queries that are averaged; 0: none was kept. */
  queries: number;
  at: Map<number, number>;
  segments: { name: string; share: number }[];
  /** Frames of the picture that have a share. */
  frames: Map<number, number>;
  /** Seconds of each sound, in order. */
  sounds: Map<string, { second: number; share: number }[]>;
  /** Largest error of these shares. */
  bound: number;
}

/** Mean weight of each position, and sums, over the chosen queries, layers and heads. */
export function look(meta: AttentionMeta, all: Weights, { tokens, layers, heads, sinks }: Choice): Look {
  const queries = meta.predicts.flatMap((token, q) => (token >= tokens[0] && token <= tokens[1] ? [q] : []));
  const hidden = new Set(sinks ? [] : meta.sinks);
  const at = new Map<number, number>();
  const sums = meta.parts.map(() => 0);
  const [nLayers, nHeads] = [layers[1] - layers[0] + 1, heads[1] - heads[0] + 1];
  const rows = nLayers * nHeads * queries.length;
  for (let layer = layers[0]; layer <= layers[1]; layer++)
    for (let head = heads[0]; head <= heads[1]; head++) {
      const block = layer * meta.heads + head;
      for (const q of queries) {
        sums.forEach((sum, i) => (sums[i] = sum + all.sums[(block * sums.length + i) * meta.queries + q]!));
        for (let i = 0; i < meta.kept; i++) {
          const position = all.positions[(block * meta.queries + q) * meta.kept + i]!;
          if (position === NONE || hidden.has(position)) continue;
          const code = all.weights[(block * meta.kept + i) * meta.queries + q]!;
          at.set(position, (at.get(position) ?? 0) + (code / 255) ** 2);
        }
      }
    }
  for (const [position, sum] of at) at.set(position, sum / rows);
  const shares = meta.parts.map(([of, time, sink], i) => ({ of, time, sink, share: sums[i]! / meta.levels / rows }));
  const frames = new Map<number, number>();
  const seconds = new Map<string, Map<number, number>>();
  for (const { of, time, sink, share } of shares) {
    if (time < 0 || (sink && !sinks)) continue;
    if (of.startsWith("audio") && !seconds.has(of)) seconds.set(of, new Map());
    const found = seconds.get(of) ?? frames;
    found.set(time, Math.max(0, (found.get(time) ?? 0) + share));
  }
  const segments = meta.segments.map((name) => {
    const own = shares.filter((one) => one.of.split(".")[0] === name);
    return { name, share: Math.max(0, own.reduce((sum, one) => sum + one.share, 0)) };
  });
  const sounds = [...seconds].map(([of, one]) => [of, [...one].map(([second, share]) => ({ second, share }))] as const);
  const whole = nHeads === meta.heads ? nLayers * nHeads : nHeads; // runs of heads that are rounded as one
  return { queries: queries.length, at, segments, frames, sounds: new Map(sounds), bound: 2 / meta.levels / whole };
}

/** Weights of each frame's patches, rows of columns. */
export function onFrames(grid: VideoGrid, at: Map<number, number>): Float64Array[] {
  const frames = Array.from({ length: grid.frames }, () => new Float64Array(grid.rows * grid.columns));
  grid.position.forEach((position, i) => {
    const cell = grid.row[i]! * grid.columns + grid.column[i]!;
    const frame = frames[grid.frame[i]!];
    if (frame) frame[cell] = frame[cell]! + (at.get(position) ?? 0);
  });
  return frames;
}
