/** Sums of floats, rounded as numpy rounds them: on them hangs which frame gets how many stages. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { pairwiseSum, squaredNorm, varianceSum } from "../src/sums.js";
import { samplesOf, vectors } from "./vectors.js";

const { exact, rows } = vectors.sums;

for (const [name, ours, theirs] of [
  ["norms", ({ size, rows: [one, other] }) => norms(size, samplesOf(one), samplesOf(other)), (row) => row.norms],
  ["variances", ({ size, rows: [one] }) => [varianceSum(samplesOf(one), size)], (row) => [row.spread]],
  ["doubles", ({ doubles }) => [pairwiseSum(Float64Array.from(doubles))], (row) => [row.sum]],
]) {
  test(`${name} are numpy's, to the bit where it adds as here`, () => {
    assert.ok(rows.length > 40);
    for (const row of rows) {
      const [found, expected] = [[...ours(row)], theirs(row)];
      if (exact) assert.deepEqual(found, expected, `${row.size}`);
      else found.forEach((sum, i) => assert.ok(Math.abs(sum - expected[i]) <= 1e-5 * (1 + Math.abs(expected[i]))));
    }
  });
}

test("the order of addition is part of the result", { skip: !exact }, () => {
  const plain = ({ size, rows: [one, other] }) => {
    const [a, b] = [samplesOf(one), samplesOf(other)];
    let sum = 0;
    for (let i = 0; i < size; i++) sum = Math.fround(sum + Math.fround(Math.fround(a[i] - b[i]) ** 2));
    return sum;
  };
  assert.ok(rows.some((row) => plain(row) !== row.norms[0]));
});

function norms(size, one, other) {
  return Array.from({ length: one.length / size }, (_, row) => squaredNorm(one, row * size, other, row * size, size));
}
