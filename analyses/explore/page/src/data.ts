/** What a site holds; `analyses/explore` writes it, this page reads it.
 *
 * index.html  app.js  app.css             the built page
 * data/<n>/study.js                       hookedOmni.put("<n>/study", {...Study})
 * data/<n>/samples/<file>.js              hookedOmni.put("<n>/samples/<file>", {...Sample})
 * data/<n>/attention/<file>.<question>.js hookedOmni.put("<n>/attention/<file>.<question>", "<base64>")
 * media/<name>.mp4, .wav                  clips, with the sound that the model heard
 *
 * Data are scripts, as a page opened from disk may not fetch. n counts the studies of a site from 0.
 * null: not known, or not there.
 */

export interface Study {
  schema: 1; name: string; title: string; model: string; base: string | null;
  judge: string | null; summary: string[];
  settings: [string, string][];
  versions: [string, string][];
  warnings: string[];
  missing: Missing[];
  claims: Claim[];
  figures: Figure[];
  samples: SampleRow[];
  /** In the order of the study. */
  questions: string[];
  /** others[n] is study n of this site, this one included; `samples` are ids. */
  others: { name: string; samples: string[] }[];
}

export type Stage =
  | "captions"
  | "judge"
  | "attention_share"
  | "attention"
  | "logit_lens"
  | "knockout"
  | "distribution_shift"
  | "clips";

export interface Missing {
  stage: Stage | (string & {});
  reason: string;
}

export interface Claim {
  claim: string; published: string; ours: string; direction: string; size: string;
}

export interface Figure {
  id: string; title: string; caption: string[];
  panels: Panel[];
  /** In bars, x is a category. */
  form: "line" | "bar";
}

export interface Panel {
  title: string; x: string; y: string;
  series: Series[];
}

export interface Series {
  name: string;
  points: Point[];
  published: { x: number | string; y: number }[];
}

export interface Point {
  x: number | string; y: number; low: number | null; high: number | null; n: number | null;
}

export interface SampleRow {
  id: string; file: string; kind: string; heard: string[]; seen: string[];
  /** Id of the factual sample of the same picture. */
  twin: string | null;
  /** "hear/audio", "see/video", ...: 0..1 */
  fidelity: Record<string, number | null>;
  drop: number | null; shift: number | null; disagreement: number | null;
  answers: Record<string, string>;
}

export interface Sample {
  id: string; kind: string; twin: string | null;
  references: { audio: string[]; video: string[] };
  clip: Clip;
  answers: Answer[];
  /** Question -> tokens of the plain answer. */
  tokens: Record<string, Token[]>;
  /** Question -> token ranges of whole words, `to` exclusive. */
  words: Record<string, { text: string; from: number; to: number }[]>;
  lens: LensGrid[];
  knockout: KnockoutPoint[];
  attention: Record<string, AttentionMeta>;
}

export interface Clip {
  src: string | null; problem: string | null; seconds: number;
  /** data: URL of one JPEG, frames of `width` x `height` side by side. */
  frames: { src: string; width: number; height: number; times: number[] } | null;
  /** Least and largest of the sound, at most 1000 pairs, -1..1. */
  peaks: [number, number][];
  /** data: URL of a grey PNG, columns are time, low bands at the bottom. */
  mel: { src: string; bands: number } | null;
}

export interface Answer {
  question: string;
  /** "" without intervention, or "video @ 3-5". */
  condition: string; key: string | null; first: number | null; last: number | null; text: string;
  tokens: number | null; ended: boolean | null;
  scores: Score[];
  heard_found: number | null; seen_found: number | null;
}

export interface Score {
  what: "audio" | "video"; judge: string; score: number | null; reason: string; status: string;
}

export interface Token {
  text: string;
  shift: "unshifted" | "marginal" | "shifted" | null; rank: number | null; logprob: number | null;
  base_logprob: number | null; kl: number | null;
  base_top: [string, number][];
}

export interface LensGrid {
  question: string; lens: string; layers: number[];
  /** Start of each second of sound. */
  seconds: number[];
  cells: LensCell[][];
}

export interface LensCell {
  text: string; logprob: number | null; others: string[];
  /** Names an event that sounds. */
  hit: boolean;
}

export interface KnockoutPoint {
  question: string; key: string; center: number; first: number; last: number;
  /** "audio", "video" by the judge, "heard_found", "seen_found" by words. */
  scores: Record<string, number | null>;
}

/** Attention from generated positions: the `kept` largest weights of each row, and the sum of each part.
 *
 * The bytes, raw-deflated, little endian, are three blocks, see `analyses/attention_map/packing.py`:
 *   positions  uint16 [layers][heads][queries][kept]   ascending; 65535: none
 *   weights    uint8  [layers][heads][kept][queries]   w = (code / 255) ** 2
 *   sums       uint8  [3][layers][heads][parts][queries]   changes of codes, zigzag; share = code / levels
 */
export interface AttentionMeta {
  file: string; queries: number; layers: number; heads: number; kept: number;
  /** Index of the token that each query predicts; after the last token, the end. */
  predicts: number[]; segments: string[];
  /** Span; frame or whole second, -1 for neither; of its sinks alone, or of all others. Together everything. */
  parts: [string, number, boolean][];
  /** 2 / levels is the largest error of a sum of one head, of a mean over n n times less. */
  levels: number;
  /** Largest error of one weight, dropped or rounded, measured. */
  bound: number; sinks: number[];
  /** `why` there is none of a picture that is there; "" otherwise. */
  grid: VideoGrid | null; why: string;
}

export interface VideoGrid {
  position: number[]; frame: number[]; row: number[]; column: number[]; frames: number;
  rows: number; columns: number;
  /** Of the frames; none if not known. */
  times: number[];
}
