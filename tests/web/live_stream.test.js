/** The worker's part of live sound, on onnxruntime-node: codec, bypass, loss and recording. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";

import { Codes, load } from "./edgecodec/index.js";
import { LiveStream } from "./live_stream.js";

const ort = createRequire(`${process.env.EDGECODEC_PACKAGE}/package.json`)("onnxruntime-node");
const names = readdirSync("bundle");
const codec = await load(ort, new Map(names.map((name) => [name, new Uint8Array(readFileSync(`bundle/${name}`))])));
const rate = codec.sampleRate;
const audio = Float32Array.from({ length: 40 * codec.frameSize }, (_, i) => 0.3 * Math.sin(i / 9) * Math.sin(i / 700));
const plain = { rate, size: 1, stages: 2, loss: 0, bypass: false, observe: true };

for (const size of [1, 2, 4]) {
  test(`packets of ${size}: sound comes out, each block is answered for, a recording holds all codes`, async () => {
    const { stream, port, sound } = begun({ ...plain, size });
    stream.record();
    const answered = await fed(port);
    assert.equal(answered, 100);
    const codes = await codec.encode(audio, { stages: 2 });
    const frames = codes.slice(0, 40);
    const recorded = stream.recorded();
    assert.equal(recorded.length, 40);
    assert.ok(Codes.join(recorded).equals(frames));
    const [whole] = await codec.decode(frames, {});
    const played = sound();
    for (let i = 0; i < whole.length; i++) assert.ok(Math.abs(played[codec.delay + i] - whole[i]) < 1e-6);
    const { frames: count, lost, codesKbps, packetsKbps } = stream.figures();
    assert.deepEqual([count, lost], [40, 0]);
    const [bytes, packetSeconds] = [7, (size * codec.frameSize) / rate]; // of a packet's head and checksum
    assert.ok(codesKbps >= codec.bitrates[1] - 1e-9);
    assert.ok(Math.abs(packetsKbps - codesKbps - (8 * bytes) / packetSeconds / 1000) < 1e-6);
    assert.equal(stream.observed().input.length, audio.length);
  });
}

test("the bypass is the microphone, as late as the codec", async () => {
  const { port, sound } = begun({ ...plain, bypass: true });
  await fed(port);
  const played = sound();
  assert.equal(played.length, audio.length);
  for (let i = 0; i < played.length; i++) assert.equal(played[i], i < codec.delay ? 0 : audio[i - codec.delay]);
});

test("a switch between both does not click", async () => {
  const { stream, port, sound } = begun(plain);
  await fed(port, () => stream.set({ bypass: !stream.bypass }));
  const [played, reference] = [sound(), await steepest()];
  for (let i = 1; i < played.length; i++) assert.ok(Math.abs(played[i] - played[i - 1]) < reference);
});

for (const size of [1, 2]) {
  test(`lost packets of ${size} are concealed, and all of them may be lost`, async () => {
    const { stream, port, sound } = begun({ ...plain, size, loss: 1 });
    await fed(port);
    assert.equal(stream.figures().lost, 40);
    assert.equal(sound().length, audio.length);
  });
}

test("what fails is said once, and ends the stream", async () => {
  const errors = [];
  const { port } = begun(plain, (error) => errors.push(error));
  port.onmessage({ data: new Float32Array(400).fill(Number.NaN) });
  port.onmessage({ data: new Float32Array(400) });
  await new Promise((done) => setTimeout(done, 50));
  assert.match(errors.map((error) => error.message).join(), /^audio holds NaN or infinity|^[^,]*NaN/);
  assert.equal(errors.length, 1);
});

function begun(settings, failed = (error) => assert.fail(error)) {
  const answers = [];
  const port = { postMessage: (data) => answers.push(data), close() {}, answers };
  const stream = new LiveStream(codec, port, settings, failed);
  const sound = () => Float32Array.from(answers.filter((own) => own !== null).flatMap((own) => [...own]));
  return { stream, port, sound };
}

/** Feed the audio in 100 blocks, and give how many were answered for; `between` is called now and then. */
async function fed(port, between = () => {}) {
  const size = audio.length / 100;
  for (let i = 0; i < 100; i++) {
    port.onmessage({ data: audio.slice(i * size, (i + 1) * size) });
    while (port.answers.filter((own) => own === null).length <= i) await new Promise((done) => setTimeout(done));
    if (i % 23 === 22) between();
  }
  return port.answers.filter((own) => own === null).length;
}

/** The steepest step of both sides, and a little more. */
async function steepest() {
  const [decoded] = await codec.decode(await codec.encode(audio, { stages: 2 }));
  const step = (own) => own.reduce((most, sample, i) => (i ? Math.max(most, Math.abs(sample - own[i - 1])) : 0), 0);
  return 1.2 * Math.max(step(audio), step(decoded)) + 2 / codec.frameSize;
}
