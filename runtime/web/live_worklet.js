/** The audio thread: the microphone's blocks to the worker, the worker's blocks to the loudspeaker. */

import { Ring } from "./ring.js";

const BLOCK = 256; // samples of a message: two render quanta
const MOST_UNDER_WAY = 16; // blocks that the worker has not taken (0.1 s): in its port a backlog would wait unseen
const REPORT = 0.1; // seconds

class LiveProcessor extends AudioWorkletProcessor {
  #ring = new Ring(sampleRate);
  #worker = null; // its port
  #block = new Float32Array(BLOCK);
  #filled = 0;
  #underWay = 0;
  #dropped = 0; // blocks of the microphone
  #heard = 0; // peaks since the last report
  #played = 0;
  #waited = 0; // samples, summed over render quanta since then
  #quanta = 0;
  #due = 0; // time of the next report
  #ended = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data.port) {
        this.#worker = data.port;
        this.#worker.onmessage = ({ data: sound }) => this.#take(sound);
      } else {
        this.#ended = true;
      }
    };
  }

  process([[input]], [[output]]) {
    if (this.#ended) return false;
    if (this.#worker) this.#send(input ?? new Float32Array(output.length)); // a microphone that is not there yet
    this.#ring.read(output);
    if (input) this.#heard = Math.max(this.#heard, peakOf(input));
    this.#played = Math.max(this.#played, peakOf(output));
    this.#waited += this.#ring.waiting;
    this.#quanta += 1;
    if (currentTime >= this.#due) this.#report();
    return true;
  }

  /** Sound of the worker, or null: it has taken a block. */
  #take(sound) {
    if (sound === null) this.#underWay -= 1;
    else this.#ring.write(sound);
  }

  #send(input) {
    this.#block.set(input, this.#filled);
    this.#filled += input.length;
    if (this.#filled < BLOCK) return;
    this.#filled = 0;
    if (this.#underWay >= MOST_UNDER_WAY) {
      this.#dropped += 1;
      return;
    }
    this.#underWay += 1;
    this.#worker.postMessage(this.#block);
  }

  #report() {
    const { underruns, skipped, target } = this.#ring;
    this.port.postMessage({
      peaks: [this.#heard, this.#played],
      waiting: this.#waited / this.#quanta / sampleRate,
      target: target / sampleRate,
      underruns,
      skipped: skipped / sampleRate,
      dropped: this.#dropped,
      blockSeconds: BLOCK / sampleRate,
    });
    this.#heard = this.#played = this.#waited = this.#quanta = 0;
    this.#due = currentTime + REPORT;
  }
}

function peakOf(block) {
  let peak = 0;
  for (let i = 0; i < block.length; i++) peak = Math.max(peak, Math.abs(block[i]));
  return peak;
}

registerProcessor("edgecodec-live", LiveProcessor);
