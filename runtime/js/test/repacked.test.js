/** Bundles of fixed shapes and in onnxruntime's own format: codes and bytes of the one that they were made from. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as ort from "onnxruntime-node";

import { BundleError, decodeClip, encodeClip, load, verify } from "edgecodec/node";
import { apart, bytesOf, codesOf, digits, said, saidLater, samplesOf, vectors } from "./vectors.js";

const SAME = 1e-5; // of full scale
const { repacked } = vectors;
const audio = repacked.audio.map(samplesOf);
const source = await load(ort, repacked.source);

for (const [name, { folder, whole }] of Object.entries(repacked.bundles)) {
  test(`${name}: codes and sound are those of the bundle that it was made from`, async () => {
    const codec = await load(ort, folder);
    assert.equal(digits(codec.fingerprint), repacked.fingerprint);
    for (const result of await verify(codec)) assert.ok(result.passed && result.equalCodes === 1);
    const codes = await codec.encode(audio, { stages: 3 });
    assert.ok(codes.equals(codesOf(repacked.codes)));
    const decoded = await codec.decode(codes, { samples: audio[0].length });
    assert.ok(apart(decoded.flatMap((own) => [...own]), samplesOf(repacked.decoded)) < SAME);
    for (const frames of [1, 3, 4, 5, 8]) {
      const sound = audio[0].subarray(0, frames * codec.frameSize - (frames % 2));
      assert.ok((await codec.encode(sound, { stages: 2 })).equals(await source.encode(sound, { stages: 2 })));
    }
    if (whole) await isWhole(codec);
    else await streams(codec, name);
  });
}

test("a graph that is not what its name says is refused in the words of Python", async () => {
  assert.ok(repacked.refused.length > 4);
  for (const [folder, words] of repacked.refused) {
    const own = await saidLater(load(ort, folder));
    assert.ok(own?.startsWith(words), `${own}: ${words}`);
  }
});

/** Streams and files are refused. */
async function isWhole(codec) {
  for (const stream of [() => codec.encoderStream(), () => codec.decoderStream()]) {
    assert.throws(stream, BundleError);
    assert.equal(said(stream), repacked.streams);
  }
  assert.equal(await saidLater(encodeClip(codec, audio, { stages: 2 })), repacked.streams);
  assert.equal(await saidLater(decodeClip(codec, bytesOf(repacked.files.one))), repacked.streams);
}

/** Streams and files are those of Python, and each bundle reads the other's. */
async function streams(codec, name) {
  const file = await encodeClip(codec, audio, { stages: 2 });
  assert.deepEqual(file, bytesOf(repacked.files[name]));
  const [own, other] = [await decodeClip(codec, file), await decodeClip(source, file)];
  own.audio.forEach((channel, i) => assert.ok(apart(channel, other.audio[i]) < SAME));
  const made = [];
  for (const each of [codec, source]) {
    const encoder = each.encoderStream({ stages: 2, channels: 2, framesPerPacket: 2 });
    const packets = [...(await encoder.push(audio)), ...(await encoder.flush())];
    const decoder = each.decoderStream({ channels: 2 });
    const sound = [];
    for (const packet of packets) for (const channel of await decoder.push(packet)) sound.push(...channel);
    made.push({ packets, sound });
  }
  assert.ok(made[0].packets.every(({ codes }, i) => codes.equals(made[1].packets[i].codes)));
  assert.ok(apart(made[0].sound, made[1].sound) < SAME);
}
