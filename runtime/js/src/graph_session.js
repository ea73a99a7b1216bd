/** The session of one graph of a bundle: its options, and the check that it and the manifest agree. */

import { BundleError, oneLine } from "./errors.js";

const EXTRA = { session: { set_denormal_as_zero: "1", intra_op: { allow_spinning: "0" } } };

/** The session of a graph. Throws a BundleError: one that onnxruntime refuses, or that contradicts the manifest. */
export async function makeSession(ort, bundle, name, executionProviders, threads) {
  const options = {
    executionProviders,
    graphOptimizationLevel: "all",
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 4, // what goes wrong is thrown
    extra: EXTRA,
  };
  const { file } = bundle.manifest.facts.graphs[name];
  let made;
  try {
    made = await ort.InferenceSession.create(bundle.graphs[name], options);
  } catch (error) {
    throw new BundleError(`${file}: onnxruntime refuses the graph: ${oneLine(error)}`);
  }
  checkSignature(made, name, bundle.manifest, file);
  return made;
}

/** Refuse a graph whose declared inputs and outputs contradict the manifest. */
function checkSignature(made, name, m, file) {
  const last = (graph) => (m.lookahead[graph] ? ["last"] : []);
  const [inputs, outputs] = {
    encoder: [
      ["audio", "state", ...last("encoder")],
      ["latents", "next_state"],
    ],
    quantizer_encode: [["latents", "n_stages", ...(m.maxPaths ? ["paths"] : [])], ["codes"]],
    quantizer_decode: [["codes"], ["latents"]],
    decoder: [
      ["latents", "state", ...last("decoder")],
      ["audio", "next_state"],
    ],
  }[name];
  for (const [what, found, expected] of [
    ["inputs", made.inputNames, inputs],
    ["outputs", made.outputNames, outputs],
  ]) {
    if (found.join() !== expected.join()) {
      throw new BundleError(`${file}: has ${what} ${found.join(", ").slice(0, 200)}, expected ${expected.join(", ")}`);
    }
  }
}

/**
 * Whether a call of a graph takes one stream only. An onnxruntime that does not tell the shapes of inputs gets one at a
 * time where calls have a fixed number of frames.
 */
export function takesOneStream(made, name, m) {
  if (made.inputMetadata === undefined) return m.callFrames > 0 && !name.startsWith("quantizer");
  return made.inputMetadata.some((input) => input.shape?.[0] === 1);
}
