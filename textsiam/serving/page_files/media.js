// Pairs that are not read: two pictures side by side, at their full size, and what differs; or two sounds to be played.

import * as api from "./api.js";

const part = (id) => document.getElementById(id);
const NOUNS = { image: ["First image", "Second image"], audio: ["First sound", "Second sound"] };
const WHICH = { 1: "first", 2: "second" };
let shown = ""; // the addresses of the media that are there, or on their way
let pictures = {}; // those that have come, by side

/** What an input is called where it is not shown: its id, or the end of its name. */
export function called(pair, side) {
  const text = pair[`text${side}`];
  return pair[`id${side}`] ?? (text.length > 80 || text.startsWith("data:") ? `${WHICH[side]} one` : text);
}

/** Where what is shown of an input comes from: a side of a suspected pair, or a row of what is asked about. */
function address(pair, side) {
  return "number" in pair ? `media/${pair.number}/${side}` : `labels/media/${side === 1 ? pair.left : pair.right}`;
}

/** Show what a pair is of, in place of its texts. */
export function showMedia(pair) {
  for (const side of [1, 2]) {
    part(`noun${side}`).textContent = NOUNS[pair.media][side - 1];
    part(`text${side}`).hidden = true;
    part(`media${side}`).hidden = false;
  }
  part("accept").firstChild.textContent = pair.media === "image" ? "Same image " : "Same sound ";
  part("legend").textContent = pair.media === "image" ? "Choose an image to see it at its full size." : "";
  part("differ").hidden = pair.media !== "image";
  const addresses = `${address(pair, 1)} ${address(pair, 2)}`;
  if (shown === addresses) return;
  shown = addresses;
  pictures = {};
  showDifference();
  for (const side of [1, 2]) place(pair, side);
}

async function place(pair, side) {
  const holder = part(`media${side}`);
  const wanted = shown;
  holder.replaceChildren();
  try {
    const blob = await api.media(address(pair, side));
    const image = pair.media === "image" ? await createImageBitmap(blob) : null;
    if (shown !== wanted) return;
    holder.replaceChildren(image === null ? player(blob, pair, side) : picture(image, pair, side));
    if (image !== null) pictures[side] = image;
    showDifference();
  } catch (error) {
    if (shown === wanted) holder.replaceChildren(sentence(error.message ?? "It cannot be shown."));
  }
}

function sentence(text) {
  return Object.assign(document.createElement("p"), { className: "note", textContent: text });
}

function drawn(image, label) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas;
}

function picture(image, pair, side) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "picture";
  button.setAttribute("aria-label", `Show the ${WHICH[side]} image at its full size`);
  button.append(drawn(image, `The ${WHICH[side]} image, ${called(pair, side)}`));
  button.addEventListener("click", () => enlarge(pair, side));
  return button;
}

function player(blob, pair, side) {
  const audio = document.createElement("audio");
  audio.controls = true;
  audio.src = URL.createObjectURL(blob);
  audio.setAttribute("aria-label", `The ${WHICH[side]} sound, ${called(pair, side)}`);
  audio.addEventListener("loadeddata", () => URL.revokeObjectURL(audio.src), { once: true });
  return audio;
}

async function enlarge(pair, side) {
  const sheet = part("picture");
  part("picture-title").textContent = `${NOUNS.image[side - 1]}: ${called(pair, side)}`;
  part("picture-size").textContent = "Loading…";
  part("picture-whole").replaceChildren();
  sheet.showModal();
  try {
    const image = await createImageBitmap(await api.media(address(pair, side), true));
    if (!sheet.open) return;
    part("picture-size").textContent = `${image.width} × ${image.height} pixels`;
    part("picture-whole").replaceChildren(drawn(image, `The ${WHICH[side]} image`));
  } catch (error) {
    part("picture-size").textContent = error.message ?? "It cannot be shown.";
  }
}

/** Show, or hide, where two images differ: black where they are the same. */
export function toggleDifference() {
  if (part("differ").hidden) return;
  const on = part("differ").getAttribute("aria-pressed") !== "true";
  part("differ").setAttribute("aria-pressed", String(on));
  showDifference();
}

function showDifference() {
  const on = part("differ").getAttribute("aria-pressed") === "true" && pictures[1] && pictures[2];
  part("difference").hidden = !on;
  if (!on) return;
  const canvas = drawn(pictures[1], "Where the two images differ: black is the same");
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "difference";
  context.drawImage(pictures[2], 0, 0, canvas.width, canvas.height);
  part("difference-picture").replaceChildren(canvas);
}
