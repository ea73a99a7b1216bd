/**
 * The manifest of a bundle: all that the runtime knows about a codec.
 *
 * Every field is checked on the way in: exact keys, exact types, and a range for every number, so that nothing later
 * has to doubt them. Lengths are in samples at the sample rate unless a name says otherwise.
 */

import { Codes } from "./codes.js";
import { BitrateError, BitstreamError, BundleError } from "./errors.js";
import { bitLength } from "./entropy_model.js";
import { Layout, MAX_LINES, MISSING, SIDE_BITS } from "./layout.js";

export const FORMAT_VERSION = 2;
export const GRAPHS = ["encoder", "quantizer_encode", "quantizer_decode", "decoder"];

export const DEFAULT_BITRATE = 6.0; // kbps
const BITRATE_SLACK = 0.02; // of a bitrate: people round 3.01 and 1.98 kbps
const PATHS = { live: 0, fast: 4, best: 8 }; // that the search for codes follows after every stage
const MAX_TEXT = 200; // characters
const MAX_NAME = 64; // bytes of a bundle's name in UTF-8: what files can hold

const PARTS = { encoder: whole(0, 2 ** 50), decoder: whole(0, 2 ** 50), quantizer: whole(0, 2 ** 50) };
const FILE = object({ file: text, sha256: text, bytes: whole(1, 256 << 20) });
const SECOND_FORMAT = {
  channels: 1,
  lookahead: { encoder: 0, decoder: 0 },
  start_frames: { encoder: 1, decoder: 1 },
  call_frames: 0,
  side: 0,
  stage_widths: [],
  max_paths: 0,
  entropy: null,
  fingerprint: "", // in hex: of the bundle that the graphs were made from, where they give its codes
};
const MANIFEST = object(
  {
    format_version: whole(1, FORMAT_VERSION),
    name: bundleName,
    architecture: printable,
    sample_rate: whole(1000, 768_000),
    frame_size: whole(1, 1 << 16),
    latent_dim: whole(1, 1 << 16),
    quantizer: object({ kind: printable, codebook_size: whole(2, 65536), max_stages: whole(1, 128) }),
    state: object({ encoder: whole(0, 1 << 24), decoder: whole(0, 1 << 24) }),
    latency: object({ buffering: whole(1, 1 << 16), algorithmic: whole(0, 1 << 20) }),
    channels: whole(1, 8),
    lookahead: object({ encoder: whole(0, 4096), decoder: whole(0, 1 << 20) }, SECOND_FORMAT.lookahead),
    start_frames: object({ encoder: whole(1, 4096), decoder: whole(1, 4096) }, SECOND_FORMAT.start_frames),
    call_frames: whole(0, 64),
    side: whole(0, 255),
    stage_widths: list(whole(1, 4096)),
    max_paths: whole(0, 64),
    entropy: (value, where) => value === null || FILE(value, where),
    fingerprint,
    parameters: object(PARTS),
    macs_per_second: object(PARTS),
    opset: whole(1, 1000),
    precision: printable,
    graphs: object(Object.fromEntries(GRAPHS.map((name) => [name, FILE]))),
    golden: FILE,
    parity: anyObject,
    quality: list(() => true),
    training: anyObject,
    tools: anyObject,
  },
  SECOND_FORMAT,
);

/** The contract between an export and every runtime. `facts` is the JSON object of `manifest.json`, keys as there. */
export class Manifest {
  /** Use `Manifest.fromBytes`: facts must be checked. */
  constructor(facts) {
    this.facts = facts;
    this.name = facts.name;
    this.sampleRate = facts.sample_rate; // Hz
    this.frameSize = facts.frame_size; // samples per code frame
    this.latentDim = facts.latent_dim;
    this.codebookSize = facts.quantizer.codebook_size;
    this.codeBits = bitLength(facts.quantizer.codebook_size - 1); // that one code takes in a packet
    this.maxStages = facts.quantizer.max_stages;
    this.channels = facts.channels; // that one stream of codes holds
    this.state = facts.state; // floats a stream and graph
    this.lookahead = facts.lookahead;
    this.startFrames = facts.start_frames;
    this.callFrames = facts.call_frames; // of every call; 0 for any number
    this.maxPaths = facts.max_paths;
    this.layout = new Layout(facts.side, facts.stage_widths);
    Object.freeze(this);
  }

  /**
   * Read and check a manifest.
   *
   * Throws a BundleError: not JSON, a newer format, missing or unknown keys, a wrong type, a number out of range, or
   * fields that contradict each other.
   */
  static fromBytes(bytes) {
    const given = parsed(bytes);
    const version = given?.format_version;
    if (Number.isInteger(version) && version > FORMAT_VERSION) {
      throw new BundleError(
        `the bundle has format ${version}, this edgecodec reads up to ${FORMAT_VERSION}: upgrade edgecodec`,
      );
    }
    MANIFEST(given, "");
    const facts = { ...structuredClone(SECOND_FORMAT), ...given };
    for (const key of ["lookahead", "start_frames"]) facts[key] = { ...SECOND_FORMAT[key], ...facts[key] };
    const manifest = new Manifest(deepFrozen(facts));
    const wrong = manifest.#contradiction();
    if (wrong !== null) throw new BundleError(`the manifest's ${wrong}`);
    return manifest;
  }

  /** Samples by which what comes out of a stream is less than what went in: first calls and lookahead hold it back. */
  get held() {
    const first = Math.max(this.startFrames.encoder, this.startFrames.decoder + this.lookahead.encoder) - 1;
    return Math.max(this.ahead, first * this.frameSize);
  }

  /** Samples by which the graphs of a stream that has begun hold back. */
  get ahead() {
    return this.lookahead.encoder * this.frameSize + this.lookahead.decoder;
  }

  /** Samples to drop at the start of decoded audio: what of the algorithmic latency is not held back. */
  get delay() {
    return this.facts.latency.algorithmic - this.held;
  }

  /** Code frames per second. */
  get frameRate() {
    return this.sampleRate / this.frameSize;
  }

  /** The possible bitrates in kbps, for 1, 2, … maxStages stages. */
  get bitrates() {
    return Array.from({ length: this.maxStages }, (_, i) => this.bitrate(i + 1));
  }

  /** Payload of `stages` stages in kbps; the lines beside the stages are not counted. */
  bitrate(stages) {
    return (this.frameRate * this.layout.codes(stages) * Math.log2(this.codebookSize)) / 1000;
  }

  /** Streams that code this many channels of audio: one for each, or for each pair of a stereo bundle. */
  streams(channels) {
    return Math.ceil(channels / this.channels);
  }

  /**
   * The stage count that a bitrate in kbps or a stage count asks for; with neither, 6 kbps where possible, else all.
   *
   * Throws a BitrateError: both, or one that this bundle does not offer; the message lists the possible ones.
   */
  stages({ bitrate, stages } = {}) {
    if (bitrate !== undefined && stages !== undefined) {
      throw new BitrateError("give a bitrate or a stage count, not both");
    }
    if (stages !== undefined) {
      if (!Number.isInteger(stages)) throw new BitrateError(`stages must be a whole number, not ${String(stages)}`);
      if (stages < 1 || stages > this.maxStages) {
        throw new BitrateError(`${this.name} has 1 to ${this.maxStages} stages, not ${stages}`);
      }
      return stages;
    }
    const wanted = bitrate ?? DEFAULT_BITRATE;
    const apart = this.bitrates.map((possible) => Math.abs(possible - wanted));
    const nearest = 1 + apart.indexOf(Math.min(...apart));
    if (apart[nearest - 1] <= BITRATE_SLACK * this.bitrate(nearest)) return nearest;
    if (bitrate === undefined) return this.maxStages;
    const listed = this.bitrates.map((possible) => String(Number(possible.toPrecision(4)))).join(", ");
    throw new BitrateError(`${this.name} cannot do ${String(bitrate)} kbps; possible: ${listed} kbps`);
  }

  /** Paths that the search for codes follows after every stage; 0: those that the bundle was made for. */
  paths(effort = "live") {
    if (!Object.hasOwn(PATHS, effort)) {
      throw new BitrateError(`effort must be ${Object.keys(PATHS).join(", ")}, not ${String(effort)}`);
    }
    return Math.min(PATHS[effort], this.maxPaths);
  }

  /** Code frames of a clip: enough that the decoder, which lags by `delay`, answers it all. */
  frames(samples) {
    return samples ? Math.ceil((samples + this.delay) / this.frameSize) : 0;
  }

  /**
   * `Codes`, or a BitstreamError where they are of a wrong shape or range, or not of `streams` streams; nothing
   * unchecked reaches a graph.
   */
  checkCodes(codes, streams = undefined) {
    if (!(codes instanceof Codes)) throw new BitstreamError("codes must be Codes");
    const { layout, maxStages, codebookSize } = this;
    const stages = codes.data.length ? layout.stages(codes.lines) : 0;
    if (stages < 1 || stages > maxStages) {
      const shape = `[B, ${layout.isPlain ? "n_stages" : "lines"}, T]`;
      const found = `[${codes.streams}, ${codes.lines}, ${codes.frames}]`;
      throw new BitstreamError(`codes must be ${shape} with 1 to ${maxStages} stages, not of shape ${found}`);
    }
    if (streams !== undefined && codes.streams !== streams) {
      throw new BitstreamError(`codes of ${codes.streams} streams, expected ${streams}`);
    }
    let missing = false;
    for (let line = 0; line < codes.lines; line++) {
      const side = line < layout.side;
      for (let stream = 0; stream < codes.streams; stream++) {
        for (const code of codes.line(stream, line)) {
          if (side && code >>> SIDE_BITS) {
            throw new BitstreamError(`the first ${layout.side} lines of codes must lie in 0..${2 ** SIDE_BITS - 1}`);
          }
          if (!side && (code >= codebookSize || code < MISSING)) {
            throw new BitstreamError(`codes must lie in 0..${codebookSize - 1}`);
          }
          missing ||= code === MISSING;
        }
      }
    }
    if (missing) this.#checkMissing(codes);
    return codes;
  }

  #checkMissing(codes) {
    const counts = this.layout.counts(codes);
    const cut = this.layout.cut(codes, counts).data;
    if (counts.some((count) => !count) || cut.some((code, i) => code !== codes.data[i])) {
      throw new BitstreamError("-1 may only stand in the last stages of a frame, and not in all");
    }
    const kept = codes.data.filter((code) => code === MISSING).length;
    let due = 0; // lines of the stages that frames lack
    for (const count of counts) due += codes.lines - this.layout.lines(count);
    if (kept !== due) throw new BitstreamError("-1 may only stand in the last stages of a frame, and not in all");
  }

  #contradiction() {
    const { startFrames: start, lookahead: ahead, layout, frameSize } = this;
    if (layout.widths.length && layout.widths.length !== this.maxStages) {
      return `stage_widths: ${layout.widths.length} widths for ${this.maxStages} stages`;
    }
    if (layout.lines(this.maxStages) > MAX_LINES) return `stage_widths: more than ${MAX_LINES} code lines a frame`;
    if (start.encoder < ahead.encoder + (ahead.encoder ? 1 : 0) || start.decoder * frameSize < ahead.decoder) {
      return "start_frames: a first call would hold no more than lookahead keeps back";
    }
    if (this.callFrames && Math.max(start.encoder, start.decoder) > this.callFrames) {
      return "start_frames: more than the one frame of every call";
    }
    if (this.callFrames > 1 && this.ahead) return "call_frames: more than one, of graphs that look ahead";
    const { algorithmic } = this.facts.latency;
    if (algorithmic < this.held) return `latency.algorithmic: ${algorithmic}, but ${this.held} samples are held back`;
    if (this.facts.format_version === 1 && !isFirstFormat(this.facts)) {
      return "format_version: 1, but it holds keys of format 2";
    }
    return null;
  }
}

function parsed(bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new BundleError("the manifest: no JSON");
  }
}

function isFirstFormat(facts) {
  return Object.entries(SECOND_FORMAT).every(([key, value]) => {
    const own = facts[key];
    if (value === null || typeof value !== "object") return own === value;
    return Array.isArray(value) ? !own.length : Object.keys(value).every((part) => own[part] === value[part]);
  });
}

/** A check of objects that have exactly these keys; those of `optional` may be missing. */
function object(keys, optional = {}) {
  return (value, where) => {
    anyObject(value, where);
    for (const key of Object.keys(value)) {
      if (!Object.hasOwn(keys, key)) refuse(where, `an unknown key ${JSON.stringify(key).slice(0, 60)}`);
    }
    for (const [key, check] of Object.entries(keys)) {
      if (Object.hasOwn(value, key)) check(value[key], where ? `${where}.${key}` : key);
      else if (!Object.hasOwn(optional, key)) refuse(where, `${key} is missing`);
    }
  };
}

function list(check) {
  return (value, where) => {
    if (!Array.isArray(value)) refuse(where, "no list");
    value.forEach((item, i) => check(item, `${where}[${i}]`));
  };
}

function whole(least, most) {
  return (value, where) => {
    if (!Number.isInteger(value)) refuse(where, "no whole number");
    if (value < least || value > most) refuse(where, `${value} is not within ${least} … ${most}`);
  };
}

function text(value, where) {
  if (typeof value !== "string" || !value.length || value.length > MAX_TEXT) {
    refuse(where, `no text of 1 to ${MAX_TEXT} characters`);
  }
}

function printable(value, where) {
  text(value, where);
  if (!isPrintable(value)) refuse(where, "a text that holds what cannot be printed");
}

function bundleName(value, where) {
  printable(value, where);
  if (new TextEncoder().encode(value).length > MAX_NAME) {
    refuse(where, `more than ${MAX_NAME} bytes, which files cannot hold`);
  }
}

function fingerprint(value, where) {
  if (typeof value !== "string" || !/^([0-9a-f]{16})?$/.test(value)) refuse(where, "no 16 hex digits");
}

/** Whether a text has no characters but those that print, and spaces. */
export function isPrintable(value) {
  return !/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u.test(value);
}

function anyObject(value, where) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(where, "no object");
}

function refuse(where, what) {
  throw new BundleError(where ? `the manifest's ${where}: ${what}` : `the manifest: ${what}`);
}

function deepFrozen(value) {
  if (typeof value === "object" && value !== null) Object.values(value).forEach(deepFrozen);
  return Object.freeze(value);
}
