// A window of at most 200 pairs on a queue of any length: what is loaded, and how it moves.

import * as api from "./api.js";

export const PART = 50;
export const MOST = 200;

/** Order of the queue: those nobody was unsure about, then probability and similarity, the largest first, none last. */
export function before(a, b) {
  if (a.skips !== b.skips) return a.skips - b.skips;
  for (const name of ["probability", "similarity"]) {
    const [x, y] = [a[name] ?? -Infinity, b[name] ?? -Infinity];
    if (x !== y) return y - x;
  }
  return a.number - b.number;
}

/**
 * What is listed.
 *
 * `pairs` is a stretch of the queue that begins at `start`. A pair that was fetched from elsewhere, out of a cluster
 * or by an undo, stands among them too; `strays` has the numbers of those, as they do not count in offsets.
 */
export class Window {
  /** `outdated()` returns what says which pairs of an answer that is asked for now are decided, and not listed. */
  constructor(outdated) {
    this.outdated = outdated;
    this.filter = { state: "waiting", search: "", atLeast: 0, tag: "", since: "", until: "" };
    this.moderator = null; // under whose name decisions are made
    this.clear();
  }

  clear() {
    this.pairs = [];
    this.start = 0;
    this.complete = false; // whether the last loaded pair is the queue's last
    this.strays = new Set();
    this.counts = null; // of all pairs that match, by state
    this.turn = (this.turn ?? 0) + 1; // an answer to an earlier turn is dropped
    this.moving = null;
  }

  /** Load the queue from its beginning; returns whether the answer is still wanted. */
  async load() {
    this.clear();
    const turn = this.turn;
    const outdated = this.outdated();
    const found = await api.queue({ ...this.filter, limit: PART });
    if (turn !== this.turn) return false;
    this.pairs = found.pairs.filter((pair) => !outdated(pair.number));
    this.counts = found.counts;
    this.moderator = found.moderator;
    this.complete = found.pairs.length < PART;
    return true;
  }

  get end() {
    return this.start + this.pairs.length - this.strays.size;
  }

  get earlier() {
    return this.start > 0;
  }

  /** Load what comes after; the window lets go of its first pairs where it grows too long. */
  later() {
    return this.move(async (turn) => {
      if (this.complete) return;
      const outdated = this.outdated();
      const { pairs, counts } = await api.queue({ ...this.filter, limit: PART, offset: this.end });
      if (turn !== this.turn) return;
      this.complete = pairs.length < PART;
      this.counts = counts;
      this.join(pairs, outdated, (fresh) => this.pairs.push(...fresh));
      while (this.pairs.length > MOST) {
        if (!this.strays.delete(this.pairs.shift().number)) this.start += 1;
      }
    });
  }

  /** Load what comes before; the window lets go of its last pairs. */
  sooner() {
    return this.move(async (turn) => {
      if (!this.earlier) return;
      const offset = Math.max(0, this.start - PART);
      const outdated = this.outdated();
      const { pairs, counts } = await api.queue({ ...this.filter, limit: this.start - offset, offset });
      if (turn !== this.turn) return;
      this.counts = counts;
      this.join(pairs, outdated, (fresh) => this.pairs.unshift(...fresh));
      this.start = offset;
      while (this.pairs.length > MOST) {
        this.strays.delete(this.pairs.pop().number);
        this.complete = false;
      }
    });
  }

  move(step) {
    this.moving ??= step(this.turn).finally(() => (this.moving = null));
    return this.moving;
  }

  join(pairs, outdated, put) {
    for (const pair of pairs) {
      if (this.strays.delete(pair.number)) this.pairs.splice(this.indexOf(pair.number), 1);
    }
    put(pairs.filter((pair) => this.indexOf(pair.number) < 0 && !outdated(pair.number)));
  }

  indexOf(number) {
    return this.pairs.findIndex((pair) => pair.number === number);
  }

  matches(pair) {
    const { state, search, atLeast, tag, since, until } = this.filter;
    const wanted = search.toLowerCase();
    const found = [pair.text1, pair.text2].some((text) => text.toLowerCase().includes(wanted));
    const asked = [pair.facts1, pair.facts2].some(({ tags = "", created = "" }) => {
      const [day, own] = [String(created).slice(0, 10), String(tags).toLowerCase().split(/, ?/)];
      return (!tag || own.includes(tag.toLowerCase())) && (!since || day >= since) && (!until || (day && day <= until));
    });
    return pair.state === state && found && asked && (atLeast === 0 || (pair.probability ?? -1) >= atLeast);
  }

  /** Where a pair stands, or would stand, among those loaded. */
  placeOf(pair) {
    const at = this.indexOf(pair.number);
    if (at >= 0) return at;
    const after = this.pairs.findIndex((other) => before(pair, other) < 0);
    return after < 0 ? this.pairs.length : after;
  }

  /** Whether a pair belongs to the queue before what is loaded of it. */
  isAbove(pair) {
    const first = this.pairs.find((other) => !this.strays.has(other.number));
    return this.earlier && this.matches(pair) && first !== undefined && before(pair, first) < 0;
  }

  /** Take a pair out, before it leaves the state that is listed. */
  remove(pair) {
    const at = this.indexOf(pair.number);
    const stray = this.strays.delete(pair.number);
    if (at >= 0) this.pairs.splice(at, 1);
    if ((at < 0 || stray) && this.isAbove(pair)) this.start -= 1;
  }

  /** Put a pair in at its place in the order; `returned` says that it comes back into the state that is listed. */
  insert(pair, { returned = false } = {}) {
    const there = this.indexOf(pair.number);
    if (there >= 0) {
      this.pairs[there] = pair;
      return;
    }
    const at = this.placeOf(pair);
    const above = this.isAbove(pair);
    const beyond = above || (at === this.pairs.length && !this.complete);
    this.pairs.splice(at, 0, pair);
    if (beyond || !this.matches(pair)) this.strays.add(pair.number);
    if (above && returned) this.start += 1;
  }

  /** Move one pair between the counts of two states. */
  recount(from, to) {
    if (this.counts === null || from === to) return;
    this.counts[from] = Math.max(0, this.counts[from] - 1);
    this.counts[to] += 1;
  }
}
