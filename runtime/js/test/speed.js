/** What a frame costs to encode and decode at 8 stages, one thread, as JSON: `node test/speed.js native | wasm`. */

import { samplesOf, vectors } from "./vectors.js";
import { load } from "edgecodec/node";

const [WARMING, FRAMES] = [800, 400]; // V8 makes wasm fast while it runs
const native = process.argv[2] === "native";
const ort = native ? await import("onnxruntime-node") : await import("onnxruntime-web/wasm");
if (!native) ort.env.wasm.numThreads = 1;

const begun = performance.now();
const codec = await load(ort);
const loading = performance.now() - begun;
const audio = samplesOf(vectors.codecs.speech.audio[0]);
const [encoder, decoder] = [codec.encoderStream({ stages: 8 }), codec.decoderStream()];
const times = [];
for (let i = 0; i < WARMING + FRAMES; i++) {
  const at = (i * codec.frameSize) % (audio.length - codec.frameSize);
  const start = performance.now();
  const [packet] = await encoder.push(audio.subarray(at, at + codec.frameSize));
  await decoder.push(packet);
  times.push(performance.now() - start);
}
const [first] = times;
const warm = times.slice(WARMING).sort((a, b) => a - b);
const megabytes = process.memoryUsage().rss / 2 ** 20;
console.log(JSON.stringify({ p10: warm[FRAMES / 10], p50: warm[FRAMES / 2], first, loading, megabytes }));
