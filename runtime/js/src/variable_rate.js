/**
 * Which frame gets how many stages, so that the bits go where they take most error away.
 *
 *     each frame:  the count n of least  error after n stages  +  price * bits of n stages
 *
 * The errors are those of the search, in the latents; bits are those of the entropy model. One price holds for all
 * frames: a high one makes few bits. Sums are rounded as in Python (`sums.js`), so that both choose the same counts.
 */

import { Codes } from "./codes.js";
import { MISSING } from "./layout.js";
import { joined, sliced } from "./rows.js";
import { pairwiseSum, squaredNorm, varianceSum } from "./sums.js";

export const [LOWEST_PRICE, HIGHEST_PRICE] = [1e-6, 10];

const COUNT_BITS = 1.4; // that saying a frame's count takes, in the mean
const LOW = 0.7; // of their bits at fixed width, what codes take that an entropy model tells, or a little less
const ROUNDS = 40; // of bisection
const ERROR_FRAMES = 256; // whose errors are found in one go

/** What each stage count of each frame costs, [B, stages, T] each: its error, and its bits; and all stages' codes. */
export class Costs {
  /**
   * @param {Float64Array} errors of the first codebook's spread
   * @param {Float64Array} bits
   * @param {Codes} codes
   * @param {number} stages
   */
  constructor(errors, bits, codes, stages) {
    Object.assign(this, { errors, bits, codes, stages, streams: codes.streams, frames: codes.frames });
    Object.freeze(this);
  }

  /** The best stage counts [B * T] at a price of a bit. */
  counts(price) {
    const counts = new Int32Array(this.streams * this.frames);
    for (let place = 0; place < counts.length; place++) {
      let least = Infinity;
      for (let n = 1; n <= this.stages; n++) {
        const at = this.#at(place, n);
        const cost = this.errors[at] + price * this.bits[at];
        if (cost < least) [least, counts[place]] = [cost, n];
      }
    }
    return counts;
  }

  /** What frames, or those of which `named` is true, take with these stage counts [B * T]. */
  bitsOf(counts, named = () => true) {
    const places = Array.from(counts.keys()).filter((place) => named(place % this.frames));
    const chosen = Float64Array.from(places, (place) => this.bits[this.#at(place, counts[place])]);
    return pairwiseSum(chosen) + COUNT_BITS * chosen.length;
  }

  /** The lowest price at which all frames take no more than so many bits; the highest where none does. */
  price(bits) {
    let [low, high] = [LOWEST_PRICE, HIGHEST_PRICE];
    if (this.bitsOf(this.counts(low)) <= bits) return low;
    for (let round = 0; round < ROUNDS; round++) {
      const middle = Math.sqrt(low * high);
      if (this.bitsOf(this.counts(middle)) <= bits) high = middle;
      else low = middle;
    }
    return high;
  }

  #at(place, count) {
    const stream = Math.floor(place / this.frames);
    return (stream * this.stages + count - 1) * this.frames + (place % this.frames);
  }
}

/** Codes of a clip's latents with a stage count for each frame. */
export class VariableRate {
  /**
   * @param {import("./sessions.js").Sessions} sessions
   * @param {import("./code_coder.js").CodeCoder} coder
   * @param {number} paths of the search for the codes that are kept
   * @param {number} spread of the first codebook, a measure of the latents of any codec
   */
  constructor(sessions, coder, paths, spread) {
    Object.assign(this, { sessions, coder, paths, spread });
    Object.freeze(this);
  }

  /** Of a codec's graphs and the coder of its codes. */
  static async of(sessions, coder, paths) {
    const { layout, codebookSize, latentDim } = sessions.manifest;
    const codes = new Codes(1, layout.lines(1), codebookSize);
    for (let line = layout.side; line < codes.lines; line++) codes.line(0, line).forEach((_, i, own) => (own[i] = i));
    return new VariableRate(sessions, coder, paths, varianceSum(await sessions.latents(codes), latentDim));
  }

  /**
   * The costs of latents [B, T, D], whose codes are told in chunks of so many frames.
   *
   * They are those of the codes that one path finds, where the search can be told so. Where few frames will have more
   * than half of the stages, tell by `priceOf` what a bit will cost, given rough costs: those that will not are
   * searched no further, but by two paths, since early stages gain more by that.
   */
  async costs(latents, streams, chunkFrames, priceOf = null) {
    const { layout, maxStages: stages, latentDim } = this.sessions.manifest;
    if (priceOf === null || stages === 1) {
      const codes = await this.#found(latents, streams, stages, 1);
      return new Costs(await this.#errors(latents, codes), this.#bits(codes, chunkFrames), codes, stages);
    }
    const half = Math.floor(stages / 2);
    const shallow = await this.#found(latents, streams, half, 2);
    const rough = new Costs(await this.#errors(latents, shallow), this.#evenBits(shallow, LOW), shallow, half);
    const { frames } = shallow;
    const codes = new Codes(streams, layout.lines(stages), frames);
    const errors = new Float64Array(streams * stages * frames).fill(Infinity);
    codes.data.fill(MISSING);
    for (let b = 0; b < streams; b++) {
      for (let line = 0; line < shallow.lines; line++) codes.line(b, line).set(shallow.line(b, line));
      errors.set(rough.errors.subarray(b * half * frames, (b + 1) * half * frames), b * stages * frames);
    }
    const counts = rough.counts(priceOf(rough));
    const deep = Array.from(counts.keys()).filter((place) => counts[place] === half);
    if (deep.length) {
      const there = rowsAt(latents, latentDim, deep);
      const found = await this.#found(there, 1, stages, 1);
      const after = await this.#errors(there, found);
      deep.forEach((place, i) => {
        const [b, t] = [Math.floor(place / frames), place % frames];
        for (let line = 0; line < codes.lines; line++) codes.line(b, line)[t] = found.line(0, line)[i];
        for (let n = 0; n < stages; n++) errors[(b * stages + n) * frames + t] = after[n * deep.length + i];
      });
    }
    return new Costs(errors, this.#bits(codes, chunkFrames), codes, stages);
  }

  /** The costs of latents [B, T, D] where all codes take their bits: less work, and almost the same choice. */
  async evenCosts(latents, streams) {
    const { maxStages } = this.sessions.manifest;
    const codes = await this.#found(latents, streams, maxStages, 1);
    return new Costs(await this.#errors(latents, codes), this.#evenBits(codes), codes, maxStages);
  }

  /** The search for codes of latents [B, T, D] at the stage counts that each call asks for. */
  search(latents, streams) {
    return new Search(this.sessions, this.paths, latents, streams);
  }

  /** Codes [B, lines, T] that so few paths find, where the search can be told so. */
  #found(latents, streams, stages, paths) {
    const { latentDim, maxPaths } = this.sessions.manifest;
    const tensor = this.sessions.tensor("float32", latents, [streams, -1, latentDim]);
    return this.sessions.quantize(tensor, stages, Math.min(paths, maxPaths));
  }

  /** What each stage count of each frame takes at fixed width, times `factor`. */
  #evenBits(codes, factor = 1) {
    const { layout, codeBits } = this.sessions.manifest;
    const [stages, { streams, frames }] = [layout.stages(codes.lines), codes];
    const bits = new Float64Array(streams * stages * frames);
    return bits.map((_, i) => factor * (codeBits * layout.codes(1 + (Math.floor(i / frames) % stages))));
  }

  /** The error after each stage of codes, [B, stages, T]. */
  async #errors(latents, codes) {
    const { layout, latentDim: size } = this.sessions.manifest;
    const [{ streams, frames }, stages] = [codes, layout.stages(codes.lines)];
    const errors = new Float64Array(streams * stages * frames);
    for (let first = 0; first < frames; first += ERROR_FRAMES) {
      const part = codes.slice(first, Math.min(first + ERROR_FRAMES, frames));
      for (let n = 1; n <= stages; n++) {
        const found = await this.sessions.latents(part.firstLines(layout.lines(n)));
        for (let place = 0; place < streams * part.frames; place++) {
          const [b, t] = [Math.floor(place / part.frames), first + (place % part.frames)];
          const error = squaredNorm(found, place * size, latents, (b * frames + t) * size, size);
          errors[(b * stages + n - 1) * frames + t] = error / this.spread;
        }
      }
    }
    return errors;
  }

  /** Bits up to each stage, [B, stages, T], of codes [B, lines, T] that are told in chunks. */
  #bits(codes, chunkFrames) {
    const [{ streams, frames }, stages] = [codes, this.sessions.manifest.layout.stages(codes.lines)];
    const parts = [];
    for (let first = 0; first < frames; first += chunkFrames) {
      parts.push(this.coder.bits(codes.slice(first, first + chunkFrames)));
    }
    const bits = joined(parts, streams * stages);
    for (let i = 0; i < bits.length; i++) if (Math.floor(i / frames) % stages) bits[i] += bits[i - frames];
    return bits;
  }
}

/** Codes of latents [B, T, D] at stage counts. What was found once is kept for the next counts. */
export class Search {
  #sessions;
  #paths;
  #latents;
  #streams;
  #counts; // [B * T], of what was found
  #codes; // [B * T, lines]

  constructor(sessions, paths, latents, streams) {
    const { layout, latentDim, maxStages } = sessions.manifest;
    [this.#sessions, this.#paths, this.#latents, this.#streams] = [sessions, paths, latents, streams];
    this.#counts = new Int32Array(latents.length / latentDim);
    this.#codes = new Int32Array(this.#counts.length * layout.lines(maxStages)).fill(MISSING);
  }

  /** Codes [B, lines, T], each frame searched for its count [B * T]; -1 below it, and where the count is 0. */
  async codes(counts) {
    const { layout, maxStages, latentDim } = this.#sessions.manifest;
    const [each, most] = [layout.lines(maxStages), Math.max(...new Set(counts))];
    for (let n = 1; n <= most; n++) {
      const places = Array.from(counts.keys()).filter((i) => counts[i] === n && this.#counts[i] !== n);
      if (!places.length) continue;
      const latents = rowsAt(this.#latents, latentDim, places);
      const tensor = this.#sessions.tensor("float32", latents, [1, -1, latentDim]);
      const found = await this.#sessions.quantize(tensor, n, this.#paths);
      places.forEach((place, i) => {
        const own = this.#codes.subarray(place * each, (place + 1) * each).fill(MISSING);
        for (let line = 0; line < found.lines; line++) own[line] = found.line(0, line)[i];
        this.#counts[place] = n;
      });
    }
    const codes = new Codes(this.#streams, layout.lines(most), counts.length / this.#streams);
    codes.data.fill(MISSING);
    for (let line = 0; line < codes.lines; line++) {
      for (let i = 0; i < counts.length; i++) {
        if (!counts[i]) continue;
        codes.line(Math.floor(i / codes.frames), line)[i % codes.frames] = this.#codes[i * each + line];
      }
    }
    return codes;
  }
}

/** The rows of so many numbers at some places. */
function rowsAt(data, size, places) {
  const rows = new Float32Array(places.length * size);
  places.forEach((place, i) => rows.set(sliced(data, 1, place * size, (place + 1) * size), i * size));
  return rows;
}
