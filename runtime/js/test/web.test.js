/** The entry for browsers, on onnxruntime-web's wasm: a bundle from a server, golden vectors, a stream. */

import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";

import * as ort from "onnxruntime-web/wasm";

import { Codes, load, verify } from "edgecodec/web";
import { apart, codesOf, saidLater, samplesOf, vectors } from "./vectors.js";

ort.env.wasm.numThreads = 1; // as a page without cross-origin isolation has it
let server;
let base;

before(async () => {
  server = createServer((request, response) => {
    response.setHeader("connection", "close"); // compiling wasm outlasts a connection that is kept
    const [, bundle, name] = request.url.split("/");
    if (bundle === "large") return void response.end(Buffer.alloc((1 << 20) + 1));
    const file = createReadStream(join(vectors.bundles[bundle] ?? "/nowhere", basename(name ?? "")));
    file.on("error", () => response.writeHead(404).end());
    file.pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${server.address().port}`;
});

after(() => server.close());

test("the shipped bundle, from a server: golden vectors and a stream", async () => {
  const codec = await load(ort, `${base}/speech`);
  for (const result of await verify(codec)) {
    assert.ok(result.passed && result.codedEqual, JSON.stringify(result));
    assert.ok(result.equalCodes >= 0.99);
  }
  const audio = samplesOf(vectors.codecs.speech.audio[0]);
  const [encoder, decoder] = [codec.encoderStream({ stages: 8 }), codec.decoderStream()];
  const packets = await encoder.push(audio);
  packets.push(...(await encoder.flush()));
  const whole = await codec.encode(audio, { stages: 8 });
  assert.ok(Codes.join(packets.map((packet) => packet.codes)).equals(whole));
  const sound = [];
  for (const packet of packets) sound.push(...(await decoder.push(packet))[0]);
  const [decoded] = await codec.decode(whole, { samples: audio.length });
  const streamed = Float32Array.from(sound).subarray(codec.delay, codec.delay + audio.length);
  assert.ok(apart(streamed, decoded) < 1e-5);
});

test("codes and sound are Python's, but for near ties", async () => {
  for (const name of ["tiny", "wide"]) {
    const codec = await load(ort, new URL(`${base}/${name}/`));
    const written = vectors.codecs[name];
    const audio = written.audio.map(samplesOf);
    for (const { stages, effort, codes, decoded } of written.clips) {
      const [own, expected] = [await codec.encode(audio, { stages, effort }), codesOf(codes)];
      const equal = own.data.filter((code, i) => code === expected.data[i]).length;
      assert.ok(equal >= 0.99 * own.data.length);
      if (decoded === undefined) continue;
      const again = await codec.decode(expected, { samples: audio[0].length });
      assert.ok(apart(Float32Array.from(again.flatMap((row) => [...row])), samplesOf(decoded)) < 5e-3);
    }
  }
});

test("what a server lacks, or has too much of, is refused", async () => {
  assert.match(await saidLater(load(ort, `${base}/none/`)), /manifest.json: the server says 404; is this the folder/);
  assert.match(await saidLater(load(ort, `${base}/large/`)), /larger than 1048576 bytes/);
  assert.match(await saidLater(load(ort, "http://127.0.0.1:9/")), /http:\/\/127.0.0.1:9\/manifest.json: /);
});

test("every export is declared, and every declaration is there", async () => {
  for (const entry of ["bitstream", "index", "node", "web"]) {
    const there = Object.keys(await import(`../src/${entry}.js`)).sort();
    assert.deepEqual([...declared(entry)].sort(), there, entry);
  }
});

/** The classes, functions and constants that the types of an entry export. */
function declared(entry) {
  const text = readFileSync(new URL(`../src/${entry}.d.ts`, import.meta.url), "utf8");
  const names = new Set([...text.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name));
  for (const [, other] of text.matchAll(/^export \* from "\.\/(\w+)\.js"/gm)) {
    for (const name of declared(other)) names.add(name);
  }
  return names;
}
