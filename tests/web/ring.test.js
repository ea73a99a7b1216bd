/** What waits to be played: no sample is lost or played twice but where it is counted. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Ring } from "./ring.js";

const RATE = 48_000;

test("sound comes out as it went in, once enough of it waits", () => {
  const [ring, output] = [new Ring(RATE, 0.01), []];
  for (let i = 0; i < 100; i++) {
    ring.write(ramp(128, 128 * i));
    output.push(...read(ring));
  }
  const begin = output.findIndex((sample) => sample !== 0);
  assert.ok(begin >= 128 * 2 && begin <= 128 * 4);
  const first = output.length - 128 * 50; // behind the fade
  for (let i = first; i < output.length; i++) assert.equal(output[i] - output[i - 1], 1);
  assert.deepEqual([ring.underruns, ring.skipped, ring.overflowed], [0, 0, 0]);
});

test("an underrun is counted, clicks neither way, and makes more wait", () => {
  const ring = new Ring(RATE, 0.01);
  ring.write(new Float32Array(1024).fill(1));
  const output = Array.from({ length: 30 }, () => [...read(ring)]).flat();
  assert.equal(ring.underruns, 1);
  assert.equal(ring.target, Math.round(0.015 * RATE));
  for (let i = 1; i < output.length; i++) assert.ok(Math.abs(output[i] - output[i - 1]) < 0.06);
  assert.equal(output.at(-1), 0);
  for (let i = 0; i < 100; i++) {
    while (read(ring).some((sample) => sample !== 0));
    ring.write(new Float32Array(RATE / 2).fill(1));
    for (let n = 0; n < 200; n++) read(ring);
  }
  assert.ok(ring.target <= 0.25 * RATE);
});

test("what always waits in vain is skipped, without a click", () => {
  const ring = new Ring(RATE, 0.01);
  ring.write(new Float32Array(0.3 * RATE));
  let phase = 0;
  const output = [];
  for (let i = 0; i < (5 * RATE) / 128; i++) {
    ring.write(Float32Array.from({ length: 128 }, () => Math.sin(0.02 * phase++)));
    output.push(...read(ring));
  }
  assert.ok(ring.skipped > 0.25 * RATE && ring.waiting < 0.02 * RATE);
  assert.equal(ring.underruns, 0);
  for (let i = 1; i < output.length; i++) assert.ok(Math.abs(output[i] - output[i - 1]) < 0.05);
});

test("it is bounded: the oldest sound goes", () => {
  const ring = new Ring(RATE);
  for (let i = 0; i < 30; i++) ring.write(ramp(4000, 4000 * i));
  assert.equal(ring.waiting, RATE);
  assert.equal(ring.overflowed, 30 * 4000 - RATE);
  ring.write(ramp(3 * RATE, 0));
  assert.equal(ring.waiting, RATE);
  read(ring);
  assert.equal(read(ring)[127], 2 * RATE + 255);
});

function ramp(length, first) {
  return Float32Array.from({ length }, (_, i) => first + i);
}

function read(ring) {
  const block = new Float32Array(128);
  ring.read(block);
  return block;
}
