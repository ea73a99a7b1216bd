/**
 * Codes of one packet in few bytes, led by an entropy model that looks at nothing outside the packet.
 *
 *     stages   differ?   counts   | repeats differ?   counts   |   codes of:   repeated frames   own frames
 *
 * A lost packet therefore costs what it always did. Frames that a packet repeats come before its own, and tell what
 * those are likely to be: that pays for most of the repetition.
 */

import { decodeCounts, encodeCounts, largest, readOne, tellOne } from "./code_coder.js";
import { EntropyModel } from "./entropy_model.js";
import { BitstreamError } from "./errors.js";
import { MISSING, SIDE_BITS, joinedCodes } from "./layout.js";
import { MAX_FRAMES, within } from "./packets.js";
import { RangeDecoder, RangeEncoder } from "./range_coder.js";

/** Codes of packets of one bundle, of up to `stages` stages, to bytes and back. */
export class PacketCoder {
  /**
   * @param {import("./code_coder.js").CodeCoder} coder
   * @param {number} stages
   */
  constructor(coder, stages) {
    this.coder = coder;
    this.stages = stages;
    Object.freeze(this);
  }

  /** Whether codes are told by an entropy model, so that they take fewer bytes than at their bits. */
  get hasModel() {
    return this.coder.model instanceof EntropyModel;
  }

  /**
   * Bytes of codes [streams, lines, T], and of those [streams, lines, T'] of the packet before that it repeats.
   *
   * Frames may lack the last stages: -1 stands there. Throws a BitstreamError for codes that no packet of this bundle
   * has.
   */
  encode(codes, previous = null) {
    const [{ layout }, coder] = [this.coder, new RangeEncoder()];
    for (const part of previous === null ? [codes] : [codes, previous]) this.#check(part);
    const counts = layout.counts(codes);
    const most = largest(counts);
    tellOne(coder, most - 1, this.stages);
    tellCounts(coder, counts, codes.frames, most);
    const parts = [codes.firstLines(layout.lines(most))];
    if (previous !== null) {
      tellCounts(coder, layout.counts(previous), previous.frames, layout.stages(previous.lines));
      parts.unshift(previous);
    }
    this.coder.tell(coder, joinedCodes(parts));
    return coder.finish().data;
  }

  /**
   * { codes, previous }: the codes and those repeated, of which the packet says how many stages and frames they have;
   * null for none. Throws a BitstreamError for bytes that go on behind the codes, or stages that there are not.
   */
  decode(body, frames, repeatedStages = 0, repeatedFrames = 0) {
    if (repeatedStages > this.stages) throw new BitstreamError("a packet repeats more stages than there are");
    const [{ layout, streams }, coder] = [this.coder, new RangeDecoder(body)];
    const most = readOne(coder, this.stages) + 1;
    const counts = readCounts(coder, streams, frames, most);
    const before = repeatedStages ? readCounts(coder, streams, repeatedFrames, repeatedStages) : new Int32Array(0);
    const codes = this.coder.read(coder, sideBySide(before, counts, streams), Math.max(most, repeatedStages));
    if (!coder.isSpent) throw new BitstreamError("damaged packet");
    const part = (first, end, stages) => codes.slice(first, end).firstLines(layout.lines(stages));
    return {
      codes: part(codes.frames - frames, codes.frames, most),
      previous: repeatedStages ? part(0, repeatedFrames, repeatedStages) : null,
    };
  }

  #check(codes) {
    const [{ layout, model }, { streams, lines, frames }] = [this.coder, codes];
    const fits = within(layout.stages(lines), 1, this.stages) && within(frames, 1, MAX_FRAMES);
    if (streams !== this.coder.streams || !fits) {
      const shape = `[${streams}, ${lines}, ${frames}]`;
      throw new BitstreamError(`codes ${shape} do not fit packets of ${this.coder.streams} streams`);
    }
    const beside = (i) => Math.floor(i / frames) % lines < layout.side;
    if (codes.data.some((code, i) => code < MISSING || (!beside(i) && code >= model.entries))) {
      throw new BitstreamError(`codes must lie in 0..${model.entries - 1}`);
    }
    if (layout.counts(codes).includes(0)) throw new BitstreamError("a frame has at least 1 stage");
    if (codes.data.some((number, i) => beside(i) && (number < 0 || number >> SIDE_BITS))) {
      throw new BitstreamError(`a number beside the stages does not fit into ${SIDE_BITS} bits`);
    }
  }
}

/** Stage counts [streams * frames] of 1 to `most`: whether any is less, and then all of them. */
function tellCounts(coder, counts, frames, most) {
  const differ = counts.some((count) => count < most);
  tellOne(coder, differ ? 1 : 0, 2);
  if (differ) encodeCounts(coder, counts, frames, most);
}

function readCounts(coder, streams, frames, most) {
  return readOne(coder, 2) ? decodeCounts(coder, streams, frames, most) : new Int32Array(streams * frames).fill(most);
}

/** Counts of the frames before and of those after them, [streams * frames] each, as those of all. */
function sideBySide(before, after, streams) {
  const [first, second] = [before.length / streams, after.length / streams];
  const all = new Int32Array(before.length + after.length);
  for (let stream = 0, at = 0; stream < streams; stream++, at += first + second) {
    all.set(before.subarray(stream * first, (stream + 1) * first), at);
    all.set(after.subarray(stream * second, (stream + 1) * second), at + first);
  }
  return all;
}
