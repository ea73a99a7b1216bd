/** Golden vectors: audio, codes and decoded audio that an export recorded, and the check of a runtime against them. */

import { Codes } from "./codes.js";
import { BitstreamError, BundleError } from "./errors.js";
import { readNpz } from "./npz.js";

const MAX_BYTES = 64 << 20; // of one array
// Another processor rounds differently, and a near tie may then fall the other way (and change later stages with it).
const LEAST_EQUAL_CODES = 0.99;
const MOST_DECODED_ERROR = 5e-3; // of full scale

/**
 * Encode and decode the golden vectors of the codec's bundle, at every stage count that they hold: a list of
 * { stages, equalCodes (fraction), decodedError (largest, from golden codes), codedEqual (entropy model), passed }.
 *
 * Throws a BundleError: golden vectors that are missing, altered, or contradict the manifest.
 */
export async function verify(codec) {
  const arrays = await readGolden(codec);
  const coder = await codec.codeCoder({ channels: codec.channels });
  const audio = rowsOf(arrays.get("audio"));
  const results = [];
  for (const stages of stageCounts(arrays)) {
    const codes = codesOf(arrays.get(`codes_${stages}`));
    const ours = await codec.encode(audio, { stages });
    const again = await codec.decode(codes, { samples: audio[0].length });
    const equal = ours.data.reduce((sum, code, i) => sum + (code === codes.data[i] ? 1 : 0), 0) / codes.data.length;
    const decoded = rowsOf(arrays.get(`decoded_${stages}`));
    const error = Math.max(...again.map((own, row) => largestDifference(own, decoded[row])));
    const codedEqual = isCodedEqual(coder, codes, arrays, stages);
    const passed = codedEqual && equal >= LEAST_EQUAL_CODES && error <= MOST_DECODED_ERROR;
    results.push({ stages, equalCodes: equal, decodedError: error, codedEqual, passed });
  }
  return results;
}

async function readGolden(codec) {
  const where = codec.manifest.facts.golden.file;
  let arrays;
  try {
    arrays = await readNpz(await codec.bundle.golden(), () => true, MAX_BYTES);
  } catch (error) {
    throw error instanceof BitstreamError ? new BundleError(`${where}: not golden vectors: ${error.message}`) : error;
  }
  const { manifest: m } = codec;
  const audio = arrays.get("audio");
  if (!isOf(audio, "<f4", [1, m.channels, audio?.shape[2]]) || !audio.data.length) {
    throw new BundleError(`${where}: no float32 audio [1, ${m.channels}, samples]`);
  }
  const counts = stageCounts(arrays);
  if (!counts.length) throw new BundleError(`${where}: no codes`);
  for (const n of counts) {
    const shape = [1, m.layout.lines(n), m.frames(audio.shape[2])];
    const fits = isOf(arrays.get(`codes_${n}`), "<i8", shape) && isOf(arrays.get(`decoded_${n}`), "<f4", audio.shape);
    if (n > m.maxStages || !fits) throw new BundleError(`${where}: codes_${n} or decoded_${n} contradict the manifest`);
  }
  return arrays;
}

/** Whether an entropy model does what it did, to the bit, and back; true where there is none. */
function isCodedEqual(coder, codes, arrays, stages) {
  const golden = arrays.get(`coded_${stages}`);
  if (golden === undefined) return true;
  const { data, ends } = coder.encode(codes);
  const same = (array, name) => array.join() === arrays.get(`${name}_${stages}`)?.data.join();
  if (!same(data, "coded") || !same(ends, "ends") || !same(coder.intervals(codes), "intervals")) return false;
  return coder.decode(golden.data, stages, codes.frames, { mixed: false }).equals(codes);
}

function stageCounts(arrays) {
  const names = [...arrays.keys()].map((name) => /^codes_([1-9]\d{0,2})$/.exec(name)?.[1]);
  return names
    .filter((count) => count !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

function isOf(array, type, shape) {
  return array !== undefined && array.type === type && array.shape.join() === shape.join();
}

function codesOf({ data, shape: [, lines, frames] }) {
  return new Codes(1, lines, frames, Int32Array.from(data, Number));
}

function rowsOf({ data, shape: [, channels, samples] }) {
  return Array.from({ length: channels }, (_, row) => data.subarray(row * samples, (row + 1) * samples));
}

function largestDifference(one, other) {
  return one.reduce((most, sample, i) => Math.max(most, Math.abs(sample - other[i])), 0);
}
