/** Microphone, audio thread and loudspeaker of the live side. */

const REASONS = {
  NotAllowedError: "The microphone is not allowed: allow it for this page, and start again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone cannot be opened; another program may hold it.",
};

/** Live sound, from start to stop. `onreport` hears of the audio thread ten times a second. */
export class Live {
  #client;
  #context = null;
  #node;
  #source;
  #microphone;
  #codec = null; // seconds of its parts
  heard = null; // analysers
  played = null;
  onreport = () => {};

  /** @param {import("./codec_client.js").CodecClient} client */
  constructor(client) {
    this.#client = client;
  }

  get running() {
    return this.#context !== null;
  }

  /** Hz of the audio device. */
  get rate() {
    return this.#context.sampleRate;
  }

  /**
   * Open the microphone, load and warm up the codec, and begin.
   *
   * Call it from a click: browsers start no sound unasked. Where anything fails, all is closed again.
   */
  async start(settings, wanted) {
    if (navigator.mediaDevices === undefined || globalThis.AudioWorkletNode === undefined) {
      throw new Error("Browsers open a microphone in secure pages alone: by https, or on localhost.");
    }
    this.#context = new AudioContext({ latencyHint: "interactive" }); // at the device's own rate
    const microphone = opened(wanted);
    try {
      await Promise.all([
        microphone,
        this.#client.load(),
        this.#context.audioWorklet.addModule(new URL("live_worklet.js", import.meta.url)),
        this.#context.resume(),
      ]);
      this.#microphone = await microphone;
      const { port1, port2 } = new MessageChannel();
      const call = { port: port2, settings: { ...settings, rate: this.rate } };
      this.#codec = await this.#client.call("start", call, [port2]);
      const mono = { channelCount: 1, channelCountMode: "explicit", outputChannelCount: [1] };
      this.#node = new AudioWorkletNode(this.#context, "edgecodec-live", mono);
      this.#node.port.onmessage = ({ data }) => this.onreport(data);
      this.heard = this.#context.createAnalyser();
      this.played = this.#context.createAnalyser();
      for (const analyser of [this.heard, this.played]) {
        analyser.fftSize = 1024;
        analyser.smoothingTimeConstant = 0;
      }
      this.#connect();
      this.#node.connect(this.played).connect(this.#context.destination);
      this.#node.port.postMessage({ port: port1 }, [port1]);
    } catch (error) {
      void microphone.then(close, () => {}); // it may open later than something else fails
      await this.stop();
      throw new Error(REASONS[error.name] ?? error.message);
    }
  }

  /** Open the microphone anew, with or without what the browser does to its sound. */
  async reopen(wanted) {
    const microphone = await opened(wanted);
    this.#source.disconnect();
    close(this.#microphone);
    this.#microphone = microphone;
    this.#connect();
  }

  async stop() {
    const [context, codec] = [this.#context, this.#codec];
    this.#context = this.#codec = null;
    this.#node?.port.postMessage({ end: true });
    this.#node?.disconnect();
    close(this.#microphone);
    this.#microphone = this.#node = undefined;
    await Promise.all([context?.close(), codec && this.#client.call("stop")]);
  }

  /** Seconds from mouth to ear, by part, of a report of the audio thread and of the worker's figures. */
  latency(report, figures) {
    const [track] = this.#microphone.getAudioTracks();
    return [
      ["Microphone, as the browser says", track.getSettings().latency ?? 0],
      ["Until a block is full", report.blockSeconds],
      ["Until a packet is full", this.#codec.packet],
      ["Overlap of the codec's transform", this.#codec.delay],
      ["Resampling", this.#codec.resampling],
      ["Encode and decode", (figures.encodeMs + figures.decodeMs) / 1000],
      ["Waits to be played", report.waiting],
      ["Loudspeaker, as the browser says", this.#context.outputLatency || this.#context.baseLatency || 0],
    ];
  }

  #connect() {
    this.#source = this.#context.createMediaStreamSource(this.#microphone);
    this.#source.connect(this.heard).connect(this.#node);
  }
}

function opened({ echo, noise, gain }) {
  const audio = { channelCount: 1, echoCancellation: echo, noiseSuppression: noise, autoGainControl: gain };
  return navigator.mediaDevices.getUserMedia({ audio });
}

function close(microphone) {
  microphone?.getTracks().forEach((track) => track.stop());
}
