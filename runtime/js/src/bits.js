/** Bit packing: integers of a few bits each, most significant bit first, with no gaps. */

/** Bytes that `count` values of `bits` bits take. */
export function packedSize(count, bits) {
  return Math.ceil((count * bits) / 8);
}

/** Pack values, each in 0 .. 2**bits - 1, bits in 1..16; unused bits at the end are zero. */
export function packBits(values, bits) {
  const packed = new Uint8Array(packedSize(values.length, bits));
  let [joined, held, at] = [0, 0, 0]; // at most 7 + 16 bits are held
  for (let i = 0; i < values.length; i++) {
    joined = (joined << bits) | values[i];
    held += bits;
    while (held >= 8) {
      held -= 8;
      packed[at++] = joined >> held;
    }
    joined &= (1 << held) - 1;
  }
  if (held) packed[at] = joined << (8 - held);
  return packed;
}

/** The first `count` values of `bits` bits, Int32Array; `data` must hold them. */
export function unpackBits(data, count, bits) {
  const values = new Int32Array(count);
  const mask = (1 << bits) - 1;
  let [joined, held, at] = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    while (held < bits) {
      joined = ((joined & 0xffff) << 8) | data[at++];
      held += 8;
    }
    held -= bits;
    values[i] = (joined >> held) & mask;
  }
  return values;
}

/** The packed form of the first `count` values, made by cutting bytes and clearing the bits of others. */
export function clearAfter(data, count, bits) {
  const kept = data.slice(0, packedSize(count, bits));
  const unused = kept.length * 8 - count * bits;
  if (unused) kept[kept.length - 1] &= 0xff << unused;
  return kept;
}
