// All questions that hang together with the pair in focus, and the links between them.

import { known, percent } from "./pair.js";
import { shape } from "./svg.js";

const part = (id) => document.getElementById(id);
const SIZE = 300;
const MOST_DRAWN = 24;
const WORDS = { waiting: "waiting", accepted: "accepted", rejected: "rejected" };

/**
 * Show a cluster.
 *
 * `go(pair)` is called with the link that was chosen, `acceptAll(number, waiting, canonical)` with all that wait and the
 * text of the question that stands for all, null where none was chosen.
 */
export function showCluster(pairs, focused, { go, acceptAll }) {
  pairs = [...pairs].sort((a, b) => (b.number === focused) - (a.number === focused)); // stable: the rest stays as it is
  const texts = [...new Set(pairs.flatMap((pair) => [pair.text1, pair.text2]))];
  const ids = new Map(texts.map((text) => [text, new Set()])); // equal questions may be there under several
  for (const pair of pairs) {
    if (pair.id1 !== null) ids.get(pair.text1).add(pair.id1);
    if (pair.id2 !== null) ids.get(pair.text2).add(pair.id2);
  }
  const media = pairs.some((pair) => pair.media);
  const facts = new Map(pairs.flatMap((pair) => [[pair.text1, pair.facts1], [pair.text2, pair.facts2]]));
  const place = new Map(texts.map((text, k) => [text, k]));
  const links = pairs.map((pair) => ({ pair, from: place.get(pair.text1), to: place.get(pair.text2) }));
  const counted = (state) => pairs.filter((pair) => pair.state === state).length;
  part("cluster-title").textContent = `${texts.length} ${media ? "inputs" : "questions"} hang together`;
  part("cluster-note").textContent =
    `${pairs.length} ${pairs.length === 1 ? "link" : "links"}: ${counted("accepted")} accepted, ` +
    `${counted("waiting")} waiting${counted("rejected") ? `, ${counted("rejected")} rejected, which hold nothing together` : ""}. ` +
    (pairs.length >= 200 ? "Only the first 200 are shown. " : "") +
    "Choose a link to decide about it.";
  const graph = texts.length > 2 && texts.length <= MOST_DRAWN ? [drawing(texts, links, focused)] : [];
  part("cluster-graph").replaceChildren(...graph);
  part("cluster-list").replaceChildren(...texts.map((text, k) => 
    entry(text, k, { media, known: [...ids.get(text)].join(", "), facts: facts.get(text), links, focused, go })));
  const waiting = pairs.filter((pair) => pair.state === "waiting");
  const button = part("accept-cluster");
  button.hidden = waiting.length < 2;
  button.textContent = `Accept all ${waiting.length} that wait`;
  button.onclick = () => {
    const chosen = document.querySelector("#cluster-list input:checked");
    part("cluster").close();
    acceptAll(focused, waiting, chosen === null ? null : texts[Number(chosen.value)]);
  };
  part("cluster").showModal();
  part("cluster").querySelector("[aria-current]")?.focus();
}

function entry(text, at, { media, known: ids, facts, links, focused, go }) {
  const item = document.createElement("li");
  const said = document.createElement("p");
  said.className = "cluster-text";
  said.dir = "auto";
  said.textContent = media ? ids || "An input without an id" : text;
  if (ids && !media) {
    const tag = document.createElement("bdi");
    tag.className = "id";
    tag.textContent = ` ${ids}`;
    said.append(tag);
  }
  const row = document.createElement("p");
  row.className = "cluster-links";
  for (const { pair, from, to } of links) {
    if (from !== at && to !== at) continue;
    const button = document.createElement("button");
    const other = (from === at ? to : from) + 1;
    const likely = pair.probability === null ? "not scored" : percent(pair.probability);
    button.type = "button";
    button.className = `link ${pair.state}`;
    button.textContent = `${other} · ${likely} · ${WORDS[pair.state]}`;
    button.setAttribute("aria-label", `Link to question ${other}: ${likely}, ${WORDS[pair.state]}`);
    if (pair.number === focused) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      part("cluster").close();
      go(pair);
    });
    row.append(button);
  }
  const more = document.createElement("p");
  more.className = "known";
  more.replaceChildren(...known(facts ?? {}));
  const keep = document.createElement("label");
  const choice = document.createElement("input");
  keep.className = "check keep";
  Object.assign(choice, { type: "radio", name: "canonical", value: String(at) });
  choice.checked = links.some(({ pair }) => pair.canonical?.text === text);
  keep.append(choice, " Keep this one");
  item.append(said, more, row, keep);
  return item;
}

/** The questions on a circle, numbered as in the list. */
function drawing(texts, links, focused) {
  const svg = shape("svg", { viewBox: `0 0 ${SIZE} ${SIZE}` });
  const spot = (k) => {
    const turn = (2 * Math.PI * k) / texts.length - Math.PI / 2;
    return [SIZE / 2 + (SIZE / 2 - 24) * Math.cos(turn), SIZE / 2 + (SIZE / 2 - 24) * Math.sin(turn)];
  };
  for (const { pair, from, to } of links) {
    const [[x1, y1], [x2, y2]] = [spot(from), spot(to)];
    svg.append(shape("line", { class: `edge ${pair.state}${pair.number === focused ? " focused" : ""}`, x1, y1, x2, y2 }));
  }
  for (const k of texts.keys()) {
    const [cx, cy] = spot(k);
    svg.append(shape("circle", { class: "node", cx, cy, r: 15 }), shape("text", { class: "node-label", x: cx, y: cy + 5 }, k + 1));
  }
  return svg;
}
