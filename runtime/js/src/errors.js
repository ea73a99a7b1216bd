/**
 * The errors of edgecodec: one tree, so that `error instanceof EdgecodecError` tells all that is thrown on purpose.
 *
 *     EdgecodecError
 *     ├── BundleError      a bundle that is missing, altered, newer, or contradicts itself
 *     ├── BitstreamError   codes, a packet or an .edgc file that is damaged, truncated, or made with another bundle
 *     ├── BitrateError     a bitrate or stage count that the bundle does not offer
 *     └── AudioError       audio that cannot be read, written or encoded
 *
 * Messages are one line, and say what is wrong, where, and what to do about it. `exitCode` is what a command ends with.
 */

/** Base of every error that edgecodec throws on purpose. */
export class EdgecodecError extends Error {
  exitCode = 1;

  get name() {
    return this.constructor.name;
  }
}

/** A bundle that is missing, altered, newer than this version, or contradicts itself. */
export class BundleError extends EdgecodecError {}

/** Codes, a packet or an .edgc file that is damaged, truncated, or made with another bundle. */
export class BitstreamError extends EdgecodecError {}

/** A bitrate or stage count that the bundle does not offer. */
export class BitrateError extends EdgecodecError {
  exitCode = 2;
}

/** Audio that cannot be read, written or encoded. */
export class AudioError extends EdgecodecError {}

/** What another library said, on one line. */
export function oneLine(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.split(/\s+/).join(" ").trim().slice(0, 300);
}
