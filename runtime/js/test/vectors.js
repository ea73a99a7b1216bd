/** Vectors that the Python runtime made: `python -m pytest tests/js` writes them and starts these tests. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import {
  CodeCoder,
  Codes,
  EntropyModel,
  Layout,
  PacketCoder,
  PacketFormat,
  Predictor,
  readEntropyModel,
} from "edgecodec/bitstream";

export const FOLDER = process.env.EDGECODEC_VECTORS;
export const vectors = JSON.parse(readFileSync(join(FOLDER, "vectors.json"), "utf8"));

/** The bytes of a file beside the vectors. */
export function bytesOf(name) {
  return new Uint8Array(readFileSync(join(FOLDER, name)));
}

/** The samples of a file beside the vectors. */
export function samplesOf(name) {
  return new Float32Array(bytesOf(name).buffer);
}

/** Bytes of their digits. */
export function bytes(digits) {
  return Uint8Array.from(Buffer.from(digits, "hex"));
}

/** The digits of bytes. */
export function digits(data) {
  return Buffer.from(data).toString("hex");
}

/** Codes of what Python wrote, null of nothing. */
export function codesOf(written) {
  return written === null ? null : new Codes(...written.shape, written.data);
}

/** A form of codes: bits, streams, and layout. */
export function formOf([bits, streams, side, widths]) {
  return new PacketFormat(streams, bits, new Layout(side, widths));
}

/** The form of packets that are coded. */
export async function codedForm({ model, form: [bits, streams, side, widths], most }) {
  const layout = new Layout(side, widths);
  const coder = new CodeCoder(layout, await modelOf(model, bits), streams);
  return new PacketFormat(streams, bits, layout, new PacketCoder(coder, most));
}

/** The entropy model of a bundle, or that of even frequencies. */
export async function modelOf(name, bits) {
  if (name === null) return new Predictor(2 ** bits);
  const folder = vectors.bundles[name];
  const { quantizer } = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
  const model = await readEntropyModel(
    readFileSync(join(folder, "entropy.npz")),
    quantizer.max_stages,
    quantizer.codebook_size,
  );
  return model instanceof EntropyModel ? model : null;
}

/** The message with which something is refused, null where it is not. */
export function said(call) {
  try {
    call();
  } catch (error) {
    if (error.exitCode === undefined) throw error; // no error of edgecodec: a fault
    return error.message;
  }
  return null;
}

/** The same of what takes time. */
export async function saidLater(promise) {
  try {
    await promise;
  } catch (error) {
    if (error.exitCode === undefined) throw error;
    return error.message;
  }
  return null;
}

/** The largest difference of samples, infinite where there are more of one. */
export function apart(one, other) {
  if (one.length !== other.length) return Infinity;
  return one.reduce((most, sample, i) => Math.max(most, Math.abs(sample - other[i])), 0);
}
