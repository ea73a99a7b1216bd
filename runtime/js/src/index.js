/**
 * edgecodec: neural audio codecs on the device, in browsers and Node.
 *
 *     const codec = await load(ort, files);
 *     const codes = await codec.encode(audio, { bitrate: 6 });
 *     const [again] = await codec.decode(codes, { samples: audio.length });
 *
 * onnxruntime is handed in, so that one codec serves onnxruntime-web and onnxruntime-node. `edgecodec/node` loads from
 * folders, `edgecodec/web` from URLs; here a bundle is a map of its files' bytes.
 */

import { filesOf } from "./bundle.js";
import { loadFrom } from "./codec.js";

export * from "./bitstream.js";
export { Codec } from "./codec.js";
export { DecoderStream } from "./decoder_stream.js";
export { EncoderStream } from "./encoder_stream.js";
export { decodeClip, encodeClip } from "./files.js";
export { verify } from "./golden.js";
export { Manifest } from "./manifest.js";
export { LiveResampler } from "./resampler.js";
export { readWav, writeWav } from "./wav.js";

/** Load a bundle of which every file's bytes are there: a Map of them by name, or an object. */
export function load(ort, files, options = {}) {
  return loadFrom(ort, filesOf(files), options);
}
