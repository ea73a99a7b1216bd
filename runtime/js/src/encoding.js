/**
 * Latents to chunks: at a fixed stage count, or with as many stages in each frame as the sound needs.
 *
 *     latents | window | -> costs of every stage count -> counts at one price -> codes -> chunks
 *
 * A window of a file is half a minute: within it one price holds, found so that the mean bitrate comes out; what one
 * window takes too much, the next ones give back. Of a pipe it is two seconds, as in Python.
 */

import { END_SIZE } from "./chunk_search.js";
import { BitrateError } from "./errors.js";
import { DEFAULT_BITRATE } from "./manifest.js";
import { Packet, SEQUENCE_MODULUS } from "./packets.js";
import { sliced } from "./rows.js";

export const [FILE_WINDOW, PIPE_WINDOW] = [30, 2]; // seconds

const [WORST_PRICE, BEST_PRICE] = [0.03, 0.0003]; // of quality 0 and 10
const SLACK = 0.02; // of a bitrate: people round
const NEAR = 0.015; // of the bits wanted: near enough
const TRIES = 3;
const [SHALLOW, SHALLOW_PRICE] = [0.3, 0.0035]; // of the bits of all stages; of a bit, in speech of as many
const PROBES = 4; // chunks of the first window

/**
 * What a file is to take: { stages } for all frames, or { kbps } in the mean of each stream, or the { price } of a bit.
 *
 * With no wish 6 kbps, or all stages where that is too much. `constant` takes as many stages in every frame as make
 * `bitrate` in codes of fixed width. Throws a BitrateError: contradictions, or what this codec does not offer.
 */
export function rateOf(codec, { bitrate, quality, stages, constant = false } = {}) {
  if ([bitrate, quality, stages].filter((wish) => wish !== undefined).length > 1) {
    throw new BitrateError("give one of bitrate, quality and stage count");
  }
  const [least, most] = [codec.bitrates[0], codec.bitrates.at(-1)];
  if (quality !== undefined) {
    if (constant || !(quality >= 0 && quality <= 10)) {
      throw new BitrateError(`quality is 0 to 10 and goes with a variable rate, not ${String(quality)}`);
    }
    return { price: WORST_PRICE * (BEST_PRICE / WORST_PRICE) ** (quality / 10) };
  }
  const usual = least <= DEFAULT_BITRATE && DEFAULT_BITRATE <= most;
  if (stages !== undefined || constant || (bitrate === undefined && !usual)) {
    return { stages: codec.stages({ bitrate, stages }) };
  }
  const kbps = bitrate ?? DEFAULT_BITRATE;
  if (!(least * (1 - SLACK) <= kbps && kbps <= most * (1 + SLACK))) {
    const [from, to] = [least, most].map((possible) => Number(possible.toPrecision(4)));
    throw new BitrateError(`${codec.manifest.name} cannot do ${String(kbps)} kbps; possible: ${from} to ${to}`);
  }
  return { kbps };
}

/** Makes the chunks of one file, of the latents of all its audio. */
export class ChunkMaker {
  #rate;
  #header;
  #coder;
  #variable;
  #window; // frames
  #chunks = 0;
  #frames = 0;
  #bits; // written
  #bias = 1; // of bits written to bits foreseen

  /**
   * @param {import("./edgc_header.js").Header} header
   * @param {import("./chunk_coder.js").ChunkCoder} coder
   * @param {{ stages?: number, kbps?: number, price?: number }} rate of `rateOf`
   * @param {import("./variable_rate.js").VariableRate} variable
   * @param {number} window seconds
   */
  constructor(header, coder, rate, variable, window = FILE_WINDOW) {
    [this.#header, this.#coder, this.#rate, this.#variable] = [header, coder, rate, variable];
    const size = header.framesPerPacket;
    const chunks = rate.stages ? 1 : Math.max(1, roundedEven((window * variable.sessions.manifest.frameRate) / size));
    this.#window = chunks * size;
    this.#bits = 8 * (header.toBytes().length + END_SIZE);
  }

  /** The chunks of latents [streams, T, D], one window after the other. */
  async *chunks(latents) {
    const [{ streams }, { latentDim }] = [this.#header, this.#variable.sessions.manifest];
    const frames = latents.length / streams / latentDim;
    for (let first = 0; first < frames; first += this.#window) {
      const end = Math.min(first + this.#window, frames);
      yield* await this.#encode(sliced(latents, streams, first * latentDim, end * latentDim), end - first);
    }
  }

  /** The chunks of one window [streams, T, D]. */
  async #encode(latents, frames) {
    const [rate, { streams, framesPerPacket }] = [this.#rate, this.#header];
    this.#frames += frames;
    const search = this.#variable.search(latents, streams);
    let chunks;
    if (rate.stages !== undefined) {
      chunks = await this.#at(search, new Int32Array(streams * frames).fill(rate.stages));
    } else {
      const priceOf = this.#isShallow(frames) ? (costs) => this.#price(costs) : null;
      const costs = await this.#variable.costs(latents, streams, framesPerPacket, priceOf);
      const known = rate.price !== undefined;
      chunks = await (known ? this.#at(search, costs.counts(rate.price)) : this.#within(search, costs));
    }
    this.#chunks += chunks.length;
    this.#bits += this.#size(chunks);
    return chunks;
  }

  /**
   * Chunks that bring the mean of all so far to what is wanted, as near as stage counts can.
   *
   * What the stages of a cut frame take depends on the frames beside it, which were cut too, and another search finds
   * other codes: some chunks tell how much more than foreseen all will take, and the price is found anew until that
   * holds.
   */
  async #within(search, costs) {
    if (!this.#chunks) this.#bias = await this.#tried(search, costs, costs.counts(this.#price(costs)));
    const wanted = this.#wanted();
    let [chunks, before] = [[], null];
    for (let turn = 0; turn < TRIES; turn++) {
      const counts = costs.counts(this.#price(costs));
      if (before !== null && counts.every((count, i) => count === before[i])) break;
      chunks = await this.#at(search, counts);
      before = counts;
      const size = this.#size(chunks);
      if (Math.abs(size / wanted - 1) < NEAR) break;
      this.#bias = size / costs.bitsOf(counts);
    }
    return chunks;
  }

  /** Whether few frames of a window of so many will have more than half of the stages. */
  #isShallow(frames) {
    if (this.#rate.price !== undefined) return this.#rate.price > SHALLOW_PRICE;
    const { streams, layout, stages, codeBits } = this.#header;
    return this.#wanted() < SHALLOW * (streams * frames * layout.codes(stages) * codeBits);
  }

  /** What a bit costs in this window. */
  #price(costs) {
    return this.#rate.price ?? costs.price(this.#wanted() / this.#bias);
  }

  /** The bits of this window that bring the mean of all so far to what is asked for. */
  #wanted() {
    const { frameSize, codecRate, streams } = this.#header;
    const seconds = (this.#frames * frameSize) / codecRate;
    return Math.max(1, 1000 * this.#rate.kbps * streams * seconds - this.#bits);
  }

  /** The bits of some chunks, spread over all, to those foreseen for these counts [streams * T]. */
  async #tried(search, costs, counts) {
    const size = this.#header.framesPerPacket;
    const whole = Math.floor(costs.frames / size);
    if (whole < PROBES) return 1;
    const probes = Array.from({ length: PROBES }, (_, i) => Math.floor((i * whole) / PROBES));
    const probed = (frame) => probes.includes(Math.floor(frame / size));
    const codes = await search.codes(counts.map((count, i) => (probed(i % costs.frames) ? count : 0)));
    const chunks = probes.map((probe, i) => this.#chunk(codes.slice(probe * size, (probe + 1) * size), i));
    return this.#size(chunks) / costs.bitsOf(counts, probed);
  }

  /** Chunks with these stage counts [streams * T]. */
  async #at(search, counts) {
    const [codes, size] = [await search.codes(counts), this.#header.framesPerPacket];
    const parts = [];
    for (let first = 0; first < codes.frames; first += size) {
      parts.push(this.#chunk(codes.slice(first, first + size), this.#chunks + parts.length));
    }
    return parts;
  }

  #chunk(codes, number) {
    return this.#coder.encode(new Packet(number % SEQUENCE_MODULUS, codes, null, this.#header.layout));
  }

  #size(chunks) {
    const form = this.#header.chunkFormat;
    return 8 * chunks.reduce((sum, chunk) => sum + form.size(chunk, chunk.stages), 0);
  }
}

/** The nearest whole number, the even one of two: Python's `round`. */
function roundedEven(number) {
  const whole = Math.floor(number);
  return number - whole === 0.5 ? whole + (whole % 2) : Math.round(number);
}
