/**
 * onnxruntime sessions of a bundle's graphs: options, and the check that graphs and manifest agree.
 *
 * onnxruntime is handed in: onnxruntime-node and onnxruntime-web have the same interface. Arrays are flat, their shapes
 * stand in comments; a state is a tensor of onnxruntime, handed from call to call and never looked into.
 */

import { Codes } from "./codes.js";
import { BitstreamError, BundleError, EdgecodecError, oneLine } from "./errors.js";
import { makeSession, takesOneStream } from "./graph_session.js";
import { GRAPHS } from "./manifest.js";
import { joined, sliced } from "./rows.js";

// Frames times streams, and samples of each, in one call: bounds memory, and is long enough to be fast.
const [BLOCK_FRAMES, BLOCK_SAMPLES] = [64, 1 << 16];
const SEARCH_PATHS = 512; // frames times paths in one call of the search: all scores of them stay in the caches
const USUAL_PATHS = 2; // of the search that a bundle was made for

/** The four graphs of a bundle, ready to run. Make them with `Sessions.create`. */
export class Sessions {
  #ort;
  #sessions;
  #oneStream; // graphs of which a call takes one stream only, as graphs of fixed shapes may: several take a call each
  #scalars = new Map(); // tensors of whole numbers, which calls share
  silence; // what the codec makes of silence: latents [1, 1, D] of the last of several silent frames, at all stages

  constructor(ort, manifest, sessions) {
    this.#ort = ort;
    this.manifest = manifest;
    this.#sessions = sessions;
    this.#oneStream = new Set(GRAPHS.filter((name) => takesOneStream(sessions[name], name, manifest)));
  }

  /** Throws a BundleError: a graph that onnxruntime refuses, or that contradicts the manifest. */
  static async create(ort, bundle, { threads = 1, executionProviders = ["cpu"] } = {}) {
    const sessions = {};
    for (const name of GRAPHS) {
      // Other providers have changed the codes of the quantizer, or crashed: it stays on the CPU.
      const providers = name.startsWith("quantizer") ? ["cpu"] : executionProviders;
      sessions[name] = await makeSession(ort, bundle, name, providers, threads);
    }
    const made = new Sessions(ort, bundle.manifest, sessions);
    made.silence = await made.#checkedRun();
    return made;
  }

  /**
   * Audio [B, C, frameSize * T] after what `state` remembers, to { codes: Codes [B, lines, T], state }.
   *
   * Where the encoder looks ahead, the first call holds that many frames of codes back, and the `last` one gives them.
   * Long audio passes in blocks, so that memory stays bounded; how it is cut does not change a code. `paths` are those
   * of the search, see `quantize`.
   */
  async encode(audio, batch, state, stages, { paths = 0, last = false } = {}) {
    const { frameSize, channels } = this.manifest;
    const [codes, rows] = [[], batch * channels];
    for (const block of this.#blocks("encoder", batch, audio.length / rows / frameSize, last)) {
      const own = sliced(audio, rows, block.first * frameSize, block.end * frameSize);
      const { latents, state: next } = await this.analyze(own, batch, state, block.last);
      state = next;
      codes.push(
        await this.quantize(this.tensor("float32", latents, [batch, -1, this.manifest.latentDim]), stages, paths),
      );
    }
    return { codes: Codes.join(codes), state };
  }

  /** Codes [B, lines, T], already checked, to { audio [B, C, frameSize * T], state }, as `encode`. */
  async decode(codes, state, { last = false } = {}) {
    const audio = [];
    for (const block of this.#blocks("decoder", codes.streams, codes.frames, last)) {
      const latents = await this.latents(codes.slice(block.first, block.end));
      const made = await this.synthesize(latents, codes.streams, state, block.last);
      audio.push(made.audio);
      state = made.state;
    }
    return { audio: joined(audio, codes.streams * this.manifest.channels), state };
  }

  /** Audio [B, C, frameSize * T] to { latents [B, T, D], state }, as `encode`. */
  async analyze(audio, batch, state, last = false) {
    const { frameSize, channels } = this.manifest;
    const [latents, rows] = [[], batch * channels];
    for (const block of this.#blocks("encoder", batch, audio.length / rows / frameSize, last)) {
      const own = sliced(audio, rows, block.first * frameSize, block.end * frameSize);
      const made = await this.step("encoder", this.tensor("float32", own, [batch, channels, -1]), state, block.last);
      latents.push(made.output.data);
      state = made.state;
    }
    return { latents: latents.length ? joined(latents, batch) : new Float32Array(0), state };
  }

  /**
   * Codes of a tensor of latents [B, T, D].
   *
   * The search follows `paths` after every stage, 1..maxPaths; 0: those that the bundle was made for.
   */
  async quantize(latents, stages, paths = 0) {
    const [batch, frames] = latents.dims;
    if (!batch || !frames) return new Codes(batch, this.manifest.layout.lines(stages), frames);
    const inputs = { latents, n_stages: this.#scalar(stages) };
    if (this.manifest.maxPaths) inputs.paths = this.#scalar(paths);
    const calls = Math.min(frames, Math.ceil((batch * frames * (paths || USUAL_PATHS)) / SEARCH_PATHS));
    const parts = [];
    for (let i = 0, first = 0; i < calls; i++) {
      const end = first + Math.floor(frames / calls) + (i < frames % calls ? 1 : 0); // even: short calls cost more
      if (calls > 1) inputs.latents = this.#framesOf(latents, first, end);
      const { codes } = await this.run("quantizer_encode", inputs);
      parts.push(new Codes(...codes.dims, lowWords(codes.data)));
      first = end;
    }
    return parts.length === 1 ? parts[0] : Codes.join(parts);
  }

  /** Latents [B, T, D] of codes [B, lines, T], already checked; frames of as many stages go together. */
  async latents(codes) {
    const { layout, latentDim } = this.manifest;
    if (!hasMissing(codes)) return (await this.#lookUp(codes)).data;
    const counts = layout.counts(codes);
    const latents = new Float32Array(counts.length * latentDim);
    for (const stages of new Set(counts)) {
      const places = Array.from(counts.keys()).filter((place) => counts[place] === stages);
      const alike = new Codes(1, layout.lines(stages), places.length);
      for (let line = 0; line < alike.lines; line++) {
        const own = alike.line(0, line);
        places.forEach((place, i) => {
          own[i] = codes.line(Math.floor(place / codes.frames), line)[place % codes.frames];
        });
      }
      const found = (await this.#lookUp(alike)).data;
      places.forEach((place, i) => latents.set(found.subarray(i * latentDim, (i + 1) * latentDim), place * latentDim));
    }
    return latents;
  }

  /** Latents [B, T, D] to { audio [B, C, frameSize * T], state }, as `encode`. */
  async synthesize(latents, batch, state, last = false) {
    const { latentDim, channels } = this.manifest;
    const audio = [];
    for (const block of this.#blocks("decoder", batch, latents.length / batch / latentDim, last)) {
      const own = sliced(latents, batch, block.first * latentDim, block.end * latentDim);
      const made = await this.step("decoder", this.tensor("float32", own, [batch, -1, latentDim]), state, block.last);
      audio.push(made.output.data);
      state = made.state;
    }
    return { audio: audio.length ? joined(audio, batch * channels) : new Float32Array(0), state };
  }

  /**
   * One call of a graph with a state: a tensor of audio or latents to { output: the other one, state }. Where it takes
   * several frames and no fewer, zeros follow a clip's end.
   */
  async step(graph, x, state, last = false) {
    const { callFrames, frameSize, channels, latentDim } = this.manifest;
    const [source, made] = graph === "encoder" ? ["audio", "latents"] : ["latents", "audio"];
    const dims = { audio: [x.dims[0], channels, -1], latents: [x.dims[0], -1, latentDim] };
    const frames = source === "audio" ? x.dims[2] / frameSize : x.dims[1];
    const isShort = callFrames > 1 && frames !== callFrames;
    if (isShort && !last) {
      throw new BundleError(`${graph}: takes ${callFrames} frames a call, not ${frames}: whole clips, and no streams`);
    }
    const inputs = { [source]: isShort ? this.#lengthened(x, dims[source], callFrames / frames) : x, state };
    if (this.looksAhead(graph)) inputs.last = this.#scalar(last ? 1 : 0);
    const outputs = await this.run(graph, inputs);
    const output = isShort ? this.#lengthened(outputs[made], dims[made], frames / callFrames) : outputs[made];
    return { output, state: outputs.next_state };
  }

  /** The state before the first frame. */
  zeroState(graph, batch) {
    const size = this.manifest.state[graph];
    return this.tensor("float32", new Float32Array(batch * size), [batch, size]);
  }

  /** Frames of each of `batch` streams that one call takes at most: also enough for a first call. */
  blockFrames(batch) {
    const { callFrames, startFrames, frameSize } = this.manifest;
    const fitting = Math.floor(Math.min(BLOCK_FRAMES, Math.floor(BLOCK_SAMPLES / frameSize)) / batch);
    return callFrames || Math.max(startFrames.encoder, startFrames.decoder, fitting);
  }

  /** Whether a graph holds something back, and is told which call is the last of a stream. */
  looksAhead(graph) {
    return this.manifest.lookahead[graph] > 0;
  }

  /** A tensor over an array, which it shares; -1 in `dims` stands for what is left. */
  tensor(type, data, dims) {
    const known = dims.reduce((product, size) => (size < 0 ? product : product * size), 1);
    const shape = dims.map((size) => (size < 0 ? data.length / known : size));
    return new this.#ort.Tensor(type, data, shape);
  }

  /** The outputs of a graph, by name. */
  async run(graph, inputs) {
    const streams = this.#oneStream.has(graph) ? Object.values(inputs)[0].dims[0] : 1;
    if (streams > 1) return this.#runEach(graph, inputs, streams);
    try {
      return await this.#sessions[graph].run(inputs);
    } catch (error) {
      const { file } = this.manifest.facts.graphs[graph];
      throw new BundleError(`${file}: onnxruntime cannot run the graph: ${oneLine(error)}`);
    }
  }

  /** A call for each stream, and their outputs as one. */
  async #runEach(graph, inputs, streams) {
    const each = [];
    for (let i = 0; i < streams; i++) {
      const own = Object.entries(inputs).map(([name, x]) => [name, x.dims.length ? this.#stream(x, i) : x]);
      each.push(await this.run(graph, Object.fromEntries(own)));
    }
    const joinedUp = ([name, first]) => {
      const data = joined(each.map((outputs) => outputs[name].data), 1);
      return [name, this.tensor(first.type, data, [streams, ...first.dims.slice(1)])];
    };
    return Object.fromEntries(Object.entries(each[0]).map(joinedUp));
  }

  /** One stream of a tensor of several. */
  #stream(x, i) {
    const size = x.data.length / x.dims[0];
    return this.tensor(x.type, x.data.slice(i * size, (i + 1) * size), [1, ...x.dims.slice(1)]);
  }

  /** A tensor so many times as long in the dimension that is -1: cut, or with zeros behind it. */
  #lengthened(x, dims, times) {
    const rows = dims[1] < 0 ? dims[0] : dims[0] * dims[1];
    const before = x.data.length / rows;
    const after = Math.round(before * times);
    const data =
      after < before
        ? sliced(x.data, rows, 0, after)
        : joined([x.data, new Float32Array(rows * (after - before))], rows);
    return this.tensor(x.type, data, dims);
  }

  /** Free what the sessions hold outside of JavaScript's memory. */
  async release() {
    for (const name of GRAPHS) await this.#sessions[name].release?.();
  }

  async #lookUp(codes) {
    const tensor = this.tensor("int64", wideCodes(codes.data), [codes.streams, codes.lines, codes.frames]);
    return (await this.run("quantizer_decode", { codes: tensor })).latents;
  }

  /** Some frames of a tensor of latents [B, T, D]. */
  #framesOf(latents, first, end) {
    const [batch, , size] = latents.dims;
    return this.tensor("float32", sliced(latents.data, batch, first * size, end * size), [batch, -1, size]);
  }

  #scalar(number) {
    if (!this.#scalars.has(number)) {
      this.#scalars.set(number, this.tensor("int64", BigInt64Array.of(BigInt(number)), []));
    }
    return this.#scalars.get(number);
  }

  /**
   * The calls for so many frames: the first of each, the one after it, and whether a stream ends with the call. The end
   * of a stream may bring no more frames, and yet what was held back.
   */
  *#blocks(graph, batch, frames, last) {
    const size = this.blockFrames(batch);
    const calls = Math.max(Math.ceil(frames / size), last && this.looksAhead(graph) ? 1 : 0);
    for (let i = 0; i < calls; i++) {
      yield { first: i * size, end: Math.min((i + 1) * size, frames), last: last && i + 1 === calls };
    }
  }

  /**
   * The least stream through the whole chain: sizes that no declaration shows, and codes in range. Returns `silence`.
   */
  async #checkedRun() {
    const m = this.manifest;
    const frames = Math.max(2, m.startFrames.encoder, m.startFrames.decoder, m.callFrames);
    const audio = new Float32Array(m.channels * frames * m.frameSize);
    try {
      const first = await this.analyze(audio, 1, this.zeroState("encoder", 1));
      const rest = await this.analyze(audio.subarray(0, 0), 1, first.state, true);
      const latents = joined([first.latents, rest.latents], 1);
      const tensor = this.tensor("float32", latents, [1, -1, m.latentDim]);
      const codes = await this.quantize(tensor, m.maxStages);
      const widest = m.maxPaths ? await this.quantize(tensor, m.maxStages, m.maxPaths) : codes;
      m.checkCodes(codes, 1);
      m.checkCodes(widest, 1);
      const quantized = await this.latents(codes);
      const decoded = await this.synthesize(quantized, 1, this.zeroState("decoder", 1));
      const tail = await this.synthesize(quantized.subarray(0, 0), 1, decoded.state, true);
      const [lines, ahead] = [m.layout.lines(m.maxStages), m.lookahead];
      for (const [what, found, expected] of [
        ["latents", first.latents.length, (frames - ahead.encoder) * m.latentDim],
        ["last latents", rest.latents.length, ahead.encoder * m.latentDim],
        ["decoded latents", quantized.length, frames * m.latentDim],
        ["encoder state", rest.state.data.length, m.state.encoder],
        ["codes", [codes.lines, codes.frames].join(), [lines, frames].join()],
        ["codes of most paths", [widest.lines, widest.frames].join(), [lines, frames].join()],
        ["decoded audio", decoded.audio.length, m.channels * (frames * m.frameSize - ahead.decoder)],
        ["last audio", tail.audio.length, m.channels * ahead.decoder],
        ["decoder state", tail.state.data.length, m.state.decoder],
      ]) {
        if (found !== expected) throw new BitstreamError(`${what} of ${found} numbers, expected ${expected}`);
      }
      return quantized.slice(-m.latentDim);
    } catch (error) {
      if (error instanceof BundleError) throw error;
      if (!(error instanceof EdgecodecError || error instanceof RangeError)) throw error;
      throw new BundleError(`the graphs contradict the manifest: ${oneLine(error)}`);
    }
  }
}

/** Codes as the graphs take them, BigInt64Array: the low words hold them, the high ones are 0. */
export function wideCodes(data, wide = new BigInt64Array(data.length)) {
  const words = new Int32Array(wide.buffer, wide.byteOffset, 2 * wide.length);
  for (let i = 0; i < data.length; i++) words[2 * i] = data[i];
  return wide;
}

/** Whether some frame has fewer stages than others. */
export function hasMissing(codes) {
  for (let stream = 0; stream < codes.streams; stream++) {
    if (codes.line(stream, codes.lines - 1).some((code) => code < 0)) return true;
  }
  return false;
}

/** The low words of whole numbers of 64 bits: a thousandth of the cost of their BigInts. */
function lowWords(wide) {
  const words = new Int32Array(wide.buffer, wide.byteOffset, 2 * wide.length);
  const data = new Int32Array(wide.length);
  for (let i = 0; i < data.length; i++) data[i] = words[2 * i];
  return data;
}
