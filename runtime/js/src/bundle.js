/**
 * Bundles: reading one, and refusing it unless every byte is what its manifest says.
 *
 * Files come from a function (name, most bytes) => bytes, so that a folder, a server and memory serve alike. Each graph
 * is read once; the bytes that were hashed are the bytes that onnxruntime gets.
 */

import { asBytes, hex, unhexed } from "./bytes.js";
import { Predictor, readEntropyModel } from "./entropy_model.js";
import { BundleError } from "./errors.js";
import { GRAPHS, Manifest, isPrintable } from "./manifest.js";
import { isOrtFormat, keepsDataElsewhere } from "./onnx_fields.js";

export const MANIFEST_BYTES = 1 << 20;

/** A checked bundle: its manifest, and the graphs' bytes by name. */
export class Bundle {
  #readFile;
  #predictor;

  constructor(manifest, graphs, fingerprint, readFile) {
    this.manifest = manifest;
    this.graphs = graphs;
    this.fingerprint = fingerprint; // 8 bytes that name this codec in files
    this.#readFile = readFile;
  }

  /** The bundle's entropy model, or what stands for none. It is read when it is first asked for: packets need none. */
  predictor() {
    this.#predictor ??= this.#readPredictor();
    return this.#predictor;
  }

  /** The checked bytes of the golden vectors. */
  golden() {
    return readEntry(this.#readFile, "golden", this.manifest.facts.golden);
  }

  async #readPredictor() {
    const { facts, codebookSize, maxStages } = this.manifest;
    if (facts.entropy === null) return new Predictor(codebookSize);
    const bytes = await readEntry(this.#readFile, "entropy", facts.entropy);
    try {
      return await readEntropyModel(bytes, maxStages, codebookSize);
    } catch (error) {
      throw new BundleError(`${facts.entropy.file}: no entropy model of this bundle: ${error.message}`);
    }
  }
}

/**
 * Read a bundle, and check its files against its manifest.
 *
 * @param {(name: string, most: number) => Promise<Uint8Array | null>} readFile gives the bytes of a file, null where
 *   there are more than `most`
 */
export async function readBundle(readFile) {
  const text = await readFile("manifest.json", MANIFEST_BYTES);
  if (text === null) throw new BundleError(`manifest.json: larger than ${MANIFEST_BYTES} bytes, so no manifest`);
  const manifest = Manifest.fromBytes(asBytes(text));
  const entries = manifest.facts.graphs;
  const all = await Promise.all(GRAPHS.map((name) => readEntry(readFile, name, entries[name])));
  const graphs = Object.fromEntries(GRAPHS.map((name, i) => [name, all[i]]));
  for (const name of GRAPHS) {
    const { file } = entries[name];
    const isOrt = file.endsWith(".ort") && file !== ".ort";
    if (isOrtFormat(graphs[name]) !== isOrt) {
      throw new BundleError(`${file}: .ort, and no other file, must be in onnxruntime's own format`);
    }
    // What is in its own format can name no other file.
    if (!isOrt && isElsewhere(graphs[name], file)) {
      throw new BundleError(`${file}: keeps weights in another file (external data); save it as one file`);
    }
  }
  return new Bundle(manifest, graphs, await fingerprintOf(manifest), readFile);
}

/** 8 bytes of SHA-256 over the four graphs' digests; those of the bundle that the graphs were made from go before. */
async function fingerprintOf(manifest) {
  const { graphs, fingerprint } = manifest.facts;
  if (fingerprint) return unhexed(fingerprint);
  return (await sha256(unhexed(GRAPHS.map((name) => graphs[name].sha256).join("")))).slice(0, 8);
}

/** Whether a graph keeps weights in another file; what is no graph is refused by its name. */
function isElsewhere(graph, file) {
  try {
    return keepsDataElsewhere(graph);
  } catch (error) {
    if (!(error instanceof BundleError)) throw error;
    throw new BundleError(`${file}: ${error.message}`);
  }
}

/** What a map of file bytes, or an object of them, gives. */
export function filesOf(source) {
  return async (name, most) => {
    const data = source instanceof Map ? source.get(name) : Object.hasOwn(source, name) ? source[name] : undefined;
    if (data === undefined) throw new BundleError(`${name.slice(0, 60)}: no such file; the bundle is incomplete`);
    return data.length > most ? null : asBytes(data);
  };
}

/** The bytes of one listed file, which must have a plain name and be what the manifest says. */
async function readEntry(readFile, what, entry) {
  const name = entry.file;
  if (/[/\\:\0]/.test(name) || name === "." || name === ".." || !isPrintable(name)) {
    throw new BundleError(`${what} file ${JSON.stringify(name)} is no plain file name, so it would leave the bundle`);
  }
  const data = await readFile(name, entry.bytes);
  if (data === null || data.length !== entry.bytes || hex(await sha256(data)) !== entry.sha256.toLowerCase()) {
    throw new BundleError(`${name}: altered, its bytes are not those of the manifest; copy or export the bundle again`);
  }
  return asBytes(data);
}

async function sha256(data) {
  if (globalThis.crypto?.subtle === undefined) {
    throw new BundleError(
      "the bundle cannot be checked here: browsers hash in secure contexts alone (https or localhost)",
    );
  }
  return new Uint8Array(await globalThis.crypto.subtle.digest("SHA-256", data));
}
