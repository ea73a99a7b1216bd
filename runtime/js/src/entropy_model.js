/**
 * How likely each code is, given the codes before it: a small network in whole numbers, the same on every machine.
 *
 * Codes are told stage by stage, all steps of a stage together. The entry of a stage is told in two symbols: which of G
 * groups of alike entries, then which of its M members. The network sees sums of learned vectors, one for each code,
 *
 *     step        t - 2     t - 1      t       t + 1     t + 2
 *     stages      before    before   before    before    before      this one: those coded so far
 *                                      ?
 *
 * and for the leading stages, whose steps follow one another, also this stage's codes at the steps before:
 *
 *     hidden  = min(relu(sums @ W + b) >> shift, 255)
 *     groups  = (hidden @ V + c) >> shift                                       logits, in sixteenths of an octave
 *     query   = clip((hidden @ Q + d) >> shift, -127, 127);  members = (query @ U[group] + e[group]) >> shift
 *
 * All numbers are whole and every sum stays below 2**24. Logits become frequencies by a table of powers of two and a
 * whole division.
 */

import { BitstreamError, BundleError } from "./errors.js";
import { readNpz } from "./npz.js";
import { TOTAL } from "./range_coder.js";

const MAX_BYTES = 64 << 20;
const MAX_REACH = 8; // steps before or after
const MAX_SHIFT = 24;
const MAX_ALPHABET = 1024; // groups, and members of a group
export const CONTEXT_LIMIT = 255; // of the sums that the network sees

const [HIDDEN_LIMIT, QUERY_LIMIT] = [255, 127]; // of what the layers hand on
const EXACT = 1 << 24; // what no sum reaches, so that float32 holds it in other runtimes
// 2 ** (16 - i / 16), rounded: weights of logits that are i below the largest; an octave below they are half.
const OCTAVE = [
  65536, 62757, 60097, 57549, 55109, 52773, 50535, 48393, 46341, 44376, 42495, 40693, 38968, 37316, 35734, 34219,
];
const WEIGHTS = Int32Array.from({ length: 256 }, (_, i) => OCTAVE[i % 16] >> Math.floor(i / 16));
const LAYERS = ["hidden", "group", "query", "member"];

/**
 * Frequencies of codes. This one knows nothing, and finds all codes of a stage equally likely.
 *
 * `before` and `after` are the steps that a model looks back and ahead, `following` the leading stages whose context
 * holds their own codes at the steps before, `width` the numbers of the vector of a code, and `hiddenWidth` of what
 * both predictions begin with. Tables that are handed out are written again by the next call.
 */
export class Predictor {
  before = 0;
  after = 0;
  following = 0;
  width = 0;
  hiddenWidth = 0;
  #zeros;
  #groupTable;
  #memberTable;
  #lastMemberTable; // of the last group, which may hold fewer

  constructor(entries, groups = 2 ** Math.floor(bitLength(entries - 1) / 2)) {
    this.entries = entries;
    this.membersEach = Math.ceil(entries / groups);
    this.groupsUsed = Math.ceil(entries / this.membersEach);
    this.#zeros = new Int32Array(Math.max(this.groupsUsed, this.membersEach));
    [this.#groupTable, this.#memberTable, this.#lastMemberTable] = [
      [this.groupsUsed, this.groupsUsed],
      [this.membersEach, this.membersEach],
      [this.membersEach, this.sizeOf(this.groupsUsed - 1)],
    ].map(([length, alphabet]) => fillTable(this.#zeros, alphabet, new Int32Array(length + 1)));
  }

  /** Members of a group: the last one may hold fewer. */
  sizeOf(group) {
    return Math.min(this.membersEach, this.entries - group * this.membersEach);
  }

  /** Add the vector of a stage's entry to sums, which begin at a place. */
  addVector(_stage, _entry, _sums, _at) {}

  /** The place of a stage's entry: group × members of a group + member. */
  placeOf(_stage, entry) {
    return entry;
  }

  /** The entry at a place. */
  entryAt(_stage, place) {
    return place;
  }

  /** What both predictions begin with, from sums within `CONTEXT_LIMIT`, to `hidden` Uint8Array [hiddenWidth]. */
  hidden(_stage, _context, _hidden) {}

  /** The table of the groups. */
  groups(_stage, _hidden) {
    return this.#groupTable;
  }

  /** The table of the members of a group. */
  members(_stage, _hidden, group) {
    return group === this.groupsUsed - 1 ? this.#lastMemberTable : this.#memberTable;
  }
}

/** What a bundle's codes have taught. */
export class EntropyModel extends Predictor {
  #order; // [S, K], the entry at each place: groups lie side by side
  #places; // [S, K]
  #vectors; // [S, K, E]
  #hidden;
  #group;
  #query;
  #member; // weights [S, G * M, R], biases [S, G * M]
  #totals; // of a layer
  #queries;
  #groupTable;
  #memberTable;

  constructor(arrays) {
    const entries = arrays.get("order").shape[1];
    super(entries, arrays.get("group_bias").shape[1]);
    [this.before, this.after, this.following] = arrays.get("reach").data;
    this.#order = arrays.get("order").data;
    this.#places = new Uint16Array(this.#order.length);
    for (let i = 0; i < this.#order.length; i++) {
      this.#places[i - (i % entries) + this.#order[i]] = i % entries;
    }
    this.#vectors = arrays.get("vectors").data;
    this.width = arrays.get("vectors").shape[2];
    [this.#hidden, this.#group, this.#query, this.#member] = LAYERS.map((name) => layer(arrays, name));
    this.hiddenWidth = this.#hidden.outputs;
    this.#totals = new Int32Array(Math.max(this.hiddenWidth, this.groupsUsed, this.#query.outputs, this.membersEach));
    this.#queries = new Int32Array(this.#query.outputs);
    this.#groupTable = new Int32Array(this.groupsUsed + 1);
    this.#memberTable = new Int32Array(this.membersEach + 1);
  }

  addVector(stage, entry, sums, at) {
    const begin = (stage * this.entries + entry) * this.width;
    for (let i = 0; i < this.width; i++) sums[at + i] += this.#vectors[begin + i];
  }

  placeOf(stage, entry) {
    return this.#places[stage * this.entries + entry];
  }

  entryAt(stage, place) {
    return this.#order[stage * this.entries + place];
  }

  hidden(stage, context, hidden) {
    this.#apply(this.#hidden, stage, context);
    for (let j = 0; j < hidden.length; j++) hidden[j] = Math.max(0, Math.min(HIDDEN_LIMIT, this.#totals[j]));
  }

  groups(stage, hidden) {
    this.#apply(this.#group, stage, hidden);
    return fillTable(this.#totals, this.groupsUsed, this.#groupTable);
  }

  members(stage, hidden, group) {
    this.#apply(this.#query, stage, hidden);
    const { weight, bias, shift } = this.#member;
    const [totals, queries, inputs] = [this.#totals, this.#queries, this.#queries.length];
    for (let r = 0; r < inputs; r++) queries[r] = Math.max(-QUERY_LIMIT, Math.min(QUERY_LIMIT, totals[r]));
    const alphabet = this.sizeOf(group);
    const first = stage * this.groupsUsed * this.membersEach + group * this.membersEach;
    for (let member = 0; member < alphabet; member++) {
      const row = (first + member) * inputs;
      let total = bias[first + member];
      for (let r = 0; r < inputs; r++) total += queries[r] * weight[row + r];
      totals[member] = total >> shift[stage];
    }
    return fillTable(totals, alphabet, this.#memberTable);
  }

  /** One layer of a stage, to the first of `#totals`: (x @ weight [in, out] + bias [out]) >> shift. */
  #apply({ weight, bias, shift, inputs, outputs }, stage, x) {
    const totals = this.#totals;
    for (let j = 0; j < outputs; j++) totals[j] = bias[stage * outputs + j];
    for (let i = 0; i < inputs; i++) {
      const factor = x[i];
      if (!factor) continue; // many are
      const row = (stage * inputs + i) * outputs;
      for (let j = 0; j < outputs; j++) totals[j] += factor * weight[row + j];
    }
    for (let j = 0; j < outputs; j++) totals[j] >>= shift[stage];
  }
}

/**
 * Write the rising sums from 0 to `TOTAL` of the frequencies, at least 1 each, of the first `alphabet` whole logits, in
 * sixteenths of an octave; symbols of the table behind them get 0.
 */
export function fillTable(logits, alphabet, table) {
  let [largest, best, total] = [-Infinity, 0, 0];
  for (let i = 0; i < alphabet; i++) {
    if (logits[i] > largest) [largest, best] = [logits[i], i];
  }
  for (let i = 0; i < alphabet; i++) total += WEIGHTS[Math.min(largest - logits[i], 255)];
  let left = TOTAL;
  for (let i = 0; i < alphabet; i++) {
    // At most 2**31 over a whole number: floor and division of float64 are exact.
    const own = 1 + Math.floor((WEIGHTS[Math.min(largest - logits[i], 255)] * (TOTAL - alphabet)) / total);
    table[i + 1] = own;
    left -= own;
  }
  table[best + 1] += left;
  table[0] = 0;
  for (let i = 0; i < alphabet; i++) table[i + 1] += table[i];
  table.fill(TOTAL, alphabet + 1);
  return table;
}

/**
 * The model of `entropy.npz`, for a quantizer of so many stages of so many entries.
 *
 * Throws a BundleError for arrays that are missing, of a wrong shape or type, or whose sums could leave what is exact.
 */
export async function readEntropyModel(bytes, stages, entries) {
  let arrays;
  try {
    arrays = await readNpz(bytes, (name) => Object.hasOwn(TYPES, name), MAX_BYTES);
  } catch (error) {
    throw error instanceof BitstreamError ? new BundleError(error.message) : error;
  }
  const wrong = contradiction(arrays, stages, entries);
  if (wrong !== null) throw new BundleError(wrong);
  return new EntropyModel(arrays);
}

const TYPES = {
  reach: "|u1", // [3]: steps before, steps after, stages that follow
  order: "<u2", // [S, K]
  vectors: "|i1", // [S, K, E]
  ...Object.fromEntries(
    LAYERS.flatMap((name) => [
      [`${name}_weight`, "|i1"],
      [`${name}_bias`, "<i4"],
      [`${name}_shift`, "|u1"],
    ]),
  ),
};

/** What is wrong with the arrays, or null. */
function contradiction(arrays, stages, entries) {
  for (const [name, type] of Object.entries(TYPES)) {
    if (!arrays.has(name)) return `${name} is missing`;
    if (arrays.get(name).type !== type) return `${name} is ${arrays.get(name).type}, not ${type}`;
  }
  const shapeOf = (name) => arrays.get(name).shape;
  const reach = arrays.get("reach").data;
  if (reach.length !== 3 || Math.max(...reach) > MAX_REACH || reach[2] > stages) return `reach is [${reach}]`;
  if (["vectors", "hidden_weight", "query_weight"].some((name) => shapeOf(name).length !== 3)) {
    return "vectors and weights must have three dimensions";
  }
  const width = shapeOf("vectors")[2];
  const [, hidden, query] = shapeOf("query_weight");
  const groups = shapeOf("group_bias").at(-1) ?? 0;
  const members = Math.ceil(entries / Math.max(groups, 1));
  const shapes = {
    order: [stages, entries],
    vectors: [stages, entries, width],
    hidden_weight: [stages, (1 + reach[0] + reach[1]) * width, hidden],
    group_weight: [stages, hidden, groups],
    query_weight: [stages, hidden, query],
    member_weight: [stages, groups * members, query],
    hidden_bias: [stages, hidden],
    group_bias: [stages, groups],
    query_bias: [stages, query],
    member_bias: [stages, groups * members],
    ...Object.fromEntries(LAYERS.map((name) => [`${name}_shift`, [stages]])),
  };
  for (const [name, shape] of Object.entries(shapes)) {
    if (shapeOf(name).join() !== shape.join()) return `${name} is [${shapeOf(name)}], expected [${shape}]`;
  }
  const possible = 1 <= groups && groups <= MAX_ALPHABET && 1 <= members && members <= MAX_ALPHABET;
  if (!possible || (groups - 1) * members >= entries) return `${groups} groups do not hold ${entries} entries`;
  for (const name of LAYERS) {
    if (arrays.get(`${name}_shift`).data.some((shift) => shift > MAX_SHIFT))
      return `${name}_shift is more than ${MAX_SHIFT}`;
  }
  if (!ordersAreWhole(arrays.get("order").data, stages, entries)) return "order names an entry twice";
  const limits = { hidden: CONTEXT_LIMIT, group: HIDDEN_LIMIT, query: HIDDEN_LIMIT };
  for (const [name, limit] of Object.entries(limits)) {
    const { weight, bias, inputs, outputs } = layer(arrays, name);
    const sums = new Float64Array(bias.length);
    for (let i = 0; i < weight.length; i++) {
      const stage = Math.floor(i / (inputs * outputs));
      sums[stage * outputs + (i % outputs)] += Math.abs(weight[i]);
    }
    if (sums.some((sum, i) => sum * limit + Math.abs(bias[i]) >= EXACT)) return `${name}: sums may reach 2**24`;
  }
  const { weight, bias } = layer(arrays, "member");
  for (let row = 0; row < bias.length; row++) {
    let sum = 0;
    for (let r = 0; r < query; r++) sum += Math.abs(weight[row * query + r]);
    if (sum * QUERY_LIMIT + Math.abs(bias[row]) >= EXACT) return "member: sums may reach 2**24";
  }
  return null;
}

/** Whether each of the stages names each of the entries once. */
function ordersAreWhole(order, stages, entries) {
  const seen = new Uint8Array(order.length);
  for (let i = 0; i < order.length; i++) {
    if (order[i] >= entries) return false;
    seen[i - (i % entries) + order[i]] = 1;
  }
  return seen.length === stages * entries && seen.every((flag) => flag === 1);
}

function layer(arrays, name) {
  const [weight, bias, shift] = ["weight", "bias", "shift"].map((part) => arrays.get(`${name}_${part}`).data);
  const [, inputs, outputs] = arrays.get(`${name}_weight`).shape;
  return { weight, bias, shift, inputs, outputs };
}

/** Bits of a whole number below 2**32. */
export function bitLength(number) {
  return 32 - Math.clz32(number);
}
