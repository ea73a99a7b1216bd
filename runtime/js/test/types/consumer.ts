/** An application in strict TypeScript: it must compile, and each line that is marked must not. */

import * as native from "onnxruntime-node";
import * as wasm from "onnxruntime-web/wasm";

import {
  BitrateError,
  Codes,
  LiveResampler,
  type Codec,
  type DecoderStatistics,
  decodeClip,
  encodeClip,
} from "edgecodec";
import { Reader, type Chunk, type Packet, type PacketFormat } from "edgecodec/bitstream";
import { load as loadFolder, shippedFolder } from "edgecodec/node";
import { load as loadUrl, verify } from "edgecodec/web";

const codec: Codec = await loadFolder(native, await shippedFolder(), { threads: 2 });
const other: Codec = await loadUrl(wasm, new URL("https://example.org/speech/"), { executionProviders: ["wasm"] });
const audio = new Float32Array(codec.sampleRate);
const codes: Codes = await codec.encode([audio, audio], { bitrate: 6, effort: "best" });
const [left, right]: Float32Array[] = await other.decode(codes, { samples: audio.length });

const form: PacketFormat = codec.packetFormat({ coder: await codec.codeCoder() });
const encoder = codec.encoderStream({ stages: 8, redundancy: 2 });
const decoder = codec.decoderStream();
encoder.stages = 4;
for (const packet of await encoder.push(audio)) {
  const data: Uint8Array = form.toBytes(packet);
  const [block]: Float32Array[] = await decoder.push(codec.packetFormat().fromBytes(data));
  block?.fill(0);
}
const statistics: DecoderStatistics = decoder.statistics;

const live = codec.encoderStream({ bitrate: 3, variable: true, framesPerPacket: 4 });
await live.reset();

const file: Uint8Array = await encodeClip(codec, audio, { bitrate: 3, constant: true, sampleRate: 48_000 });
await encodeClip(codec, audio, { quality: 6, effort: "best", window: 2, gain: 20 });
const { gain, amplitude }: { gain: number; amplitude: number } = new Reader(file).header;
const items: (Chunk | Packet)[] = [...new Reader(file)];
const { damage } = await decodeClip(codec, file);
const passed: boolean = (await verify(codec)).every((result) => result.passed);
const resampled: Float32Array = new LiveResampler(48_000, 24_000).push(audio);
const name: unknown = codec.manifest.facts["name"];
const exitCode: number = new BitrateError("no").exitCode;
export { left, right, statistics, items, damage, passed, resampled, name, exitCode, gain, amplitude };

// @ts-expect-error an effort that does not exist
await codec.encode(audio, { effort: "slow" });
// @ts-expect-error a rate that does not exist
await encodeClip(codec, audio, { vbr: true });
// @ts-expect-error 16-bit samples
await codec.encode(new Int16Array(4));
// @ts-expect-error a codec is immutable
codec.sampleRate = 8000;
// @ts-expect-error codes are no plain list
await codec.decode([[1]]);
// @ts-expect-error streams come from a codec
new (encoder.constructor as typeof import("edgecodec").EncoderStream)();
// @ts-expect-error what decodes is a list of channels
const mono: Float32Array = await codec.decode(codes);
export { mono };
