/** A file and its versions at several bitrates: encoded when first asked for, and switched while they play. */

const MOST_SECONDS = 60;
const MOST_BYTES = 200 << 20;

export class Clip {
  #client;
  #audio; // channels, at the codec's rate
  #versions = new Map(); // { audio, file } by stage count, 0 for the original
  #context = null;
  #source = null;
  #begun = 0; // time of the context at which the clip's start lies
  name = "";
  about = ""; // what the page says of it
  onended = () => {};

  /** @param {import("./codec_client.js").CodecClient} client */
  constructor(client) {
    this.#client = client;
  }

  get playing() {
    return this.#source !== null;
  }

  /**
   * Take a file, audio that the browser reads or an .edgc file, at a rate in Hz. What goes on for more than a minute is
   * cut. Gives { seconds, damage }.
   */
  async open(file, sampleRate) {
    this.stop();
    if (file.size > MOST_BYTES) throw new Error(`${file.name}: more than ${MOST_BYTES >> 20} MB`);
    const bytes = new Uint8Array(await file.arrayBuffer());
    const isEdgc = String.fromCharCode(...bytes.subarray(0, 4)) === "EDGC";
    const read = isEdgc ? await this.#client.call("decode", { file: bytes }) : await decoded(file, bytes, sampleRate);
    const channels = read.audio.slice(0, 2).map((own) => own.slice(0, MOST_SECONDS * read.sampleRate));
    this.sampleRate = read.sampleRate;
    this.#audio = channels;
    this.#versions = new Map([[0, { audio: channels, file: null }]]);
    return { seconds: channels[0].length / read.sampleRate, damage: read.damage ?? [] };
  }

  /** The version of a stage count: { audio, file }, file null of the original. */
  async version(stages) {
    if (!this.#versions.has(stages)) {
      const audio = this.#audio;
      const made = await this.#client.call("encode", { audio, sampleRate: this.sampleRate, stages });
      if (audio === this.#audio) this.#versions.set(stages, made); // else another file has come
      return made;
    }
    return this.#versions.get(stages);
  }

  /** Play a version from where the one before it was. */
  async play({ audio }) {
    this.#context ??= new AudioContext();
    await this.#context.resume();
    const buffer = this.#context.createBuffer(audio.length, audio[0].length, this.sampleRate);
    audio.forEach((own, channel) => buffer.copyToChannel(own, channel));
    const at = this.playing ? this.#context.currentTime - this.#begun : 0;
    this.#silence();
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    source.onended = () => {
      if (this.#source !== source) return;
      this.#source = null;
      this.onended();
    };
    source.start(0, Math.max(0, at));
    this.#begun = this.#context.currentTime - at;
    this.#source = source;
  }

  stop() {
    if (!this.playing) return;
    this.#silence();
    this.onended();
  }

  #silence() {
    const source = this.#source;
    this.#source = null;
    source?.stop();
    source?.disconnect();
  }
}

async function decoded(file, bytes, sampleRate) {
  try {
    const buffer = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes.buffer);
    const audio = Array.from({ length: buffer.numberOfChannels }, (_, channel) => buffer.getChannelData(channel));
    if (!buffer.length) throw new Error("empty");
    return { audio, sampleRate: buffer.sampleRate };
  } catch {
    throw new Error(`${file.name}: no audio that this browser reads, and no .edgc file`);
  }
}
