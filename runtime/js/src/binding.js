/**
 * The two directions of a stream, each with its state.
 *
 * A packet of the size that the stream is used to passes through tensors that stay: the array that goes in is written
 * again, latents and states pass from graph to graph as onnxruntime made them. Anything else goes the way of whole
 * clips. Codes and samples are the same.
 */

import { joined } from "./rows.js";
import { hasMissing, wideCodes } from "./sessions.js";

/** Encoder and quantizer of one stream, after the audio it has seen; for packets of `frames` above all. */
export class BoundEncoder {
  #sessions;
  #streams;
  #paths;
  #audio; // [streams, C, samples of a packet]
  #tensor; // over it
  #state;
  #starts; // with a call that gives less than it gets

  constructor(sessions, streams, frames, paths = 0) {
    const { channels, frameSize } = sessions.manifest;
    this.#sessions = sessions;
    this.#streams = streams;
    this.#paths = paths;
    this.#audio = new Float32Array(streams * channels * Math.min(frames, sessions.blockFrames(streams)) * frameSize);
    this.#tensor = sessions.tensor("float32", this.#audio, [streams, channels, -1]);
    this.#state = sessions.zeroState("encoder", streams);
    this.#starts = sessions.looksAhead("encoder");
  }

  /** The next audio [streams, C, frameSize * T] to codes [streams, lines, T], as `Sessions.encode`. */
  async encode(audio, stages, last = false) {
    if (audio.length !== this.#audio.length || this.#starts || last) {
      const options = { paths: this.#paths, last };
      const { codes, state } = await this.#sessions.encode(audio, this.#streams, this.#state, stages, options);
      this.#state = state;
      this.#starts = false;
      return codes;
    }
    this.#audio.set(audio);
    const { output, state } = await this.#sessions.step("encoder", this.#tensor, this.#state);
    const codes = await this.#sessions.quantize(output, stages, this.#paths);
    this.#state = state; // now that nothing can fail any more
    return codes;
  }
}

/** Codebooks and decoder of one stream, after the codes it has seen; for packets as the last one above all. */
export class BoundDecoder {
  #sessions;
  #streams;
  #startFrames;
  #codes = null; // tensor [streams, lines, T]

  constructor(sessions, streams) {
    this.#sessions = sessions;
    this.#streams = streams;
    this.#startFrames = sessions.manifest.startFrames.decoder;
    const starts = this.#startFrames > 1 || sessions.looksAhead("decoder");
    /** What the decoder remembers, a tensor that is never written: it may be kept, to go back to it. */
    this.state = sessions.zeroState("decoder", streams);
    /** Latents [streams, T, D] too few for a first call; null once that was made. Never written in place. */
    this.held = starts ? new Float32Array(0) : null;
  }

  /**
   * The next codes [streams, lines, T], already checked, to audio [streams, C, frameSize * T].
   *
   * The first frames give no audio before there are `startFrames` of them, then that of all but what a decoder that
   * looks ahead holds back.
   */
  async decode(codes) {
    const sessions = this.#sessions;
    if (this.held !== null || hasMissing(codes)) return this.synthesize(await sessions.latents(codes));
    if (codes.frames > sessions.blockFrames(this.#streams)) {
      const { audio, state } = await sessions.decode(codes, this.state);
      this.state = state;
      return audio;
    }
    const shape = [codes.streams, codes.lines, codes.frames];
    if (this.#codes?.dims.join() !== shape.join()) {
      this.#codes = sessions.tensor("int64", new BigInt64Array(codes.data.length), shape);
    }
    wideCodes(codes.data, this.#codes.data);
    const { latents } = await sessions.run("quantizer_decode", { codes: this.#codes });
    const { output, state } = await sessions.step("decoder", latents, this.state);
    this.state = state;
    return output.data;
  }

  /** The next latents [streams, T, D], whatever they come from, to audio as `decode`. */
  async synthesize(latents) {
    let all = latents;
    if (this.held !== null) {
      all = this.held.length ? joined([this.held, latents], this.#streams) : latents;
      if (all.length < this.#startFrames * this.#streams * this.#sessions.manifest.latentDim) {
        this.held = all;
        return new Float32Array(0);
      }
    }
    const audio = await this.#synthesized(all);
    this.held = null;
    return audio;
  }

  /** The audio that was held back, [streams, C, samples]: the stream is over. */
  flush() {
    return this.#synthesized(this.held ?? new Float32Array(0), this.held === null || this.held.length > 0);
  }

  async #synthesized(latents, last = false) {
    const { audio, state } = await this.#sessions.synthesize(latents, this.#streams, this.state, last);
    this.state = state;
    return audio;
  }
}
