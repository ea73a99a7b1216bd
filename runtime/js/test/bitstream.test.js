/** Packets, chunks, entropy coding and files, against the Python runtime, to the bit; no onnxruntime is needed. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  BitstreamError,
  Chunk,
  ChunkCoder,
  CodeCoder,
  Codes,
  Header,
  Layout,
  Packet,
  Reader,
  Writer,
} from "edgecodec/bitstream";
import { bytes, bytesOf, codedForm, codesOf, digits, formOf, modelOf, said, vectors } from "./vectors.js";

test("packets are Python's bytes, and back", () => {
  for (const row of vectors.packets) {
    const form = formOf(row.form);
    const [codes, previous] = [codesOf(row.codes), codesOf(row.previous)];
    const data = form.toBytes(new Packet(row.sequence, codes, previous, form.layout));
    assert.equal(digits(data), row.bytes);
    assert.equal(digits(form.truncate(data, 1)), row.cut);
    const again = form.fromBytes(Buffer.from(data));
    assert.ok(again.codes.equals(codes) && again.sequence === row.sequence);
    assert.ok(previous === null ? again.previous === null : again.previous.equals(previous));
    assert.equal(form.fromBytes(form.truncate(data, 1)).stages, 1);
  }
});

test("bytes that are no packet are refused, as in Python", () => {
  for (const row of vectors.packets) {
    const form = formOf(row.form);
    assert.equal(
      said(() => form.fromBytes(bytes(row.bytes))),
      null,
    );
    for (const [spoilt, verdict] of row.bad)
      assert.equal(
        said(() => form.fromBytes(bytes(spoilt))),
        verdict,
        spoilt,
      );
  }
});

test("codes that do not fit are refused", () => {
  const form = formOf([10, 1, 0, []]);
  for (const data of [[1024], [-1], [5000]]) {
    assert.match(
      said(() => form.pack(new Codes(1, 1, 1, data))),
      /does not fit into 10 bits/,
    );
  }
  assert.match(
    said(() => form.pack(new Codes(2, 1, 1))),
    /do not fit packets of 1 streams/,
  );
  assert.match(
    said(() => form.pack(new Codes(1, 256, 1))),
    /do not fit/,
  );
  assert.match(
    said(() => new Codes(1, 1, 1, [0.5])),
    /whole numbers/,
  );
  assert.match(
    said(() => new Codes(1, 1, 2, [1])),
    /are not \[1, 1, 2\]/,
  );
  assert.match(
    said(() => new Codes(1e6, 1e6, 1e6)),
    /no codes have the shape/,
  );
  assert.match(
    said(() => form.fromBytes([80, 1, 1])),
    /Uint8Array/,
  );
  for (const stages of [0, 1.5, Number.NaN, undefined]) {
    assert.match(
      said(() => new Packet(0, new Codes(1, 2, 1)).truncate(stages)),
      /needs at least 1 stage/,
    );
  }
});

test("entropy coding is Python's, to the bit, and back", async () => {
  for (const row of vectors.coded) {
    const { layout, streams } = formOf(row.form);
    const coder = new CodeCoder(layout, await modelOf(row.model, row.form[0]), streams);
    const codes = codesOf(row.codes);
    const { data, ends } = coder.encode(codes, row.most);
    assert.equal(digits(data), row.bytes);
    assert.deepEqual(ends, row.ends);
    const bits = coder.bits(codes).reduce((sum, own) => sum + own, 0);
    assert.ok(Math.abs(bits - row.bits) < 1e-6 * row.bits);
    const mixed = codes.data.includes(-1);
    const again = coder.decode(data, layout.stages(codes.lines), codes.frames, { mixed, most: row.most });
    assert.ok(again.equals(codes));
  }
});

test("coded packets are Python's bytes, and back", async () => {
  const kinds = new Set();
  for (const row of vectors.codedPackets) {
    const form = await codedForm(row);
    const [codes, previous] = [codesOf(row.codes), codesOf(row.previous)];
    const packet = new Packet(65_534, codes, previous, form.layout);
    const coded = form.coded(packet);
    assert.equal(coded === null ? null : digits(coded), row.coded);
    const data = form.toBytes(packet);
    assert.equal(digits(data), row.bytes);
    assert.equal(digits(form.truncate(data, 1)), row.cut);
    const again = form.fromBytes(data);
    assert.equal(again.sequence, 65_534);
    assert.ok(again.codes.equals(row.read === null ? codes : codesOf(row.read)));
    assert.ok(previous === null ? again.previous === null : again.previous.equals(previous));
    kinds.add(String.fromCharCode(data[0]));
  }
  assert.deepEqual([...kinds].sort(), ["C", "D", "P", "R"]);
});

test("coded packets that are damaged are refused, as in Python", async () => {
  for (const row of vectors.codedPackets) {
    const form = await codedForm(row);
    for (const [spoilt, verdict] of row.bad) {
      assert.equal(
        said(() => form.fromBytes(bytes(spoilt))),
        verdict,
        spoilt,
      );
    }
  }
});

test("codes that no packet has are not coded, and those that are coded need their coder", async () => {
  const row = vectors.codedPackets.find((one) => one.model === null);
  const form = await codedForm(row);
  const [side, codes] = [[1, 2], [3, -1, -1]];
  const packet = (data, lines = 5) => new Packet(0, new Codes(2, lines, 1, [...data, ...data]), null, form.layout);
  const sound = form.toBytes(packet([...side, ...codes]));
  assert.match(
    said(() => formOf(row.form).fromBytes(sound)),
    /a packet that is coded; what reads it must know the codec/,
  );
  assert.match(
    said(() => formOf(row.form).toBytes(packet([...side, ...codes]))),
    /does not fit into 7 bits/,
  );
  for (const [data, verdict] of [
    [[...side, 128, -1, -1], /codes must lie in 0..127/],
    [[...side, -2, -1, -1], /codes must lie in 0..127/],
    [[...side, -1, -1, -1], /at least 1 stage/],
    [[1, 256, ...codes], /a number beside the stages does not fit into 8 bits/],
    [[1, -1, ...codes], /a number beside the stages does not fit into 8 bits/],
  ]) {
    assert.match(
      said(() => form.toBytes(packet(data))),
      verdict,
    );
  }
  assert.match(
    said(() => form.toBytes(packet([...side, ...codes, -1], 6))),
    /codes \[2, 6, 1\] do not fit packets of 2 streams/,
  );
});

test("any bytes give codes in range", async () => {
  const coder = new CodeCoder(formOf([10, 1, 0, []]).layout, await modelOf("speech", 10), 1);
  for (const fill of [0, 255, 170]) {
    const codes = coder.decode(new Uint8Array(300).fill(fill), 16, 40, { mixed: true });
    assert.ok(codes.data.every((code) => code >= -1 && code < 1024));
  }
});

test("damaged files are read as Python reads them", () => {
  for (const { file, found } of vectors.damaged) {
    for (const [key, first] of [
      ["from0", 0],
      ["from7", 7],
    ]) {
      const reader = new Reader(bytesOf(file));
      if (first) reader.skipTo(first);
      const items = Array.from(reader, ({ sequence, frames, stages }) => [sequence, frames, stages]);
      assert.deepEqual(
        [items, reader.damage, reader.samples, reader.lostAtEnd, reader.passed],
        found[key],
        `${file} ${key}`,
      );
    }
  }
});

test("headers are refused with Python's words", () => {
  assert.equal(vectors.refused.filter(([, verdict]) => verdict === null).length, 2);
  for (const [data, verdict] of vectors.refused) {
    const own = said(() => new Reader(bytes(data)));
    if (verdict?.startsWith("an .ecdc") || verdict?.startsWith("a .dac"))
      assert.equal(own.slice(0, 8), verdict.slice(0, 8));
    else assert.equal(own, verdict, data);
  }
});

test("a header with a gain is one byte longer", () => {
  const { header } = sound();
  for (const gain of [1, 60]) {
    const data = new Header({ ...header, gain }).toBytes();
    assert.equal(data.length, header.toBytes().length + 1);
    const row = vectors.refused.find(([written]) => written === digits(data));
    assert.equal(row?.[1], null);
    assert.equal(new Reader(data).header.gain, gain);
  }
  assert.deepEqual([header.gain, header.amplitude, new Header({ ...header, gain: 20 }).amplitude], [0, 1, 10]);
});

test("what is read is written again, byte for byte", () => {
  const data = bytesOf(vectors.damaged[0].file);
  const reader = new Reader(data);
  const [writer, coder] = [new Writer(reader.header), new ChunkCoder(reader.header)];
  for (const chunk of reader) writer.write(coder.encode(coder.decode(chunk)));
  assert.equal(digits(writer.finish(reader.samples)), digits(data));
  assert.deepEqual(reader.damage, []);
});

test("files of version 1 are read and written", () => {
  const row = vectors.files.at(-1);
  const data = bytesOf(row.file);
  const reader = new Reader(data);
  const packets = [...reader];
  assert.equal(digits(reader.header.toBytes()), row.older);
  packets.forEach((packet, i) => assert.ok(packet.codes.equals(codesOf(row.codes[i]))));
  assert.deepEqual([reader.samples, reader.damage, packets.length], [row.samples, [], row.codes.length]);
  const writer = new Writer(reader.header);
  for (const packet of packets) writer.write(packet);
  assert.equal(digits(writer.finish(reader.samples)), digits(data));
  assert.match(
    said(() => writer.write(packets[0])),
    /out of order/,
  );
});

test("chunks lose stages without being decoded", () => {
  const { header, chunks } = sound();
  const coder = new ChunkCoder(header);
  const whole = chunks.find((chunk) => chunk.stages === 4);
  for (const stages of [1, 2, 3]) {
    const cut = header.chunkFormat.fromBytes(header.chunkFormat.toBytes(whole.trim(stages)));
    assert.ok(coder.decode(cut).codes.equals(coder.decode(whole).codes.firstLines(stages)));
    assert.equal(header.chunkFormat.toBytes(cut).length, header.chunkFormat.size(whole, stages));
  }
});

test("a writer refuses what does not follow", () => {
  const { header, chunks } = sound();
  assert.match(
    said(() => new Writer(header).write(chunks[1])),
    /chunk 1 out of order/,
  );
  assert.match(
    said(() => new Writer(header).write(new Packet(0, new Codes(2, 1, 1)))),
    /hold chunks alone/,
  );
  assert.match(
    said(() => new Writer(header).finish(-1)),
    /no number of samples/,
  );
  const wrong = new Chunk({ ...chunks[0], sizes: [1] });
  assert.match(
    said(() => new Writer(header).write(wrong)),
    /contradicts its sizes/,
  );
  const changes = [{ channels: 0 }, { codeBits: 17 }, { bundle: "a\nb" }, { codecRate: 0.5 }, { version: 3 }];
  changes.push({ gain: 61 }, { gain: -1 }, { gain: 0.5 }, { layout: new Layout(), version: 1, gain: 1 });
  for (const change of changes) {
    assert.throws(() => new Header({ ...header, ...change }), BitstreamError);
  }
  const large = { channels: 255, stages: 255, framesPerPacket: 255, codeBits: 16 };
  assert.throws(() => new Header({ ...header, ...large }), BitstreamError);
  const unfit = new Packet(0, new Codes(2, 1, 5, Array(10).fill(32)));
  assert.match(
    said(() => new ChunkCoder(header).encode(unfit)),
    /does not fit into 5 bits/,
  );
});

function sound() {
  const reader = new Reader(bytesOf(vectors.damaged[0].file));
  return { header: reader.header, chunks: [...reader] };
}
