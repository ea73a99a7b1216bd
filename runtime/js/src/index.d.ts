/** edgecodec: neural audio codecs on the device, in browsers and Node. */

import type { CodeCoder, Codes, Layout, Packet, PacketFormat, Predictor } from "./bitstream.js";

export * from "./bitstream.js";

/** onnxruntime-node or onnxruntime-web, as it was imported. */
export interface Ort {
  readonly Tensor: new (...args: never[]) => object;
  readonly InferenceSession: { create(model: Uint8Array, options?: object): Promise<object> };
}

/** One channel, or a list of channels of one length, in [-1, 1]. */
export type Audio = Float32Array | Float64Array | readonly (Float32Array | Float64Array)[];

export interface LoadOptions {
  /** CPU threads per operator; 1, which is best for streams, by default. */
  readonly threads?: number;
  /** Of encoder and decoder, `["cpu"]` by default; the quantizer stays on the CPU. */
  readonly executionProviders?: readonly string[];
}

/** How far the search for codes goes. */
export type Effort = "live" | "fast" | "best";

export interface RateOptions {
  /** kbps; one of `Codec.bitrates`. */
  readonly bitrate?: number;
  /** Or the stage count; with neither, 6 kbps where possible, else all stages. */
  readonly stages?: number;
}

export interface EncodeOptions extends RateOptions {
  readonly effort?: Effort;
}

export interface EncoderStreamOptions extends EncodeOptions {
  readonly channels?: number;
  readonly framesPerPacket?: number;
  /** Stages of its predecessor that each packet repeats. */
  readonly redundancy?: number;
  /** Begin as if silence had come before: each frame gives a packet, also where the encoder looks ahead. */
  readonly afterSilence?: boolean;
  /** Frames get as many stages as their sound needs; the mean of the packets' codes is the bitrate. */
  readonly variable?: boolean;
}

export interface DecoderStreamOptions {
  readonly channels?: number;
  readonly afterSilence?: boolean;
}

export interface DecoderStatistics {
  readonly received: number;
  readonly concealed: number;
  readonly recovered: number;
  readonly late: number;
}

/** Turns audio into packets, as soon as each is full. Calls wait for those before them. */
export class EncoderStream {
  private constructor();
  readonly channels: number;
  readonly framesPerPacket: number;
  /** Of the packets to come; it may be set at any time, and holds from the next `push` on. */
  stages: number;
  redundancy: number;
  /** The packets that are full now; the block is copied at once. */
  push(block: Audio): Promise<Packet[]>;
  /** The packets that remain, zeros after the last sample; then the stream is ready for new audio. */
  flush(): Promise<Packet[]>;
  reset(): Promise<void>;
}

/** Turns packets into audio. Calls wait for those before them. */
export class DecoderStream {
  private constructor();
  readonly channels: number;
  /** Samples by which the decoded stream lags behind the encoded one. */
  readonly delay: number;
  readonly statistics: DecoderStatistics;
  /** A list of channels; after a gap in the sequence the audio of the missing packets comes first. */
  push(packet: Packet): Promise<Float32Array[]>;
  /** Answer for the packet that is due and did not come; `following` is the one after it, where it is there. */
  conceal(following?: Packet | null, options?: { readonly frames?: number }): Promise<Float32Array[]>;
  flush(): Promise<Float32Array[]>;
  reset(): Promise<void>;
}

/** The facts of `manifest.json`, checked. */
export class Manifest {
  private constructor();
  static fromBytes(bytes: Uint8Array): Manifest;
  /** The JSON object, keys as there. */
  readonly facts: Readonly<Record<string, unknown>>;
  readonly name: string;
  readonly sampleRate: number;
  readonly frameSize: number;
  readonly latentDim: number;
  readonly codebookSize: number;
  readonly codeBits: number;
  readonly maxStages: number;
  readonly channels: number;
  readonly maxPaths: number;
  readonly layout: Layout;
  readonly delay: number;
  readonly held: number;
  readonly ahead: number;
  readonly frameRate: number;
  readonly bitrates: number[];
  bitrate(stages: number): number;
  streams(channels: number): number;
  stages(wanted?: RateOptions): number;
  frames(samples: number): number;
  checkCodes(codes: Codes, streams?: number): Codes;
}

export interface Bundle {
  readonly manifest: Manifest;
  readonly fingerprint: Uint8Array;
  /** The entropy model, or what stands for none; it is read when it is first asked for. */
  predictor(): Promise<Predictor>;
  golden(): Promise<Uint8Array>;
}

/** A codec, immutable; what changes from call to call is in the streams. */
export class Codec {
  private constructor();
  readonly bundle: Bundle;
  readonly manifest: Manifest;
  /** 8 bytes that name the bundle's graphs in files. */
  readonly fingerprint: Uint8Array;
  readonly sampleRate: number;
  readonly frameSize: number;
  readonly channels: number;
  readonly maxStages: number;
  /** Samples to drop at the start of a decoded stream. */
  readonly delay: number;
  /** kbps, for 1, 2, … maxStages stages. */
  readonly bitrates: number[];
  stages(wanted?: RateOptions): number;
  frames(samples: number): number;
  encode(audio: Audio, options?: EncodeOptions): Promise<Codes>;
  /** A list of channels, the delay removed; `samples` of each, where the clip's length is known. */
  decode(codes: Codes, options?: { readonly samples?: number }): Promise<Float32Array[]>;
  checkCodes(codes: Codes, streams?: number): Codes;
  encoderStream(options?: EncoderStreamOptions): EncoderStream;
  decoderStream(options?: DecoderStreamOptions): DecoderStream;
  /** `coder`, of `codeCoder`, for packets of several frames in fewer bytes. */
  packetFormat(options?: { readonly channels?: number; readonly coder?: CodeCoder | null }): PacketFormat;
  codeCoder(options?: { readonly channels?: number }): Promise<CodeCoder>;
  release(): Promise<void>;
}

/** Load a bundle of which every file's bytes are there. */
export function load(
  ort: Ort,
  files: ReadonlyMap<string, Uint8Array> | Readonly<Record<string, Uint8Array>>,
  options?: LoadOptions,
): Promise<Codec>;

/** One of `bitrate`, `quality` and `stages`; with none, 6 kbps where possible, else all stages. */
export interface EncodeClipOptions {
  /** kbps of each stream: the mean of all that is written, or with `constant` one of `Codec.bitrates`. */
  readonly bitrate?: number;
  /** 0 to 10: what a bit may cost, whatever the bitrate. */
  readonly quality?: number;
  /** Of every frame. */
  readonly stages?: number;
  /** As many stages in every frame, not as its sound needs. */
  readonly constant?: boolean;
  readonly effort?: Effort;
  /** Hz, of the audio; by default that of the codec. */
  readonly sampleRate?: number;
  /** Seconds in which one price of a bit holds: 30. */
  readonly window?: number;
  /** Whole dB, 0 to 60, by which audio is made louder before it is encoded; decoding takes it back. */
  readonly gain?: number;
}

export interface DecodedClip {
  readonly audio: Float32Array[];
  /** Hz. */
  readonly sampleRate: number;
  /** What is wrong with the file, place by place; empty where it is sound. */
  readonly damage: string[];
}

/** The bytes of an .edgc file: a stage count for each frame, unless `stages` or `constant` fixes it. */
export function encodeClip(codec: Codec, audio: Audio, options?: EncodeClipOptions): Promise<Uint8Array>;

/** The sound of the bytes of an .edgc file. What damage has cost is concealed, or refused where `strict`. */
export function decodeClip(
  codec: Codec,
  bytes: Uint8Array,
  options?: { readonly strict?: boolean },
): Promise<DecodedClip>;

export interface GoldenResult {
  readonly stages: number;
  /** Fraction. */
  readonly equalCodes: number;
  /** Largest, of full scale, from golden codes. */
  readonly decodedError: number;
  readonly codedEqual: boolean;
  readonly passed: boolean;
}

/** Encode and decode the golden vectors of the codec's bundle. */
export function verify(codec: Codec): Promise<GoldenResult[]>;

/** One channel from one rate to another, block by block, at once. */
export class LiveResampler {
  /** Hz. */
  constructor(sourceRate: number, targetRate: number);
  /** Seconds by which the output lags behind. */
  readonly delay: number;
  push(audio: Float32Array): Float32Array;
}

/** The sound of the bytes of a WAV file: PCM or floating point. */
export function readWav(bytes: Uint8Array): { audio: Float32Array[]; sampleRate: number };

/** The bytes of a WAV file of 16 bits. */
export function writeWav(audio: Audio, sampleRate: number): Uint8Array;
