// The page that asks: one pair at a time, what is said of it, and what all answers prove so far.

import * as api from "./api.js";
import { askForToken, calm, remember, remembered, say, startFrame, warn } from "./frame.js";
import { startKeys } from "./keys.js";
import { toggleDifference } from "./media.js";
import { showEmpty, showTexts, spokenTexts } from "./pair.js";

const part = (id) => document.getElementById(id);
const SAID = { y: "Saved: the same.", n: "Saved: different.", skip: "Skipped." };
const BUTTONS = { accept: "y", reject: "n", skip: "skip" };

let labeller = remembered("labeller") ?? "";
let question = null; // the pair that is shown
let more = false; // whether somebody wants to go on after the planned answers
let waiting = false; // for the server: a key pressed meanwhile would answer a pair that nobody has seen
let promised = false;
let known = 0; // certificates that were asked for

// --- what is shown ---------------------------------------------------------------------------------------------

function showButtons() {
  for (const id of Object.keys(BUTTONS)) part(id).setAttribute("aria-disabled", String(waiting || question === null));
  part("undo").setAttribute("aria-disabled", String(waiting || !labeller));
}

const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

function showProgress({ answers, left, planned, pairs, sentence }) {
  part("promise").textContent = sentence[0].toUpperCase() + sentence.slice(1);
  const missing = promised ? Math.max(0, planned - answers) : left ?? Math.max(1, planned - answers);
  part("meter").style.setProperty("--share", String(answers / Math.max(1, answers + missing)));
  part("missing").textContent = `${counted(answers, "answer")}. ${outlook(missing, { left, planned, pairs })}`;
}

/** What is to come, where the headline does not say it. */
function outlook(missing, { left, planned, pairs }) {
  const number = (n) => n.toLocaleString("en");
  if (!promised && left === null) return `About ${number(planned)} are planned.`;
  if (!promised) return pairs > 0 ? `About ${number(left)} more prove a larger set.` : "";
  return missing ? `${number(missing)} more are planned: they tell what is missed.` : `${number(planned)} were planned.`;
}

function showQuestion(found, progress) {
  const { activeElement: active } = document;
  question = found;
  if (question === null) showEmpty(why(progress));
  else {
    part("filled").hidden = false;
    part("empty").hidden = true;
    if (question.media) document.title = part("title").textContent = "Are both the same?";
    showTexts(question);
    part("spoken").textContent = spokenTexts(question);
    for (const side of ["1", "2"]) part(`text${side}`).scrollTop = 0;
  }
  if (active === document.body || !active.checkVisibility()) part("pair").focus({ preventScroll: true });
  if (part("pair").getBoundingClientRect().top < 0) part("pair").scrollIntoView({ block: "start" });
}

function why({ finished }) {
  if (!finished) {
    const text = "Every pair was asked about, or is in front of somebody else.";
    return { title: "There is no pair for you", text, action: "Look again", act: load };
  }
  const text = "The promise is proven, and as many answers are given as were planned. Further ones tell what is missed.";
  return { title: "Done", text, action: "Go on all the same", act: goOn };
}

/** Ask what is proven, beside the next pair: it takes longer. */
async function showProven() {
  const turn = (known += 1);
  try {
    const { sentences, certificate, command } = await api.json("labels/certificate");
    if (turn !== known) return;
    const lines = certificate.pairs > 0 && command ? [...sentences, `To write these pairs: ${command}`] : sentences;
    part("proven").hidden = certificate.pairs === 0;
    part("proven").replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  } catch {
    // Whatever is wrong is said when the next answer is sent.
  }
}

// --- what is done ----------------------------------------------------------------------------------------------

/** Ask the server for the pair to look at; where that fails, what is shown stays, and one can try again. */
async function ask(path, body, said) {
  if (waiting || !labeller) return;
  waiting = true;
  showButtons();
  try {
    const { question: found, progress } = await api.post(`labels/${path}`, { labeller, more, ...body });
    calm();
    if (path === "undo" && found === null) say("There is no answer of yours to take back.");
    else {
      say(progress.promised && !promised ? `${said} The promise is proven; further answers tell what is missed.` : said);
      showQuestion(found, progress);
    }
    promised = progress.promised;
    showProgress(progress);
    if (path !== "next" || progress.pairs > 0) showProven();
  } catch (error) {
    if (!(error instanceof api.Refusal)) console.error(error);
    const { message, status } = error instanceof api.Refusal ? error : { message: "Something went wrong on this page." };
    // Another try may not take a second answer back, nor send one about a pair of a file that is no more.
    const again = path === "undo" || status === 404 ? load : () => ask(path, body, said);
    if (question === null) showEmpty({ title: "Nothing could be loaded", text: "What went wrong stands above." });
    say(path === "answers" ? "Not saved." : "");
    warn(path === "answers" ? `The answer was not saved. ${message}` : message, again);
  } finally {
    waiting = false;
    showButtons();
  }
}

const load = () => ask("next", {}, "");

function goOn() {
  more = true;
  load();
}

function answer(said) {
  if (question === null) return;
  const { draw, again, left, right } = question;
  ask("answers", { draw, again, left, right, answer: said }, SAID[said]);
}

function undo() {
  ask("undo", {}, "Taken back: answer again.");
}

function askForName() {
  if (waiting) return;
  part("labeller").value = labeller;
  part("who").showModal();
}

function named(event) {
  event.preventDefault();
  const name = part("labeller").value.trim();
  if (!name) return;
  labeller = name;
  remember("labeller", name);
  part("who").close();
  begin();
}

function begin() {
  part("name").textContent = labeller || "No name";
  showButtons();
  if (labeller) load();
  else askForName();
}

function start() {
  startFrame();
  api.onTokenWanted(askForToken);
  for (const [id, said] of Object.entries(BUTTONS)) part(id).addEventListener("click", () => answer(said));
  part("undo").addEventListener("click", undo);
  part("differ").addEventListener("click", toggleDifference);
  part("change-name").addEventListener("click", askForName);
  part("who-form").addEventListener("submit", named);
  part("who").addEventListener("close", () => {
    if (!labeller) showEmpty({ title: "Who answers?", text: "A name is needed.", action: "Give a name", act: askForName });
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    part("pair").focus();
  });
  startKeys({
    y: () => answer("y"),
    n: () => answer("n"),
    s: () => answer("skip"),
    u: undo,
    d: toggleDifference,
    "?": () => part("help").showModal(),
    Escape: calm,
  });
  addEventListener("beforeunload", (event) => waiting && event.preventDefault());
  begin();
}

start();
