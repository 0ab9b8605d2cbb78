// What the moderator works on: which pair is in focus, what is listed around it, and what is decided about it.

import * as api from "./api.js";
import { showCluster } from "./cluster.js";
import { Threshold } from "./curve.js";
import { whyEmpty } from "./empty.js";
import { download, notice, say, warn } from "./frame.js";
import { chosenBeside, conflictOf, showEmpty, showPair, speak } from "./pair.js";
import { drawRows, forgetRows, rowOf } from "./rows.js";
import { Tray } from "./tray.js";
import { Window } from "./window.js";

const part = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[data-state]")];

const STATE_OF = { accepted: "accepted", rejected: "rejected", related: "rejected", unsure: "waiting" };
const SAID = { accepted: "Accepted: the same.", rejected: "Rejected: different.", related: "Rejected: related, but different.",
               unsure: "Not sure: the pair waits at the end of the list." };

export const tray = new Tray({ saved: () => threshold.countSoon(), refused });
export const view = new Window(() => tray.outdated());
export const threshold = new Threshold((atLeast) => list({ atLeast }), failed);
let current = null; // the pair in focus
let fresh = 0; // pairs that came in since the list was loaded
let pending = 0;
let undoing = false; // a decision meanwhile would be about another pair than the one that comes back
let chain = Promise.resolve(); // decisions reach the server in the order of the keys, so that undo means the last one

function failed(error, again) {
  warn(error instanceof api.Refusal ? error.message : "Something went wrong on this page.", again);
  if (!(error instanceof api.Refusal)) console.error(error);
}

/** Run something that asks the server; show its failure with a way to try again. */
export async function attempt(work) {
  try {
    await work();
  } catch (error) {
    failed(error, () => attempt(work));
  }
}

/** Do something after all decisions so far have reached the server. */
function afterDecisions(work) {
  pending += 1;
  chain = chain.then(work).catch((error) => failed(error, () => list({}))).finally(() => (pending -= 1));
  return chain;
}

// --- what is shown ---------------------------------------------------------------------------------------------

function show({ quietly = true } = {}) {
  const { activeElement: active } = document;
  const inRows = part("rows").contains(active);
  drawRows(view, current?.number ?? null, choose);
  for (const tab of tabs) {
    const { state } = tab.dataset;
    tab.setAttribute("aria-pressed", String(state === view.filter.state));
    tab.querySelector(".count").textContent = view.counts?.[state]?.toLocaleString("en") ?? "";
  }
  part("fold-queue").textContent = current === null ? "The list" : `The list · ${place(current) || "not in it"}`;
  part("moderator").textContent = view.moderator ?? "";
  part("fresh").hidden = fresh === 0;
  part("fresh").textContent = fresh === 1 ? "1 new pair: show it" : `${fresh.toLocaleString("en")} new pairs: show them`;
  if (current !== null) showPair(current, place(current));
  else if (view.counts !== null) showEmpty(whyEmpty(view, { list, showAll, exportAll }));
  for (const id of ["accept", "reject", "related", "unsure", "open-cluster", "previous", "next"]) {
    part(id).setAttribute("aria-disabled", String(current === null));
  }
  const row = current === null ? null : rowOf(current.number);
  if (inRows && row !== null) row.focus({ preventScroll: true });
  else if (inRows || (!quietly && active === document.body)) part("pair").focus({ preventScroll: true });
  const query = new URLSearchParams({ state: view.filter.state });
  for (const name of ["search", "tag", "since", "until"]) if (view.filter[name]) query.set(name, view.filter[name]);
  if (location.hash !== `#${query}`) history.replaceState(null, "", `#${query}`); // browsers count these
}

function place(pair) {
  const at = view.indexOf(pair.number);
  if (at < 0 || view.strays.has(pair.number)) return "";
  return `${(view.start + at + 1).toLocaleString("en")} of ${view.counts[view.filter.state].toLocaleString("en")}`;
}

/** Put a pair into focus. */
function focusOn(pair, { quietly = false } = {}) {
  current = pair;
  show({ quietly });
  if (pair !== null) speak(pair);
  if (part("pair").getBoundingClientRect().top < 0) part("pair").scrollIntoView({ block: "start" });
}

function choose(number) {
  document.body.classList.remove("unfolded");
  part("fold-queue").setAttribute("aria-expanded", "false");
  focusOn(view.pairs[view.indexOf(number)]);
}

// --- the list --------------------------------------------------------------------------------------------------

/** List another part of the pairs. */
export function list(change) {
  Object.assign(view.filter, change);
  say("");
  return attempt(async () => {
    await chain;
    await load();
  });
}

export async function load() {
  try {
    if (!(await view.load())) return;
  } catch (error) {
    current = null;
    showEmpty({ title: "Nothing could be loaded", text: "What went wrong stands above." });
    throw error;
  }
  forgetRows();
  fresh = 0;
  part("queue").scrollTop = 0;
  focusOn(view.pairs[0] ?? null, { quietly: true });
}

function showAll() {
  for (const id of ["search", "tag", "since", "until"]) part(id).value = "";
  threshold.stopFiltering();
  list({ search: "", atLeast: 0, tag: "", since: "", until: "" });
}

/** Load pairs at an end of the list, and keep what is seen of it in place. */
export function extend(way) {
  return attempt(async () => {
    await chain;
    const anchor = current === null ? null : rowOfQuietly(current.number);
    const was = anchor?.getBoundingClientRect().top;
    await (way > 0 ? view.later() : view.sooner());
    const scrolled = part("queue").scrollTop;
    show();
    part("queue").scrollTop = scrolled;
    if (anchor?.isConnected) part("queue").scrollTop += anchor.getBoundingClientRect().top - was;
  });
}

const rowOfQuietly = (number) => part("rows").querySelector(`[data-number="${number}"]`);

export async function step(way) {
  if (current === null) return;
  const listed = view.indexOf(current.number) >= 0;
  let at = view.placeOf(current) + (way > 0 ? (listed ? 1 : 0) : -1);
  if ((at >= view.pairs.length && !view.complete) || (at < 0 && view.earlier)) {
    await extend(way);
    at = view.placeOf(current) + (way > 0 ? 1 : -1);
  }
  const next = view.pairs[at];
  if (next) focusOn(next);
  else say(way > 0 ? "This is the last pair." : "This is the first pair.");
}

// --- decisions -------------------------------------------------------------------------------------------------

export function decide(choice) {
  const pair = current;
  if (pair === null) return;
  if (undoing) {
    say("Wait: a decision is being taken back.");
    return;
  }
  if (pair.choice === choice) {
    say(`This pair is ${choice === "unsure" ? "waiting for somebody who is sure" : choice} already.`);
    return;
  }
  const body = { choice, ...chosenBeside(pair) };
  tray.keep(pair, body);
  leave([pair], STATE_OF[choice]);
  say(SAID[choice]);
  afterDecisions(() => tray.send(pair.number));
  if (current === null && !view.complete) extend(1).then(() => current === null && focusOn(view.pairs[0] ?? null));
}

/** Take pairs out of the list, as they get another state, and put the next one into focus. */
function leave(pairs, to) {
  const at = current === null ? 0 : view.placeOf(current);
  const moves = pairs.some((pair) => pair.number === current?.number);
  for (const pair of pairs) {
    view.remove(pair);
    view.recount(pair.state, to);
  }
  if (moves) focusOn(view.pairs[Math.min(at, view.pairs.length - 1)] ?? null);
  else show();
}

/** A decision was refused for good: the pair in focus stays there, whatever comes of it. */
function refused(pair, now) {
  if (now === undefined || now === null) {
    view.recount(STATE_OF[pair.choice] ?? pair.state, pair.state);
    if (view.filter.state === pair.state) view.insert(pair, { returned: true });
  }
  attempt(() => look({ own: true }));
}

export function sendAgain() {
  if (tray.size) afterDecisions(() => tray.resend());
}

export function undo() {
  if (undoing) return;
  undoing = true;
  const before = current;
  afterDecisions(() => takeBack(before)).finally(() => (undoing = false));
}

async function takeBack(before) {
  let found;
  try {
    const pair = await tray.takeBack();
    found = pair === null ? await api.undo() : { pair, pairs: 1, counts: null };
  } catch (error) {
    failed(error, () => list({})); // sent again, it might take back one more
    return;
  }
  const { pair, pairs } = found;
  if (pair === null) {
    say("There is no decision to take back.");
    return;
  }
  const was = view.pairs.find((other) => other.number === pair.number);
  if (was && (was.state !== pair.state || was.skips !== pair.skips)) view.remove(was);
  if (pairs > 1) await view.load();
  if (pair.gone) say("Taken back. One of its questions was deleted or edited since, so the pair waits no more.");
  else {
    await reveal(pair, { returned: true, focus: before === current });
    const what = pairs > 1 ? `${pairs} pairs are` : "the pair is";
    say(pair.state !== "waiting" ? `Taken back: ${what} ${pair.state} again.`
      : pairs > 1 ? `Taken back: ${pairs} pairs wait again.` : "Taken back: the pair waits again.");
  }
  attempt(() => look({ own: true })); // not awaited: the next key counts as soon as the pair is back
  threshold.countSoon();
}

/** Put a pair into focus wherever it stands in the queue. */
async function reveal(pair, { focus = true, ...how } = {}) {
  if (view.filter.state !== pair.state) {
    view.filter.state = pair.state;
    await view.load();
    forgetRows();
    how = {};
  }
  view.insert(pair, how);
  if (focus) focusOn(pair);
  else show();
}

// --- the rest --------------------------------------------------------------------------------------------------

export function openCluster() {
  if (current === null) return;
  const { number } = current;
  attempt(async () => {
    await chain;
    showCluster(await api.cluster(number), number, { go: (pair) => attempt(() => reveal(pair)), acceptAll });
  });
}

/** Accept the waiting pairs of a cluster at once. */
function acceptAll(number, waiting, canonical) {
  return afterDecisions(async () => {
    try {
      await api.acceptAll(number, { numbers: waiting.map((pair) => pair.number), canonical });
    } catch (error) {
      if (!error.pair) throw error;
      notice(`Nothing was accepted. ${conflictOf(error.pair)}`);
      return;
    }
    tray.made.push(number);
    leave(waiting, "accepted");
    say(`Accepted ${waiting.length} pairs: Undo takes them back together.`);
    threshold.countSoon();
  });
}

export function exportAll() {
  attempt(async () => {
    await chain;
    download(await api.exported(), "feedback.tsv");
    say("Exported as feedback.tsv.");
  });
}

/** Look what has become of the listed pairs, and how many there are: new ones are offered, and not pushed in between. */
export async function look({ own = false } = {}) {
  const { turn } = view;
  const listed = [...view.pairs];
  const [{ counts }, found] = await Promise.all([
    api.queue({ ...view.filter, limit: 1 }), api.pairs(listed.map((pair) => pair.number)),
  ]);
  if (turn !== view.turn || view.counts === null || pending > Number(own)) return;
  const { state } = view.filter;
  const now = new Map(found.map((pair) => [pair.number, pair]));
  let left = 0;
  for (const pair of listed) {
    if (now.get(pair.number)?.state === pair.state || view.indexOf(pair.number) < 0) continue;
    view.remove(pair);
    left += Number(pair.state === state);
    if (pair.number === current?.number) current = { ...pair, since: now.get(pair.number) ?? null };
  }
  for (const { pair, body } of tray.unsaved.values()) {
    counts[pair.state] -= 1;
    counts[STATE_OF[body.choice]] += 1;
  }
  if (!own) fresh = Math.max(0, fresh + counts[state] - (view.counts[state] - left));
  view.counts = counts;
  if (current === null && view.pairs.length === 0 && counts[state] > 0) await load();
  else show();
}

/** Whether a decision is on its way to the server. */
export const underWay = () => pending > 0;
