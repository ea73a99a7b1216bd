/**
 * Arrays of several rows, row after row in one typed array: channels of samples, streams of latents, lines of codes.
 * What lies side by side in time is cut and joined here, row by row.
 */

/** The columns from `first` to before `end` of `rows` rows; the array itself where that is all of it. */
export function sliced(data, rows, first, end) {
  const length = data.length / rows;
  if (first === 0 && end === length) return data;
  if (rows === 1) return data.slice(first, end);
  const kept = new data.constructor(rows * (end - first));
  for (let row = 0; row < rows; row++) {
    kept.set(data.subarray(row * length + first, row * length + end), row * (end - first));
  }
  return kept;
}

/** Arrays of `rows` rows, one at least, side by side. */
export function joined(parts, rows) {
  if (parts.length === 1) return parts[0];
  const total = parts.reduce((sum, part) => sum + part.length / rows, 0);
  const all = new parts[0].constructor(rows * total);
  let column = 0;
  for (const part of parts) {
    const length = part.length / rows;
    for (let row = 0; row < rows; row++) {
      all.set(part.subarray(row * length, (row + 1) * length), row * total + column);
    }
    column += length;
  }
  return all;
}
