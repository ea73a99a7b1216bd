/** Bytes: what comes from outside, numbers in them, and parts behind one another. */

import { BitstreamError } from "./errors.js";

/** Bytes as a plain Uint8Array: the `slice` of a Node Buffer would not copy. */
export function asBytes(data) {
  if (!(data instanceof Uint8Array)) throw new BitstreamError("bytes must be a Uint8Array");
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Parts behind one another. */
export function concatenated(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Whether two arrays hold the same bytes. */
export function sameBytes(one, other) {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}

/** The number of two bytes, the low one first. */
export function u16(data, at) {
  return data[at] | (data[at + 1] << 8);
}

/** The two bytes of a number. */
export function u16Bytes(number) {
  return Uint8Array.of(number & 0xff, (number >> 8) & 0xff);
}

/** Bytes as text, two digits each. */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The bytes of such a text. */
export function unhexed(digits) {
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}
