/** Codes to chunks and back: by a bundle's entropy model, or at even frequencies where that is shorter or none is. */

import { Chunk, sizesOf } from "./chunks.js";
import { CodeCoder, largest } from "./code_coder.js";
import { Predictor } from "./entropy_model.js";
import { BitstreamError } from "./errors.js";
import { SIDE_BITS } from "./layout.js";
import { Packet, SEQUENCE_MODULUS } from "./packets.js";

/**
 * Makes the chunks of one file of packets, and packets of its chunks. Frames may lack stages: -1 stands there.
 *
 * Without the model, chunks that were told by it cannot be decoded.
 */
export class ChunkCoder {
  #header;
  #even;
  #told;

  /**
   * @param {import("./edgc_header.js").Header} header
   * @param {Predictor | null} model
   */
  constructor(header, model = null) {
    this.#header = header;
    this.#even = new CodeCoder(header.layout, new Predictor(2 ** header.codeBits), header.streams);
    this.#told = model === null ? null : new CodeCoder(header.layout, model, header.streams);
  }

  /** The shortest chunk of a packet's codes [streams, lines, frames]. Throws a BitstreamError for unfit codes. */
  encode(packet) {
    const [{ layout, stages: most }, { codes }] = [this.#header, packet];
    this.#check(codes);
    const counts = layout.counts(codes);
    const stages = largest(counts);
    let coded = this.#told === null ? null : this.#told.encode(codes, most);
    let told = coded !== null;
    if (coded === null || coded.data.length > Math.floor(this.#bits(counts) / 8)) {
      const even = this.#even.encode(codes.firstLines(layout.lines(stages)), most);
      if (coded === null || even.data.length < coded.data.length) [coded, told] = [even, false];
    }
    return new Chunk({
      sequence: packet.sequence % SEQUENCE_MODULUS,
      frames: codes.frames,
      stages,
      sizes: sizesOf(coded.ends, coded.data),
      body: coded.data,
      told,
      mixed: counts.some((count) => count < stages),
    });
  }

  /** The packet of a chunk. Throws a BitstreamError for one that was told by the model, where that is not there. */
  decode(chunk) {
    const coder = chunk.told ? this.#told : this.#even;
    if (coder === null) throw new BitstreamError("its codes are told by the bundle's entropy model: load that bundle");
    const codes = coder.decode(chunk.body, chunk.stages, chunk.frames, {
      mixed: chunk.mixed,
      most: this.#header.stages,
    });
    return new Packet(chunk.sequence, codes, null, this.#header.layout);
  }

  /** Stages of each frame, [streams * frames]; no model is needed. */
  counts(chunk) {
    if (!chunk.mixed) return new Int32Array(this.#header.streams * chunk.frames).fill(chunk.stages);
    const counts = this.#even.counts(chunk.body, chunk.frames, this.#header.stages);
    return counts.map((count) => Math.min(count, chunk.stages));
  }

  /** What the chunk's codes would take at a fixed width. */
  fixedWidthBytes(chunk) {
    return this.#bits(this.counts(chunk)) / 8;
  }

  #bits(counts) {
    const { layout, codeBits } = this.#header;
    const codes = counts.reduce((sum, count) => sum + layout.codes(count), 0);
    return codes * codeBits + layout.side * counts.length * SIDE_BITS;
  }

  #check(codes) {
    const [header, { layout }] = [this.#header, this.#header];
    const { streams, lines, frames } = codes;
    const stages = layout.stages(lines);
    const fits = 1 <= stages && stages <= header.stages && 1 <= frames && frames <= header.framesPerPacket;
    if (streams !== header.streams || !fits) {
      throw new BitstreamError(`codes [${streams}, ${lines}, ${frames}] are not what the header announces`);
    }
    const side = (i) => Math.floor(i / frames) % lines < layout.side;
    const tooWide = (code, i) => code < -1 || (!side(i) && code >> header.codeBits > 0);
    if (codes.data.some(tooWide) || layout.counts(codes).some((count) => count < 1)) {
      throw new BitstreamError(`a code does not fit into ${header.codeBits} bits`);
    }
    if (codes.data.some((number, i) => side(i) && (number < 0 || number >> SIDE_BITS))) {
      throw new BitstreamError(`a number beside the stages does not fit into ${SIDE_BITS} bits`);
    }
  }
}
