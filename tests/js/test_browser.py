"""The package in a browser: a module worker of a page without special headers, as a live page has it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import edgecodec
import numpy as np
import pytest
from playwright.sync_api import sync_playwright
from store import BUNDLES, PACKAGE, clip

# Import maps do not reach workers: all modules are named by their addresses.
WORKER = """
import * as ort from "/ort/ort.wasm.bundle.min.mjs";
import { Codes, load, verify } from "/edgecodec/web.js";

ort.env.wasm.numThreads = 1;
try {
  const codec = await load(ort, "/speech/");
  const golden = await verify(codec);
  const audio = new Float32Array(await (await fetch("/clip.f32")).arrayBuffer());
  const [encoder, decoder] = [codec.encoderStream({ stages: 8 }), codec.decoderStream()];
  const [packets, sound, times] = [[], [], []];
  for (let at = 0; at < audio.length; at += 128) {                        // as an AudioWorklet cuts it
    const begun = performance.now();
    for (const packet of await encoder.push(audio.subarray(at, at + 128))) {
      packets.push(packet);
      sound.push(...(await decoder.push(packet))[0]);
      times.push(performance.now() - begun);
    }
  }
  const codes = [...Codes.join(packets.map((packet) => packet.codes)).data];
  const samples = Float32Array.from(sound);
  const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  times.splice(0, times.length - 100);
  postMessage({ golden, codes, peak, frame: times.sort((a, b) => a - b)[10], samples }, [samples.buffer]);
} catch (error) {
  postMessage({ error: `${error.name}: ${error.message}` });
}
"""
PAGE = """<!doctype html><script>
  const worker = new Worker("/worker.js", { type: "module" });
  worker.onmessage = ({ data }) => (window.result = { ...data, samples: data.samples?.length });
  worker.onerror = (event) => (window.result = { error: event.message });
</script>"""


class Server(SimpleHTTPRequestHandler):
    """Serves modules as JavaScript, and says nothing."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript", ".mjs": "text/javascript"}

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def result(node, need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the worker found."""
    need(lambda: shutil.which("chromium") is not None, "chromium")
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text(PAGE)
    (site / "worker.js").write_text(WORKER)
    (site / "clip.f32").write_bytes(clip().astype("<f4").tobytes())
    for name, folder in (
        ("edgecodec", PACKAGE / "src"),
        ("speech", BUNDLES["speech"]),
        ("ort", PACKAGE / "node_modules" / "onnxruntime-web" / "dist"),
    ):
        (site / name).symlink_to(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("window.result !== undefined", timeout=200_000)
            yield page.evaluate("window.result")
            browser.close()
        server.shutdown()


def test_a_worker_has_the_codec_that_it_should_be(result: dict[str, Any]) -> None:
    assert "error" not in result, result
    assert [row["stages"] for row in result["golden"]] == [1, 2, 4, 8, 16]
    assert all(row["passed"] and row["codedEqual"] and row["equalCodes"] >= 0.99 for row in result["golden"])


def test_a_stream_in_a_worker_is_that_of_python(result: dict[str, Any]) -> None:
    assert "error" not in result, result
    codec = edgecodec.load("speech")
    frames = len(clip()) // codec.frame_size
    ours = codec.encode(clip(), stages=8)[0, :, :frames].ravel()
    assert len(result["codes"]) == len(ours) and np.mean(np.array(result["codes"]) == ours) >= 0.99
    assert result["samples"] == frames * codec.frame_size and 0.05 < result["peak"] <= 1
    print(f"\nChromium, in a worker: {result['frame']:.2f} ms a frame, the fastest tenth of the last 100")
