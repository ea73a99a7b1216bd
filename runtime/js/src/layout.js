/**
 * How the code lines of a frame lie: which of them belong to which stage.
 *
 *     line    0 … side - 1             side                side + 1        …
 *     is      a number of 8 bits       codes of stage 0    of stage 1      …     widths[i] lines of stage i
 *
 * Most codecs have one code of every stage in a frame, and nothing beside the stages.
 */

import { Codes } from "./codes.js";

export const MISSING = -1; // what stands in the lines of stages that a frame does not have
export const MAX_LINES = 1 << 16; // code lines a frame
export const SIDE_BITS = 8; // of a number beside the stages

/** `side` lines before those of the first stage, then `widths[i]` of stage i; no widths: one line each. */
export class Layout {
  /** @param {number} side @param {readonly number[]} widths */
  constructor(side = 0, widths = []) {
    this.side = side;
    this.widths = Object.freeze([...widths]);
    Object.freeze(this);
  }

  /** Whether there is one line of every stage and nothing else. */
  get isPlain() {
    return !this.side && this.widths.every((width) => width === 1);
  }

  /** Code lines a frame of `stages` stages, those beside them too. */
  lines(stages) {
    return this.side + this.codes(stages);
  }

  /** Codes a frame of `stages` stages. */
  codes(stages) {
    if (!this.widths.length) return stages;
    let sum = 0;
    for (let i = 0; i < stages && i < this.widths.length; i++) sum += this.widths[i];
    return sum;
  }

  /** Codes of one stage in a frame. */
  width(stage) {
    return this.widths.length ? this.widths[stage] : 1;
  }

  /** The stages that this many lines hold, 0 where no stage count has so many. */
  stages(lines) {
    const codes = lines - this.side;
    if (!this.widths.length) return Math.max(0, codes);
    for (let n = 1, sum = 0; n <= this.widths.length; n++) if ((sum += this.widths[n - 1]) === codes) return n;
    return 0;
  }

  /** Stages of each frame, [streams * frames], of `Codes`: lines of stages that a frame does not have hold -1. */
  counts(codes) {
    const { streams, frames } = codes;
    const counts = new Int32Array(streams * frames);
    for (let stage = 0, stages = this.stages(codes.lines); stage < stages; stage++) {
      for (let stream = 0; stream < streams; stream++) {
        const line = codes.line(stream, this.lines(stage));
        for (let t = 0; t < frames; t++) counts[stream * frames + t] += line[t] >= 0 ? 1 : 0;
      }
    }
    return counts;
  }

  /** A copy of `Codes` with no more than `counts` [streams * frames] stages in each frame. */
  cut(codes, counts) {
    const { streams, frames } = codes;
    const kept = codes.copy();
    for (let stage = 0, stages = this.stages(codes.lines); stage < stages; stage++) {
      for (let n = this.lines(stage); n < this.lines(stage + 1); n++) {
        for (let stream = 0; stream < streams; stream++) {
          const line = kept.line(stream, n);
          for (let t = 0; t < frames; t++) if (counts[stream * frames + t] <= stage) line[t] = MISSING;
        }
      }
    }
    return kept;
  }

  /** `Codes` without the lines of stages that no frame has. */
  trimmed(codes) {
    const most = this.counts(codes).reduce((least, count) => Math.max(least, count), 0);
    return codes.firstLines(this.lines(most));
  }

  /** Whether another layout has the same lines. */
  equals(other) {
    return this.side === other.side && this.widths.join() === other.widths.join();
  }
}

/** `Codes` of several parts, one after another; lines that only others have are missing. */
export function joinedCodes(parts) {
  const lines = Math.max(...parts.map((part) => part.lines));
  return Codes.join(parts.map((part) => padded(part, lines)));
}

/** The same codes with so many lines: frames lack what is added. */
function padded(codes, lines) {
  const { streams, frames } = codes;
  if (lines === codes.lines) return codes;
  const all = new Codes(streams, lines, frames);
  all.data.fill(MISSING);
  for (let stream = 0; stream < streams; stream++) {
    for (let n = 0; n < codes.lines; n++) all.line(stream, n).set(codes.line(stream, n));
  }
  return all;
}

export const PLAIN = new Layout();
