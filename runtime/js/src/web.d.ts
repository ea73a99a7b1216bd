/** The entry `edgecodec/web`. */

import type { Codec, LoadOptions, Ort } from "./index.js";

export * from "./index.js";

/** Load a bundle from the URL of its folder, which is taken from where the page lies. */
export function load(ort: Ort, url: string | URL, options?: LoadOptions): Promise<Codec>;
