/** .edgc files of the shipped bundle: Python's bytes, and its sound; what is made here is left for Python to read. */

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import * as ort from "onnxruntime-node";

import { ChunkCoder, Packet, Reader, decodeClip, encodeClip, load } from "edgecodec/node";
import { FOLDER, apart, bytesOf, codesOf, digits, saidLater, samplesOf, vectors } from "./vectors.js";

const codec = await load(ort);
const ours = vectors.files.filter((row) => row.bundle === "speech");
const [fixed, variable] = [ours.filter((row) => row.fixed), ours.find((row) => row.options?.bitrate === 3)];

test("files are Python's, byte for byte, of fixed stage counts and of variable rate", async () => {
  const [rows, loaded] = [vectors.files.filter((row) => row.options !== null), { speech: codec }];
  assert.deepEqual([rows.length, fixed.length, rows.filter((row) => !row.fixed).length], [27, 8, 19]);
  for (const { bundle, options, audio, file } of rows) {
    loaded[bundle] ??= await load(ort, vectors.bundles[bundle]);
    const made = await encodeClip(loaded[bundle], audio.map(samplesOf), options);
    if (digits(made) === digits(bytesOf(file))) continue;
    // Elsewhere numpy adds floats in another order: a count may differ, and the bits of the frame with it.
    assert.ok(!vectors.sums.exact && options.stages === undefined, `${bundle} ${JSON.stringify(options)}`);
    assert.ok(Math.abs(made.length / bytesOf(file).length - 1) < 0.03);
  }
});

test("the mean of what is written is the bitrate, and contradictions are refused", async () => {
  const audio = samplesOf(ours.find((row) => row.options.effort === "best").audio[0]);
  const { length } = await encodeClip(codec, audio, { bitrate: 3 });
  assert.ok(Math.abs((8 * length) / (audio.length / 24_000) / 3000 - 1) < 0.03);
  assert.ok((await encodeClip(codec, audio, { bitrate: 3, constant: true })).length < 0.9 * length);
  for (const [options, said] of [
    [{ bitrate: 3, stages: 4 }, /give one of bitrate, quality and stage count/],
    [{ quality: 3, stages: 4 }, /give one of/],
    [{ quality: 11 }, /quality is 0 to 10 and goes with a variable rate, not 11/],
    [{ quality: 5, constant: true }, /quality is 0 to 10/],
    [{ quality: Number.NaN }, /quality is 0 to 10/],
    [{ bitrate: 12.3 }, /speech cannot do 12.3 kbps; possible: 0.75 to 12$/],
    [{ bitrate: 5, constant: true }, /speech cannot do 5 kbps; possible: 0.75, 1.5/],
    [{ gain: 61 }, /^gain is 0 to 60 whole dB, not 61$/],
    ...[-1, 0.5, Number.NaN, "20", null].map((gain) => [{ gain }, /^gain is 0 to 60 whole dB, not /]),
  ]) {
    assert.match(await saidLater(encodeClip(codec, audio, options)), said);
  }
});

test("files are decoded to Python's codes and sound, those of variable rate too", async () => {
  const model = await codec.bundle.predictor();
  const louder = ours.filter((row) => !row.fixed && row.options.gain);
  assert.deepEqual([fixed.at(-1).options.gain, louder.length], [20, 1]);
  for (const row of [...fixed, variable, ...louder]) {
    const data = bytesOf(row.file);
    const reader = new Reader(data);
    const coder = new ChunkCoder(reader.header, model);
    const packets = Array.from(reader, (chunk) => coder.decode(chunk));
    packets.forEach((packet, i) => assert.ok(packet.codes.equals(codesOf(row.codes[i]))));
    assert.equal(packets.length, row.codes.length);
    const { audio, sampleRate, damage } = await decodeClip(codec, data, { strict: true });
    assert.deepEqual([sampleRate, damage], [24_000, []]);
    const expected = samplesOf(row.decoded);
    const samples = expected.length / audio.length;
    audio.forEach((own, i) => assert.ok(apart(own, expected.subarray(i * samples, (i + 1) * samples)) < 1e-5));
  }
  assert.ok(variable.codes.some(({ data }) => data.includes(-1)));
});

test("what JavaScript writes of mixed stage counts is left for Python", async () => {
  const data = bytesOf(variable.file);
  const reader = new Reader(data);
  const coder = new ChunkCoder(reader.header, await codec.bundle.predictor());
  const parts = [reader.header.toBytes()];
  for (const chunk of reader) {
    const again = coder.encode(coder.decode(chunk));
    parts.push(reader.header.chunkFormat.toBytes(again));
  }
  const written = Buffer.concat(parts);
  assert.equal(digits(written), digits(data.subarray(0, written.length)));
  const other = await encodeClip(codec, samplesOf(fixed[0].audio[0]), {
    bitrate: 3,
    sampleRate: 16_000,
    effort: "live",
  });
  writeFileSync(join(FOLDER, "made", "other_rate.edgc"), other);
  const back = await decodeClip(codec, other);
  assert.deepEqual([back.sampleRate, back.audio[0].length], [16_000, samplesOf(fixed[0].audio[0]).length]);
  writeFileSync(join(FOLDER, "made", "other_rate.f32"), Buffer.from(back.audio[0].buffer));
});

test("packets and codes are left for Python", async () => {
  const audio = samplesOf(fixed[0].audio[0]).subarray(0, 9600);
  const form = codec.packetFormat({ coder: await codec.codeCoder() });
  const stream = codec.encoderStream({ stages: 5, redundancy: 2, framesPerPacket: 2 });
  const packets = [...(await stream.push(audio)), ...(await stream.flush())];
  const lines = packets.map((packet) => digits(form.toBytes(packet)));
  writeFileSync(join(FOLDER, "made", "packets.txt"), lines.join("\n"));
  const codes = await codec.encode(audio, { stages: 5 });
  writeFileSync(join(FOLDER, "made", "codes.json"), JSON.stringify([...codes.data]));
});

test("damage costs the chunk it lies in, and strict refuses it", async () => {
  const { file, decoded } = fixed[2];
  const [data, expected] = [bytesOf(file), samplesOf(decoded)];
  const { size, chunks } = layout(data);
  const spoilt = data.slice();
  spoilt[size + Math.round(chunks[0] * 1.5)] ^= 1; // in the second of three seconds
  const { audio, damage } = await decodeClip(codec, spoilt);
  assert.equal(audio[0].length, expected.length);
  assert.match(damage[0], /^chunk 1 \(byte \d+\): damaged$/);
  const second = codec.sampleRate;
  assert.equal(apart(audio[0].subarray(0, second - 400), expected.subarray(0, second - 400)) < 1e-5, true);
  assert.ok(apart(audio[0].subarray(second, 2 * second), expected.subarray(second, 2 * second)) > 0.05);
  assert.match(await saidLater(decodeClip(codec, spoilt, { strict: true })), /chunk 1 .* damaged; refused/);
});

test("files of another bundle are refused by name", async () => {
  const tiny = vectors.files.at(-1);
  assert.match(
    await saidLater(decodeClip(codec, bytesOf(tiny.file))),
    /made with bundle "tiny" \([0-9a-f]{16}\), not with "speech"/,
  );
  const data = bytesOf(fixed[0].file);
  data[7] ^= 1;
  assert.match(await saidLater(decodeClip(codec, data)), /damaged header/);
  assert.match(await saidLater(decodeClip(codec, new Uint8Array(3))), /not an .edgc file/);
});

test("a chunk told by a model is refused without one", () => {
  const reader = new Reader(bytesOf(fixed[0].file));
  const [chunk] = reader;
  assert.ok(chunk.told && !(chunk instanceof Packet));
  assert.throws(() => new ChunkCoder(reader.header).decode(chunk), /told by the bundle's entropy model/);
});

/** Where the header of a file ends, and the bytes of its chunks. */
function layout(data) {
  const reader = new Reader(data);
  const size = reader.bytes;
  const ends = [];
  for (const _ of reader) ends.push(reader.bytes);
  return { size, chunks: ends.map((end, i) => end - (ends[i - 1] ?? size)) };
}
