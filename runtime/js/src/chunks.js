/**
 * Chunks: codes of about a second in few bytes, each of which can be read without the others. Little-endian.
 *
 *     0xA0 + flags u8  sequence u16  (frames u8)  stages u8  bytes up to each cut  body  CRC-16
 *
 * The flags are 1: the codes are told by the entropy model, else each takes its bits; 2: the stage count changes from
 * frame to frame; 4: there are fewer frames than the header says, and their count follows the sequence. The body is
 * what `code_coder.js` makes: a cut behind a stage leaves the stages before it whole, so that a chunk loses stages
 * without a code being read. It may be cut behind 1, 2, 3, 4, 6, 8, 12, 16, … stages. The bytes from each cut to the
 * next are numbers of 7 bits a byte, the lowest first, all but the last of a number with bit 7 set (LEB128).
 */

import { asBytes, concatenated, u16, u16Bytes } from "./bytes.js";
import { crc16 } from "./checksums.js";
import { BitstreamError } from "./errors.js";
import { CRC16, checkKept } from "./packets.js";

export const CHUNK_KIND = 0xa0; // what chunks begin with, plus their flags
export const LEAST_CHUNK = 7; // bytes

const [TOLD, MIXED, SHORT] = [1, 2, 4];
const FLAGS = TOLD | MIXED | SHORT;
const HEAD = 3; // bytes: kind, sequence
const MAX_SIZE_BYTES = 3; // of a number
const CUTS = [1, ...[1, 2, 3, 4, 5, 6, 7].flatMap((power) => [2 ** power, 3 * 2 ** (power - 1)])];

/** A chunk whose codes are still coded. */
export class Chunk {
  /**
   * @param {object} fields
   * @param {number} fields.sequence counts chunks modulo 65,536
   * @param {number} fields.frames
   * @param {number} fields.stages the most that a frame has
   * @param {readonly number[]} fields.sizes bytes of the body to the first cut, from there to the next, …, to the end
   * @param {Uint8Array} fields.body
   * @param {boolean} fields.told by the entropy model
   * @param {boolean} fields.mixed frames have different stage counts
   */
  constructor({ sequence, frames, stages, sizes, body, told, mixed }) {
    Object.assign(this, { sequence, frames, stages, sizes, body, told, mixed });
    Object.freeze(this);
  }

  /** The same chunk cut behind its first `stages` stages, or behind the last cut before; one of fewer stays. */
  trim(stages) {
    checkKept(stages, "chunk");
    const kept = cuts(this.stages).filter((cut) => cut <= stages);
    const sizes = this.sizes.slice(0, kept.length);
    return new Chunk({ ...this, stages: kept.at(-1), sizes, body: this.body.subarray(0, sum(sizes)) });
  }
}

/** Stage counts that a chunk of so many stages can be cut to: 1, 2, 3, 4, 6, 8, 12, … and all. */
export function cuts(stages) {
  return [...CUTS.filter((n) => n < stages), stages];
}

/** How the chunks of a file look as bytes: what its header says. `Header.chunkFormat` makes one. */
export class ChunkFormat {
  /**
   * @param {import("./packets.js").PacketFormat} packets whose payload is what codes take without a model
   * @param {number} stages the most
   * @param {number} frames of every chunk but the last
   * @param {boolean} hasModel
   */
  constructor(packets, stages, frames, hasModel) {
    Object.assign(this, { packets, stages, frames, hasModel });
    Object.freeze(this);
  }

  /** The bytes that no chunk exceeds. */
  get largest() {
    return this.#largestBody(this.stages, this.frames) + HEAD + 2 + this.stages * MAX_SIZE_BYTES + CRC16;
  }

  /** Bytes of a chunk that is cut to one of its `cuts`. */
  size(chunk, stages) {
    const sizes = chunk.sizes.slice(0, cuts(chunk.stages).indexOf(stages) + 1);
    const head = HEAD + 1 + (chunk.frames === this.frames ? 0 : 1);
    return head + sum(sizes.map((size) => sizeBytes(size).length)) + sum(sizes) + CRC16;
  }

  /** A chunk as bytes. Throws a BitstreamError for a chunk that does not fit this format. */
  toBytes(chunk) {
    const short = chunk.frames !== this.frames;
    const flags = (chunk.told ? TOLD : 0) | (chunk.mixed ? MIXED : 0) | (short ? SHORT : 0);
    const head = [CHUNK_KIND + flags, ...u16Bytes(chunk.sequence), ...(short ? [chunk.frames] : []), chunk.stages];
    const data = concatenated([Uint8Array.from([...head, ...chunk.sizes.flatMap(sizeBytes)]), chunk.body]);
    const whole = chunk.body.length === sum(chunk.sizes) && chunk.sizes.length === cuts(chunk.stages).length;
    if (this.extent(data) === null || !whole) throw new BitstreamError("a chunk contradicts its sizes");
    return concatenated([data, u16Bytes(crc16(data))]);
  }

  /** A chunk of its bytes. Throws a BitstreamError for bytes that are damaged or no chunk of this format. */
  fromBytes(bytes) {
    const data = asBytes(bytes);
    const extent = this.extent(data);
    if (extent === null || extent.end !== data.length || !isSound(data, 0, extent.end)) {
      throw new BitstreamError("damaged chunk");
    }
    return chunkOf(data, extent);
  }

  /**
   * Where a chunk lies that begins at `at`: what its head says (`chunk`, no body yet), where the `body` begins, and the
   * `end` of the chunk; null where the data end within its head. Throws a BitstreamError where no chunk begins there.
   */
  extent(data, at = 0) {
    if (at + HEAD > data.length) return null;
    if ((data[at] & ~FLAGS) !== CHUNK_KIND) throw new BitstreamError("not a chunk");
    const [flags, sequence, short] = [data[at] & FLAGS, u16(data, at + 1), (data[at] & SHORT) !== 0];
    let begin = at + HEAD;
    const frames = short ? data[begin++] : this.frames;
    const stages = data[begin++];
    if (stages === undefined) return null;
    const fits = !short || (1 <= frames && frames < this.frames);
    if (!fits || stages < 1 || stages > this.stages || (flags & TOLD && !this.hasModel)) {
      throw new BitstreamError("damaged chunk");
    }
    const [sizes, last] = [[], cuts(stages).length];
    let most = this.#largestBody(stages, frames);
    while (sizes.length < last) {
      const [size, next] = readSize(data, begin);
      if (next > data.length) return null;
      most -= size;
      if (most < 0) throw new BitstreamError("damaged chunk");
      sizes.push(size);
      begin = next;
    }
    const facts = { sequence, frames, stages, sizes, told: (flags & TOLD) !== 0, mixed: (flags & MIXED) !== 0 };
    const chunk = new Chunk({ ...facts, body: new Uint8Array(0) });
    return { chunk, body: begin, end: begin + sum(sizes) + CRC16 };
  }

  /** Bytes that a body never exceeds: codes at fixed width, 0.6 % that the range coder loses, 2 a stage count. */
  #largestBody(stages, frames) {
    const codes = this.packets.payloadSize(stages, frames);
    return codes + Math.floor(codes / 64) + 2 * this.packets.streams * frames + 8;
  }
}

/** The chunk of an extent that was found in data. */
export function chunkOf(data, { chunk, body, end }) {
  return new Chunk({ ...chunk, body: data.slice(body, end - CRC16) });
}

/** The bytes of a body up to its first cut, from there to the next, …, of where its stages end. */
export function sizesOf(ends, body) {
  const sizes = [];
  let before = 0;
  for (const cut of cuts(ends.length).slice(0, -1)) {
    const end = Math.max(before, ends[cut - 1]);
    sizes.push(end - before);
    before = end;
  }
  return [...sizes, body.length - before];
}

/** Whether bytes end with the CRC-16 of those before. */
export function isSound(data, begin, end) {
  return end <= data.length && crc16(data, begin, end - CRC16) === u16(data, end - CRC16);
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function sizeBytes(size) {
  const bytes = [];
  for (; size > 0x7f; size >>= 7) bytes.push((size & 0x7f) | 0x80);
  return [...bytes, size];
}

/** A number, and the byte behind it, which lies behind the data's end where they end within. */
function readSize(data, at) {
  let size = 0;
  for (let i = 0; i < MAX_SIZE_BYTES; i++) {
    if (at + i >= data.length) return [0, data.length + 1];
    const byte = data[at + i];
    size |= (byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      if (!byte && i) break; // the same number takes fewer bytes
      return [size, at + i + 1];
    }
  }
  throw new BitstreamError("damaged chunk");
}
