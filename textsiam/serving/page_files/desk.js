// What the moderator works on: which pair is in focus, what is listed around it, and what is decided about it.

import * as api from "./api.js";
import { showCluster } from "./cluster.js";
import { Threshold } from "./curve.js";
import { whyEmpty } from "./empty.js";
import { download, say, warn } from "./frame.js";
import { showEmpty, showPair, speak } from "./pair.js";
import { drawRows, forgetRows, rowOf } from "./rows.js";
import { Window } from "./window.js";

const part = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[data-state]")];

export const view = new Window();
export const threshold = new Threshold((atLeast) => list({ atLeast }), failed);
const unsaved = new Map(); // decisions that the server refused, by the number of their pair
let current = null; // the pair in focus
let fresh = 0; // pairs that came in since the list was loaded
let pending = 0;
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
  part("fresh").hidden = fresh === 0;
  part("fresh").textContent = fresh === 1 ? "1 new pair: show it" : `${fresh.toLocaleString("en")} new pairs: show them`;
  if (current !== null) showPair(current, place(current));
  else if (view.counts !== null) showEmpty(whyEmpty(view, { list, showAll, exportAll }));
  for (const id of ["accept", "reject", "open-cluster", "previous", "next"]) {
    part(id).setAttribute("aria-disabled", String(current === null));
  }
  const row = current === null ? null : rowOf(current.number);
  if (inRows && row !== null) row.focus({ preventScroll: true });
  else if (inRows || (!quietly && active === document.body)) part("pair").focus({ preventScroll: true });
  const query = new URLSearchParams({ state: view.filter.state });
  if (view.filter.search) query.set("search", view.filter.search);
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
  part("search").value = "";
  threshold.stopFiltering();
  list({ search: "", atLeast: 0 });
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

export function decide(duplicate) {
  const pair = current;
  if (pair === null) return;
  const [from, to] = [pair.state, duplicate ? "accepted" : "rejected"];
  if (from === to) {
    say(`This pair is ${to} already.`);
    return;
  }
  const at = view.placeOf(pair);
  view.remove(pair);
  view.recount(from, to);
  unsaved.delete(pair.number);
  current = view.pairs[Math.min(at, view.pairs.length - 1)] ?? null;
  focusOn(current);
  say(duplicate ? "Accepted: the same." : "Rejected: different.");
  afterDecisions(() => send(pair, to));
  if (current === null && !view.complete) extend(1).then(() => focusOn(view.pairs[0] ?? null));
}

async function send(pair, to) {
  try {
    await api.decide(pair.number, to === "accepted");
    threshold.countSoon();
  } catch (error) {
    unsaved.set(pair.number, { pair, to });
    view.recount(to, pair.state);
    if (view.filter.state === pair.state) {
      view.insert(pair, { returned: true });
      focusOn(pair);
    }
    const what = unsaved.size === 1 ? "The decision was not saved, and its pair is back."
      : `${unsaved.size} decisions were not saved, and their pairs are back.`;
    say("Not saved.");
    warn(`${what} ${error.message}`, sendAgain);
  }
}

function sendAgain() {
  for (const { pair, to } of [...unsaved.values()]) {
    current = pair;
    decide(to === "accepted");
  }
}

export function undo() {
  afterDecisions(async () => {
    let found;
    try {
      found = await api.undo();
    } catch (error) {
      failed(error, undo);
      return;
    }
    const { pair } = found;
    if (pair === null) {
      say("There is no decision to take back.");
      return;
    }
    const was = view.pairs.find((other) => other.number === pair.number);
    if (was && was.state !== pair.state) view.remove(was);
    await reveal(pair, { returned: true });
    say(pair.state === "waiting" ? "Taken back: the pair waits again." : `Taken back: the pair is ${pair.state} again.`);
    if (view.filter.search || view.filter.atLeast > 0) await look({ own: true });
    else view.counts = found.counts;
    show();
    threshold.countSoon();
  });
}

/** Put a pair into focus wherever it stands in the queue. */
async function reveal(pair, how) {
  if (view.filter.state !== pair.state) {
    view.filter.state = pair.state;
    await view.load();
    forgetRows();
    how = {};
  }
  view.insert(pair, how);
  focusOn(pair);
}

// --- the rest --------------------------------------------------------------------------------------------------

export function openCluster() {
  if (current === null) return;
  const { number } = current;
  attempt(async () => {
    await chain;
    showCluster(await api.cluster(number), number, (pair) => attempt(() => reveal(pair)));
  });
}

export function exportAll() {
  attempt(async () => {
    await chain;
    download(await api.exported(), "feedback.tsv");
    say("Exported as feedback.tsv.");
  });
}

/** Look how many pairs there are by now; what came in is offered, and not pushed between those being read. */
export async function look({ own = false } = {}) {
  const { turn } = view;
  const { counts } = await api.queue({ ...view.filter, limit: 1 });
  if (turn !== view.turn || view.counts === null) return;
  const { state } = view.filter;
  if (pending <= 1) {
    if (!own) fresh = Math.max(0, fresh + counts[state] - view.counts[state]);
    view.counts = counts;
  }
  if (view.pairs.length === 0 && counts[state] > 0) await load();
  else show();
}

/** Whether a decision is on its way to the server. */
export const underWay = () => pending > 0;
