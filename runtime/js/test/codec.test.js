/** Bundles, clips and streams on onnxruntime-node, against the Python runtime. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import * as ort from "onnxruntime-node";

import { BundleError, Codes, LiveResampler, Manifest, Packet, load, verify } from "edgecodec/node";
import { load as loadFiles } from "edgecodec";
import { apart, bytes, codesOf, digits, said, saidLater, samplesOf, vectors } from "./vectors.js";
import { keepsDataElsewhere } from "../src/onnx_fields.js";

const SAME = 1e-5; // of full scale: where two builds of onnxruntime round differently; one build gives 0
const codecs = {};
for (const [name, folder] of Object.entries(vectors.bundles)) codecs[name] = await load(ort, folder);

for (const [name, written] of Object.entries(vectors.codecs)) {
  const codec = codecs[name];
  const audio = written.audio.map(samplesOf);

  test(`${name}: facts and golden vectors`, async () => {
    assert.equal(digits(codec.fingerprint), written.fingerprint);
    const { sampleRate, frameSize, delay, channels, maxStages } = codec;
    assert.deepEqual([sampleRate, frameSize, delay, channels, maxStages], written.facts);
    codec.bitrates.forEach((bitrate, i) => assert.ok(Math.abs(bitrate - written.bitrates[i]) < 1e-9));
    const results = await verify(codec);
    assert.ok(results.length >= 3);
    for (const result of results) {
      assert.equal(result.equalCodes, 1);
      assert.ok(result.passed && result.codedEqual && result.decodedError < SAME);
    }
  });

  test(`${name}: clips are encoded and decoded as in Python`, async () => {
    for (const { stages, effort, codes, decoded } of written.clips) {
      const own = await codec.encode(audio, { stages, effort });
      assert.ok(own.equals(codesOf(codes)), `${stages} stages, ${effort}`);
      if (decoded === undefined) continue;
      const samples = audio[0].length;
      const again = await codec.decode(own, { samples });
      const expected = samplesOf(decoded);
      again.forEach((channel, row) =>
        assert.ok(apart(channel, expected.subarray(row * samples, (row + 1) * samples)) < SAME),
      );
      assert.equal(again.length * samples, expected.length);
    }
  });

  test(`${name}: streams give Python's packets, and its sound where some are lost`, async () => {
    for (const row of written.streams) {
      const { packets, form, encoder } = await encoded(codec, audio, row);
      const [next] = await encoder.push(audio); // of a new stream: packets are counted on
      assert.equal(next.sequence, packets.length);
      assert.deepEqual(
        packets.map((packet) => digits(form.toBytes(packet))),
        row.packets,
      );
      const read = row.packets.map((own) => form.fromBytes(bytes(own)));
      const [pushed, asked] = [0, 1].map(() => codec.decoderStream({ channels: 2, afterSilence: row.afterSilence }));
      assert.equal(pushed.delay, row.delay);
      const sound = [];
      for (const sequence of row.order) sound.push(await pushed.push(read[sequence]));
      assert.deepEqual(Object.values(pushed.statistics), row.statistics[0]);
      sound.push(await pushed.flush());
      assert.ok(apart(channelsOf(sound), samplesOf(row.pushed)) < SAME);
      const turns = [];
      for (let i = 0; i < read.length; i++) {
        const [due, next] = [i, i + 1].map((turn) => (row.order.includes(turn) ? read[turn] : undefined));
        turns.push(await (due === undefined ? asked.conceal(next) : asked.push(due)));
      }
      assert.deepEqual(Object.values(asked.statistics), row.statistics[1]);
      assert.ok(apart(channelsOf(turns), samplesOf(row.asked)) < SAME);
    }
  });
}

test("however audio is cut, and whether calls are awaited or not, codes are those of the clip", async () => {
  const codec = codecs.speech;
  const audio = samplesOf(vectors.codecs.speech.audio[0]).subarray(0, 6000);
  const whole = await codec.encode(audio, { stages: 4 });
  const stream = codec.encoderStream({ stages: 4, framesPerPacket: 3 });
  const block = new Float32Array(700); // written again at once, as an AudioWorklet does
  const pending = [];
  for (let at = 0; at < audio.length; at += block.length) {
    const own = block.subarray(0, Math.min(block.length, audio.length - at));
    own.set(audio.subarray(at, at + own.length));
    pending.push(stream.push(own));
  }
  pending.push(stream.flush());
  stream.stages = 1; // after the calls: they keep what was set when they were made
  const packets = (await Promise.all(pending)).flat();
  assert.ok(Codes.join(packets.map((packet) => packet.codes)).equals(whole));
  assert.deepEqual(
    packets.slice(0, 2).map((packet) => [packet.sequence, packet.frames]),
    [
      [0, 3],
      [1, 3],
    ],
  );
});

test("a stream is as it was after what it refuses", async () => {
  const codec = codecs.speech;
  const audio = samplesOf(vectors.codecs.speech.audio[0]).subarray(0, 1600);
  const stream = codec.encoderStream({ stages: 2 });
  const first = await stream.push(audio.subarray(0, 800));
  const spoilt = audio.slice(0, 800);
  spoilt[5] = Number.NaN;
  assert.match(await saidLater(stream.push(spoilt)), /NaN or infinity, first at sample 5/);
  assert.match(await saidLater(stream.push([audio, audio])), /a block of 2 channels, expected 1/);
  for (const wrong of [new Int16Array(4), [1, 2], "audio", null, undefined]) {
    assert.match(await saidLater(stream.push(wrong)), /audio must be floating point/);
  }
  const packets = [...first, ...(await stream.push(audio.subarray(800))), ...(await stream.flush())];
  assert.ok(Codes.join(packets.map((packet) => packet.codes)).equals(await codec.encode(audio, { stages: 2 })));

  const [decoder, other] = [codec.decoderStream(), codec.decoderStream()];
  await decoder.push(packets[0]);
  await other.push(packets[0]);
  const bad = new Packet(2, new Codes(1, 1, 1, [1024]));
  for (const call of [
    () => decoder.push(bad),
    () => decoder.conceal(new Packet(2, bad.codes)),
    () => decoder.push({}),
    () => decoder.push(new Packet(1, [[[1]]])),
  ]) {
    assert.notEqual(await saidLater(call()), null);
  }
  assert.match(await saidLater(decoder.conceal(null, { frames: 0 })), /1 to 255 frames/);
  assert.match(await saidLater(decoder.push(new Packet(2, new Codes(2, 1, 1)))), /of 2 streams, expected 1/);
  assert.deepEqual(decoder.statistics, { received: 1, concealed: 0, recovered: 0, late: 0 });
  assert.equal(apart((await decoder.push(packets[1]))[0], (await other.push(packets[1]))[0]), 0);
});

test("a graph that fails leaves a decoder stream as it was", async () => {
  const { speech: codec } = codecs;
  const failing = { fail: false };
  const wrapped = await load(fragile(failing), vectors.bundles.speech);
  const packets = await codec
    .encoderStream({ stages: 2 })
    .push(samplesOf(vectors.codecs.speech.audio[0]).subarray(0, 3200));
  const [decoder, other] = [wrapped.decoderStream(), codec.decoderStream()];
  for (const stream of [decoder, other]) await stream.push(packets[0]);
  failing.fail = true; // the decoder alone: concealment has run the codebooks by then
  assert.match(await saidLater(decoder.push(packets[4])), /decoder.onnx: onnxruntime cannot run the graph: on purpose/);
  failing.fail = false;
  assert.equal(apart((await decoder.push(packets[4]))[0], (await other.push(packets[4]))[0]), 0);
  assert.deepEqual(decoder.statistics, other.statistics);
});

test("what a codec does not offer is refused", async () => {
  const codec = codecs.speech;
  const audio = new Float32Array(640);
  assert.match(await saidLater(codec.encode(audio, { stages: 0 })), /1 to 16 stages, not 0/);
  assert.match(await saidLater(codec.encode(audio, { stages: 17 })), /not 17/);
  assert.match(await saidLater(codec.encode(audio, { stages: "8" })), /whole number/);
  assert.match(await saidLater(codec.encode(audio, { bitrate: 5 })), /cannot do 5 kbps; possible: 0\.75, 1\.5, 2\.25/);
  assert.match(await saidLater(codec.encode(audio, { bitrate: 6, stages: 8 })), /not both/);
  assert.match(await saidLater(codec.encode(audio, { effort: "toString" })), /effort must be live, fast, best/);
  assert.match(await saidLater(codec.encode(new Float32Array(0))), /not be empty/);
  assert.match(await saidLater(codec.encode([audio, audio.subarray(1)])), /of one length/);
  assert.match(await saidLater(codec.encode(Array(256).fill(audio))), /1 to 255 channels/);
  assert.match(
    said(() => codec.encoderStream({ framesPerPacket: 256 })),
    /framesPerPacket must be 1 to 255/,
  );
  assert.match(
    said(() => codec.encoderStream({ channels: 0 })),
    /channels must be 1 to 255/,
  );
  assert.match(
    said(() => codec.decoderStream({ channels: 1.5 })),
    /channels must be/,
  );
  assert.equal(codec.stages({ bitrate: 3.01 }), 4);
  assert.equal(codec.stages(), 8);
  for (const data of [[1024], [-2], [-1]]) {
    assert.match(
      await saidLater(codec.decode(new Codes(1, 1, 1, data))),
      /codes must lie in 0..1023|-1 may only stand/,
    );
  }
  assert.match(await saidLater(codec.decode(new Codes(1, 17, 1))), /with 1 to 16 stages, not of shape \[1, 17, 1\]/);
  assert.match(await saidLater(codec.decode(new Codes(1, 0, 1))), /not of shape/);
  assert.match(await saidLater(codec.decode(new Codes(1, 3, 1, [1, -1, 1]))), /-1 may only stand/);
  assert.match(await saidLater(codec.decode([[[1]]])), /must be Codes/);
  assert.match(await saidLater(codec.decode(new Codes(1, 1, 2), { samples: 321 })), /321 samples .* hold 320/);
  const wide = new Codes(1, codecs.wide.manifest.layout.lines(2), 1);
  assert.equal(
    said(() => codecs.wide.checkCodes(wide)),
    null,
  );
  assert.match(
    said(() => codecs.wide.checkCodes(new Codes(1, 4, 1, [256, 0, 0, 0]))),
    /first 1 lines .* 0..255/,
  );
  assert.match(
    said(() => codecs.wide.checkCodes(new Codes(1, 4, 1, [0, 0, 0, -1]))),
    /-1 may only stand/,
  );
});

test("manifests are refused that Python refuses", () => {
  const refused = vectors.manifests.filter(([, wrong]) => wrong).length;
  assert.ok(refused > 100 && refused < vectors.manifests.length);
  for (const [text, wrong] of vectors.manifests) {
    const own = said(() => Manifest.fromBytes(new TextEncoder().encode(text)));
    assert.equal(own !== null, wrong, `${own}: ${text}`);
    assert.ok(own === null || !own.includes("\n"));
  }
  assert.match(
    said(() => Manifest.fromBytes(new TextEncoder().encode("{"))),
    /no JSON/,
  );
  assert.match(
    said(() => Manifest.fromBytes(Uint8Array.of(34, 255, 34))),
    /no JSON/,
  );
});

test("weights in another file are found wherever Python finds them", () => {
  const verdicts = vectors.models.map(([, verdict]) => verdict);
  assert.ok(verdicts.filter((verdict) => verdict === true).length > 400);
  assert.ok(verdicts.filter((verdict) => verdict === false).length > 80);
  for (const [model, verdict] of vectors.models) {
    const found = [];
    const refused = said(() => found.push(keepsDataElsewhere(bytes(model))));
    assert.equal(refused ?? found[0], verdict, model);
  }
});

test("altered bundles are refused", async () => {
  const folder = vectors.bundles.tiny;
  const files = Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
  assert.equal((await loadFiles(ort, new Map(Object.entries(files)))).manifest.name, "tiny");
  const changed = (name, data) => loadFiles(ort, { ...files, [name]: data });
  const spoilt = Buffer.from(files["encoder.onnx"]);
  spoilt[100] ^= 1;
  assert.match(await saidLater(changed("encoder.onnx", spoilt)), /encoder.onnx: altered/);
  assert.match(await saidLater(changed("encoder.onnx", files["encoder.onnx"].subarray(1))), /altered/);
  assert.match(await saidLater(changed("manifest.json", new Uint8Array((1 << 20) + 1))), /larger than/);
  const { "decoder.onnx": _, ...rest } = files;
  assert.match(await saidLater(loadFiles(ort, rest)), /decoder.onnx: no such file/);
  const facts = JSON.parse(files["manifest.json"]);
  for (const file of ["../encoder.onnx", "a/b", "C:x", "..", "a\\b", "a\0b", "\u001b[2J", "\u202exnno"]) {
    const graphs = { ...facts.graphs, encoder: { ...facts.graphs.encoder, file } };
    const text = new TextEncoder().encode(JSON.stringify({ ...facts, graphs }));
    assert.match(await saidLater(changed("manifest.json", text)), /no plain file name/);
  }
  const contradicting = { ...facts, latency: { ...facts.latency }, state: { encoder: 16, decoder: 17 } };
  assert.notEqual(
    await saidLater(changed("manifest.json", new TextEncoder().encode(JSON.stringify(contradicting)))),
    null,
  );
  await assert.rejects(load(ort, vectors.stranger), /encoder.onnx: keeps weights in another file \(external data\)/);
  const swapped = { ...facts.graphs, encoder: facts.graphs.decoder, decoder: facts.graphs.encoder };
  const text = new TextEncoder().encode(JSON.stringify({ ...facts, graphs: swapped }));
  assert.match(await saidLater(changed("manifest.json", text)), /has inputs latents, state, expected audio, state/);
  await assert.rejects(load(ort, "/no/such/folder"), BundleError);
});

test("the live resampler is Python's", () => {
  for (const { rates, delay, input, blocks, output } of vectors.resampled) {
    const [resampler, audio] = [new LiveResampler(...rates), samplesOf(input)];
    let at = 0;
    const parts = blocks.map((size) => resampler.push(audio.subarray(at, (at += size))));
    assert.equal(resampler.delay, delay);
    assert.ok(apart(Float32Array.from(parts.flatMap((part) => [...part])), samplesOf(output)) < 2e-6);
  }
  assert.match(
    said(() => new LiveResampler(999, 24_000)),
    /1000 … 768000 Hz/,
  );
  assert.match(
    said(() => new LiveResampler(24_000, 767_999)),
    /too many filters/,
  );
});

/** The packets of the two channels of a stream that Python ran. */
async function encoded(codec, audio, row) {
  const encoder = codec.encoderStream({
    stages: codec.maxStages,
    framesPerPacket: row.frames,
    redundancy: row.redundancy,
    channels: 2,
    afterSilence: row.afterSilence,
    variable: row.variable,
  });
  const packets = [];
  let at = 0;
  for (const [i, size] of row.blocks.entries()) {
    encoder.stages = codec.maxStages - (i % codec.maxStages);
    packets.push(...(await encoder.push(audio.map((channel) => channel.subarray(at, at + size)))));
    at += size;
  }
  packets.push(...(await encoder.flush()));
  return { packets, encoder, form: codec.packetFormat({ channels: 2, coder: await codec.codeCoder({ channels: 2 }) }) };
}

/** Blocks of channels as all of the first channel, then all of the next. */
function channelsOf(blocks) {
  const count = blocks[0].length;
  const rows = Array.from({ length: count }, (_, row) => blocks.flatMap((block) => [...block[row]]));
  return Float32Array.from(rows.flat());
}

/** onnxruntime whose decoder fails when it is told to. */
function fragile(failing) {
  const { create } = ort.InferenceSession;
  const InferenceSession = {
    async create(...args) {
      const session = await create.apply(ort.InferenceSession, args);
      const { inputNames, outputNames } = session;
      const isDecoder = outputNames.includes("audio");
      const run = async (inputs) => {
        if (isDecoder && failing.fail) throw new Error("on purpose");
        return session.run(inputs);
      };
      return { inputNames, outputNames, run };
    },
  };
  return { Tensor: ort.Tensor, InferenceSession };
}
