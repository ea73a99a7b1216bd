/** A spectrogram that runs from right to left, of what an analyser hears. */

const COLUMN_MS = 50; // drawing may cost as much as the codec, where no GPU helps
const HIGHEST = 12_000; // Hz
const [FLOOR, CEILING] = [-100, -25]; // dB
const STOPS = [
  [11, 13, 18],
  [58, 20, 92],
  [170, 45, 90],
  [240, 120, 50],
  [252, 235, 160],
];
const COLOURS = Array.from({ length: 256 }, (_, i) => {
  const place = (i / 255) * (STOPS.length - 1);
  const stop = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[stop].map((low, c) => Math.round(low + (STOPS[stop + 1][c] - low) * (place - stop)));
});

export class Spectrogram {
  #context;
  #column;
  #levels = new Float32Array(0);
  #drawn = 0; // time of the last column

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#context = canvas.getContext("2d");
    this.#column = this.#context.createImageData(1, canvas.height);
  }

  /** Draw the columns that are due at a time in ms. */
  draw(analyser, now) {
    const { width, height } = this.#context.canvas;
    const columns = Math.min(Math.floor((now - this.#drawn) / COLUMN_MS), width);
    if (columns < 1) return;
    this.#drawn = columns === width ? now : this.#drawn + columns * COLUMN_MS;
    if (this.#levels.length !== analyser.frequencyBinCount) {
      this.#levels = new Float32Array(analyser.frequencyBinCount);
    }
    analyser.getFloatFrequencyData(this.#levels);
    const bins = (HIGHEST / analyser.context.sampleRate) * analyser.fftSize;
    for (let y = 0; y < height; y++) {
      const level = this.#levels[Math.floor(((height - 1 - y) / height) * bins)] ?? FLOOR;
      const share = Math.max(0, Math.min(1, (level - FLOOR) / (CEILING - FLOOR)));
      this.#column.data.set([...COLOURS[Math.round(255 * share)], 255], 4 * y);
    }
    this.#context.drawImage(this.#context.canvas, -columns, 0);
    for (let x = width - columns; x < width; x++) this.#context.putImageData(this.#column, x, 0);
  }
}
