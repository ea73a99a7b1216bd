/**
 * What an ONNX file says before onnxruntime reads it: whether a tensor lies in another file.
 *
 * A model is a tree of protobuf messages; only the branches that can hold a tensor are walked:
 *
 *     model ─┬─ graph ──────────┬─ initializers, sparse initializers ──────────────────────── tensors
 *            ├─ training steps ─┤
 *            │   (two graphs)   └─ nodes ─┐
 *            └─ functions ─┬─ nodes ──────┴─ attributes ─┬─ tensors, sparse tensors (two tensors each)
 *                          └─ attributes' defaults ──────┴─ graphs, again
 *
 * Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; encoding:
 * https://protobuf.dev/programming-guides/encoding
 */

import { BundleError } from "./errors.js";

const MOST_DEPTH = 32; // of messages within messages; protobuf itself stops at 100
const MOST_FIELDS = 2_000_000;
const BRANCHES = {
  model: { 7: "graph", 20: "training", 25: "function" },
  graph: { 1: "node", 5: "tensor", 15: "sparse" },
  training: { 1: "graph", 2: "graph" },
  function: { 7: "node", 11: "attribute" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse" },
  sparse: { 1: "tensor", 2: "tensor" },
  tensor: {},
};
const [EXTERNAL_DATA, DATA_LOCATION] = [13, 14]; // of a tensor: where in which file; 1 for "in another file"
const ORT_IDENTIFIER = [0x4f, 0x52, 0x54, 0x4d]; // ORTM
const [VARINT, FIXED64, LENGTH, FIXED32] = [0, 1, 2, 5];
const VARINT_BYTES = 10; // at most

/**
 * Whether onnxruntime takes a file for its own format, a FlatBuffer, whatever it is called.
 *
 * Such a file passes by all that is checked here. It cannot name another one either: its tensors lie in it, or at an
 * offset of a file that the caller must hand over, and no session does.
 */
export function isOrtFormat(model) {
  return ORT_IDENTIFIER.every((byte, i) => model[4 + i] === byte);
}

/**
 * Whether any tensor of an ONNX model is to be read from another file.
 *
 * Throws a BundleError: no protobuf, or one too deep or of too many parts to be a model.
 */
export function keepsDataElsewhere(model) {
  const waiting = [{ kind: "model", start: 0, end: model.length, depth: 0 }];
  let count = 0;
  while (waiting.length) {
    const { kind, start, end, depth } = waiting.pop();
    const branches = BRANCHES[kind];
    for (const field of fields(model, start, end)) {
      count += 1;
      if (count > MOST_FIELDS || depth > MOST_DEPTH) {
        throw new BundleError("is too large or too deep to be a graph of a codec");
      }
      if (kind === "tensor") {
        if (field.number === EXTERNAL_DATA || (field.number === DATA_LOCATION && field.value)) return true;
      } else if (Object.hasOwn(branches, field.number)) {
        if (field.kind !== LENGTH) throw new BundleError("is no ONNX model");
        waiting.push({ kind: branches[field.number], start: field.start, end: field.end, depth: depth + 1 });
      }
    }
  }
  return false;
}

/** The fields of one message: { number, kind, value, start, end }, a number or where its bytes lie. */
function* fields(data, begin, end) {
  for (let position = begin; position < end; ) {
    const kind = data[position] & 7;
    const tag = varint(data, position, end);
    let [value, start] = [0, tag.end];
    position = start;
    if (kind === VARINT) {
      ({ value, end: position } = varint(data, position, end));
    } else if (kind === LENGTH) {
      const size = varint(data, position, end);
      start = size.end;
      position = start + size.value;
    } else if (kind === FIXED64 || kind === FIXED32) {
      position += kind === FIXED64 ? 8 : 4;
    } else {
      throw new BundleError("is no ONNX model"); // groups, which ONNX has none of
    }
    const number = Math.floor(tag.value / 8);
    if (position > end || !number || tag.value >= 2 ** 32) {
      throw new BundleError("is no ONNX model, or one that was cut short");
    }
    yield { number, kind, value, start, end: position };
  }
}

/** A number in groups of seven bits, lowest first, and where it ends; beyond 2^53 it is about that. */
function varint(data, begin, end) {
  for (let [position, value, unit] = [begin, 0, 1]; position < Math.min(end, begin + VARINT_BYTES); unit *= 128) {
    const byte = data[position];
    position += 1;
    value += (byte & 127) * unit;
    if (byte < 128) return { value, end: position };
  }
  throw new BundleError("is no ONNX model, or one that was cut short");
}
