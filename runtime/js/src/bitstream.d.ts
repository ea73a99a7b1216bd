/** The entry `edgecodec/bitstream`: packets, entropy coding and .edgc files; no onnxruntime is needed. */

/** Base of every error that edgecodec throws on purpose; messages are one line. */
export class EdgecodecError extends Error {
  /** What a command ends with: 2 where the call itself was wrong, else 1. */
  readonly exitCode: number;
}
/** A bundle that is missing, altered, newer than this version, or contradicts itself. */
export class BundleError extends EdgecodecError {}
/** Codes, a packet or an .edgc file that is damaged, truncated, or made with another bundle. */
export class BitstreamError extends EdgecodecError {}
/** A bitrate or stage count that the bundle does not offer. */
export class BitrateError extends EdgecodecError {}
/** Audio that cannot be read, written or encoded. */
export class AudioError extends EdgecodecError {}

/** How the code lines of a frame lie: `side` lines, then `widths[i]` lines of stage i; no widths: one line each. */
export class Layout {
  constructor(side?: number, widths?: readonly number[]);
  readonly side: number;
  readonly widths: readonly number[];
  readonly isPlain: boolean;
  lines(stages: number): number;
  codes(stages: number): number;
  width(stage: number): number;
  /** The stages that this many lines hold, 0 where no stage count has so many. */
  stages(lines: number): number;
  /** Stages of each frame, [streams * frames]. */
  counts(codes: Codes): Int32Array;
  /** A copy with no more than `counts` [streams * frames] stages in each frame: -1 stands in the others. */
  cut(codes: Codes, counts: Int32Array): Codes;
  equals(other: Layout): boolean;
}

/** Codes [streams, lines, frames]: whole numbers, -1 in the last stages of frames that lack them. */
export class Codes {
  constructor(streams: number, lines: number, frames: number, data?: Int32Array | readonly number[]);
  readonly streams: number;
  /** Stages, where the bundle has one code of each a frame. */
  readonly lines: number;
  readonly frames: number;
  /** Line after line of the first stream, then the next. */
  readonly data: Int32Array;
  /** One line of a stream, [frames]: a view. */
  line(stream: number, line: number): Int32Array;
  /** The first lines of every stream. */
  firstLines(lines: number): Codes;
  /** The frames from `first` to before `end`. */
  slice(first: number, end?: number): Codes;
  copy(): Codes;
  equals(other: Codes): boolean;
  static join(parts: readonly Codes[]): Codes;
}

/** Codes of a few frames; `sequence` counts packets modulo 65,536. */
export class Packet {
  constructor(sequence: number, codes: Codes, previous?: Codes | null, layout?: Layout);
  readonly sequence: number;
  readonly codes: Codes;
  /** The first stages of the packet before, or null. */
  readonly previous: Codes | null;
  readonly layout: Layout;
  readonly stages: number;
  readonly repeatedStages: number;
  readonly frames: number;
  truncate(stages: number): Packet;
}

/** Codes of packets of one bundle, of up to `stages` stages, to bytes and back. */
export class PacketCoder {
  constructor(coder: CodeCoder, stages: number);
  readonly coder: CodeCoder;
  readonly stages: number;
  readonly hasModel: boolean;
  encode(codes: Codes, previous?: Codes | null): Uint8Array;
  decode(
    body: Uint8Array,
    frames: number,
    repeatedStages?: number,
    repeatedFrames?: number,
  ): { codes: Codes; previous: Codes | null };
}

/** How packets look as bytes: what both ends must know beforehand. With a coder, several frames take fewer bytes. */
export class PacketFormat {
  constructor(streams: number, codeBits: number, layout?: Layout, coder?: PacketCoder | null);
  readonly streams: number;
  readonly codeBits: number;
  readonly layout: Layout;
  readonly coder: PacketCoder | null;
  payloadSize(stages: number, frames: number): number;
  size(stages: number, frames: number): number;
  toBytes(packet: Packet): Uint8Array;
  fromBytes(data: Uint8Array): Packet;
  /** The coded payload of a packet; null where it does not pay. */
  coded(packet: Packet): Uint8Array | null;
  /** A packet's bytes with its first stages only. */
  truncate(data: Uint8Array, stages: number): Uint8Array;
  pack(codes: Codes): Uint8Array;
  unpack(payload: Uint8Array, stages: number, frames: number): Codes;
}

export interface ChunkFields {
  readonly sequence: number;
  readonly frames: number;
  /** The most that a frame has. */
  readonly stages: number;
  /** Bytes of the body up to the first cut, from there to the second, …, to the end. */
  readonly sizes: readonly number[];
  readonly body: Uint8Array;
  /** By the entropy model, else at even frequencies. */
  readonly told: boolean;
  /** Frames have different stage counts. */
  readonly mixed: boolean;
}

/** Codes of about a second, still coded. */
export class Chunk implements ChunkFields {
  constructor(fields: ChunkFields);
  readonly sequence: number;
  readonly frames: number;
  readonly stages: number;
  readonly sizes: readonly number[];
  readonly body: Uint8Array;
  readonly told: boolean;
  readonly mixed: boolean;
  /** The same chunk cut behind its first stages, or behind the last cut before. */
  trim(stages: number): Chunk;
}

/** Stage counts that a chunk of so many stages can be cut to. */
export function cuts(stages: number): number[];

/** How the chunks of a file look as bytes. */
export class ChunkFormat {
  constructor(packets: PacketFormat, stages: number, frames: number, hasModel: boolean);
  readonly largest: number;
  size(chunk: Chunk, stages: number): number;
  toBytes(chunk: Chunk): Uint8Array;
  fromBytes(data: Uint8Array): Chunk;
}

/** Frequencies of codes; this one finds all codes of a stage equally likely. */
export class Predictor {
  constructor(entries: number, groups?: number);
  readonly entries: number;
}

/** What a bundle's codes have taught. */
export class EntropyModel extends Predictor {
  private constructor();
}

/** The model of `entropy.npz`, for so many stages of so many entries. */
export function readEntropyModel(bytes: Uint8Array, stages: number, entries: number): Promise<EntropyModel>;

/** Codes to bytes and back: the range coder, led by a model. */
export class CodeCoder {
  constructor(layout: Layout, model: Predictor, streams: number);
  readonly layout: Layout;
  readonly model: Predictor;
  readonly streams: number;
  /** Bytes, and how many of them each stage ends at; stage counts are told as numbers of 1 to `most`. */
  encode(codes: Codes, most?: number): { data: Uint8Array; ends: number[] };
  decode(body: Uint8Array, stages: number, frames: number, options: { mixed: boolean; most?: number }): Codes;
  /** Start and frequency of each code's group and member, [N, 4]. */
  intervals(codes: Codes): Int32Array;
  /** What each frame's codes of each stage take, [streams, stages, T]. */
  bits(codes: Codes): Float64Array;
  /** Only the stage counts [streams * frames] of a body in which they differ. */
  counts(body: Uint8Array, frames: number, most: number): Int32Array;
}

export interface HeaderFields {
  /** Of the bundle, 8 bytes. */
  readonly fingerprint: Uint8Array;
  /** Its name. */
  readonly bundle: string;
  /** Hz. */
  readonly codecRate: number;
  /** Samples at the codec rate. */
  readonly frameSize: number;
  /** Hz, of the audio that was encoded and that decoding restores. */
  readonly sampleRate: number;
  readonly channels: number;
  /** The most that any packet or chunk holds. */
  readonly stages: number;
  readonly codeBits: number;
  /** Of every packet or chunk but the last. */
  readonly framesPerPacket: number;
  /** Channels that a stream of codes holds. */
  readonly streamChannels?: number;
  readonly layout?: Layout;
  /** Fingerprint of the entropy model, 8 bytes; zeros for none. */
  readonly model?: Uint8Array;
  /** dB, 0 to 60, by which quiet audio was made louder before it was encoded: decoding takes it back. */
  readonly gain?: number;
  /** Of the format: 1 or 2. */
  readonly version?: number;
}

/** What an .edgc file says before its packets or chunks. */
export class Header implements Required<HeaderFields> {
  constructor(fields: HeaderFields);
  readonly fingerprint: Uint8Array;
  readonly bundle: string;
  readonly codecRate: number;
  readonly frameSize: number;
  readonly sampleRate: number;
  readonly channels: number;
  readonly stages: number;
  readonly codeBits: number;
  readonly framesPerPacket: number;
  readonly streamChannels: number;
  readonly layout: Layout;
  readonly model: Uint8Array;
  readonly gain: number;
  readonly version: number;
  readonly streams: number;
  readonly hasModel: boolean;
  readonly format: PacketFormat;
  readonly chunkFormat: ChunkFormat;
  /** What samples are multiplied with before they are encoded, and divided by afterwards. */
  readonly amplitude: number;
  seconds(frames: number): number;
  payloadSize(item: Chunk | Packet): number;
  toBytes(): Uint8Array;
}

export const VERSION: number;
export const MAX_PACKET: number;
export const MAX_NAME: number;
export const NO_MODEL: Uint8Array;

/** Makes the chunks of one file of packets, and packets of its chunks. */
export class ChunkCoder {
  constructor(header: Header, model?: Predictor | null);
  encode(packet: Packet): Chunk;
  decode(chunk: Chunk): Packet;
  /** Stages of each frame, [streams * frames]; no model is needed. */
  counts(chunk: Chunk): Int32Array;
  fixedWidthBytes(chunk: Chunk): number;
}

/** Writes an .edgc file: chunks whose sequences follow one another (packets, of version 1), then the end. */
export class Writer {
  constructor(header: Header);
  readonly header: Header;
  readonly payloadBytes: number;
  write(item: Chunk | Packet): void;
  /** All bytes of the file, whose audio has so many samples per channel at its own rate. */
  finish(samples: number): Uint8Array;
}

/** Reads an .edgc file: chunks (packets, of version 1) by iteration. */
export class Reader implements Iterable<Chunk | Packet> {
  constructor(bytes: Uint8Array);
  readonly header: Header;
  /** What is wrong, place by place. */
  readonly damage: string[];
  /** Of each channel, after the iteration; null where the end record is missing or contradicts the chunks. */
  readonly samples: number | null;
  /** Chunks that are lost behind the last one that was given. */
  readonly lostAtEnd: number;
  readonly payloadBytes: number;
  readonly chunks: number;
  readonly frames: number;
  readonly bytes: number;
  readonly passed: number;
  [Symbol.iterator](): Generator<Chunk | Packet, void, undefined>;
  /** Pass over all chunks before this number. */
  skipTo(number: number): void;
}
