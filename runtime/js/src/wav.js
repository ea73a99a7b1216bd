/** WAV in memory: PCM and floating point are read, 16-bit PCM is written. */

import { asBytes, concatenated } from "./bytes.js";
import { AudioError } from "./errors.js";
import { within } from "./packets.js";
import { asAudio } from "./samples.js";

const [PCM, EXTENSIBLE] = [1, 0xfffe];
const HEADER_BYTES = 44;
const LONGEST = 0xfffffffe - (HEADER_BYTES - 8); // bytes of samples that RIFF's 32 bits can say
const HIGHEST = 32_767;

/** What reads one number of each encoding (format tag, bits), as a sample in [-1, 1]. */
const READERS = {
  "1,8": (view, at) => view.getUint8(at) / 128 - 1,
  "1,16": (view, at) => view.getInt16(at, true) / 2 ** 15,
  "1,24": (view, at) => (view.getUint8(at) | (view.getInt16(at + 1, true) << 8)) / 2 ** 23,
  "1,32": (view, at) => view.getInt32(at, true) / 2 ** 31,
  "3,32": (view, at) => view.getFloat32(at, true),
  "3,64": (view, at) => view.getFloat64(at, true),
};

/** The sound of a WAV file's bytes: { audio: list of channels, sampleRate }. Throws an AudioError for any other. */
export function readWav(bytes) {
  const data = asBytes(bytes);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const word = (at) => String.fromCharCode(...data.subarray(at, at + 4));
  if (data.length < 12 || word(0) !== "RIFF" || word(8) !== "WAVE") throw new AudioError("no WAV file");
  let format = null;
  for (let at = 12; at + 8 <= data.length; ) {
    const [kind, size] = [word(at), view.getUint32(at + 4, true)];
    const body = at + 8;
    if (kind === "data") {
      if (format === null) throw new AudioError("a WAV file without a format");
      return samplesOf(view, body, Math.min(size, data.length - body), format, size);
    }
    if (kind === "fmt " && size >= 16 && body + size <= data.length) {
      const extended = view.getUint16(body, true) === EXTENSIBLE && size >= 26;
      format = {
        tag: view.getUint16(extended ? body + 24 : body, true),
        channels: view.getUint16(body + 2, true),
        sampleRate: view.getUint32(body + 4, true),
        bits: view.getUint16(body + 14, true),
      };
    }
    at = body + size + (size % 2);
  }
  throw new AudioError("truncated before the first sample");
}

/** The bytes of a WAV file of 16 bits; samples beyond [-1, 1] are clipped. */
export function writeWav(audio, sampleRate) {
  const { data, channels, samples } = asAudio(audio);
  if (!within(sampleRate, 1, 768_000)) throw new AudioError(`${String(sampleRate)} Hz is no sample rate`);
  const frame = 2 * channels;
  if (samples * frame > LONGEST) throw new AudioError("more sound than a WAV file holds: 4 GiB");
  const numbers = new Int16Array(channels * samples);
  for (let row = 0; row < channels; row++) {
    for (let t = 0; t < samples; t++) {
      numbers[t * channels + row] = nearest(HIGHEST * Math.max(-1, Math.min(1, data[row * samples + t])));
    }
  }
  const header = new DataView(new ArrayBuffer(HEADER_BYTES));
  const words = { 0: "RIFF", 8: "WAVE", 12: "fmt ", 36: "data" };
  for (const [at, text] of Object.entries(words)) {
    for (let i = 0; i < 4; i++) header.setUint8(Number(at) + i, text.charCodeAt(i));
  }
  header.setUint32(4, HEADER_BYTES - 8 + 2 * numbers.length, true);
  header.setUint32(16, 16, true);
  header.setUint16(20, PCM, true);
  header.setUint16(22, channels, true);
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, sampleRate * frame, true);
  header.setUint16(32, frame, true);
  header.setUint16(34, 16, true);
  header.setUint32(40, 2 * numbers.length, true);
  return concatenated([new Uint8Array(header.buffer), new Uint8Array(numbers.buffer)]);
}

function samplesOf(view, begin, size, { tag, channels, sampleRate, bits }, announced) {
  const read = READERS[[tag, bits]];
  if (read === undefined) throw new AudioError(`WAV of format ${tag} and ${bits} bits is not read here`);
  if (!channels || !sampleRate) throw new AudioError("a WAV file without channels or rate");
  const [bytes, unknown] = [bits / 8, announced >= 0x7fff0000]; // pipes do not know their length
  const samples = Math.floor(size / (bytes * channels));
  if (!unknown && size < announced) {
    throw new AudioError(`truncated, ${samples} of ${Math.floor(announced / (bytes * channels))} samples are there`);
  }
  const audio = Array.from({ length: channels }, () => new Float32Array(samples));
  for (let t = 0, at = begin; t < samples; t++) {
    for (let row = 0; row < channels; row++, at += bytes) audio[row][t] = read(view, at);
  }
  return { audio, sampleRate };
}

/** The nearest whole number, of two the even one. */
function nearest(number) {
  const rounded = Math.round(number);
  return rounded - number === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
