/**
 * Resampling for live sound: a windowed-sinc filter bank that answers at once.
 *
 * It holds back 32 zero crossings, 1.3 ms at 24 kHz, and is flat to 90 % of the band with 60 dB beyond it (Kaiser
 * window; Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.5).
 *
 *     input     |--- past: taps - 1 ---|--- block ---|
 *     output n  needs the `taps` samples around n * down / up; its phase (n * down) % up selects the filter
 */

import { AudioError } from "./errors.js";
import { within } from "./packets.js";

const CROSSINGS = 32; // zero crossings of the sinc on each side
const BETA = 5.65; // 60 dB
const EDGE = 0.95; // of the lower Nyquist frequency: the middle of the transition band
const [LOWEST_RATE, HIGHEST_RATE] = [1000, 768_000]; // Hz
const MOST_TAPS = 1 << 24; // of all filters: 64 MB

/** One channel from one rate to another, block by block; equal rates pass through. */
export class LiveResampler {
  #up;
  #down;
  #sourceRate;
  #half = 0;
  #bank; // filters [up, taps]
  #past; // the last taps - 1 samples
  #next = 0; // of the next output: its place among the inputs, in 1 / up samples after the middle of `#past`

  /** @param {number} sourceRate Hz @param {number} targetRate Hz */
  constructor(sourceRate, targetRate) {
    for (const rate of [sourceRate, targetRate]) {
      if (!within(rate, LOWEST_RATE, HIGHEST_RATE)) {
        throw new AudioError(
          `a rate must be a whole number of ${LOWEST_RATE} … ${HIGHEST_RATE} Hz, not ${String(rate)}`,
        );
      }
    }
    const common = greatestDivisor(sourceRate, targetRate);
    [this.#up, this.#down, this.#sourceRate] = [targetRate / common, sourceRate / common, sourceRate];
    if (sourceRate !== targetRate) {
      const ratio = Math.min(1, targetRate / sourceRate);
      this.#half = Math.ceil(CROSSINGS / ratio);
      if (this.#up * 2 * this.#half > MOST_TAPS) {
        throw new AudioError(
          `${sourceRate} Hz to ${targetRate} Hz takes too many filters: choose a rate nearer to a ratio`,
        );
      }
      this.#bank = bank(this.#up, this.#half, ratio);
    }
    this.#past = new Float32Array(Math.max(0, 2 * this.#half - 1));
  }

  /** Seconds by which the output lags behind the input. */
  get delay() {
    return this.#half / this.#sourceRate;
  }

  /** The output that is ready, Float32Array; that of equal rates is the input itself. */
  push(audio) {
    if (!this.#half) return audio;
    const taps = 2 * this.#half;
    const x = new Float32Array(this.#past.length + audio.length);
    x.set(this.#past);
    x.set(audio, this.#past.length);
    const [up, down, filters] = [this.#up, this.#down, this.#bank];
    const count = Math.max(0, Math.ceil((audio.length * up - this.#next) / down));
    const output = new Float32Array(count);
    for (let n = 0, place = this.#next; n < count; n++, place += down) {
      const [begin, filter] = [Math.floor(place / up), (place % up) * taps];
      let sum = 0;
      for (let i = 0; i < taps; i++) sum += x[begin + i] * filters[filter + i];
      output[n] = sum;
    }
    this.#next += down * count - audio.length * up;
    this.#past = x.slice(x.length - taps + 1);
    return output;
  }
}

/** Filters [up, 2 * half]: phase p interpolates p / up of the way between the two middle samples of its window. */
function bank(up, half, ratio) {
  const taps = 2 * half;
  const filters = new Float32Array(up * taps);
  const own = new Float64Array(taps);
  for (let phase = 0; phase < up; phase++) {
    let sum = 0;
    for (let i = 0; i < taps; i++) {
      const at = i + 1 - half - phase / up; // sample times around the output
      const window = bessel(BETA * Math.sqrt(Math.max(0, 1 - (at / half) ** 2))) / bessel(BETA);
      own[i] = sinc(at * ratio * EDGE) * window;
      sum += own[i];
    }
    for (let i = 0; i < taps; i++) filters[phase * taps + i] = own[i] / sum;
  }
  return filters;
}

/** The modified Bessel function of order 0, by its series. */
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > sum * 1e-17; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function greatestDivisor(a, b) {
  return b ? greatestDivisor(b, a % b) : a;
}
