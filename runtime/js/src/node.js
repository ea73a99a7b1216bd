/** The entry `edgecodec/node`: bundles in folders, and the one that comes with the package. */

import { open, realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { loadFrom } from "./codec.js";
import { BundleError } from "./errors.js";

export * from "./index.js";

// In the package, and in a checkout of the repository.
const SHIPPED = ["../speech/", "../../../models/edgecodec_models/speech/"].map(
  (path) => new URL(path, import.meta.url),
);

/** Load a bundle from its folder, or by the name of the one that comes with the package: `speech`. */
export async function load(ort, bundle = "speech", options = {}) {
  return loadFrom(ort, folderFiles(bundle === "speech" ? await shippedFolder() : bundle), options);
}

/** The folder of the bundle that comes with the package. */
export async function shippedFolder() {
  for (const url of SHIPPED) {
    const folder = fileURLToPath(url);
    if (await fileHandle(join(folder, "manifest.json")).then(closed, () => false)) return folder;
  }
  throw new BundleError('no bundle "speech" comes with this installation; give the path of a bundle folder');
}

/** Reads the files of a folder: regular ones that lie in it, and links to such. */
function folderFiles(folder) {
  return async (name, most) => {
    const path = join(folder, name);
    let file;
    try {
      if (dirname(await realpath(path)) !== (await realpath(folder))) {
        throw new BundleError(`${path}: a link that leaves the bundle; copy the file into it`);
      }
      file = await fileHandle(path);
    } catch (error) {
      if (error instanceof BundleError) throw error;
      throw new BundleError(`${path}: ${error.code ?? error.message}; is this a bundle folder, and a whole one?`);
    }
    try {
      const { size } = await file.stat();
      return size > most ? null : await upTo(file, most);
    } finally {
      await file.close();
    }
  };
}

async function fileHandle(path) {
  const file = await open(path);
  if (!(await file.stat()).isFile()) {
    await file.close();
    throw new BundleError(`${path}: no regular file`);
  }
  return file;
}

async function closed(file) {
  await file.close();
  return true;
}

/** All bytes of a file that may be written right now, null where they are more than `most`. */
async function upTo(file, most) {
  const data = new Uint8Array(most + 1);
  let length = 0;
  for (let read = -1; read !== 0 && length <= most; length += read) {
    ({ bytesRead: read } = await file.read(data, length, data.length - length));
  }
  return length > most ? null : data.slice(0, length);
}
