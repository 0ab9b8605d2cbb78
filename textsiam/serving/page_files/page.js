// The moderator's page: keys, buttons, search and the look for new pairs, wired to what they do.

import * as api from "./api.js";
import {
  attempt, decide, exportAll, extend, list, load, look, openCluster, step, threshold, underWay, undo, view,
} from "./desk.js";
import { askForToken, busy, calm, startFrame } from "./frame.js";
import { startKeys } from "./keys.js";

const POLL = 15_000; // milliseconds between two looks for new pairs
const part = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[data-state]")];

async function poll() {
  if (document.visibilityState !== "visible" || underWay() || busy() || !part("alert").hidden) return;
  await attempt(() => look());
}

const KEYS = {
  a: () => decide(true),
  r: () => decide(false),
  u: undo,
  c: openCluster,
  j: () => step(1),
  k: () => step(-1),
  "/": () => part("search").focus(),
  "?": () => part("help").showModal(),
  Escape: () => (document.activeElement === part("search") ? leaveSearch() : calm()),
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
  startFrame();
  api.onTokenWanted(askForToken);
  for (const tab of tabs) tab.addEventListener("click", () => list({ state: tab.dataset.state }));
  for (const [id, key] of [["accept", "a"], ["reject", "r"], ["undo", "u"], ["open-cluster", "c"],
                           ["previous", "k"], ["next", "j"], ["to-search", "/"]]) {
    part(id).addEventListener("click", KEYS[key]);
  }
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
  addEventListener("beforeunload", (event) => underWay() && event.preventDefault());
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && extend(1), { root: part("queue") })
    .observe(part("later"));
  setInterval(poll, POLL);
  attempt(load);
  attempt(() => threshold.load());
}

start();
