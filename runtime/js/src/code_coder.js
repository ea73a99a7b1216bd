/**
 * Codes of a few frames to bytes and back: the range coder, led by an entropy model or by none.
 *
 *     stage 0: all steps of all streams   stage 1: …   …        a cut behind a stage leaves the stages before it whole
 *
 * A step is a frame or, where a frame has several codes of a stage (`layout.js`), one of those. Of each stage the
 * groups of all steps come first, then their members; of the stages that follow themselves, step by step. How many
 * stages a frame has may change from frame to frame: those counts come before everything. Without a model, all codes
 * are equally likely and take what they take in packets.
 */

import { Codes } from "./codes.js";
import { CONTEXT_LIMIT, fillTable } from "./entropy_model.js";
import { SIDE_BITS } from "./layout.js";
import { FREQUENCY_BITS, RangeDecoder, RangeEncoder, TOTAL } from "./range_coder.js";

const COUNT_FALL = 16; // sixteenths of an octave that a count is less likely for each stage that it is away
const SIDE_TABLE = Int32Array.from({ length: (1 << SIDE_BITS) + 1 }, (_, i) => i * (TOTAL >> SIDE_BITS));

/** Codes [streams, lines, T] of one bundle's layout to bytes, and back. */
export class CodeCoder {
  /**
   * @param {import("./layout.js").Layout} layout
   * @param {import("./entropy_model.js").Predictor} model
   * @param {number} streams
   */
  constructor(layout, model, streams) {
    this.layout = layout;
    this.model = model;
    this.streams = streams;
  }

  /**
   * Codes, -1 where a frame has fewer stages, as { data, ends }: bytes, and how many of them each stage ends at.
   *
   * Some frame has all stages, and each has one. Stage counts are told as numbers of 1 to `most`, by default the stages
   * of the codes.
   */
  encode(codes, most = 0) {
    const [coder, counts] = [new RangeEncoder(), this.layout.counts(codes)];
    const stages = largest(counts);
    if (counts.some((count) => count < stages)) encodeCounts(coder, counts, codes.frames, most || stages);
    this.tell(coder, codes);
    return coder.finish();
  }

  /** Tell a coder codes without their counts; the ends of their stages are marked. */
  tell(coder, codes) {
    const counts = this.layout.counts(codes);
    for (let stream = 0; stream < this.streams; stream++) {
      for (let line = 0; line < this.layout.side; line++) {
        for (const number of codes.line(stream, line)) coder.encode(SIDE_TABLE[number], TOTAL >> SIDE_BITS);
      }
    }
    for (const { stage, steps, active, intervals } of this.#told(codes, counts, largest(counts))) {
      for (const places of this.#orders(stage, steps, active)) {
        for (const p of places) coder.encode(intervals[4 * p], intervals[4 * p + 1]);
        for (const p of places) coder.encode(intervals[4 * p + 2], intervals[4 * p + 3]);
      }
      coder.mark();
    }
  }

  /** How each code is told, [N, 4], stage by stage, stream by stream: start and frequency of group and member. */
  intervals(codes) {
    const found = [];
    for (const { active, intervals } of this.#told(codes, this.layout.counts(codes), this.layout.stages(codes.lines))) {
      for (let p = 0; p < active.length; p++) if (active[p]) found.push(...intervals.subarray(4 * p, 4 * p + 4));
    }
    return Int32Array.from(found);
  }

  /** What each frame's codes of each stage take, Float64Array [streams, stages, T]; 0 where there are none. */
  bits(codes) {
    const [stages, { streams, frames }] = [this.layout.stages(codes.lines), codes];
    const bits = new Float64Array(streams * stages * frames);
    for (const { stage, steps, active, intervals } of this.#told(codes, this.layout.counts(codes), stages)) {
      const width = steps / frames;
      for (let p = 0; p < active.length; p++) {
        if (!active[p]) continue;
        const [stream, frame] = [Math.floor(p / steps), Math.floor((p % steps) / width)];
        const likely = intervals[4 * p + 1] * intervals[4 * p + 3];
        bits[(stream * stages + stage) * frames + frame] += 2 * FREQUENCY_BITS - Math.log2(likely);
      }
    }
    return bits;
  }

  /**
   * The codes [streams, lines, frames] of a body that `encode` made. Any bytes give codes in range.
   *
   * `mixed` where the counts of frames differ, of 1 to `most` as in `encode`; what a cut took of them is gone.
   */
  decode(body, stages, frames, { mixed, most = 0 }) {
    const coder = new RangeDecoder(body);
    const counts = mixed
      ? decodeCounts(coder, this.streams, frames, most || stages)
      : new Int32Array(this.streams * frames).fill(stages);
    return this.read(coder, counts, stages);
  }

  /** The codes [streams, lines, T] of known counts [streams * T] that `tell` told a coder. */
  read(coder, counts, stages) {
    const [rows, frames] = [this.streams, counts.length / this.streams];
    const codes = new Codes(rows, this.layout.lines(stages), frames);
    codes.data.fill(-1);
    for (let stream = 0; stream < rows; stream++) {
      for (let line = 0; line < this.layout.side; line++) {
        const own = codes.line(stream, line);
        for (let t = 0; t < frames; t++) own[t] = coder.decode(SIDE_TABLE);
      }
    }
    const context = new Context(this.model, rows);
    for (let stage = 0; stage < stages; stage++) {
      const [width, first] = [this.layout.width(stage), this.layout.lines(stage)];
      const steps = width * frames;
      context.begin(steps);
      const active = Uint8Array.from({ length: rows * steps }, (_, p) => counts[Math.floor(p / width)] > stage);
      for (const places of this.#orders(stage, steps, active)) {
        const entries = this.#decodeSteps(coder, stage, steps, context, places);
        for (let i = 0; i < places.length; i++) {
          const [row, step] = [Math.floor(places[i] / steps), places[i] % steps];
          codes.line(row, first + (step % width))[Math.floor(step / width)] = entries[i];
        }
      }
    }
    return codes;
  }

  /** Only the stage counts [streams * frames] of a body in which they differ. */
  counts(body, frames, most) {
    return decodeCounts(new RangeDecoder(body), this.streams, frames, most);
  }

  /** The entries of a stage at some places, which the context then holds: all groups first, then all members. */
  #decodeSteps(coder, stage, steps, context, places) {
    const { model } = this;
    const width = model.hiddenWidth;
    const hidden = new Uint8Array(places.length * width);
    const entries = new Int32Array(places.length); // of groups, in the first round
    for (let i = 0; i < places.length; i++) {
      const own = hidden.subarray(i * width, (i + 1) * width);
      model.hidden(stage, context.at(stage, Math.floor(places[i] / steps), places[i] % steps), own);
      entries[i] = coder.decode(model.groups(stage, own));
    }
    for (let i = 0; i < places.length; i++) {
      const group = entries[i];
      const member = coder.decode(model.members(stage, hidden.subarray(i * width, (i + 1) * width), group));
      entries[i] = model.entryAt(stage, group * model.membersEach + member);
    }
    for (let i = 0; i < places.length; i++) {
      context.add(stage, Math.floor(places[i] / steps), places[i] % steps, entries[i]);
    }
    return entries;
  }

  /** The places (row × steps + step) that are told together: those of each step, or all of a stage. */
  *#orders(stage, steps, active) {
    if (stage >= this.model.following) {
      const places = new Int32Array(active.reduce((sum, flag) => sum + flag, 0));
      for (let p = 0, at = 0; p < active.length; p++) if (active[p]) places[at++] = p;
      yield places;
      return;
    }
    for (let step = 0; step < steps; step++) {
      const places = [];
      for (let p = step; p < active.length; p += steps) if (active[p]) places.push(p);
      yield places;
    }
  }

  /** How each stage's codes are told: intervals [rows * steps, 4], of the steps that are active. */
  *#told(codes, counts, stages) {
    const { model, layout } = this;
    const [context, hidden] = [new Context(model, codes.streams), new Uint8Array(model.hiddenWidth)];
    for (let stage = 0; stage < stages; stage++) {
      const [width, first] = [layout.width(stage), layout.lines(stage)];
      const steps = width * codes.frames;
      context.begin(steps);
      const active = new Uint8Array(codes.streams * steps);
      const entries = new Int32Array(active.length);
      for (let p = 0; p < active.length; p++) {
        if (counts[Math.floor(p / width)] <= stage) continue;
        const [row, step] = [Math.floor(p / steps), p % steps];
        active[p] = 1;
        entries[p] = codes.line(row, first + (step % width))[Math.floor(step / width)];
        context.add(stage, row, step, entries[p]);
      }
      const intervals = new Int32Array(4 * active.length);
      for (let p = 0; p < active.length; p++) {
        if (!active[p]) continue;
        model.hidden(stage, context.at(stage, Math.floor(p / steps), p % steps), hidden);
        const place = model.placeOf(stage, entries[p]);
        const group = Math.floor(place / model.membersEach);
        putInterval(intervals, 4 * p, model.groups(stage, hidden), group);
        putInterval(intervals, 4 * p + 2, model.members(stage, hidden, group), place % model.membersEach);
      }
      yield { stage, steps, active, intervals };
    }
  }
}

/**
 * The sums of the vectors of all codes so far, and what the model sees of them at a step.
 *
 * Sums [rows, before + steps + after, E], zeros past the ends: of the stages before the one at hand, and with it.
 */
class Context {
  #model;
  #rows;
  #steps = 0;
  #before = new Int32Array(0);
  #with = new Int32Array(0);
  #seen;

  constructor(model, rows) {
    this.#model = model;
    this.#rows = rows;
    this.#seen = new Int32Array((model.before + 1 + model.after) * model.width);
  }

  /** Go on to a stage of so many steps: as many as the one before had, or a multiple. */
  begin(steps) {
    const { before, after, width } = this.#model;
    const [length, last] = [before + steps + after, this.#steps];
    const sums = new Int32Array(this.#rows * length * width);
    for (let row = 0; row < this.#rows && last && width; row++) {
      for (let step = 0; step < steps; step++) {
        const from = (row * (before + last + after) + before + Math.floor((step * last) / steps)) * width;
        sums.set(this.#with.subarray(from, from + width), (row * length + before + step) * width);
      }
    }
    this.#before = sums;
    this.#with = sums.slice();
    this.#steps = steps;
  }

  /** The code of the stage at hand at a step. */
  add(stage, row, step, entry) {
    this.#model.addVector(stage, entry, this.#with, this.#begin(row, step));
  }

  /** What the model sees at a step, [(before + 1 + after) * E]; the next call writes over it. */
  at(stage, row, step) {
    const { before, following, width } = this.#model;
    const seen = this.#seen;
    const first = this.#begin(row, step) - before * width;
    for (let i = 0; i < seen.length; i++) {
      const sum = (i < before * width && stage < following ? this.#with : this.#before)[first + i];
      seen[i] = Math.max(-CONTEXT_LIMIT, Math.min(CONTEXT_LIMIT, sum));
    }
    return seen;
  }

  #begin(row, step) {
    const { before, after, width } = this.#model;
    return (row * (before + this.#steps + after) + before + step) * width;
  }
}

/** Tell a coder one of so many symbols, all about as likely. */
export function tellOne(coder, symbol, alphabet) {
  const table = evenTable(alphabet);
  coder.encode(table[symbol], table[symbol + 1] - table[symbol]);
}

/** The symbol that `tellOne` told. */
export function readOne(coder, alphabet) {
  return coder.decode(evenTable(alphabet));
}

/** Tell a coder stage counts [streams * frames] of 1 to `most`. */
export function encodeCounts(coder, counts, frames, most) {
  const tables = countTables(most);
  let last = most;
  for (let i = 0; i < counts.length; i++) {
    if (i % frames === 0) last = most;
    const table = tables[last - 1];
    coder.encode(table[counts[i] - 1], table[counts[i]] - table[counts[i] - 1]);
    last = counts[i];
  }
}

/** The counts [streams * frames] that `encodeCounts` told. */
export function decodeCounts(coder, streams, frames, most) {
  const [tables, counts] = [countTables(most), new Int32Array(streams * frames)];
  let last = most;
  for (let i = 0; i < counts.length; i++) {
    if (i % frames === 0) last = most;
    counts[i] = last = coder.decode(tables[last - 1]) + 1;
  }
  return counts;
}

/** The table of the count of a frame, after each count of the frame before: it is likelier the nearer it is. */
function countTables(most) {
  return Array.from({ length: most }, (_, before) => {
    const logits = Int32Array.from({ length: most }, (_, count) => -COUNT_FALL * Math.abs(count - before));
    return fillTable(logits, most, new Int32Array(most + 1));
  });
}

/** The table of symbols that are equally likely, as nearly as whole numbers can. */
function evenTable(alphabet) {
  return fillTable(new Int32Array(alphabet), alphabet, new Int32Array(alphabet + 1));
}

function putInterval(intervals, at, table, symbol) {
  intervals[at] = table[symbol];
  intervals[at + 1] = table[symbol + 1] - table[symbol];
}

/** The largest of numbers, 0 of none. */
export function largest(numbers) {
  return numbers.reduce((most, number) => (number > most ? number : most), 0);
}
