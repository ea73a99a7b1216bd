/**
 * Packets to audio, also where some are missing.
 *
 * Networks lose packets. The stream follows their sequence: it answers for those that are missing, drops those that
 * come late or twice, and recovers a lost one from the next where packets carry redundancy:
 *
 *     packet   | 6, repeats 5 | 7, repeats 6 |   (lost)   | 9, repeats 8 |
 *     decoded  |      6       |      7       | 8, coarser |      9       |
 *
 * As with `encoder_stream`, calls of a stream wait for those before them, and codecs that look ahead give their first
 * samples late, unless the stream begins as if silence had come before it.
 */

import { BoundDecoder } from "./binding.js";
import { modulo } from "./chunk_search.js";
import { Codes } from "./codes.js";
import { FADE_SECONDS, fade } from "./concealment.js";
import { BitstreamError } from "./errors.js";
import { MAX_FRAMES, Packet, SEQUENCE_MODULUS, within } from "./packets.js";
import { joined } from "./rows.js";
import { channelsOf, checkChannels } from "./samples.js";
import { Turns } from "./turns.js";

const LONGEST_GAP = 10.0; // seconds; a jump in the sequence beyond it is no loss but another stream

/** Turns packets into audio, each into all its samples at once. Make one with `Codec.decoderStream`. */
export class DecoderStream {
  #sessions;
  #manifest;
  #turns = new Turns();
  #streams;
  #afterSilence;
  #decoder;
  #now; // all that changes from packet to packet

  constructor(sessions, { channels = 1, afterSilence = false } = {}) {
    checkChannels(channels);
    this.#sessions = sessions;
    this.#manifest = sessions.manifest;
    this.channels = channels;
    this.#streams = sessions.manifest.streams(channels);
    this.#afterSilence = afterSilence;
    this.#now = beginning();
    void this.reset().catch(() => {}); // a graph that fails now fails again in the first push
  }

  /** Samples by which the decoded stream lags behind the encoded one: the first ones come before its audio. */
  get delay() {
    const m = this.#manifest;
    return this.#afterSilence ? m.delay + m.ahead : m.delay;
  }

  /** Packets since the stream began: each was received or lost; each lost one concealed or recovered. */
  get statistics() {
    const { received, concealed, recovered, late } = this.#now;
    return Object.freeze({ received, concealed, recovered, late });
  }

  /** Forget all packets: the next one begins a new stream, whatever its sequence. */
  reset() {
    return this.#turns.take(() => this.#reset());
  }

  /**
   * Decode a packet in its turn, to a list of channels.
   *
   * After a gap in the sequence the audio of the missing packets comes first, the last of them recovered where `packet`
   * repeats it. A packet that is late or comes twice gives no samples. A jump of more than 10 s is another stream,
   * which begins with this packet.
   *
   * Throws a BitstreamError for codes that this codec cannot have made, a BundleError for a graph that fails. After
   * either error the stream is as it was.
   */
  async push(given) {
    const packet = ownPacket(given);
    return this.#turns.take(() =>
      this.#unchangedByErrors(async () => {
        const [now, codes] = [this.#now, this.#manifest.checkCodes(packet.codes, this.#streams)];
        const missing = this.#missing(packet.sequence);
        if (missing < 0) {
          now.late += 1;
          return this.#silent(0);
        }
        const audio = missing ? await this.#bridged(packet, codes, missing) : await this.#decoded(codes);
        now.due = (packet.sequence + 1) % SEQUENCE_MODULUS;
        now.received += 1;
        return audio;
      }),
    );
  }

  /**
   * Answer for the packet that is due and did not come; if it still comes, it is dropped as late.
   *
   * @param {Packet | null} given the packet after it, where that is already there; push it next. If it repeats the
   *   missing one, that is recovered; else the last sound turns into its sound. Without it, the last sound is repeated,
   *   and fades out within 0.1 s of loss.
   * @param {object} options
   * @param {number} [options.frames] how many the missing packet held; by default as many as the one before it, or 1
   */
  async conceal(given = null, options = {}) {
    const following = given === null ? null : ownPacket(given);
    return this.#turns.take(() =>
      this.#unchangedByErrors(async () => {
        const now = this.#now;
        const { frames = now.packetFrames } = options;
        if (!within(frames, 1, MAX_FRAMES)) {
          throw new BitstreamError(`a packet has 1 to ${MAX_FRAMES} frames, not ${String(frames)}`);
        }
        let [previous, after] = [null, null];
        if (following !== null && (now.due === null || now.due === modulo(following.sequence - 1))) {
          after = this.#manifest.checkCodes(following.codes, this.#streams);
          previous = this.#previous(following);
          now.due = modulo(following.sequence - 1);
        }
        const audio = previous === null ? await this.#conceal(frames, after) : await this.#recover(previous);
        if (previous === null) now.concealed += 1;
        if (now.due !== null) now.due = (now.due + 1) % SEQUENCE_MODULUS;
        return audio;
      }),
    );
  }

  /** End the stream: what is still held back, as `push`, nothing for most bundles; then it is ready for a new one. */
  flush() {
    return this.#turns.take(() =>
      this.#unchangedByErrors(async () => {
        const audio = this.#clipped(await this.#decoder.flush());
        await this.#reset();
        return audio;
      }),
    );
  }

  async #reset() {
    this.#decoder = new BoundDecoder(this.#sessions, this.#streams);
    this.#now = beginning();
    if (this.#afterSilence && this.#decoder.held !== null) {
      const { silence, manifest } = this.#sessions;
      const frames = Array(this.#streams * manifest.startFrames.decoder).fill(silence);
      await this.#decoder.synthesize(joined(frames, 1));
    }
  }

  /** Several graphs run for a gap; where one of them fails, the stream is as it was before the first. */
  async #unchangedByErrors(work) {
    const [before, decoder] = [{ ...this.#now }, this.#decoder];
    const { state, held } = decoder;
    try {
      return this.#shaped(await work());
    } catch (error) {
      Object.assign(decoder, { state, held });
      [this.#now, this.#decoder] = [before, decoder];
      throw error;
    }
  }

  /** Packets lost before this one, -1 when it is late. */
  #missing(sequence) {
    const { due, packetFrames } = this.#now;
    const ahead = due === null ? 0 : modulo(sequence - due);
    const longest = (LONGEST_GAP * this.#manifest.frameRate) / packetFrames;
    if (ahead > SEQUENCE_MODULUS / 2) return SEQUENCE_MODULUS - ahead <= longest ? -1 : 0;
    return ahead <= longest ? ahead : 0;
  }

  /** Audio of the missing packets and of this one. */
  async #bridged(packet, codes, missing) {
    const [previous, now, earlier] = [this.#previous(packet), this.#now, missing - 1];
    const [audio, frames] = [[], now.packetFrames];
    if (earlier) audio.push(await this.#conceal(earlier * frames));
    audio.push(previous === null ? await this.#conceal(frames, codes) : await this.#recover(previous));
    audio.push(await this.#decoded(codes));
    now.concealed += earlier + (previous === null ? 1 : 0);
    return joined(audio, this.#streams * this.#manifest.channels);
  }

  #previous(packet) {
    return packet.previous === null ? null : this.#manifest.checkCodes(packet.previous, this.#streams);
  }

  async #decoded(codes) {
    const audio = await this.#decoder.decode(codes);
    Object.assign(this.#now, { last: codes.slice(codes.frames - 1), packetFrames: codes.frames, gapFrames: 0 });
    return this.#clipped(audio);
  }

  #recover(codes) {
    this.#now.recovered += 1;
    this.#now.clip = true;
    return this.#decoded(codes);
  }

  /**
   * Fade the last latents, into those of the following frame if it is there. The decoder network itself joins them to
   * what was and what will come.
   */
  async #conceal(frames, following = null) {
    const [now, sessions] = [this.#now, this.#sessions];
    if (now.last === null) return this.#silent(frames);
    now.clip = true;
    const length = FADE_SECONDS * this.#manifest.frameRate;
    const last = await sessions.latents(now.last);
    const after = following === null ? null : await sessions.latents(following.slice(0, 1));
    const latents = fade(last, sessions.silence, now.gapFrames, frames, length, after);
    now.gapFrames += frames;
    return this.#clipped(await this.#decoder.synthesize(latents));
  }

  /** After a gap the decoder may overshoot; a stream that never lost anything gives the samples of the whole clip. */
  #clipped(audio) {
    if (this.#now.clip) for (let i = 0; i < audio.length; i++) audio[i] = Math.max(-1, Math.min(1, audio[i]));
    return audio;
  }

  #silent(frames) {
    const { channels, frameSize } = this.#manifest;
    return new Float32Array(this.#streams * channels * frames * frameSize);
  }

  /** Streams [streams, C, T] as the list of channels that went in. */
  #shaped(audio) {
    return channelsOf(audio, this.#streams * this.#manifest.channels, this.channels);
  }
}

/** A stream before its first packet. */
function beginning() {
  return {
    due: null, // sequence of the next packet, once there was one
    last: null, // codes of the last frame that was not concealed
    packetFrames: 1, // in it
    gapFrames: 0, // concealed since
    clip: false,
    received: 0,
    concealed: 0,
    recovered: 0,
    late: 0,
  };
}

/** A copy of a packet, which nobody writes while it waits for its turn. */
function ownPacket(packet) {
  if (!(packet instanceof Packet) || !within(packet.sequence, 0, SEQUENCE_MODULUS - 1)) {
    throw new BitstreamError(`a stream takes Packets, their sequences 0 to ${SEQUENCE_MODULUS - 1}`);
  }
  const { sequence, codes, previous, layout } = packet;
  if (!(codes instanceof Codes && (previous === null || previous instanceof Codes))) {
    throw new BitstreamError("a packet holds Codes");
  }
  return new Packet(sequence, codes.copy(), previous && previous.copy(), layout);
}
