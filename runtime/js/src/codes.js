/** Codes: whole numbers [streams, lines, frames]. */

import { BitstreamError } from "./errors.js";
import { joined, sliced } from "./rows.js";

const LARGEST = 1 << 28; // codes in one array: bounds memory, and lets products of sizes stay whole numbers

/**
 * Codes of some frames, `data` Int32Array [streams, lines, frames], line after line of the first stream, then the next.
 *
 * A stream is a channel, or a pair of a stereo bundle; a line is a stage where the bundle has one code of each. -1
 * stands in the last stages of frames that lack them.
 */
export class Codes {
  /**
   * @param {number} streams
   * @param {number} lines
   * @param {number} frames
   * @param {Int32Array | readonly number[] | undefined} data zeros where it is not given
   */
  constructor(streams, lines, frames, data = undefined) {
    const size = streams * lines * frames;
    if (![streams, lines, frames].every((n) => Number.isInteger(n) && n >= 0) || size > LARGEST) {
      throw new BitstreamError(`no codes have the shape [${streams}, ${lines}, ${frames}]`);
    }
    this.streams = streams;
    this.lines = lines;
    this.frames = frames;
    this.data = data instanceof Int32Array ? data : wholeNumbers(data ?? size);
    if (this.data.length !== size) {
      throw new BitstreamError(`${this.data.length} codes are not [${streams}, ${lines}, ${frames}]`);
    }
    Object.freeze(this);
  }

  /** One line of a stream, [frames]: a view, what is written there is written here. */
  line(stream, line) {
    const begin = (stream * this.lines + line) * this.frames;
    return this.data.subarray(begin, begin + this.frames);
  }

  /** The first lines of every stream; these codes themselves where they have no more. */
  firstLines(lines) {
    if (lines >= this.lines) return this;
    return new Codes(this.streams, lines, this.frames, sliced(this.data, this.streams, 0, lines * this.frames));
  }

  /** The frames from `first` to before `end`. */
  slice(first, end = this.frames) {
    const [from, to] = [Math.min(first, this.frames), Math.min(end, this.frames)];
    return new Codes(this.streams, this.lines, to - from, sliced(this.data, this.streams * this.lines, from, to));
  }

  /** Codes that share nothing with these. */
  copy() {
    return new Codes(this.streams, this.lines, this.frames, this.data.slice());
  }

  /** Whether other codes are the same. */
  equals(other) {
    const alike = this.streams === other.streams && this.lines === other.lines && this.frames === other.frames;
    return alike && this.data.every((code, i) => code === other.data[i]);
  }

  /** Codes of equal streams and lines, one at least, behind one another. */
  static join(parts) {
    const [{ streams, lines }] = parts;
    if (parts.some((part) => part.streams !== streams || part.lines !== lines)) {
      throw new BitstreamError("codes of other streams or lines cannot be joined");
    }
    const frames = parts.reduce((sum, part) => sum + part.frames, 0);
    return new Codes(
      streams,
      lines,
      frames,
      joined(
        parts.map((part) => part.data),
        streams * lines,
      ),
    );
  }
}

/** An Int32Array of a length, or of numbers, which it would round in silence. */
function wholeNumbers(source) {
  const data = new Int32Array(source);
  if (typeof source !== "number" && !data.every((code, i) => code === source[i])) {
    throw new BitstreamError("codes must be whole numbers of 32 bits");
  }
  return data;
}
