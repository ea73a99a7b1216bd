/**
 * A range coder: symbols of known frequencies to bytes and back, in whole numbers alone (Martin 1979).
 *
 *     range   |--------------------------------------------|   up to 2**32, and never below 2**24
 *     symbol       |== start, frequency of 2**15 ==|            becomes the range of what follows
 *
 * What is written is a number inside the last range, as few bytes as name one; after its end a decoder reads zeros. So
 * the bytes can also be cut behind any symbol: marks say where the symbols so far are still told apart.
 *
 * All numbers are below 2**53, where JavaScript's are whole; its shifts would cut them to 32 bits.
 */

export const FREQUENCY_BITS = 15;
export const TOTAL = 1 << FREQUENCY_BITS; // of the frequencies of a symbol's alphabet

const [TOP, LEAST] = [2 ** 32, 2 ** 24];
const LOST = 2 ** 40; // a code of damaged bytes that has left its range: no matter how far, the last symbol follows

/** Turns symbols into bytes: `encode` and `mark` as often as needed, then `finish`. */
export class RangeEncoder {
  #bytes = []; // what is settled, but for a carry
  #low = 0;
  #range = TOP;
  #marks = []; // the least number of the range at each mark

  /** Append a symbol: the sum of the frequencies before its own, and its own, of `TOTAL`. */
  encode(start, frequency) {
    const unit = Math.floor(this.#range / TOTAL);
    this.#low += unit * start;
    this.#range = unit * frequency;
    if (this.#low >= TOP) {
      this.#low -= TOP;
      carry(this.#bytes);
    }
    while (this.#range < LEAST) {
      this.#bytes.push(Math.floor(this.#low / LEAST));
      this.#low = (this.#low % LEAST) * 256;
      this.#range *= 256;
    }
  }

  /** Remember this place, to cut the bytes at. */
  mark() {
    this.#marks.push([...this.#bytes, ...fourBytes(this.#low)]);
  }

  /** The bytes, and for each mark how many of them tell all symbols before it. */
  finish() {
    const end = this.#low + this.#range;
    let number = this.#low;
    for (const step of [2 ** 24, 2 ** 16, 2 ** 8, 1]) {
      // The fewest bytes whose number, zeros behind it, lies in the range.
      number = Math.ceil(this.#low / step) * step;
      if (number < end) break;
    }
    if (number >= TOP) {
      number -= TOP;
      carry(this.#bytes);
    }
    const data = Uint8Array.from([...this.#bytes, ...fourBytes(number)]);
    const bytes = data.slice(0, lengthWithoutZeros(data));
    return { data: bytes, ends: this.#marks.map((least) => lengthToReach(bytes, least)) };
  }
}

/** Turns the bytes of a `RangeEncoder` into its symbols. Any bytes give symbols: a checksum must vouch for them. */
export class RangeDecoder {
  #data;
  #next = 4;
  #code = 0;
  #range = TOP;

  constructor(data) {
    this.#data = data;
    for (let i = 0; i < 4; i++) this.#code = this.#code * 256 + (data[i] ?? 0);
  }

  /** Whether no byte is left; the symbols of whole bytes take all of them. */
  get isSpent() {
    return this.#next >= this.#data.length;
  }

  /**
   * The next symbol. A table of n symbols has n + 1 rising numbers: before each symbol the sum of the frequencies so
   * far, and `TOTAL` at the end.
   */
  decode(table) {
    const unit = Math.floor(this.#range / TOTAL);
    const symbol = symbolAt(table, Math.min(Math.floor(this.#code / unit), TOTAL - 1));
    this.#code = Math.min(this.#code - unit * table[symbol], LOST);
    this.#range = unit * (table[symbol + 1] - table[symbol]);
    while (this.#range < LEAST) {
      this.#code = this.#code * 256 + (this.#next < this.#data.length ? this.#data[this.#next] : 0);
      this.#range *= 256;
      this.#next++;
    }
    return symbol;
  }
}

/** The last symbol whose start is not above a place, found by halving; symbols without frequency are passed over. */
function symbolAt(table, place) {
  let [low, high] = [0, table.length];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (table[middle] <= place) low = middle;
    else high = middle;
  }
  return low;
}

/** Add one to a number of bytes, which is never all ones. */
function carry(bytes) {
  let i = bytes.length - 1;
  while (bytes[i] === 0xff) bytes[i--] = 0;
  bytes[i]++;
}

function fourBytes(number) {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256);
}

function lengthWithoutZeros(bytes) {
  let length = bytes.length;
  while (length && !bytes[length - 1]) length--;
  return length;
}

/** The fewest first bytes of `data` that, zeros behind them, are not below `least`; `data` is not. */
function lengthToReach(data, least) {
  const both = Math.min(data.length, least.length);
  let alike = 0;
  while (alike < both && data[alike] === least[alike]) alike++;
  return alike < both ? alike + 1 : lengthWithoutZeros(least);
}
