/**
 * Audio blocks of any length to packets.
 *
 * However the audio is cut into blocks, the codes are those of the whole clip, bit for bit. Calls of a stream wait for
 * those before them; any number of streams share one codec.
 *
 *     input    |----- packet 0 -----|----- packet 1 -----|-- rest + zeros --|
 *     decoded        (delay) |----- packet 0 -----|----- packet 1 -----|...
 *
 * Codecs that look ahead, or start with several frames, hold sound back: their first packets come late, and `flush`
 * gives what is left. For live sound, a stream can begin as if silence had come before it: then every frame that goes
 * in gives a frame at once.
 */

import { BoundEncoder } from "./binding.js";
import { AudioError, BitrateError } from "./errors.js";
import { MAX_FRAMES, Packet, SEQUENCE_MODULUS, within } from "./packets.js";
import { joined, sliced } from "./rows.js";
import { asAudio, checkChannels, grouped } from "./samples.js";
import { Turns } from "./turns.js";
import { VariableEncoder } from "./variable_encoder.js";

/**
 * Turns audio into packets, as soon as each is full. Make one with `Codec.encoderStream`.
 *
 * A packet is what the encoder waits for and encodes in one go: more `framesPerPacket` cost less compute and fewer
 * packet heads, and buffer longer. The codes are the same.
 *
 * With a `variable` rate, a function that gives one, frames get as many stages as their sound needs; the mean of what
 * packets take, once coded, is held at the bitrate of `stages`.
 */
export class EncoderStream {
  #sessions;
  #manifest;
  #turns = new Turns();
  #stages;
  #paths;
  #redundancy = 0;
  #afterSilence;
  #variable;
  #encoder;
  #rest; // samples short of a packet, [channels, samples]
  #samples;
  #frames; // that went in
  #sequence = 0; // never begins anew: a decoder would take the packets for late ones
  #silentFrames;
  #previous; // codes of the last packet

  constructor(sessions, stages, options = {}) {
    const { paths = 0, channels = 1, framesPerPacket = 1, redundancy = 0 } = options;
    const { afterSilence = false, variable = null } = options;
    checkChannels(channels);
    if (!within(framesPerPacket, 1, MAX_FRAMES)) {
      throw new BitrateError(`framesPerPacket must be 1 to ${MAX_FRAMES}, not ${String(framesPerPacket)}`);
    }
    this.#sessions = sessions;
    this.#manifest = sessions.manifest;
    this.channels = channels;
    this.framesPerPacket = framesPerPacket;
    this.#paths = paths;
    this.#afterSilence = afterSilence;
    this.#variable = variable;
    this.#stages = stages;
    this.redundancy = redundancy;
    void this.reset().catch(() => {}); // a graph that fails now fails again in the first push
  }

  /** Stages of the packets to come; it may be set at any time, and holds from the next `push` on. */
  get stages() {
    return this.#stages;
  }

  set stages(stages) {
    this.#stages = this.#manifest.stages({ stages });
  }

  /** Stages of its predecessor that each packet to come repeats, so that a decoder can recover it; 0 for none. */
  get redundancy() {
    return this.#redundancy;
  }

  set redundancy(stages) {
    this.#redundancy = stages === 0 ? 0 : this.#manifest.stages({ stages });
  }

  /** Forget all audio: the next block begins a new stream. Packets are counted on, so that decoders follow. */
  reset() {
    const stages = this.#stages;
    return this.#turns.take(() => this.#reset(stages));
  }

  /**
   * Encode a block of any length, one channel or a list of them, in [-1, 1]; it is copied at once.
   *
   * Returns the packets that are full now. Throws an AudioError for a block of a wrong shape or type or samples that
   * are not finite, a BundleError for a graph that fails. After either error the stream is as it was.
   */
  async push(block) {
    const { data, channels, samples } = asAudio(block);
    if (channels !== this.channels) throw new AudioError(`a block of ${channels} channels, expected ${this.channels}`);
    const [stages, redundancy] = [this.#stages, this.#redundancy];
    return this.#turns.take(async () => {
      const x = this.#rest.length ? joined([this.#rest, data], channels) : data;
      const length = x.length / channels;
      const whole = this.#ready(Math.floor(length / this.#manifest.frameSize)) * this.#manifest.frameSize;
      const packets = await this.#packets(sliced(x, channels, 0, whole), stages, redundancy);
      this.#rest = whole === length ? new Float32Array(0) : sliced(x, channels, whole, length);
      this.#samples += samples; // once nothing can fail any more
      return packets;
    });
  }

  /**
   * End the stream: the packets that remain, zeros after the last sample, and a stream ready for new audio. They cover
   * the delay, so that the decoder answers every sample that was pushed.
   */
  flush() {
    const [stages, redundancy] = [this.#stages, this.#redundancy];
    return this.#turns.take(async () => {
      const samples = (this.#manifest.frames(this.#samples) - this.#frames) * this.#manifest.frameSize;
      const zeros = new Float32Array(this.channels * (samples - this.#rest.length / this.channels));
      const audio = this.#rest.length ? joined([this.#rest, zeros], this.channels) : zeros;
      const packets = await this.#packets(audio, stages, redundancy, true);
      await this.#reset(stages);
      return packets;
    });
  }

  async #reset(stages) {
    const [m, streams] = [this.#manifest, this.#manifest.streams(this.channels)];
    this.#encoder =
      this.#variable === null
        ? new BoundEncoder(this.#sessions, streams, this.framesPerPacket, this.#paths)
        : new VariableEncoder(await this.#variable(), streams, this.framesPerPacket);
    this.#rest = new Float32Array(0);
    this.#samples = this.#frames = this.#silentFrames = 0;
    this.#previous = null;
    if (this.#afterSilence && m.held) {
      this.#silentFrames = m.startFrames.encoder;
      await this.#encoder.encode(new Float32Array(streams * m.channels * this.#silentFrames * m.frameSize), stages);
    }
  }

  /** Of so many whole frames, those to encode now: enough for a first call, and such that packets are full. */
  #ready(frames) {
    const [size, started] = [this.framesPerPacket, this.#frames > 0 || this.#silentFrames > 0];
    const back = started ? 0 : this.#manifest.lookahead.encoder; // frames of which the first call gives no codes
    const ready = Math.floor((frames - back) / size) * size + back;
    return started || ready >= this.#manifest.startFrames.encoder ? ready : 0;
  }

  /** Encode whole frames [channels, frameSize * T]. */
  async #packets(audio, stages, redundancy, last = false) {
    const [m, size] = [this.#manifest, this.framesPerPacket];
    const heldBack = last && this.#frames > 0 && this.#sessions.looksAhead("encoder");
    if (!audio.length && !heldBack) return [];
    const codes = await this.#encoder.encode(grouped(audio, this.channels, m.channels), stages, last);
    const packets = [];
    for (let first = 0; first < codes.frames; first += size) {
      const cut = codes.slice(first, first + size);
      const own = this.#variable === null ? cut : m.layout.trimmed(cut);
      const repeats = redundancy && this.#previous !== null;
      const repeated = repeats ? m.layout.trimmed(this.#previous.firstLines(m.layout.lines(redundancy))) : null;
      packets.push(new Packet(this.#sequence, own, repeated, m.layout));
      this.#previous = own;
      this.#sequence = (this.#sequence + 1) % SEQUENCE_MODULUS;
    }
    this.#frames += audio.length / this.channels / m.frameSize;
    return packets;
  }
}
