/** Arrays from `.npz` files of strangers: nothing is unpickled, and nothing allocates more than the file holds. */

import { asBytes } from "./bytes.js";
import { BitstreamError } from "./errors.js";

const TYPES = {
  "|u1": Uint8Array,
  "|i1": Int8Array,
  "<u2": Uint16Array,
  "<i4": Int32Array,
  "<i8": BigInt64Array,
  "<f4": Float32Array,
};
const [END_RECORD, ENTRY, LOCAL] = [0x06054b50, 0x02014b50, 0x04034b50];
const [STORED, DEFLATED] = [0, 8];
const UNKNOWN_SIZE = 0xffffffff; // of an entry whose real one stands in an extra field (zip64)

/**
 * The arrays of an npz whose names are wanted, as { data, shape, type }; the others are not looked at.
 *
 * Throws a BitstreamError for what is no npz of plain arrays, or an array of more than `limit` bytes.
 */
export async function readNpz(file, wanted, limit) {
  const [bytes, arrays] = [asBytes(file), new Map()];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    for (const entry of entries(view, bytes)) {
      const name = entry.name.replace(/\.npy$/, "");
      if (!wanted(name)) continue;
      if (entry.size > limit) throw new BitstreamError(`"${name.slice(0, 60)}" is larger than ${limit >> 20} MiB`);
      arrays.set(name, readNpy(await content(view, bytes, entry)));
    }
  } catch (error) {
    if (error instanceof BitstreamError) throw error;
    throw new BitstreamError("no npz of plain arrays: it is cut or damaged"); // a RangeError of the view, most often
  }
  return arrays;
}

/** What the directory at the end of a zip lists. */
function* entries(view, bytes) {
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END_RECORD) end--;
  if (end < 0) throw new BitstreamError("no npz of plain arrays: no zip");
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  for (let i = 0; i < count; i++) {
    if (view.getUint32(at, true) !== ENTRY) throw new BitstreamError("no npz of plain arrays: no directory");
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    yield {
      name: new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameSize)),
      method: view.getUint16(at + 10, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      offset: view.getUint32(at + 42, true),
    };
    at += 46 + nameSize + extraSize + commentSize;
  }
}

/** The bytes of an entry, which are no more than it says. */
async function content(view, bytes, { method, packed, size, offset }) {
  if (view.getUint32(offset, true) !== LOCAL || packed === UNKNOWN_SIZE || size === UNKNOWN_SIZE) {
    throw new BitstreamError("no npz of plain arrays: an entry is damaged");
  }
  const begin = offset + 30 + view.getUint16(offset + 26, true) + view.getUint16(offset + 28, true);
  const data = bytes.subarray(begin, begin + packed);
  if (method === STORED && data.length === size) return data;
  if (method !== DEFLATED) throw new BitstreamError("no npz of plain arrays: an entry is packed in an unknown way");
  return inflated(data, size);
}

async function inflated(data, size) {
  const whole = new Uint8Array(size);
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > size) {
      await reader.cancel();
      throw new BitstreamError("no npz of plain arrays: an entry holds more than it says");
    }
    whole.set(value, at);
    at += value.length;
  }
  if (at !== size) throw new BitstreamError("no npz of plain arrays: an entry is cut");
  return whole;
}

/** One array. Its header is believed only as far as its bytes go. */
function readNpy(data) {
  const magic = String.fromCharCode(...data.subarray(0, 6));
  const long = data[6] === 2; // version 2 of the header has a size of 32 bits
  if (magic !== "\x93NUMPY" || (data[6] !== 1 && !long)) throw new BitstreamError("no npz of plain arrays: no npy");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const size = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const begin = (long ? 12 : 10) + size;
  const header = new TextDecoder().decode(data.subarray(long ? 12 : 10, begin));
  const type = /'descr': '([^']{1,8})'/.exec(header)?.[1];
  const shape = /'shape': \(([\d, ]*)\)/
    .exec(header)?.[1]
    .split(",")
    .filter((text) => text.trim())
    .map(Number);
  const ArrayType = TYPES[type];
  if (ArrayType === undefined || shape === undefined || !/'fortran_order': False/.test(header)) {
    throw new BitstreamError("no npz of plain arrays: an array of an unknown type or order");
  }
  const values = shape.reduce((product, length) => product * length, 1);
  if (values * ArrayType.BYTES_PER_ELEMENT !== data.length - begin) {
    throw new BitstreamError("no npz of plain arrays: an array's header contradicts its bytes");
  }
  return { data: new ArrayType(data.slice(begin).buffer), shape, type };
}
