/** The command `edgecodec encode | decode` for Node: WAV files to .edgc files and back. */

import { randomBytes } from "node:crypto";
import { link, open, readFile, rename, rm, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { EdgecodecError, decodeClip, encodeClip, load, readWav, writeWav } from "./node.js";
import { MAX_GAIN } from "./edgc_header.js";
import { PIPE_WINDOW } from "./encoding.js";
import { oneLine } from "./errors.js";
import { within } from "./packets.js";

const USAGE = `usage: edgecodec encode IN.wav OUT.edgc [-b KBPS [--cbr] | --quality 0..10 | -q STAGES] [options]
       edgecodec decode IN.edgc OUT.wav [--strict] [options]
-b KBPS           the mean bitrate, all counted, with the stages in each frame that its sound needs; 6 by default
--cbr             as many stages in every frame, as make that bitrate; -q says how many
--quality 0..10   what a bit may cost, whatever the bitrate
--effort live|fast|best   how far the search for codes goes; fast by default
--gain 0..60      whole dB by which quiet audio is made louder; decoding takes it back
options: --bundle FOLDER  another bundle than the shipped one      -f, --force  replace an output that exists
         --threads N      CPU threads                              -h, --help   this text
- stands for standard input or output`;
const MOST_BYTES = 1 << 30; // of an input
const MOST_LINES = 20; // about damage
const REASONS = {
  ENOENT: "no such file or folder",
  EEXIST: "exists; -f replaces it",
  EACCES: "no permission",
  EISDIR: "a folder",
};
const OPTIONS = {
  bundle: { type: "string", default: "speech" },
  force: { type: "boolean", short: "f", default: false },
  threads: { type: "string", default: "1" },
  help: { type: "boolean", short: "h", default: false },
};
const COMMANDS = {
  encode: {
    run: encode,
    options: {
      bitrate: { type: "string", short: "b" },
      cbr: { type: "boolean", default: false },
      vbr: { type: "boolean", default: false },
      quality: { type: "string" },
      stages: { type: "string", short: "q" },
      effort: { type: "string", default: "fast" },
      gain: { type: "string", default: "0" },
    },
  },
  decode: { run: decode, options: { strict: { type: "boolean", default: false } } },
};

/** A call that is wrong in itself. */
class UsageError extends EdgecodecError {
  exitCode = 2;
}

/** Run the command that words say, and give what the process ends with: 0, 1 for a failure, 2 for a wrong call. */
export async function run(words) {
  try {
    return await dispatched(words);
  } catch (error) {
    if (error.code === "EPIPE") return 1; // the reader of a pipe went away
    const own = error instanceof EdgecodecError;
    console.error(`edgecodec: ${own ? oneLine(error) : `a fault of edgecodec: ${oneLine(error.stack)}`}`);
    return error.exitCode ?? 1;
  }
}

async function dispatched(words) {
  const [name, ...rest] = words;
  if (name === undefined || name === "-h" || name === "--help") {
    console.log(USAGE);
    return name === undefined ? 2 : 0;
  }
  if (!Object.hasOwn(COMMANDS, name)) throw new UsageError(`no command ${JSON.stringify(name)}: encode or decode`);
  const { run: command, options } = COMMANDS[name];
  const { values, positionals } = parsed(rest, { ...OPTIONS, ...options });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  if (positionals.length !== 2) throw new UsageError(`${name} takes an input and an output; see edgecodec --help`);
  const [source, target] = positionals;
  const threads = number("--threads", values.threads);
  if (!Number.isInteger(threads) || threads < 1) throw new UsageError("--threads is a whole number from 1 on");
  if (!values.force) await refuseExisting(target);
  const begun = performance.now();
  const bytes = await saidOf(source, input(source));
  const said = await command(bytes, { ...values, threads, source, target });
  const seconds = (performance.now() - begun) / 1000;
  (target === "-" ? console.error : console.log)(`${said} in ${seconds.toFixed(1)} s`);
  return 0;
}

async function encode(bytes, { cbr, vbr, effort, source, target, force, ...options }) {
  if (cbr && vbr) throw new UsageError("--cbr and --vbr are two things: give one of them");
  const rate = { constant: cbr };
  for (const wish of ["bitrate", "quality", "stages"]) {
    if (options[wish] !== undefined) rate[wish] = number(`--${wish}`, options[wish]);
  }
  const gain = number("--gain", options.gain);
  if (!within(gain, 0, MAX_GAIN)) throw new UsageError(`--gain is a whole number of dB from 0 to ${MAX_GAIN}`);
  const window = source === "-" ? PIPE_WINDOW : undefined;
  const { audio, sampleRate } = await saidOf(source, (async () => readWav(bytes))());
  const codec = await loaded(options);
  const file = await encodeClip(codec, audio, { ...rate, effort, gain, sampleRate, window });
  await saidOf(target, output(target, file, force));
  const seconds = audio[0].length / sampleRate;
  const kbps = (file.length * 8) / seconds / 1000;
  const of = `${seconds.toFixed(2)} s (${audio.length} ch, ${sampleRate} Hz)`;
  return `encoded ${of}: ${kbps.toFixed(2)} kbps on disk (${file.length} bytes)`;
}

async function decode(bytes, { strict, source, target, force, ...options }) {
  const codec = await loaded(options);
  const { audio, sampleRate, damage } = await saidOf(source, decodeClip(codec, bytes, { strict }));
  for (const place of damage.slice(0, MOST_LINES)) console.error(`edgecodec: ${source}: ${place}`);
  if (damage.length > MOST_LINES) {
    console.error(`edgecodec: ${source}: and damage in ${damage.length - MOST_LINES} more places`);
  }
  await saidOf(target, output(target, writeWav(audio, sampleRate), force));
  return `decoded ${(audio[0].length / sampleRate).toFixed(2)} s (${audio.length} ch, ${sampleRate} Hz)`;
}

/** The codec of a bundle, on the onnxruntime-node of the project that the command is run in, or of this package's. */
async function loaded({ bundle, threads }) {
  for (const from of [join(process.cwd(), "package.json"), import.meta.url]) {
    let path;
    try {
      path = createRequire(from).resolve("onnxruntime-node");
    } catch {
      continue;
    }
    const { default: ort } = await import(pathToFileURL(path).href);
    return load(ort, bundle, { threads });
  }
  throw new EdgecodecError("onnxruntime-node is missing: npm install onnxruntime-node");
}

/** What goes wrong with an input or an output is said of it; no temporary name is. */
async function saidOf(name, work) {
  try {
    return await work;
  } catch (error) {
    const reason = REASONS[error.code] ?? (error instanceof EdgecodecError ? error.message : error.code);
    if (reason === undefined || error.code === "EPIPE" || error.exitCode === 2) throw error;
    throw new EdgecodecError(`${name === "-" ? "standard input or output" : name}: ${reason}`);
  }
}

function parsed(args, options) {
  try {
    return parseArgs({ args, options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(oneLine(error));
  }
}

function number(option, text) {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new UsageError(`${option} is a number, not ${JSON.stringify(text)}`);
  return value;
}

async function input(source) {
  if (source === "-") {
    const parts = [];
    let length = 0;
    for await (const part of process.stdin) {
      length += part.length;
      if (length > MOST_BYTES) throw new EdgecodecError("more than 1 GiB");
      parts.push(part);
    }
    return Buffer.concat(parts);
  }
  if ((await stat(source)).size > MOST_BYTES) throw new EdgecodecError("more than 1 GiB");
  return readFile(source);
}

/** Write all or nothing: a file appears under its name when it is whole. */
async function output(target, data, force) {
  if (target === "-") {
    await new Promise((done, failed) => {
      process.stdout.once("error", failed);
      process.stdout.write(data, done);
    });
    return;
  }
  if (force && (await kindOf(target)) === "other") {
    const file = await open(target, "w"); // a device or a pipe: it is not replaced
    await file.writeFile(data).finally(() => file.close());
    return;
  }
  const temporary = join(dirname(resolve(target)), `.edgecodec-${randomBytes(6).toString("hex")}`);
  try {
    const file = await open(temporary, "wx");
    await file.writeFile(data).finally(() => file.close());
    if (force) await rename(temporary, target);
    else await link(temporary, target); // fails where the name was taken in the meantime
  } finally {
    await rm(temporary, { force: true });
  }
}

async function refuseExisting(target) {
  if (target !== "-" && (await kindOf(target)) !== "none") {
    throw new EdgecodecError(`${target}: exists; -f replaces it`);
  }
}

async function kindOf(path) {
  try {
    return (await stat(path)).isFile() ? "file" : "other";
  } catch (error) {
    if (error.code === "ENOENT") return "none";
    throw error;
  }
}
