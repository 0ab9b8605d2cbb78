// The pair in focus: two questions side by side, what differs between them, and how likely they are the same.

import { compare } from "./words.js";

const part = (id) => document.getElementById(id);
const STATES = { waiting: "Waiting", accepted: "Accepted: the same", rejected: "Rejected: different" };

/** A share in whole percent, without claiming certainty: "over 99 %" and not "100 %". */
export function percent(share) {
  if (share > 0.99) return "over 99 %";
  if (share < 0.01) return "under 1 %";
  return `${Math.round(100 * share)} %`;
}

/** How likely a pair is the same, as a sentence without its full stop. */
export function verdict(pair) {
  if (pair.probability === null) return "How likely is not known";
  const said = `${percent(pair.probability)} likely the same`;
  return said[0].toUpperCase() + said.slice(1);
}

/** Show a pair. */
export function showPair(pair, place) {
  part("filled").hidden = false;
  part("empty").hidden = true;
  part("verdict").textContent = verdict(pair);
  part("state").textContent = STATES[pair.state];
  part("state").className = `chip ${pair.state}`;
  part("state").hidden = pair.state === "waiting";
  part("place").textContent = place;
  part("meter").style.setProperty("--share", String(pair.probability ?? 0));
  const similarity = pair.similarity === null ? "Not scored by the model." : `Similarity ${pair.similarity.toFixed(3)}.`;
  part("facts").textContent = `${similarity} Pair ${pair.number}.`;
  showTexts(pair);
}

/** Show the two questions of a pair, what is known of each, and what differs. */
export function showTexts(pair) {
  for (const side of ["1", "2"]) {
    part(`id${side}`).textContent = pair[`id${side}`] ?? "";
    part(`known${side}`).replaceChildren(...known(pair[`facts${side}`] ?? {}));
  }
  const { left, right, exact } = compare(pair.text1, pair.text2);
  part("text1").replaceChildren(...marked(left, "del"));
  part("text2").replaceChildren(...marked(right, "ins"));
  const same = ![...left, ...right].some((run) => run.differs);
  part("legend").textContent = same
    ? "Word for word the same, but for case and punctuation."
    : exact
      ? "Marked: words that the other question does not have in this place."
      : "Marked: words that the other question does not have at all, as these texts are very long.";
}

/** Show that there is nothing to show, and what to do about it. */
export function showEmpty({ title, text, action, act }) {
  part("filled").hidden = true;
  part("empty").hidden = false;
  part("empty-title").textContent = title;
  part("empty-text").textContent = text;
  const button = part("empty-action");
  button.hidden = !action;
  button.textContent = action ?? "";
  button.onclick = act ?? null;
}

/** Have a pair read aloud, for those who do not see it: how likely, both questions, and the words that differ. */
export function speak(pair) {
  part("spoken").textContent = `${verdict(pair)}. ${spokenTexts(pair)}`;
}

/** Both questions and the words that differ, as they are read aloud. */
export function spokenTexts(pair) {
  const short = (text) => (text.length > 400 ? `${text.slice(0, 400)} and so on` : text);
  const { left, right } = compare(pair.text1, pair.text2);
  return (
    `First question: ${short(pair.text1)} Second question: ${short(pair.text2)} ` +
    `${only("first", left)} ${only("second", right)}`
  );
}

/** What else is known of a question: its date, its tags and all else, and a link to where it was asked. */
function known({ url, created, ...others }) {
  const facts = Object.entries(others).map(([name, value]) => `${name}: ${value}`);
  if (created) facts.unshift(/^\d{4}-\d\d-\d\dT/.test(created) ? created.slice(0, 10) : created);
  const said = facts.join(" · ");
  if (!/^https?:\/\//i.test(url ?? "")) return [[said, url].filter(Boolean).join(" · ")].filter(Boolean);
  const link = document.createElement("a");
  Object.assign(link, { href: url, textContent: url, target: "_blank", rel: "noopener noreferrer" });
  return said ? [`${said} · `, link] : [link];
}

function marked(runs, tag) {
  return runs.map((run) => {
    if (!run.differs) return document.createTextNode(run.text);
    const mark = document.createElement(tag);
    mark.textContent = run.text;
    return mark;
  });
}

function only(which, runs) {
  const words = runs.filter((run) => run.differs).map((run) => run.text.trim());
  return words.length && words.length < 20 ? `Only in the ${which}: ${words.join(", ")}.` : "";
}
