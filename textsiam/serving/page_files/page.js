// The moderator's page: keys, buttons, search and the look for new pairs, wired to what they do.

import * as api from "./api.js";
import {
  attempt, decide, exportAll, extend, list, load, look, openCluster, sendAgain, step, threshold, tray, underWay, undo, view,
} from "./desk.js";
import { askForToken, busy, calm, startFrame } from "./frame.js";
import { startKeys } from "./keys.js";
import { toggleDifference } from "./media.js";

const POLL = 5_000; // milliseconds between two looks at what others did, and for new pairs
const FILTERS = ["tag", "since", "until"];
const part = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[data-state]")];

async function poll() {
  if (document.visibilityState !== "visible" || underWay() || busy()) return;
  if (tray.size) await sendAgain();
  else if (part("alert").hidden) await attempt(() => look());
}

const KEYS = {
  a: () => decide("accepted"),
  r: () => decide("rejected"),
  l: () => decide("related"),
  s: () => decide("unsure"),
  n: () => part("note").focus(),
  1: () => part("keep1").click(),
  2: () => part("keep2").click(),
  d: toggleDifference,
  u: undo,
  c: openCluster,
  j: () => step(1),
  k: () => step(-1),
  "/": () => part("search").focus(),
  "?": () => part("help").showModal(),
  Escape: () => {
    if (document.activeElement === part("search")) leaveSearch();
    else if (document.activeElement === part("note")) part("pair").focus();
    else calm();
  },
};

function leaveSearch() {
  if (part("search").value) {
    part("search").value = "";
    searched();
  }
  part("pair").focus();
}

let typed = 0;
function searched() {
  clearTimeout(typed);
  const search = part("search").value.trim();
  if (search !== view.filter.search) list({ search });
}

function start() {
  const query = new URLSearchParams(location.hash.slice(1));
  if (tabs.some((tab) => tab.dataset.state === query.get("state"))) view.filter.state = query.get("state");
  view.filter.search = (query.get("search") ?? "").slice(0, 1000);
  part("search").value = view.filter.search;
  for (const id of FILTERS) {
    part(id).value = query.get(id) ?? ""; // a date that is none is left out
    view.filter[id] = part(id).value;
    part(id).addEventListener("change", () => list({ [id]: part(id).value.trim() }));
  }
  part("filters").open = FILTERS.some((id) => view.filter[id]);
  startFrame();
  api.onTokenWanted(askForToken);
  for (const tab of tabs) tab.addEventListener("click", () => list({ state: tab.dataset.state }));
  for (const [id, key] of [["accept", "a"], ["reject", "r"], ["related", "l"], ["unsure", "s"], ["undo", "u"], ["open-cluster", "c"],
                           ["previous", "k"], ["next", "j"], ["to-search", "/"], ["differ", "d"]]) {
    part(id).addEventListener("click", KEYS[key]);
  }
  for (const id of ["keep1", "keep2"]) {
    part(id).addEventListener("click", () => {
      const chosen = part(id).getAttribute("aria-pressed") !== "true";
      for (const other of ["keep1", "keep2"]) part(other).setAttribute("aria-pressed", String(chosen && other === id));
    });
  }
  part("note").addEventListener("keydown", (event) => event.key === "Enter" && part("pair").focus());
  part("tray-retry").addEventListener("click", sendAgain);
  addEventListener("online", sendAgain);
  part("export").addEventListener("click", exportAll);
  part("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    searched();
    part("pair").focus();
  });
  part("search").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(searched, 200);
  });
  part("fresh").addEventListener("click", () => list({}));
  part("earlier").addEventListener("click", () => extend(-1));
  part("later").addEventListener("click", () => extend(1));
  part("fold-queue").addEventListener("click", () => {
    const open = document.body.classList.toggle("unfolded");
    part("fold-queue").setAttribute("aria-expanded", String(open));
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    part("pair").focus();
  });
  startKeys(KEYS);
  document.addEventListener("visibilitychange", poll);
  addEventListener("beforeunload", (event) => (underWay() || tray.size) && event.preventDefault());
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && extend(1), { root: part("queue") })
    .observe(part("later"));
  setInterval(poll, POLL);
  attempt(load);
  part("threshold").addEventListener("toggle", () => attempt(() => threshold.load()));
}

start();
