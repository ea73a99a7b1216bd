/**
 * What an .edgc file says before its packets or chunks. All numbers are little-endian.
 *
 *     "EDGC"  version u8  header bytes u16  fingerprint 8  codec rate u32  frame size u16  input rate u32
 *     channels u8  max stages u8  bits per code u8  frames per packet or chunk u8  name length u8  name
 *     (version 2: channels a stream u8  side u8  widths u8  width of each stage u16  entropy model 8  gain u8 or none)
 *     CRC-32
 *
 * Version 1 is what 0.1.0 wrote: packets (`packets.js`) of mono streams. Version 2 holds chunks (`chunks.js`).
 */

import { sameBytes, u16 } from "./bytes.js";
import { crc32 } from "./checksums.js";
import { Chunk, ChunkFormat } from "./chunks.js";
import { BitstreamError } from "./errors.js";
import { Layout, PLAIN } from "./layout.js";
import { PacketFormat, within } from "./packets.js";

export const VERSION = 2;
export const MAX_PACKET = 1 << 20; // bytes of payload
export const MAX_NAME = 64; // bytes of UTF-8
export const MAX_GAIN = 60; // dB
export const NO_MODEL = new Uint8Array(8); // in place of an entropy model's fingerprint

const MAGIC = [0x45, 0x44, 0x47, 0x43]; // "EDGC"
const [START, FIXED, SHAPE, SEAL] = [7, 23, 3, 4]; // bytes of the parts of a header
const PRINTABLE = /^(?:[^\p{C}\p{Z}]| )*$/u;

/** The header's fields: see `bitstream.d.ts`. */
export class Header {
  constructor(fields) {
    const plain = { streamChannels: 1, layout: PLAIN, model: NO_MODEL, gain: 0, version: VERSION };
    Object.assign(this, plain, fields);
    this.#check();
    Object.freeze(this);
  }

  /** Streams of codes. */
  get streams() {
    return Math.ceil(this.channels / this.streamChannels);
  }

  /** The form of the packets of version 1, and the size of codes at fixed width. */
  get format() {
    return new PacketFormat(this.streams, this.codeBits, this.layout);
  }

  /** The form of the chunks of version 2. */
  get chunkFormat() {
    return new ChunkFormat(this.format, this.stages, this.framesPerPacket, this.hasModel);
  }

  /** Whether codes may be told by an entropy model. */
  get hasModel() {
    return !sameBytes(this.model, NO_MODEL);
  }

  /** What samples are multiplied with before they are encoded, and divided by afterwards. */
  get amplitude() {
    return 10 ** (this.gain / 20);
  }

  /** How long so many frames last. */
  seconds(frames) {
    return (frames * this.frameSize) / this.codecRate;
  }

  /** Bytes of the codes of a chunk or packet alone. */
  payloadSize(item) {
    return item instanceof Chunk ? item.body.length : this.format.payloadSize(item.stages, item.frames);
  }

  /** The header's bytes. */
  toBytes() {
    const name = new TextEncoder().encode(this.bundle);
    const { widths, side } = this.layout;
    const gain = this.gain ? [this.gain] : []; // no byte where it is 0
    const more = this.version > 1 ? SHAPE + 2 * widths.length + NO_MODEL.length + gain.length : 0;
    const data = new Uint8Array(START + FIXED + name.length + more + SEAL);
    const view = new DataView(data.buffer);
    data.set([...MAGIC, this.version]);
    view.setUint16(5, data.length, true);
    data.set(this.fingerprint, 7);
    view.setUint32(15, this.codecRate, true);
    view.setUint16(19, this.frameSize, true);
    view.setUint32(21, this.sampleRate, true);
    data.set([this.channels, this.stages, this.codeBits, this.framesPerPacket, name.length], 25);
    data.set(name, START + FIXED);
    if (more) {
      const at = START + FIXED + name.length;
      data.set([this.streamChannels, side, widths.length], at);
      widths.forEach((width, i) => view.setUint16(at + SHAPE + 2 * i, width, true));
      data.set([...this.model, ...gain], at + SHAPE + 2 * widths.length);
    }
    view.setUint32(data.length - SEAL, crc32(data.subarray(0, -SEAL)), true);
    return data;
  }

  #check() {
    const { layout, bundle } = this;
    const inRange =
      within(this.codecRate, 1000, 768_000) &&
      within(this.sampleRate, 1000, 768_000) &&
      within(this.frameSize, 1, 0xffff) &&
      within(this.channels, 1, 255) &&
      within(this.stages, 1, 255) &&
      within(this.codeBits, 1, 16) &&
      within(this.framesPerPacket, 1, 255) &&
      typeof bundle === "string" &&
      new TextEncoder().encode(bundle).length <= MAX_NAME &&
      PRINTABLE.test(bundle) &&
      within(this.streamChannels, 1, 8) &&
      within(layout.side, 0, 255) &&
      (!layout.widths.length || within(layout.widths.length, this.stages, 255)) &&
      layout.widths.every((width) => within(width, 1, 0xffff)) &&
      this.fingerprint.length === 8 &&
      this.model.length === 8 &&
      within(this.gain, 0, MAX_GAIN) &&
      within(this.version, 1, VERSION) &&
      (this.version === 2 || (layout.equals(PLAIN) && this.streamChannels === 1 && !this.hasModel && !this.gain));
    if (!inRange || this.format.payloadSize(this.stages, this.framesPerPacket) > MAX_PACKET) {
      throw new BitstreamError("the header holds a number out of range");
    }
  }
}

/**
 * The header of a file's bytes, and where it ends.
 *
 * Throws a BitstreamError for what is no .edgc file, a newer version, or a damaged header.
 */
export function readHeader(data) {
  if (MAGIC.some((byte, i) => data[i] !== byte)) throw new BitstreamError(foreign(data));
  if (data.length < START) throw new BitstreamError("truncated in the header");
  const [version, size, least] = [data[4], u16(data, 5), START + FIXED + SEAL];
  if (version > VERSION) {
    throw new BitstreamError(`format version ${version}, this edgecodec reads up to ${VERSION}: upgrade edgecodec`);
  }
  const most = least + MAX_NAME + (version > 1 ? SHAPE + 255 * 2 + NO_MODEL.length + 1 : 0);
  if (size < least || size > most || version < 1) throw new BitstreamError("damaged header");
  if (data.length < size) throw new BitstreamError("truncated in the header");
  const view = new DataView(data.buffer, data.byteOffset, size);
  const nameEnd = START + FIXED + data[29];
  if (nameEnd > size - SEAL || view.getUint32(size - SEAL, true) !== crc32(data.subarray(0, size - SEAL))) {
    throw new BitstreamError("damaged header");
  }
  const header = new Header({
    fingerprint: data.slice(7, 15),
    bundle: nameOf(data.subarray(START + FIXED, nameEnd)),
    codecRate: view.getUint32(15, true),
    frameSize: view.getUint16(19, true),
    sampleRate: view.getUint32(21, true),
    channels: data[25],
    stages: data[26],
    codeBits: data[27],
    framesPerPacket: data[28],
    ...readMore(data.subarray(nameEnd, size - SEAL), version),
    version,
  });
  return { header, size };
}

/** What a file is that does not begin as it should. */
function foreign(data) {
  const start = String.fromCharCode(...data.subarray(0, 4));
  if (start === "ECDC") return "an .ecdc file of encodec: decode it there, then encode the audio";
  if (start === "\x93NUM")
    return "a .dac file, which is a pickle: decode it with descript-audio-codec, then encode the audio";
  return data.length ? "not an .edgc file" : "empty, not an .edgc file";
}

function nameOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new BitstreamError("damaged header");
  }
}

/** Channels a stream, the lines of a frame, the fingerprint of the entropy model, and the gain in dB. */
function readMore(data, version) {
  if (version === 1 && !data.length) return {};
  const [begin, end] = [SHAPE + 2 * data[2], SHAPE + 2 * data[2] + NO_MODEL.length]; // of the model's fingerprint
  if (version === 1 || data.length < SHAPE || data.length < end || data.length > end + 1 || data[end] === 0) {
    throw new BitstreamError("damaged header");
  }
  const widths = Array.from({ length: data[2] }, (_, i) => u16(data, SHAPE + 2 * i));
  const [layout, gain] = [new Layout(data[1], widths), data[end] ?? 0];
  return { streamChannels: data[0], layout, model: data.slice(begin, end), gain };
}
