/** The entry `edgecodec/node`. */

import type { Codec, LoadOptions, Ort } from "./index.js";

export * from "./index.js";

/** Load a bundle from its folder, or by the name of the one that comes with the package: `speech`. */
export function load(ort: Ort, bundle?: string, options?: LoadOptions): Promise<Codec>;

/** The folder of the bundle that comes with the package. */
export function shippedFolder(): Promise<string>;
