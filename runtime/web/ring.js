/**
 * What is played and what waits to be: a ring of samples between a worker that writes in bursts and a loudspeaker that
 * reads at its pace.
 *
 *     filling    silence, until `target` samples wait
 *     playing    each underrun makes the target 5 ms more; every 2 s what always waited in vain is skipped
 */

const GROWTH = 0.005; // seconds that an underrun adds
const LARGEST_TARGET = 0.25; // seconds
const WATCHED = 2; // seconds over which what waits is watched
const SPARE = 0.005; // seconds that may always wait
const FADE = 128; // samples of a crossfade

/** Samples of one channel; bounded, and never allocating. */
export class Ring {
  #samples;
  #read = 0;
  #waiting = 0; // samples
  #playing = false;
  #last = 0; // sample played
  #fadeIn = 0; // samples of it that are left
  #least = Infinity; // that waited since the watch began
  #watched = 0; // samples
  underruns = 0;
  skipped = 0; // samples
  overflowed = 0; // samples

  /** @param {number} rate Hz @param {number} target seconds that wait before the first is played */
  constructor(rate, target = 0.02) {
    this.rate = rate;
    this.target = Math.round(target * rate);
    this.#samples = new Float32Array(rate);
  }

  /** Samples that wait. */
  get waiting() {
    return this.#waiting;
  }

  /** Append samples; where there is no room for all, the oldest go. */
  write(block) {
    const [ring, size] = [this.#samples, this.#samples.length];
    const fresh = block.length > size ? block.subarray(block.length - size) : block;
    const excess = this.#waiting + fresh.length - size;
    if (excess > 0) {
      this.#advance(excess);
      this.overflowed += excess;
    }
    const at = (this.#read + this.#waiting) % size;
    const first = Math.min(fresh.length, size - at);
    ring.set(fresh.subarray(0, first), at);
    ring.set(fresh.subarray(first), 0);
    this.#waiting += fresh.length;
  }

  /** Fill a block with what is due, or with silence. */
  read(block) {
    if (!this.#playing && this.#waiting >= Math.max(this.target, block.length)) {
      [this.#playing, this.#fadeIn, this.#least, this.#watched] = [true, FADE, Infinity, 0];
    }
    if (this.#playing && this.#waiting < block.length) {
      this.underruns += 1;
      this.target = Math.min(this.target + Math.round(GROWTH * this.rate), Math.round(LARGEST_TARGET * this.rate));
      this.#playing = false;
    }
    if (!this.#playing) {
      if (Math.abs(this.#last) < 1e-6) this.#last = 0;
      for (let i = 0; i < block.length; i++) block[i] = this.#last *= 0.95; // no click
      return;
    }
    this.#watch(block.length);
    const [ring, size] = [this.#samples, this.#samples.length];
    for (let i = 0, at = this.#read; i < block.length; i++) {
      block[i] = ring[at];
      if (++at === size) at = 0;
    }
    this.#advance(block.length);
    for (let i = 0; i < block.length && this.#fadeIn; i++) block[i] *= 1 - this.#fadeIn-- / FADE;
    this.#last = block[block.length - 1];
  }

  /** Skip, every 2 s, what waited all the time. */
  #watch(length) {
    this.#least = Math.min(this.#least, this.#waiting - length);
    this.#watched += length;
    if (this.#watched < WATCHED * this.rate) return;
    const excess = this.#least - Math.round(SPARE * this.rate) - FADE;
    if (excess > 0) {
      const [ring, size] = [this.#samples, this.#samples.length];
      for (let i = 0; i < FADE; i++) {
        const [from, to] = [(this.#read + i) % size, (this.#read + excess + i) % size];
        ring[to] = ring[from] + (ring[to] - ring[from]) * (i / FADE);
      }
      this.#advance(excess);
      this.skipped += excess;
    }
    [this.#least, this.#watched] = [Infinity, 0];
  }

  #advance(samples) {
    this.#read = (this.#read + samples) % this.#samples.length;
    this.#waiting -= samples;
  }
}
