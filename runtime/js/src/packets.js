/**
 * Packets: codes of a few frames, and their bytes. All numbers are little-endian.
 *
 *     "P" u8  stages u8  frames u8  sequence u16  payload  CRC-16
 *     "R" u8  stages u8  frames u8  sequence u16  previous stages u8  previous frames u8  previous payload
 *         payload  CRC-16
 *     "C" u8  frames u8  sequence u16  coded payload  CRC-16
 *     "D" u8  frames u8  sequence u16  previous stages u8  previous frames u8  coded payload  CRC-16
 *
 * The payload is stage-major: all frames of all streams of stage 0, then stage 1, … at ⌈log2 K⌉ bits a code; where a
 * frame has more lines than stages (`layout.js`), line after line, those beside the stages first, in bytes. Cutting its
 * tail therefore lowers the bitrate without decoding. A packet "R" repeats the first stages of the packet before it,
 * for networks that lose packets; files hold none. Where a bundle has an entropy model, and it pays, packets are coded
 * by it (`packet_coder.js`): "C" is what "P" is, and "D" repeats.
 */

import { clearAfter, packBits, packedSize, unpackBits } from "./bits.js";
import { asBytes, concatenated, u16, u16Bytes } from "./bytes.js";
import { crc16 } from "./checksums.js";
import { Codes } from "./codes.js";
import { BitstreamError } from "./errors.js";
import { PLAIN, SIDE_BITS } from "./layout.js";

export const SEQUENCE_MODULUS = 1 << 16;
export const MAX_FRAMES = 255; // in a packet
export const PACKET = 0x50; // "P", what every packet in a file begins with
export const PACKET_HEAD = 5; // bytes: kind, stages, frames, sequence
export const CRC16 = 2; // bytes

const REDUNDANT = 0x52; // "R"
const [CODED, CODED_REDUNDANT] = [0x43, 0x44]; // "C", "D"
const CODED_HEAD = 4; // bytes: kind, frames, sequence
const PREVIOUS_HEAD = 2; // bytes: stages, frames
const LEAST_CODED = 4; // frames, repeated ones included: of fewer, coding saves no more than 5 %

/**
 * Codes of a few frames: `codes` [streams, lines, frames]; `sequence` counts packets modulo 65,536.
 *
 * `layout` says how many lines the stages have: one each, where nothing is said. `previous` repeats the first stages of
 * the packet before, [streams, lines, its frames], or is null (no redundancy). Frames of either may lack the last
 * stages: -1 stands there.
 */
export class Packet {
  constructor(sequence, codes, previous = null, layout = PLAIN) {
    this.sequence = sequence;
    this.codes = codes;
    this.previous = previous;
    this.layout = layout;
    Object.freeze(this);
  }

  /** Stages in this packet. */
  get stages() {
    return this.layout.stages(this.codes.lines);
  }

  /** Stages of the packet before that this one repeats. */
  get repeatedStages() {
    return this.previous === null ? 0 : this.layout.stages(this.previous.lines);
  }

  /** Code frames in this packet. */
  get frames() {
    return this.codes.frames;
  }

  /** The same packet with its first `stages` stages; a packet that has no more is left as it is. */
  truncate(stages) {
    checkKept(stages, "packet");
    if (stages >= this.stages) return this;
    return new Packet(this.sequence, this.codes.firstLines(this.layout.lines(stages)), this.previous, this.layout);
  }
}

/**
 * How packets look as bytes: what both ends must know beforehand. `Codec.packetFormat` makes one.
 *
 * With a `coder`, packets of several frames take fewer bytes. Sizes are those without: the most that is written, but
 * for frames of unequal stage counts, which only a coder writes.
 */
export class PacketFormat {
  /**
   * @param {number} streams
   * @param {number} codeBits
   * @param {import("./layout.js").Layout} layout
   * @param {import("./packet_coder.js").PacketCoder | null} coder
   */
  constructor(streams, codeBits, layout = PLAIN, coder = null) {
    const possible = within(streams, 1, 255) && within(codeBits, 1, 16);
    if (!possible) throw new BitstreamError(`no packet has ${streams} streams and codes of ${codeBits} bits`);
    this.streams = streams;
    this.codeBits = codeBits;
    this.layout = layout;
    this.coder = coder;
    Object.freeze(this);
  }

  /** Bytes of payload. */
  payloadSize(stages, frames) {
    return this.#sideBytes(frames) + packedSize(this.#count(stages, frames), this.codeBits);
  }

  /** Bytes of a packet that repeats nothing. */
  size(stages, frames) {
    return PACKET_HEAD + this.payloadSize(stages, frames) + CRC16;
  }

  /** A packet as bytes. Throws a BitstreamError for codes that do not fit this format. */
  toBytes(packet) {
    const { stages, frames, sequence, previous } = packet;
    const repetition = previous === null ? [] : [Uint8Array.of(packet.repeatedStages, previous.frames)];
    const coded = this.coded(packet);
    if (coded !== null) {
      const kind = previous === null ? CODED : CODED_REDUNDANT;
      return sealed([kind, frames, ...u16Bytes(sequence)], [...repetition, coded]);
    }
    const repeated = previous === null ? [] : [this.pack(previous)];
    const kind = previous === null ? PACKET : REDUNDANT;
    const head = [kind, stages, frames, ...u16Bytes(sequence)];
    return sealed(head, [...repetition, ...repeated, this.pack(packet.codes)]);
  }

  /**
   * The coded payload of a packet, that of what it repeats included; null where it does not pay. Throws a
   * BitstreamError for codes that do not fit this format.
   */
  coded({ codes, previous }) {
    const parts = previous === null ? [codes] : [previous, codes];
    const frames = parts.reduce((sum, part) => sum + part.frames, 0);
    const whole = parts.every(isWhole);
    if (this.coder === null || (whole && (frames < LEAST_CODED || !this.coder.hasModel))) return null;
    const body = this.coder.encode(codes, previous);
    const sizes = parts.map((part) => this.payloadSize(this.layout.stages(part.lines), part.frames));
    return !whole || body.length < sizes.reduce((sum, size) => sum + size, 0) ? body : null;
  }

  /** A packet of its bytes. Throws a BitstreamError for bytes that are damaged or no packet of this format. */
  fromBytes(bytes) {
    const data = asBytes(bytes);
    if (isCoded(data)) return this.#fromCoded(data);
    const head = this.#head(data);
    let previous = null;
    if (head.previousFrames) {
      const repeated = data.subarray(PACKET_HEAD + PREVIOUS_HEAD, head.begin);
      previous = this.unpack(repeated, head.previousStages, head.previousFrames);
    }
    const codes = this.unpack(data.subarray(head.begin, -CRC16), head.stages, head.frames);
    return new Packet(head.sequence, codes, previous, this.layout);
  }

  /**
   * A packet's bytes with the first `stages` stages only: bytes are cut off, no code is unpacked. Those of a coded
   * packet are coded anew.
   */
  truncate(bytes, stages) {
    checkKept(stages, "packet");
    const data = asBytes(bytes);
    if (isCoded(data)) return this.toBytes(this.#fromCoded(data).truncate(stages));
    const head = this.#head(data);
    if (stages >= head.stages) return data;
    const begin = head.begin + this.#sideBytes(head.frames);
    const kept = clearAfter(data.subarray(begin), this.#count(stages, head.frames), this.codeBits);
    const words = [data[0], stages, head.frames, ...u16Bytes(head.sequence)];
    return sealed(words, [data.subarray(PACKET_HEAD, begin), kept]);
  }

  /** The payload of codes [streams, lines, frames]. Throws a BitstreamError for codes that do not fit. */
  pack(codes) {
    const { streams, lines, frames } = codes;
    if (streams !== this.streams || !within(this.layout.stages(lines), 1, 255) || !within(frames, 1, MAX_FRAMES)) {
      throw new BitstreamError(`codes [${streams}, ${lines}, ${frames}] do not fit packets of ${this.streams} streams`);
    }
    const values = new Int32Array(codes.data.length);
    for (let line = 0, at = 0; line < lines; line++) {
      const bits = line < this.layout.side ? SIDE_BITS : this.codeBits;
      for (let stream = 0; stream < streams; stream++, at += frames) {
        const own = codes.line(stream, line);
        for (const code of own) {
          // A negative one does not either.
          if (code >>> bits) throw new BitstreamError(`a code does not fit into ${this.codeBits} bits`);
        }
        values.set(own, at);
      }
    }
    const side = this.#sideBytes(frames);
    return concatenated([Uint8Array.from(values.subarray(0, side)), packBits(values.subarray(side), this.codeBits)]);
  }

  /** The codes of a payload, [streams, lines, frames]. */
  unpack(payload, stages, frames) {
    const side = this.#sideBytes(frames);
    const packed = unpackBits(payload.subarray(side), this.#count(stages, frames), this.codeBits);
    const codes = new Codes(this.streams, this.layout.lines(stages), frames);
    for (let line = 0, at = 0; line < codes.lines; line++) {
      for (let stream = 0; stream < this.streams; stream++, at += frames) {
        const source = at < side ? payload.subarray(at, at + frames) : packed.subarray(at - side, at - side + frames);
        codes.line(stream, line).set(source);
      }
    }
    return codes;
  }

  /** The packet of bytes of kind "C" or "D". */
  #fromCoded(data) {
    if (this.coder === null) throw new BitstreamError("a packet that is coded; what reads it must know the codec");
    const repeats = data[0] === CODED_REDUNDANT;
    const begin = CODED_HEAD + (repeats ? PREVIOUS_HEAD : 0);
    const end = data.length - CRC16;
    const sound = end >= begin && crc16(data, 0, end) === u16(data, end);
    const repetition = repeats ? [...data.subarray(CODED_HEAD, begin)] : [];
    if (!sound || !data[1] || repetition.includes(0)) throw new BitstreamError("damaged packet");
    const { codes, previous } = this.coder.decode(data.subarray(begin, end), data[1], ...repetition);
    return new Packet(u16(data, 2), codes, previous, this.layout);
  }

  #sideBytes(frames) {
    return this.layout.side * this.streams * frames;
  }

  /** Codes of so many stages and frames. */
  #count(stages, frames) {
    return this.layout.codes(stages) * this.streams * frames;
  }

  /** The head of bytes that are exactly one whole packet; `begin` is that of the packet's own payload. */
  #head(data) {
    if (data.length < PACKET_HEAD || (data[0] !== PACKET && data[0] !== REDUNDANT)) {
      throw new BitstreamError("not a packet");
    }
    const [kind, stages, frames] = data;
    let [begin, previousStages, previousFrames] = [PACKET_HEAD, 0, 0];
    if (kind === REDUNDANT) {
      if (data.length < begin + PREVIOUS_HEAD) throw new BitstreamError("damaged packet");
      [previousStages, previousFrames] = data.subarray(begin);
      if (!previousStages || !previousFrames) throw new BitstreamError("damaged packet");
      begin += PREVIOUS_HEAD + this.payloadSize(previousStages, previousFrames);
    }
    const end = begin + this.payloadSize(stages, frames);
    const whole = stages && frames && data.length === end + CRC16;
    if (!whole || !this.#hasStages(stages) || crc16(data, 0, end) !== u16(data, end)) {
      throw new BitstreamError("damaged packet");
    }
    return { stages, frames, sequence: u16(data, 3), previousStages, previousFrames, begin };
  }

  #hasStages(stages) {
    return !this.layout.widths.length || stages <= this.layout.widths.length;
  }
}

/** Refuse to keep less than a stage of what is cut. */
export function checkKept(stages, what) {
  if (!(Number.isInteger(stages) && stages >= 1)) {
    throw new BitstreamError(`a ${what} needs at least 1 stage, not ${stages}`);
  }
}

/** Whether a number is whole and in a range. */
export function within(number, least, most) {
  return Number.isInteger(number) && least <= number && number <= most;
}

function isCoded(data) {
  return data[0] === CODED || data[0] === CODED_REDUNDANT;
}

/** Whether all frames have all stages. */
function isWhole(codes) {
  for (let stream = 0; stream < codes.streams; stream++) {
    if (codes.lines && codes.line(stream, codes.lines - 1).some((code) => code < 0)) return false;
  }
  return true;
}

/** The bytes of a head and of what follows it, and their checksum. */
function sealed(head, parts) {
  const body = concatenated([Uint8Array.from(head), ...parts]);
  return concatenated([body, u16Bytes(crc16(body))]);
}
