/**
 * Finds the chunks of a file: where one should be, or, behind damage, the next one that is sound and may follow.
 *
 * A byte that may begin a chunk is tried only if its sequence is a little ahead and its sizes are possible; so few CRCs
 * are computed, and however the bytes are made, no more than a fixed number of bytes for each that is passed.
 */

import { u16 } from "./bytes.js";
import { crc32 } from "./checksums.js";
import { CHUNK_KIND, LEAST_CHUNK, isSound } from "./chunks.js";
import { BitstreamError } from "./errors.js";
import { SEQUENCE_MODULUS } from "./packets.js";

export const END = 0x45; // "E", what the end record begins with
export const END_SIZE = 21; // bytes

// Chunks that may lack without a trace; where bytes are damaged, as many more as they could hold.
const MOST_MISSING = 60;
const COST = 16; // bytes whose CRC may be computed for each byte that is passed
const COUNTED = 17; // bytes of the end record that its CRC covers

/** The bytes of an end record: samples per channel at the input rate, chunks, and the CRC-32 of all chunks. */
export function endBytes({ samples, chunks, checksum }) {
  const data = new Uint8Array(END_SIZE);
  const view = new DataView(data.buffer);
  data[0] = END;
  view.setBigUint64(1, BigInt(samples), true);
  view.setUint32(9, chunks, true);
  view.setUint32(13, checksum, true);
  view.setUint32(COUNTED, crc32(data.subarray(0, COUNTED)), true);
  return data;
}

/**
 * Looks for chunks and end records from a `position` of the bytes on, which whoever reads moves on.
 *
 * `damagedFrom` is the byte behind the last sound one, while nothing sound is found, else null.
 */
export class ChunkSearch {
  #data;
  #view;
  #form;
  #largest;
  #computed = 0; // bytes, for CRCs in searches
  damagedFrom = null;

  constructor(data, form, position) {
    this.#data = data;
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.#form = form;
    this.#largest = form.largest;
    this.position = position;
  }

  /** What the head of the chunk that is ahead says, or null where none is. */
  extent() {
    return this.#extentAt(this.position);
  }

  /** The extent of the sound chunk that is ahead, or null. */
  chunk() {
    const extent = this.extent();
    return extent !== null && isSound(this.#data, this.position, extent.end) ? extent : null;
  }

  /** The sound end record that is ahead, or null. */
  end() {
    return this.#endAt(this.position);
  }

  /** Pass over what is damaged, up to a sound chunk or end record that may follow; false where there is none. */
  goOn(due) {
    const data = this.#data;
    this.damagedFrom ??= this.position;
    for (let at = this.position + 1; at < data.length; at++) {
      const begins = (data[at] & 0xf8) === CHUNK_KIND || data[at] === END;
      if (begins && this.#mayFollow(at, due)) {
        this.position = at;
        return true;
      }
    }
    this.position = data.length;
    return false;
  }

  /** Chunks lost before one of this number (or sequence) at a place; null where it cannot follow. */
  missing(number, due, at = this.position) {
    const missing = modulo(number - due);
    const damaged = this.damagedFrom === null ? 0 : at - this.damagedFrom;
    const most = Math.min(MOST_MISSING + Math.floor(damaged / LEAST_CHUNK), SEQUENCE_MODULUS / 2);
    return missing <= most ? missing : null;
  }

  /** Words where the end of the file cuts the chunk ahead, which is called `where`, or the end record; else null. */
  whatIsCut(where) {
    const [data, at] = [this.#data, this.position];
    if (data[at] === END && data.length - at <= END_SIZE) return "the end record is truncated or damaged";
    let extent;
    try {
      extent = this.#form.extent(data, at);
    } catch {
      return null;
    }
    return extent === null || extent.end > data.length ? `truncated in ${where}` : null;
  }

  /** Whether a sound chunk or end record that may follow begins at a place. */
  #mayFollow(at, due) {
    const record = this.#endAt(at);
    if (record !== null) return record.chunks >= due && this.missing(record.chunks, due, at) !== null;
    if (at + LEAST_CHUNK > this.#data.length || this.missing(u16(this.#data, at + 1), due, at) === null) return false;
    const extent = this.#extentAt(at);
    if (extent === null) return false;
    const cost = this.#computed + extent.end - at;
    if (cost > COST * (at + this.#largest)) return false;
    this.#computed = cost;
    return isSound(this.#data, at, extent.end);
  }

  #extentAt(at) {
    try {
      return this.#form.extent(this.#data, at);
    } catch (error) {
      if (error instanceof BitstreamError) return null;
      throw error;
    }
  }

  #endAt(at) {
    const [data, view] = [this.#data, this.#view];
    if (data[at] !== END || at + END_SIZE > data.length) return null;
    if (view.getUint32(at + COUNTED, true) !== crc32(data.subarray(at, at + COUNTED))) return null;
    return {
      samples: Number(view.getBigUint64(at + 1, true)),
      chunks: view.getUint32(at + 9, true),
      checksum: view.getUint32(at + 13, true),
    };
  }
}

/** What is left of a number modulo 65,536, not negative. */
export function modulo(number) {
  return ((number % SEQUENCE_MODULUS) + SEQUENCE_MODULUS) % SEQUENCE_MODULUS;
}
