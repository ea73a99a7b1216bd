/** Lost packets: how latents bridge the gap. */

export const FADE_SECONDS = 0.1; // from the last sound to silence

/**
 * Latents [B, frames, D] from `last` [B, 1, D] towards `silence` [1, 1, D], `done` frames after the last sound.
 *
 * They reach silence `length` frames after the last sound, and stay there. With the latents `following` [B, 1, D] of
 * the frame after them, they rise to those, from `length` frames before it or from the first of these frames on.
 */
export function fade(last, silence, done, frames, length, following = null) {
  const [dim, batch] = [silence.length, last.length / silence.length];
  const latents = new Float32Array(batch * frames * dim);
  for (let t = 1; t <= frames; t++) {
    const gain = within01(1 - (done + t) / (length + 1));
    const rise = following === null ? 0 : within01(1 - (frames + 1 - t) / (Math.min(length, frames) + 1));
    const kept = Math.min(gain, 1 - rise);
    for (let row = 0; row < batch; row++) {
      for (let i = 0; i < dim; i++) {
        const quiet = silence[i];
        let value = quiet + (last[row * dim + i] - quiet) * kept;
        if (following !== null) value += (following[row * dim + i] - quiet) * rise;
        latents[(row * frames + t - 1) * dim + i] = value;
      }
    }
  }
  return latents;
}

function within01(number) {
  return Math.max(0, Math.min(1, number));
}
