/**
 * The worker that computes: one codec, for live sound or a file.
 *
 * A call { id, type, … } is answered by { id, value } or { id, error }; what has no id is news. Import maps do not
 * reach workers: modules are named by their addresses.
 */

import { chunkCoder, makeHeader } from "./edgecodec/files.js";
import { Codes, Packet, Writer, decodeClip, encodeClip, load } from "./edgecodec/web.js";
import { LiveStream, warmUp } from "./live_stream.js";
import * as ort from "./ort/ort.wasm.bundle.min.js";

const NEWS_MS = 100;

ort.env.wasm.numThreads = 1; // two were slower, and would need special headers

let codec;
let live = null;
let timer;

const CALLS = {
  /** Load the bundle. */
  async load() {
    codec = await load(ort, new URL("bundle/", import.meta.url));
  },

  /** Begin live sound. */
  async start({ port, settings }) {
    await warmUp(codec, settings.stages, settings.size, () => postMessage({ news: "warming" }));
    CALLS.stop();
    live = new LiveStream(codec, port, settings, (error) => postMessage({ news: "failed", error: told(error) }));
    timer = setInterval(() => postMessage({ news: "figures", figures: live.figures() }), NEWS_MS);
    const { frameSize, delay, sampleRate } = codec;
    const packet = (settings.size * frameSize) / sampleRate;
    return { resampling: live.resampling, packet, delay: delay / sampleRate };
  },

  set(settings) {
    live?.set(settings);
  },

  stop() {
    clearInterval(timer);
    live?.end();
    live = null;
  },

  record() {
    live.record();
  },

  /** The .edgc file of what was recorded, null of nothing. */
  async recorded() {
    const codes = live?.recorded() ?? [];
    return codes.length ? fileOf(codes) : null;
  },

  observed() {
    return live.observed();
  },

  /** A clip as an .edgc file, and its sound. */
  async encode({ audio, sampleRate, stages }) {
    const file = await encodeClip(codec, audio, { stages, sampleRate });
    return { file, ...(await decodeClip(codec, file)) };
  },

  /** The sound of an .edgc file. */
  decode({ file }) {
    return decodeClip(codec, file);
  },
};

self.onmessage = async ({ data: { id, type, ...fields } }) => {
  try {
    postMessage({ id, value: await CALLS[type](fields) });
  } catch (error) {
    postMessage({ id, error: told(error) });
  }
};

function told(error) {
  return error.exitCode === undefined ? `${error.name}: ${error.message}` : error.message;
}

/** An .edgc file of codes of one frame each, whose stage counts may differ. */
async function fileOf(frames) {
  const most = frames.reduce((lines, codes) => Math.max(lines, codes.lines), 0);
  const { layout } = codec.manifest;
  const header = makeHeader(codec, codec.sampleRate, 1, layout.stages(most));
  const [writer, coder] = [new Writer(header), await chunkCoder(codec, header)];
  const size = header.framesPerPacket;
  for (let first = 0, sequence = 0; first < frames.length; first += size, sequence++) {
    const codes = Codes.join(frames.slice(first, first + size).map((own) => padded(own, most)));
    writer.write(coder.encode(new Packet(sequence, codes, null, layout)));
    await new Promise((done) => setTimeout(done)); // live sound goes on
  }
  return writer.finish(frames.length * codec.frameSize - codec.delay);
}

/** Codes of one stream with so many lines; -1 stands in those that are added. */
function padded(codes, lines) {
  const all = new Codes(1, lines, codes.frames);
  all.data.fill(-1);
  all.data.set(codes.data);
  return all;
}
