/** Clips to the bytes of .edgc files and back, in memory. */

import { Reader, Writer } from "./bitstream.js";
import { hex, sameBytes } from "./bytes.js";
import { ChunkCoder } from "./chunk_coder.js";
import { modulo } from "./chunk_search.js";
import { Header, MAX_GAIN, MAX_PACKET, NO_MODEL } from "./edgc_header.js";
import { ChunkMaker, rateOf } from "./encoding.js";
import { AudioError, BitstreamError } from "./errors.js";
import { Packet, within } from "./packets.js";
import { LiveResampler } from "./resampler.js";
import { amplified, asAudio, channelsOf, grouped } from "./samples.js";

const CHUNK_SECONDS = 1.0; // at most: what one damaged chunk costs

/**
 * The bytes of an .edgc file of a clip, one channel or a list of them, at `sampleRate` (by default that of the codec).
 *
 * `bitrate` is kbps of each stream, the mean of what is written, with as many stages in each frame as its sound needs;
 * with `constant`, that of fixed-width codes of as many stages in every frame. `quality`, 0 to 10, fixes the price of a
 * bit instead, `stages` the stage count. With none of them: 6 kbps. The search for the codes is `fast` unless `effort`
 * says another; one price holds for `window` seconds. `gain`, 0 to 60 whole dB, makes quiet audio louder: the header
 * says by how much, and decoding takes it back.
 */
export async function encodeClip(codec, audio, options = {}) {
  const { sampleRate = codec.sampleRate, effort = "fast", window, gain = 0, ...wishes } = options;
  const rate = rateOf(codec, wishes);
  if (!within(gain, 0, MAX_GAIN)) throw new AudioError(`gain is 0 to ${MAX_GAIN} whole dB, not ${String(gain)}`);
  const { data, channels, samples } = asAudio(audio);
  if (!samples) throw new AudioError("audio must not be empty");
  const header = makeHeader(codec, sampleRate, channels, rate.stages ?? codec.maxStages, gain);
  const variable = await codec.variableRate({ channels, effort });
  const resampled = channelsOf(data, channels, channels).map((own) =>
    amplified(resample(own, sampleRate, codec.sampleRate), header.amplitude),
  );
  const maker = new ChunkMaker(header, await chunkCoder(codec, header), rate, variable, window);
  const writer = new Writer(header);
  for await (const chunk of maker.chunks(await latentsOf(variable.sessions, resampled))) writer.write(chunk);
  return writer.finish(samples);
}

/**
 * The sound of the bytes of an .edgc file: { audio: list of channels, sampleRate, damage: list of what is wrong }.
 *
 * What damage has cost is concealed, so that the rest stands at its time; `strict` refuses it instead, by a
 * BitstreamError.
 */
export async function decodeClip(codec, bytes, { strict = false } = {}) {
  const reader = new Reader(bytes);
  const { header } = reader;
  checkHeader(codec, header);
  const coder = await chunkCoder(codec, header);
  const parts = Array.from({ length: header.channels }, () => []);
  const put = (block) => block.forEach((own, row) => parts[row].push(own));
  const stream = codec.decoderStream({ channels: header.channels });
  let [due, begun] = [0, false];
  for (const item of reader) {
    if (strict && reader.damage.length) break;
    const packet = item instanceof Packet ? item : coder.decode(item);
    for (let left = modulo(packet.sequence - due); left > 0; left--) {
      put(await stream.conceal(left === 1 ? packet : null, { frames: header.framesPerPacket }));
    }
    put(await stream.push(packet));
    [due, begun] = [modulo(packet.sequence + 1), true];
  }
  if (strict && reader.damage.length) throw new BitstreamError(`${reader.damage[0]}; refused (strict)`);
  for (let i = 0; i < reader.lostAtEnd; i++) put(await stream.conceal(null, { frames: header.framesPerPacket }));
  if (begun) put(await stream.flush());
  const audio = parts.map((own) => {
    const whole = amplified(joinedSamples(own).subarray(codec.delay), 1 / header.amplitude);
    return lengthened(resample(whole, header.codecRate, header.sampleRate), reader.samples);
  });
  return { audio, sampleRate: header.sampleRate, damage: [...reader.damage] };
}

/** The header of a file of at most so many stages, with chunks of a second, of audio made louder by `gain` dB. */
export function makeHeader(codec, sampleRate, channels, stages, gain = 0) {
  const m = codec.manifest;
  let frames = Math.min(255, Math.max(1, Math.floor(CHUNK_SECONDS * m.frameRate)));
  while (frames > 1 && codec.packetFormat({ channels }).payloadSize(stages, frames) > MAX_PACKET) {
    frames = Math.floor(frames / 2);
  }
  return new Header({
    fingerprint: codec.fingerprint,
    bundle: m.name,
    codecRate: m.sampleRate,
    frameSize: m.frameSize,
    sampleRate,
    channels,
    stages,
    codeBits: m.codeBits,
    framesPerPacket: frames,
    streamChannels: m.channels,
    layout: m.layout,
    model: modelFingerprint(codec),
    gain,
  });
}

/** Latents [streams, T, D] of whole channels, zeros after the last sample: the decoder answers every one. */
async function latentsOf(sessions, audio) {
  const [m, { data, channels, samples }] = [sessions.manifest, asAudio(audio)];
  const [streams, length] = [m.streams(channels), m.frames(samples) * m.frameSize];
  const x = grouped(data, channels, m.channels);
  const padded = new Float32Array(streams * m.channels * length);
  for (let row = 0; row < streams * m.channels; row++) {
    padded.set(x.subarray(row * samples, (row + 1) * samples), row * length);
  }
  return (await sessions.analyze(padded, streams, sessions.zeroState("encoder", streams), true)).latents;
}

/** What makes and reads the chunks of a file of this codec. */
export async function chunkCoder(codec, header) {
  return new ChunkCoder(header, header.hasModel ? await codec.bundle.predictor() : null);
}

/** Refuse a file that another bundle made, naming both. */
export function checkHeader(codec, header) {
  const m = codec.manifest;
  if (!sameBytes(header.fingerprint, codec.fingerprint)) {
    throw new BitstreamError(
      `made with bundle "${header.bundle}" (${hex(header.fingerprint)}), not with "${m.name}" ` +
        `(${hex(codec.fingerprint)}); load the right one`,
    );
  }
  const ours = [m.sampleRate, m.frameSize, m.codeBits, m.channels];
  const theirs = [header.codecRate, header.frameSize, header.codeBits, header.streamChannels];
  if (ours.join() !== theirs.join() || !m.layout.equals(header.layout) || header.stages > codec.maxStages) {
    throw new BitstreamError(`the header contradicts bundle "${m.name}"`);
  }
  if (header.hasModel && !sameBytes(header.model, modelFingerprint(codec))) {
    throw new BitstreamError(
      `its codes are told by an entropy model (${hex(header.model)}) that bundle "${m.name}" does not have; ` +
        "load the bundle that made it",
    );
  }
}

/** 8 bytes that name the bundle's entropy model, zeros where it has none. */
function modelFingerprint(codec) {
  const { entropy } = codec.manifest.facts;
  if (entropy === null) return NO_MODEL;
  return Uint8Array.from({ length: 8 }, (_, i) => Number.parseInt(entropy.sha256.slice(2 * i, 2 * i + 2), 16));
}

/** A whole channel at another rate, what the filter holds back dropped at its start. */
function resample(audio, sourceRate, targetRate) {
  if (sourceRate === targetRate) return audio;
  const resampler = new LiveResampler(sourceRate, targetRate);
  const held = Math.round(resampler.delay * sourceRate); // samples
  const padded = new Float32Array(audio.length + 2 * held);
  padded.set(audio);
  const late = Math.round(resampler.delay * targetRate);
  const length = Math.ceil((audio.length * targetRate) / sourceRate);
  return resampler.push(padded).slice(late, late + length);
}

function joinedSamples(parts) {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Audio of so many samples, where that is known; resamplers round lengths, and zeros fill what lacks. */
function lengthened(audio, samples) {
  if (samples === null) return audio.slice();
  const exact = new Float32Array(samples);
  exact.set(audio.subarray(0, samples));
  return exact;
}
