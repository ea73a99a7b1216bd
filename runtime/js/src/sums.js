/**
 * Sums of floats, rounded number by number as numpy rounds them on x86-64.
 *
 * Which frame gets how many stages hangs on sums, now and then on the last bit of one. Addition is not associative: the
 * order is part of the result.
 */

const BLOCK = 128; // numbers that numpy adds by eight accumulators; more are halved first
const [LANES, STEP] = [4, 16]; // of numpy's sums of products: SSE, four vectors a turn

/** The sum of doubles [N]: `numpy.sum`. */
export function pairwiseSum(numbers) {
  return summed(numbers, 0, numbers.length, (x) => x);
}

/** The sum of the variances of the columns of rows of `width` floats: `float(x.var(axis=0).sum())` in single floats. */
export function varianceSum(data, width) {
  const [rows, means, squares] = [data.length / width, new Float32Array(width), new Float32Array(width)];
  for (let i = 0; i < data.length; i++) means[i % width] += data[i];
  for (let j = 0; j < width; j++) means[j] /= rows;
  for (let i = 0; i < data.length; i++) {
    const apart = Math.fround(data[i] - means[i % width]);
    squares[i % width] += Math.fround(apart * apart);
  }
  for (let j = 0; j < width; j++) squares[j] /= rows;
  return summed(squares, 0, width, Math.fround);
}

const lanes = new Float32Array(LANES);

/** The squared distance of two rows of `size` floats: `numpy.einsum("i,i->", x, x)` of their difference. */
export function squaredNorm(one, from, other, at, size) {
  lanes.fill(0);
  let i = 0;
  for (; i + STEP <= size; i += STEP) {
    for (let j = i + STEP - LANES; j >= i; j -= LANES) add(one, from + j, other, at + j, LANES); // the last one first
  }
  for (; i < size; i += LANES) add(one, from + i, other, at + i, Math.min(LANES, size - i));
  return Math.fround(Math.fround(lanes[0] + lanes[1]) + Math.fround(lanes[2] + lanes[3]));
}

function add(one, from, other, at, count) {
  for (let lane = 0; lane < count; lane++) {
    const apart = Math.fround(one[from + lane] - other[at + lane]);
    lanes[lane] += Math.fround(apart * apart);
  }
}

/** The sum of `count` numbers from `first` on, each addition rounded. */
function summed(numbers, first, count, rounded) {
  if (count > BLOCK) {
    const half = Math.floor(count / 2) - (Math.floor(count / 2) % 8);
    return rounded(summed(numbers, first, half, rounded) + summed(numbers, first + half, count - half, rounded));
  }
  let [sum, i] = [0, 0];
  if (count >= 8) {
    const parts = Array.from(numbers.subarray(first, first + 8));
    for (i = 8; i + 8 <= count; i += 8) {
      for (let part = 0; part < 8; part++) parts[part] = rounded(parts[part] + numbers[first + i + part]);
    }
    const pair = (n) => rounded(parts[n] + parts[n + 1]);
    sum = rounded(rounded(pair(0) + pair(2)) + rounded(pair(4) + pair(6)));
  }
  for (; i < count; i++) sum = rounded(sum + numbers[first + i]);
  return sum;
}
