/**
 * Live variable rate: each frame gets the stages its sound needs, and a slow hand on the price keeps the mean bitrate.
 *
 *     audio -> latents -> errors after every stage -> counts at the price of now -> codes
 *                                     price <- what the packets so far have taken
 *
 * Nothing looks ahead, so that nothing comes later than at a fixed stage count.
 */

import { Codes } from "./codes.js";
import { joinedCodes } from "./layout.js";
import { PacketCoder } from "./packet_coder.js";
import { sliced } from "./rows.js";
import { HIGHEST_PRICE, LOWEST_PRICE } from "./variable_rate.js";

const USUAL = 6; // price of a bit of speech, times the square of the bits wanted a frame
const [PULL, LEARN] = [0.7, 0.08]; // per second of debt: how far the price gives way now, and how fast for good
const DEBT = 1.5; // seconds of the wanted bitrate: the most that is owed or saved

/** The price of a bit by which a stream holds a mean bitrate, from what it took so far. */
class PriceControl {
  constructor(debt = 0, level = Math.log(USUAL)) {
    this.debt = debt; // seconds of the wanted bitrate that were taken too much
    this.level = level;
  }

  /** Of the packet to come, in errors of the first codebook's spread, where `wanted` bits a frame are. */
  price(wanted) {
    return clipped(Math.exp(this.level + PULL * this.debt) / wanted ** 2, LOWEST_PRICE, HIGHEST_PRICE);
  }

  /** The control after a packet of so many seconds that took so many bits, and should have taken `wanted`. */
  after(bits, wanted, seconds) {
    const debt = this.debt + (bits / wanted - 1) * seconds;
    const kept = clipped(debt, -DEBT, DEBT);
    // Beyond that the price can do no more, as in long silence.
    return new PriceControl(kept, this.level + (kept === debt ? LEARN * kept * seconds : 0));
  }
}

/** Encoder and quantizer of one stream, as `BoundEncoder`, with a stage count for each frame. */
export class VariableEncoder {
  #rate;
  #streams;
  #frames;
  #coder;
  #state;
  #control = new PriceControl();

  /** @param {import("./variable_rate.js").VariableRate} rate @param {number} streams @param {number} frames */
  constructor(rate, streams, frames) {
    [this.#rate, this.#streams, this.#frames] = [rate, streams, frames];
    this.#coder = new PacketCoder(rate.coder, rate.sessions.manifest.maxStages);
    this.#state = rate.sessions.zeroState("encoder", streams);
  }

  /**
   * The next audio to codes [streams, lines, T], -1 below each frame's count. Their mean bitrate, once coded, is that
   * of `stages` stages of fixed width.
   */
  async encode(audio, stages, last = false) {
    const [{ sessions }, streams] = [this.#rate, this.#streams];
    const { latents, state } = await sessions.analyze(audio, streams, this.#state, last);
    const frames = latents.length / streams / sessions.manifest.latentDim;
    const parts = [];
    let control = this.#control;
    for (let first = 0; first < frames; first += this.#frames) {
      const own = this.#cut(latents, first, Math.min(first + this.#frames, frames));
      const packet = await this.#packet(own, stages, control);
      parts.push(packet.codes);
      ({ control } = packet);
    }
    [this.#state, this.#control] = [state, control]; // now that nothing can fail any more
    return parts.length ? joinedCodes(parts) : new Codes(streams, sessions.manifest.layout.lines(stages), 0);
  }

  async #packet(latents, stages, control) {
    const [m, streams] = [this.#rate.sessions.manifest, this.#streams];
    const frames = latents.length / streams / m.latentDim;
    const seconds = m.frameSize / m.sampleRate;
    const wanted = 1000 * m.bitrate(stages) * seconds;
    const counts = (await this.#rate.evenCosts(latents, streams)).counts(control.price(wanted));
    const codes = await this.#rate.search(latents, streams).codes(counts);
    const bits = 8 * this.#coder.encode(codes).length;
    return { codes, control: control.after(bits, wanted * streams * frames, seconds * frames) };
  }

  #cut(latents, first, end) {
    const size = this.#rate.sessions.manifest.latentDim;
    return sliced(latents, this.#streams, first * size, end * size);
  }
}

function clipped(number, least, most) {
  return Math.min(Math.max(number, least), most);
}
