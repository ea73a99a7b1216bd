/** The page: its controls, and what it shows. */

import { Clip } from "./clip.js";
import { CodecClient } from "./codec_client.js";
import { Manifest } from "./edgecodec/manifest.js";
import { Live } from "./live.js";
import { Spectrogram } from "./spectrogram.js";

const FLOOR = -60; // dB, the lower end of a level
const FALL = 3; // dB per report that a meter falls
const [SIZES, USUAL_SIZE] = [[1, 2, 4], 2]; // frames of a packet: two take less than two thirds of the time of one each
const DRAWN_MS = 35; // from one picture of the spectrograms to the next, and the rest of a frame of the screen
const REPORTS_SHOWN = 3; // so often numbers change: of ten a second none can be read, and each is a layout of the page
const SHOWN = [1, 2, 4, 8, 12, 16]; // stage counts of a file that are offered, where the bundle has them

const $ = (id) => document.getElementById(id);
const client = new CodecClient();
const [live, clip] = [new Live(client), new Clip(client)];
const spectrograms = { heard: new Spectrogram($("heard-spectrum")), played: new Spectrogram($("played-spectrum")) };
const levels = { heard: FLOOR, played: FLOOR };
let manifest;
let report = null; // the last of the audio thread
let figures = null; // the last of the worker
let reports = 0;

// With `#observe` in its address the page keeps all that goes through it: for tests.
const observe = location.hash === "#observe";
if (observe) {
  const last = { report: { get: () => report }, figures: { get: () => figures } };
  window.observed = Object.defineProperties({ client }, last);
}

/** The start of the page: facts of the bundle alone are fetched. */
async function begin() {
  const response = await fetch("bundle/manifest.json");
  if (!response.ok) throw new Error(`bundle/manifest.json: the server says ${response.status}`);
  manifest = Manifest.fromBytes(new Uint8Array(await response.arrayBuffer()));
  $("stages").max = manifest.maxStages;
  $("stages").value = Math.min(8, manifest.maxStages);
  const delay = (1000 * (manifest.frameSize + manifest.delay)) / manifest.sampleRate;
  $("about").textContent =
    `Codec "${manifest.name}": ${manifest.sampleRate / 1000} kHz, ${manifest.maxStages} stages of ` +
    `${kbps(manifest.bitrate(1))}, ${delay.toFixed(1)} ms of delay of its own.`;
  packetSizes();
  versions();
  showSliders();
  $("start").disabled = false;
  say("Ready. Start loads about 20 MB, once.");
}

function showSliders() {
  const [stages, loss] = [Number($("stages").value), Number($("loss").value)];
  $("stages-text").value = `${kbps(manifest.bitrate(stages))} (${stages} of ${manifest.maxStages} stages)`;
  $("stages").setAttribute("aria-valuetext", $("stages-text").value);
  $("loss-text").value = `${loss} %`;
  $("loss").setAttribute("aria-valuetext", $("loss-text").value);
}

function settings() {
  return {
    stages: Number($("stages").value),
    loss: Number($("loss").value) / 100,
    bypass: $("bypass").getAttribute("aria-pressed") === "true",
    size: Number($("size").value),
    observe,
  };
}

const wanted = () => ({ echo: $("echo").checked, noise: $("noise").checked, gain: $("gain").checked });

async function start() {
  clip.stop();
  $("start").disabled = true;
  say("Loading the codec …");
  try {
    await live.start(settings(), wanted());
  } catch (error) {
    complain(error);
    $("start").disabled = false;
    say("Stopped.");
    return;
  }
  $("start").textContent = "Stop";
  for (const id of ["start", "bypass", "record"]) $(id).disabled = false;
  $("size").disabled = true;
  say("Live.");
  requestAnimationFrame(draw);
}

async function stop() {
  if (!live.running) return;
  if ($("record").getAttribute("aria-pressed") === "true") await record();
  await live.stop();
  $("start").textContent = "Start";
  for (const id of ["bypass", "record"]) $(id).disabled = true;
  $("size").disabled = false;
  say("Stopped.");
}

/** Begin or end a recording. */
async function record() {
  const running = $("record").getAttribute("aria-pressed") === "true";
  press("record", !running);
  if (!running) {
    $("record").textContent = "End recording";
    await client.call("record");
    return;
  }
  $("record").textContent = "Record";
  const file = await client.call("recorded");
  if (file !== null) offer($("recording"), file, "live.edgc");
}

function draw(now) {
  if (!live.running) return;
  for (const side of ["heard", "played"]) spectrograms[side].draw(live[side], now);
  setTimeout(() => requestAnimationFrame(draw), DRAWN_MS); // frames between, in which nothing changes, cost as well
}

function show(own) {
  report = own;
  ["heard", "played"].forEach((side, i) => {
    const peak = own.peaks[i] > 0 ? 20 * Math.log10(own.peaks[i]) : FLOOR;
    levels[side] = Math.max(peak, levels[side] - FALL, FLOOR);
    $(side).value = levels[side];
    $(`${side}-text`).textContent = `${levels[side].toFixed(0).replace("-", "−")} dB`;
  });
  reports += 1;
  if (figures === null || !live.running || reports % REPORTS_SHOWN) return;
  const parts = live.latency(own, figures);
  const total = parts.reduce((sum, [, seconds]) => sum + seconds, 0);
  const of = figures.frames ? ((100 * figures.lost) / figures.frames).toFixed(0) : 0;
  const frame = (figures.encodeMs + figures.decodeMs) / settings().size;
  const share = (100 * frame * manifest.sampleRate) / manifest.frameSize / 1000;
  $("codes-kbps").textContent = kbps(figures.codesKbps);
  $("packets-kbps").textContent = kbps(figures.packetsKbps);
  $("frame-ms").textContent = `${frame.toFixed(1)} ms, ${share.toFixed(0)} % of a core`;
  $("latency").textContent = `${ms(total)} ms`;
  $("frames").textContent = `${figures.frames}, ${of} % lost`;
  $("underruns").textContent = own.dropped ? `${own.underruns}, ${own.dropped} blocks lost` : `${own.underruns}`;
  if (!$("parts").open) return;
  $("latency-parts").replaceChildren(
    ...parts.map(([name, seconds]) => {
      const [row, head, value] = ["tr", "th", "td"].map((tag) => document.createElement(tag));
      head.scope = "row";
      [head.textContent, value.textContent] = [name, `${ms(seconds)} ms`];
      row.append(head, value);
      return row;
    }),
  );
}

/** How long packets may be: longer ones cost less and come later. */
function packetSizes() {
  const frameMs = (1000 * manifest.frameSize) / manifest.sampleRate;
  $("size").replaceChildren(
    ...SIZES.map((size) => {
      const text = `${size} ${size > 1 ? "frames" : "frame"}, ${(size * frameMs).toFixed(1)} ms`;
      return new Option(text, String(size), size === USUAL_SIZE, size === USUAL_SIZE);
    }),
  );
}

/** Radio buttons of the original and of some stage counts. */
function versions() {
  const counts = [0, ...SHOWN.filter((count) => count <= manifest.maxStages)];
  $("version-list").replaceChildren(
    ...counts.map((stages) => {
      const [label, input] = ["label", "input"].map((tag) => document.createElement(tag));
      Object.assign(input, { type: "radio", name: "version", value: String(stages) });
      input.onchange = () => guarded(() => choose());
      label.append(input, stages ? kbps(manifest.bitrate(stages)) : "Original");
      return label;
    }),
  );
}

async function open(file) {
  await stop();
  $("file-status").textContent = `Reading ${file.name} …`;
  for (const id of ["versions", "player"]) $(id).hidden = true;
  const found = await clip.open(file, manifest.sampleRate);
  const damage = found.damage.length ? ` Damaged: ${found.damage[0]}.` : "";
  clip.name = file.name.replace(/\.\w+$/, "");
  clip.about = `${file.name}: ${found.seconds.toFixed(1)} s.${damage}`;
  for (const id of ["versions", "player"]) $(id).hidden = false;
  document.querySelector("[name=version][value='0']").checked = true;
  await choose();
}

/** Make the version that is chosen, and go on with it where the one before it plays. */
async function choose() {
  const stages = Number(document.querySelector("[name=version]:checked").value);
  const isChosen = () => document.querySelector("[name=version]:checked").value === String(stages);
  if (stages) {
    await stop();
    $("file-status").textContent = "Encoding …";
  }
  try {
    const version = await clip.version(stages);
    if (!isChosen()) return;
    $("download").hidden = version.file === null;
    if (version.file !== null) offer($("download"), version.file, `${clip.name}-${stages}.edgc`);
    if (clip.playing) await clip.play(version);
  } finally {
    if (isChosen()) $("file-status").textContent = clip.about;
  }
}

async function play() {
  if (clip.playing) {
    clip.stop();
    return;
  }
  await stop();
  await clip.play(await clip.version(Number(document.querySelector("[name=version]:checked").value)));
  $("play").textContent = "Stop";
}

/** Make a link that saves a file. */
function offer(link, file, name) {
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([file], { type: "application/octet-stream" }));
  link.download = name;
  link.textContent = `Save ${name} (${(file.length / 1000).toFixed(1)} kB)`;
  link.hidden = false;
}

function press(id, pressed) {
  $(id).setAttribute("aria-pressed", String(pressed));
}

const kbps = (value) => `${Number(value.toFixed(2))} kbps`;
const ms = (seconds) => (1000 * seconds).toFixed(1);

function say(text) {
  $("status").textContent = text;
}

function complain(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}

/** Run what a control does, and say what goes wrong. */
async function guarded(work) {
  $("error").hidden = true;
  try {
    await work();
  } catch (error) {
    complain(error);
  }
}

client.onnews = ({ news, figures: own, error }) => {
  if (news === "figures") figures = own;
  if (news === "warming") say("Warming up …");
  if (news === "failed") {
    complain(new Error(error));
    void stop();
  }
};
live.onreport = show;
clip.onended = () => ($("play").textContent = "Play");
$("start").onclick = () => guarded(live.running ? stop : start);
$("bypass").onclick = () => {
  press("bypass", $("bypass").getAttribute("aria-pressed") !== "true");
  void client.call("set", { bypass: settings().bypass });
};
$("record").onclick = () => guarded(record);
for (const id of ["stages", "loss"]) {
  $(id).oninput = () => {
    showSliders();
    const { stages, loss } = settings();
    if (live.running) void client.call("set", { stages, loss });
  };
}
for (const id of ["echo", "noise", "gain"]) {
  $(id).onchange = () => guarded(async () => live.running && live.reopen(wanted()));
}
$("file").onchange = () => guarded(async () => $("file").files.length && open($("file").files[0]));
$("play").onclick = () => guarded(play);
$("drop").ondragover = (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
};
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file !== undefined) void guarded(() => open(file));
};
await guarded(begin);
