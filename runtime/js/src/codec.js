/** A loaded codec: audio to codes and codes to audio, for whole clips; streams come from here too. */

import { CodeCoder } from "./code_coder.js";
import { DecoderStream } from "./decoder_stream.js";
import { EncoderStream } from "./encoder_stream.js";
import { AudioError, BundleError } from "./errors.js";
import { PacketCoder } from "./packet_coder.js";
import { PacketFormat, within } from "./packets.js";
import { asAudio, channelsOf, grouped } from "./samples.js";
import { readBundle } from "./bundle.js";
import { sliced } from "./rows.js";
import { Sessions } from "./sessions.js";
import { VariableRate } from "./variable_rate.js";

/**
 * Load a bundle whose files a function (name, most bytes) => bytes reads.
 *
 * @param {object} ort onnxruntime-node or onnxruntime-web, as it was imported
 * @param {(name: string, most: number) => Promise<Uint8Array | null>} readFile
 * @param {object} options
 * @param {number} [options.threads] CPU threads per operator; one is best for streams
 * @param {readonly string[]} [options.executionProviders] of encoder and decoder; the quantizer stays on the CPU
 */
export async function loadFrom(ort, readFile, options = {}) {
  const bundle = await readBundle(readFile);
  return new Codec(bundle, await Sessions.create(ort, bundle, options));
}

/** A codec, immutable; what changes from call to call is in the streams. Make one with `load`. */
export class Codec {
  #sessions;

  constructor(bundle, sessions) {
    this.bundle = bundle;
    this.#sessions = sessions;
    Object.freeze(this);
  }

  /** All facts about the bundle. */
  get manifest() {
    return this.bundle.manifest;
  }

  /** 8 bytes that name this bundle's graphs in files. */
  get fingerprint() {
    return this.bundle.fingerprint.slice();
  }

  /** Hz, of all audio that goes in and comes out. */
  get sampleRate() {
    return this.manifest.sampleRate;
  }

  /** Samples per code frame. */
  get frameSize() {
    return this.manifest.frameSize;
  }

  /** Channels that one stream of codes holds: 2 of a stereo bundle, else 1. */
  get channels() {
    return this.manifest.channels;
  }

  /** Stages trained. */
  get maxStages() {
    return this.manifest.maxStages;
  }

  /** Samples by which a decoded stream lags behind the encoded one, to drop at its start. */
  get delay() {
    return this.manifest.delay;
  }

  /** The possible bitrates in kbps, for 1, 2, … maxStages stages. */
  get bitrates() {
    return this.manifest.bitrates;
  }

  /** The stage count that a bitrate in kbps or a stage count asks for. */
  stages(wanted = {}) {
    return this.manifest.stages(wanted);
  }

  /** Code frames of a clip: enough that the decoder, which lags by `delay`, answers every sample. */
  frames(samples) {
    return this.manifest.frames(samples);
  }

  /**
   * Encode a whole clip, one channel or a list of them, to Codes [streams, stages, frames]; the last frames see zeros
   * after the end.
   */
  async encode(audio, { bitrate, stages, effort } = {}) {
    const [m, paths] = [this.manifest, this.manifest.paths(effort)];
    const count = this.stages({ bitrate, stages });
    const { data, channels, samples } = asAudio(audio);
    if (!samples) throw new AudioError("audio must not be empty");
    const [x, streams] = [grouped(data, channels, m.channels), m.streams(channels)];
    const rows = streams * m.channels;
    const length = this.frames(samples) * m.frameSize;
    const padded = new Float32Array(rows * length);
    for (let row = 0; row < rows; row++) padded.set(x.subarray(row * samples, (row + 1) * samples), row * length);
    const state = this.#sessions.zeroState("encoder", streams);
    return (await this.#sessions.encode(padded, streams, state, count, { paths, last: true })).codes;
  }

  /** Decode a whole clip, to a list of channels [samples], the delay removed. */
  async decode(codes, { samples } = {}) {
    const [m, checked] = [this.manifest, this.manifest.checkCodes(codes).copy()];
    const available = Math.max(checked.frames * m.frameSize - m.delay, 0);
    const wanted = samples ?? available;
    if (!within(wanted, 0, available)) {
      throw new AudioError(`${String(wanted)} samples were asked for, the codes hold ${available}`);
    }
    const state = this.#sessions.zeroState("decoder", checked.streams);
    const { audio } = await this.#sessions.decode(checked, state, { last: true });
    const rows = checked.streams * m.channels;
    return channelsOf(sliced(audio, rows, m.delay, m.delay + wanted), rows, rows);
  }

  /** Codes, or a BitstreamError where this codec cannot have made them. */
  checkCodes(codes, streams = undefined) {
    return this.manifest.checkCodes(codes, streams);
  }

  /**
   * A stream that turns audio blocks of any length into packets; see `EncoderStream`, and `encode` of effort.
   *
   * `variable`: frames get as many stages as their sound needs; the mean of the packets' codes is the bitrate.
   */
  encoderStream({ bitrate, stages, effort = "live", variable = false, ...options } = {}) {
    const [count, paths] = [this.stages({ bitrate, stages }), this.manifest.paths(effort)];
    const rate = variable ? () => this.variableRate({ channels: options.channels, effort }) : null;
    return new EncoderStream(this.#streaming(), count, { ...options, paths, variable: rate });
  }

  /** A stream that turns packets into audio; see `DecoderStream`. */
  decoderStream(options = {}) {
    return new DecoderStream(this.#streaming(), options);
  }

  /**
   * How this codec's packets look as bytes. Packets that are coded need what `codeCoder` gives, of as many channels,
   * as `coder`.
   */
  packetFormat({ channels = 1, coder = null } = {}) {
    const m = this.manifest;
    const ofPackets = coder === null ? null : new PacketCoder(coder, m.maxStages);
    return new PacketFormat(m.streams(channels), m.codeBits, m.layout, ofPackets);
  }

  /** How this codec's codes become few bytes: led by the bundle's entropy model, where it has one. */
  async codeCoder({ channels = 1 } = {}) {
    return new CodeCoder(this.manifest.layout, await this.bundle.predictor(), this.manifest.streams(channels));
  }

  /** What gives each frame of latents as many stages as its sound needs; see `VariableRate`. */
  async variableRate({ channels = 1, effort = "fast" } = {}) {
    return VariableRate.of(this.#streaming(), await this.codeCoder({ channels }), this.manifest.paths(effort));
  }

  /** Free what onnxruntime holds; nothing of this codec may be used afterwards. */
  release() {
    return this.#sessions.release();
  }

  /** The sessions, if they take any number of frames. */
  #streaming() {
    const { name, callFrames } = this.manifest;
    if (callFrames > 1) {
      throw new BundleError(
        `${name}: its graphs take ${callFrames} frames a call, whole clips only; for streams and files take the ` +
          "bundle that it was made from",
      );
    }
    return this.#sessions;
  }
}
