/** Samples as they come from outside, made fit for the graphs. */

import { AudioError } from "./errors.js";

export const MAX_CHANNELS = 255;
const SUBNORMAL = 1e-20; // smaller input is silence; subnormal numbers would run 100 times slower

/**
 * Audio, one channel or a list of them, as a new Float32Array [channels, samples] with every number finite and none
 * subnormal. Throws an AudioError for any other.
 *
 * @param {Float32Array | Float64Array | readonly (Float32Array | Float64Array)[]} audio in [-1, 1]
 */
export function asAudio(audio) {
  const channels = Array.isArray(audio) ? audio : [audio];
  if (channels.length < 1 || channels.length > MAX_CHANNELS) {
    throw new AudioError(`audio has 1 to ${MAX_CHANNELS} channels, not ${channels.length}`);
  }
  for (const channel of channels) {
    if (!(channel instanceof Float32Array || channel instanceof Float64Array)) {
      throw new AudioError("audio must be floating point in [-1, 1]: a Float32Array, or a list of them");
    }
    if (channel.length !== channels[0].length) throw new AudioError("channels must be of one length");
  }
  const samples = channels[0].length;
  const data = new Float32Array(channels.length * samples);
  channels.forEach((channel, row) => data.set(channel, row * samples));
  for (let i = 0; i < data.length; i++) {
    const size = Math.abs(data[i]);
    if (!(size < Infinity)) throw new AudioError(`audio holds NaN or infinity, first at sample ${i % samples}`);
    if (size < SUBNORMAL) data[i] = 0;
  }
  return { data, channels: channels.length, samples };
}

/** Channels [channels, samples] as whole groups of `each`: the last channel fills the last group up. */
export function grouped(data, channels, each) {
  const rows = Math.ceil(channels / each) * each;
  if (rows === channels) return data;
  const samples = data.length / channels;
  const full = new Float32Array(rows * samples);
  full.set(data);
  for (let row = channels; row < rows; row++) full.set(data.subarray((channels - 1) * samples), row * samples);
  return full;
}

/** The same samples, louder or quieter: they are changed in place. Products are rounded as float32, by a float32. */
export function amplified(samples, factor) {
  const own = Math.fround(factor);
  if (own !== 1) for (let i = 0; i < samples.length; i++) samples[i] *= own;
  return samples;
}

/** The first `channels` rows as arrays of their own. */
export function channelsOf(data, rows, channels) {
  const samples = data.length / rows;
  return Array.from({ length: channels }, (_, row) => data.slice(row * samples, (row + 1) * samples));
}

/** Refuse a number of channels that no stream has. */
export function checkChannels(channels) {
  if (!Number.isInteger(channels) || channels < 1 || channels > MAX_CHANNELS) {
    throw new AudioError(`channels must be 1 to ${MAX_CHANNELS}, not ${String(channels)}`);
  }
}
