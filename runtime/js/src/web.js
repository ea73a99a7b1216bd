/** The entry `edgecodec/web`: bundles from a server. */

import { loadFrom } from "./codec.js";
import { BundleError, oneLine } from "./errors.js";

export * from "./index.js";

/** Load a bundle from the URL of its folder, which is taken from where the page lies. */
export function load(ort, url, options = {}) {
  const base = new URL(url, globalThis.location?.href);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return loadFrom(ort, (name, most) => fetched(new URL(encodeURIComponent(name), base), most), options);
}

/** The bytes at a URL, null where there are more than `most`. */
async function fetched(url, most) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new BundleError(`${url}: ${oneLine(error)}`);
  }
  if (!response.ok || response.body === null) {
    throw new BundleError(`${url}: the server says ${response.status}; is this the folder of a bundle?`);
  }
  const [parts, reader] = [[], response.body.getReader()];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > most) {
      await reader.cancel();
      return null;
    }
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
