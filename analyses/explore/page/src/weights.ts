/** Where did the chosen tokens look? Sums over the weights that were kept. */

import type { AttentionMeta, AudioGrid, VideoGrid } from "./data";
import { load } from "./load";

const NONE = 65535;

export interface Weights {
  positions: Uint16Array;
  weights: Uint8Array;
  sums: Uint16Array;
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
  const wanted = rows * (3 * meta.kept + 2 * meta.segments.length);
  if (bytes.byteLength !== wanted)
    throw new Error(`expected ${wanted} bytes of attention, got ${bytes.byteLength}. Write the site again.`);
  const n = rows * meta.kept;
  return {
    positions: new Uint16Array(bytes, 0, n),
    weights: new Uint8Array(bytes, 2 * n, n),
    sums: new Uint16Array(bytes.slice(3 * n)),
  };
}

export interface Look {
  /** Tokens' queries that are averaged; 0: none was kept. */
  queries: number;
  at: Map<number, number>;
  segments: { name: string; share: number }[];
}

/** Mean weight of each position over the chosen queries, layers and heads. */
export function look(meta: AttentionMeta, all: Weights, { tokens, layers, heads, sinks }: Choice): Look {
  const queries = meta.predicts.flatMap((token, q) => (token >= tokens[0] && token <= tokens[1] ? [q] : []));
  const hidden = new Set(sinks ? [] : meta.sinks);
  const at = new Map<number, number>();
  const sums = meta.segments.map(() => 0);
  let rows = 0;
  for (let layer = layers[0]; layer <= layers[1]; layer++)
    for (let head = heads[0]; head <= heads[1]; head++)
      for (const q of queries) {
        const row = (layer * meta.heads + head) * meta.queries + q;
        rows++;
        sums.forEach((sum, i) => (sums[i] = sum + all.sums[row * sums.length + i]! / 65535));
        for (let i = row * meta.kept; i < (row + 1) * meta.kept; i++) {
          const position = all.positions[i]!;
          if (position === NONE || hidden.has(position)) continue;
          at.set(position, (at.get(position) ?? 0) + (all.weights[i]! / 255) ** 2);
        }
      }
  for (const [position, sum] of at) at.set(position, sum / rows);
  const segments = meta.segments.map((name, i) => ({ name, share: rows ? sums[i]! / rows : 0 }));
  return { queries: queries.length, at, segments };
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

/** Weights of each second of sound that has positions, in order. */
export function onSound(grid: AudioGrid, at: Map<number, number>): { second: number; share: number }[] {
  const shares = new Map<number, number>();
  grid.position.forEach((position, i) => {
    const second = grid.second[i]!;
    shares.set(second, (shares.get(second) ?? 0) + (at.get(position) ?? 0));
  });
  return [...shares].map(([second, share]) => ({ second, share })).sort((a, b) => a.second - b.second);
}
