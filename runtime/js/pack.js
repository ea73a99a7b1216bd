/** What `npm pack` and `npm publish` add from the rest of the repository, and take away again with `--undo`. */

import { cpSync, rmSync } from "node:fs";

const ADDED = {
  speech: "../../models/edgecodec_models/speech",
  LICENSE: "../../LICENSE",
  "README.md": "../docs/javascript.md",
};

for (const [name, source] of Object.entries(ADDED)) {
  const target = new URL(name, import.meta.url);
  if (process.argv.includes("--undo")) rmSync(target, { recursive: true, force: true });
  else cpSync(new URL(source, import.meta.url), target, { recursive: true, dereference: true });
}
