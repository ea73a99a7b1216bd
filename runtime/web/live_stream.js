/**
 * In the worker: blocks of the microphone to packets, packets that were not lost to sound.
 *
 *     block ─> resampled ─> encoder ─> packet ─> bytes ─> lost? ─> decoder ─┬─> resampled ─> loudspeaker
 *                  └─> late by as much as the codec ────────────── bypass ──┘
 */

import { LiveResampler } from "./edgecodec/web.js";

const WINDOW = 75; // frames that figures look back on
const MOST_KEPT = 75 * 60 * 10; // frames of a recording

/** One microphone, from start to stop. Blocks wait for those before them. */
export class LiveStream {
  #codec;
  #port;
  #size; // frames of a packet
  #encoder;
  #decoder;
  #form;
  #into; // resamplers
  #outOf;
  #late; // input that waits for the codec, to be heard as late as what it decodes
  #mix = 0; // 1 while the codec is bypassed
  #queue = Promise.resolve();
  #last = []; // figures of the last packets
  #frames = 0;
  #lost = 0;
  #recording = null; // codes of frames
  #observed = null; // all that went in and came out, for tests
  #failed;
  #ended = false;

  /**
   * @param {object} codec
   * @param {MessagePort} port of the audio thread: blocks come in; sound, and null for each block taken, go out
   * @param {{ rate: number, size: number, stages: number, loss: number, bypass: boolean, observe: boolean }} settings
   * @param {(error: Error) => void} failed
   */
  constructor(codec, port, settings, failed) {
    const { sampleRate } = codec;
    this.#codec = codec;
    this.#port = port;
    this.#size = settings.size;
    this.#encoder = codec.encoderStream({ stages: settings.stages, framesPerPacket: this.#size, afterSilence: true });
    this.#decoder = codec.decoderStream({ afterSilence: true });
    this.#form = codec.packetFormat();
    this.#into = new LiveResampler(settings.rate, sampleRate);
    this.#outOf = new LiveResampler(sampleRate, settings.rate);
    this.#late = [new Float32Array(this.#decoder.delay)];
    this.#failed = failed;
    if (settings.observe) this.#observed = { input: [], codes: [] };
    this.set(settings);
    this.#mix = this.bypass ? 1 : 0;
    port.onmessage = ({ data }) => {
      this.#queue = this.#queue.then(() => this.#take(data)).catch((error) => this.#fail(error));
    };
  }

  /** Change the stages, the share of packets that are lost, or the bypass; what is not given stays. */
  set({ stages, loss, bypass }) {
    if (stages !== undefined) this.#encoder.stages = stages;
    if (loss !== undefined) this.loss = loss;
    if (bypass !== undefined) this.bypass = bypass;
  }

  /** Seconds that the resamplers hold back. */
  get resampling() {
    return this.#into.delay + this.#outOf.delay;
  }

  /** What the page shows; times are those of a packet. */
  figures() {
    const last = this.#last;
    const seconds = (last.length * this.#size * this.#codec.frameSize) / this.#codec.sampleRate;
    const kbps = (key) => (seconds ? (sum(last.map((own) => own[key])) * 8) / seconds / 1000 : 0);
    const middle = (key) => last.map((own) => own[key]).sort((a, b) => a - b)[Math.floor(last.length / 2)] ?? 0;
    return {
      frames: this.#frames,
      lost: this.#lost,
      codesKbps: kbps("payload"),
      packetsKbps: kbps("bytes"),
      encodeMs: middle("encodeMs"),
      decodeMs: middle("decodeMs"),
      longestMs: Math.max(0, ...last.map((own) => own.encodeMs + own.decodeMs)),
      recorded: this.#recording?.length ?? 0,
    };
  }

  /** Begin a recording. */
  record() {
    this.#recording = [];
  }

  /** End it: the codes of each frame that was sent, lost ones too. */
  recorded() {
    const codes = this.#recording ?? [];
    this.#recording = null;
    return codes;
  }

  /** All input at the codec's rate, and the codes of all frames; for tests. */
  observed() {
    const { input, codes } = this.#observed;
    return { input: joined(input), codes: codes.map((own) => own.data) };
  }

  /** Take no more blocks. */
  end() {
    this.#ended = true;
    this.#port.close();
  }

  async #take(block) {
    if (this.#ended) return;
    const input = this.#into.push(block);
    this.#late.push(input.slice());
    this.#observed?.input.push(input.slice());
    let begun = performance.now();
    for (const packet of await this.#encoder.push(input)) {
      const encodeMs = performance.now() - begun;
      const bytes = this.#form.toBytes(packet);
      const frames = Array.from({ length: packet.frames }, (_, i) => packet.codes.slice(i, i + 1));
      if (this.#recording !== null && this.#recording.length < MOST_KEPT) this.#recording.push(...frames);
      this.#observed?.codes.push(...frames);
      begun = performance.now();
      const [sound] = await this.#received(bytes);
      const decodeMs = performance.now() - begun;
      const payload = this.#form.payloadSize(packet.stages, packet.frames);
      this.#count({ payload, bytes: bytes.length, encodeMs, decodeMs });
      const output = this.#outOf.push(this.#chosen(sound)).slice();
      if (!this.#ended) this.#port.postMessage(output, [output.buffer]);
      begun = performance.now();
    }
    if (!this.#ended) this.#port.postMessage(null);
  }

  /** The sound of a packet's bytes, or of its place where the network lost it. */
  #received(bytes) {
    if (Math.random() >= this.loss) return this.#decoder.push(this.#form.fromBytes(bytes));
    this.#lost += this.#size;
    return this.#decoder.conceal(null, { frames: this.#size });
  }

  /** The decoded sound or the input as late as it; where that has changed, one fades into the other. */
  #chosen(decoded) {
    const straight = this.#takeLate(decoded.length);
    const [from, to] = [this.#mix, this.bypass ? 1 : 0];
    this.#mix = to;
    return decoded.map((sample, i) => {
      const share = from + ((to - from) * i) / decoded.length;
      return sample + (straight[i] - sample) * share;
    });
  }

  #takeLate(length) {
    const all = joined(this.#late);
    this.#late = [all.slice(length)];
    return all.subarray(0, length);
  }

  #count(own) {
    this.#frames += this.#size;
    this.#last.push(own);
    if (this.#last.length * this.#size > WINDOW) this.#last.shift();
  }

  #fail(error) {
    if (this.#ended) return;
    this.end();
    this.#failed(error);
  }
}

/** Run silence through both streams, `size` frames a packet, until they keep up: wasm is compiled while it runs. */
export async function warmUp(codec, stages, size, progress) {
  const [encoder, decoder] = [codec.encoderStream({ stages, framesPerPacket: size }), codec.decoderStream()];
  const silence = new Float32Array(size * codec.frameSize);
  const packetMs = (1000 * silence.length) / codec.sampleRate;
  const begun = performance.now();
  for (let [count, quick] = [0, 0]; count < 600 && quick < 40 && performance.now() - begun < 8000; count++) {
    const start = performance.now();
    for (const packet of await encoder.push(silence)) await decoder.push(packet);
    quick = performance.now() - start < packetMs / 2 ? quick + 1 : 0;
    if (count % 10 === 0) {
      progress();
      await new Promise((done) => setTimeout(done)); // messages of the page come in between
    }
  }
}

function joined(parts) {
  const all = new Float32Array(sum(parts.map((part) => part.length)));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}
