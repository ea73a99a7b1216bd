/**
 * The .edgc container: a header (`edgc_header.js`), chunks or packets, and an end record, little-endian.
 *
 *     header  chunk  chunk  …  end        chunks (`chunks.js`) stand alone, so that damage costs those it lies in
 *     header  packet  packet  …  end      version 1, of packets (`packets.js`): it is read up to the damage
 *     end     "E" u8  samples per channel at the input rate u64  chunks u32  CRC-32 of all chunks  CRC-32 of this
 *
 * A chunk's CRC finds damage where it is, the CRC of all chunks finds what a CRC-16 misses once in 65,536 times.
 *
 * This is the entry `edgecodec/bitstream`: all that works without onnxruntime.
 */

import { asBytes, concatenated, u16 } from "./bytes.js";
import { ChunkSearch, END, END_SIZE, endBytes } from "./chunk_search.js";
import { crc32 } from "./checksums.js";
import { Chunk, chunkOf } from "./chunks.js";
import { readHeader } from "./edgc_header.js";
import { AudioError, BitstreamError } from "./errors.js";
import { PACKET, PACKET_HEAD, Packet, SEQUENCE_MODULUS, within } from "./packets.js";

export { ChunkCoder } from "./chunk_coder.js";
export { Chunk, ChunkFormat, cuts } from "./chunks.js";
export { CodeCoder } from "./code_coder.js";
export { Codes } from "./codes.js";
export { Header, MAX_NAME, MAX_PACKET, NO_MODEL, VERSION } from "./edgc_header.js";
export { EntropyModel, Predictor, readEntropyModel } from "./entropy_model.js";
export { AudioError, BitrateError, BitstreamError, BundleError, EdgecodecError } from "./errors.js";
export { Layout } from "./layout.js";
export { PacketCoder } from "./packet_coder.js";
export { Packet, PacketFormat } from "./packets.js";

/** Writes an .edgc file: chunks, whose sequences follow one another, then the end. Of version 1, packets instead. */
export class Writer {
  #parts;
  #chunks = 0;
  #checksum = 0;
  #ended = false; // by a chunk of fewer frames
  payloadBytes = 0;

  constructor(header) {
    this.header = header;
    this.#parts = [header.toBytes()];
  }

  /** Append a chunk, whose sequence must follow the one before; of a packet, what it repeats is left out. */
  write(item) {
    const { header } = this;
    const what = header.version === 1 ? "packet" : "chunk";
    if (!(item instanceof (header.version === 1 ? Packet : Chunk))) {
      throw new BitstreamError(`files of version ${header.version} hold ${what}s alone`);
    }
    if (item.sequence !== this.#chunks % SEQUENCE_MODULUS || this.#ended) {
      throw new BitstreamError(`${what} ${item.sequence} out of order`);
    }
    if (item.stages > header.stages || item.frames > header.framesPerPacket) {
      throw new BitstreamError(`${item.stages} stages, ${item.frames} frames are more than the header announces`);
    }
    let data;
    if (item instanceof Packet) {
      data = header.format.toBytes(new Packet(item.sequence, item.codes, null, item.layout));
    } else {
      data = header.chunkFormat.toBytes(item);
      this.#ended = item.frames < header.framesPerPacket;
    }
    this.#checksum = crc32(data, this.#checksum);
    this.#chunks += 1;
    this.payloadBytes += header.payloadSize(item);
    this.#parts.push(data);
  }

  /** All bytes of the file, whose audio has so many samples per channel at its own rate. */
  finish(samples) {
    if (!within(samples, 0, Number.MAX_SAFE_INTEGER)) throw new AudioError(`${samples} is no number of samples`);
    return concatenated([...this.#parts, endBytes({ samples, chunks: this.#chunks, checksum: this.#checksum })]);
  }
}

/** What ends the reading. */
class Damage extends Error {}

/**
 * Reads an .edgc file: the header at once, then chunks (packets, of version 1) by iteration.
 *
 * Chunks come in the order of their sequence; where it jumps, those between are lost. `damage` says, place by place,
 * what is wrong. After the iteration `samples` is the exact length, or null where the end record was not found or
 * contradicts the chunks, and `lostAtEnd` the chunks that are lost behind the last one that was given.
 *
 * Throws a BitstreamError for what is no .edgc file, a newer version, or a damaged header.
 */
export class Reader {
  #data;
  #search;
  #due = 0; // number of the next chunk, which its sequence says modulo 65,536
  #held = null; // read, and not given yet
  #over = false;
  #checksum = 0;
  #skipped = false; // whether chunks were passed over, so that there is no checksum of all
  samples = null;
  damage = [];
  lostAtEnd = 0;
  payloadBytes = 0;
  chunks = 0; // that were given, as frames
  frames = 0;

  constructor(bytes) {
    const data = asBytes(bytes);
    const { header, size } = readHeader(data);
    this.header = header;
    this.#data = data;
    this.#search = new ChunkSearch(data, header.chunkFormat, size);
  }

  /** Bytes that were read so far, or passed over. */
  get bytes() {
    return this.#search.position;
  }

  /** Frames up to the chunk that was given last, those that are lost or were passed over too. */
  get passed() {
    return this.#due * this.header.framesPerPacket;
  }

  *[Symbol.iterator]() {
    for (;;) {
      const item = this.#held ?? this.#next();
      this.#held = null;
      if (item === null) return;
      this.chunks += 1;
      this.frames += item.frames;
      this.payloadBytes += this.header.payloadSize(item);
      yield item;
    }
  }

  /**
   * Pass over all chunks before this number; the next one that is given is this one or, if it is lost, a later. Only
   * heads are read, so that damage before is not seen.
   */
  skipTo(number) {
    const search = this.#search;
    this.#skipped = number > this.#due;
    const start = search.position;
    let [size, last] = [this.#sizeIfDue(), start];
    for (; size !== null && this.#due < number; size = this.#sizeIfDue()) {
      last = search.position;
      search.position += size;
      this.#due += 1;
    }
    if (size === null && search.position > start) {
      search.position = last; // the size of the chunk before may be wrong: read that one whole
      this.#due -= 1;
    }
    while (this.#due < number) {
      const item = this.#next();
      if (item === null) return;
      if (this.#due > number) this.#held = item;
    }
  }

  #next() {
    if (this.#over) return null;
    let item = null;
    try {
      item = this.header.version === 1 ? this.#nextPacket() : this.#nextChunk();
    } catch (error) {
      if (!(error instanceof Damage)) throw error;
      this.damage.push(error.message);
    }
    this.#over = item === null;
    return item;
  }

  /** The next packet of version 1, or null at the end. */
  #nextPacket() {
    const [data, search, header, at] = [this.#data, this.#search, this.header, this.bytes];
    const where = `packet ${this.#due} (byte ${at})`;
    if (at >= data.length) throw new Damage(`truncated after packet ${this.#due}: no end record`);
    if (data[at] === END) {
      const record = search.end();
      if (record === null) throw new Damage("the end record is truncated or damaged");
      this.#end(record);
      if (this.damage.length) this.samples = null;
      return null;
    }
    if (data[at] !== PACKET) throw new Damage(`${where}: damaged`);
    if (at + PACKET_HEAD > data.length) throw new Damage(`truncated in ${where}`);
    const [, stages, frames] = data.subarray(at, at + PACKET_HEAD);
    if (!within(stages, 1, header.stages) || !within(frames, 1, header.framesPerPacket)) {
      throw new Damage(`${where}: damaged`);
    }
    const size = header.format.size(stages, frames);
    if (at + size > data.length) throw new Damage(`truncated in ${where}`);
    const bytes = data.subarray(at, at + size);
    search.position += size;
    let packet;
    try {
      packet = header.format.fromBytes(bytes);
    } catch {
      throw new Damage(`${where}: damaged`);
    }
    if (packet.sequence !== this.#due % SEQUENCE_MODULUS)
      throw new Damage(`${where}: packets are missing or out of order`);
    this.#checksum = crc32(bytes, this.#checksum);
    this.#due += 1;
    return packet;
  }

  /** The next sound chunk, or null at the end. */
  #nextChunk() {
    const [data, search] = [this.#data, this.#search];
    while (search.position < data.length) {
      const where = `chunk ${this.#due} (byte ${this.bytes})`;
      const record = search.end();
      if (record !== null) {
        this.#end(record);
        return null;
      }
      const extent = search.chunk();
      if (extent === null) {
        const cut = search.whatIsCut(where);
        if (!search.goOn(this.#due)) throw new Damage(cut ?? `${where}: damaged, and nothing sound comes behind it`);
        continue;
      }
      const missing = search.missing(extent.chunk.sequence, this.#due);
      const bytes = data.subarray(search.position, extent.end);
      search.position = extent.end;
      if (missing === null) {
        this.damage.push(`chunk ${extent.chunk.sequence} comes in place of ${where}: out of order`);
        continue;
      }
      this.#sayLost(missing);
      this.#due += missing + 1;
      this.#checksum = crc32(bytes, this.#checksum);
      return chunkOf(data, extent);
    }
    throw new Damage(`truncated after chunk ${this.#due}: no end record`);
  }

  /** Put into words what is lost before the chunk or record at hand. */
  #sayLost(missing) {
    const [first, last, start] = [this.#due, this.#due + missing - 1, this.#search.damagedFrom];
    const chunks = missing === 1 ? `chunk ${first}` : `chunks ${first} to ${last}`;
    if (start !== null) {
      this.damage.push(missing ? `${chunks} (byte ${start}): damaged` : `byte ${start}: damaged, but no chunk`);
    } else if (missing) {
      this.damage.push(`${chunks}: missing`);
    }
    this.#search.damagedFrom = null;
  }

  /** Compare the end record ahead with what was read. */
  #end(record) {
    const [{ header }, search, lost] = [this, this.#search, record.chunks - this.#due];
    const possible = lost === (header.version === 1 ? 0 : search.missing(record.chunks, this.#due));
    if (possible) this.#sayLost(lost);
    search.position += END_SIZE;
    const whole = !this.damage.length && !this.#skipped;
    const frames = whole ? this.frames : record.chunks * header.framesPerPacket;
    // A length beyond all frames is refused (one sample more is the resampler's rounding); how much the delay of the
    // codec takes off is the bundle's business.
    const most = (frames * header.frameSize * header.sampleRate) / header.codecRate + 1;
    if (!possible || record.samples > most || (whole && record.checksum !== this.#checksum)) {
      this.damage.push(`the end record contradicts the ${header.version === 1 ? "packets" : "chunks"}`);
      return;
    }
    [this.samples, this.lostAtEnd] = [record.samples, lost];
    if (search.position < this.#data.length) this.damage.push("bytes follow the end record");
  }

  /** Bytes of the chunk or packet ahead by its head, if that is the one that is due; else null. */
  #sizeIfDue() {
    const [data, header, at] = [this.#data, this.header, this.bytes];
    let size, sequence, sound;
    if (header.version === 1) {
      if (at + PACKET_HEAD > data.length) return null;
      const [kind, stages, frames] = data.subarray(at, at + PACKET_HEAD);
      [size, sequence] = [header.format.size(stages, frames), u16(data, at + 3)];
      sound = kind === PACKET && within(stages, 1, header.stages) && frames === header.framesPerPacket;
    } else {
      const extent = this.#search.extent();
      if (extent === null) return null;
      [size, sequence] = [extent.end - at, extent.chunk.sequence];
      sound = extent.chunk.frames === header.framesPerPacket;
    }
    return sound && sequence === this.#due % SEQUENCE_MODULUS ? size : null;
  }
}
