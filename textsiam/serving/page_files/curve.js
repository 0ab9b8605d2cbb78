// The threshold slider: what was learned on the calibration pairs, and how many waiting pairs a threshold takes.

import * as api from "./api.js";
import { shape } from "./svg.js";

const part = (id) => document.getElementById(id);
const HEIGHT = 220;
const LEFT = 46;
const RIGHT = 18;
const TOP = 14;
const BOTTOM = 30;
const SAMPLES = 400;

let width = 640; // of the drawing, in the page's own pixels, so that its text keeps its size
const x = (probability) => LEFT + probability * (width - LEFT - RIGHT);
const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);

/** Return what a threshold costs: the loosest calibrated point at or above the probability; null above them all. */
export function at(curve, probability) {
  let found = -1;
  for (let k = 0; k < curve.probabilities.length && curve.probabilities[k] >= probability - 1e-9; k += 1) found = k;
  if (found < 0) return null;
  return { precision: curve.precision[found], recall: curve.recall[found], threshold: curve.thresholds[found] };
}

const whole = (share) => (share > 0.995 && share < 1 ? "over 99 %" : `${Math.round(100 * share)} %`);

/** Say a threshold's cost in a sentence. */
export function sentence(curve, probability) {
  const point = at(curve, probability);
  const where = `At ${probability.toFixed(2)}`;
  if (point === null) return `${where}: no calibration pair was as probable, so nothing would be flagged.`;
  return `${where}: ${whole(point.precision)} of flagged pairs are right, ${whole(point.recall)} of duplicates are found.`;
}

/**
 * The slider and its chart.
 *
 * `changed(probability, only)` is called when another threshold holds for the list: 0 where it lists every pair.
 */
export class Threshold {
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.curve = null;
    this.turn = 0;
    this.timer = 0;
    this.held = null; // the learned threshold, which is no whole percent, until the slider is moved
    part("slider").addEventListener("input", () => {
      this.held = null;
      this.move();
    });
    part("slider").addEventListener("change", () => part("only").checked && this.changed(this.atLeast));
    part("only").addEventListener("change", () => this.changed(this.atLeast));
    part("to-learned").addEventListener("click", () => {
      this.reset();
      if (part("only").checked) this.changed(this.atLeast);
    });
  }

  get probability() {
    return this.held ?? Number(part("slider").value) / 100;
  }

  get atLeast() {
    return part("only").checked ? this.probability : 0;
  }

  stopFiltering() {
    part("only").checked = false;
  }

  /** Fetch the curve and show it, or say why there is none. */
  async load() {
    if (this.curve !== null) return;
    try {
      this.curve = await api.curve();
    } catch (error) {
      if (error.status !== 409) throw error;
      part("no-curve").textContent = error.message;
      return;
    }
    part("no-curve").hidden = true;
    part("curve").hidden = false;
    new ResizeObserver(() => {
      if (part("chart").clientWidth !== width) this.draw();
    }).observe(part("chart"));
    this.draw();
    const pairs = this.curve.pairs.toLocaleString("en");
    part("curve-note").textContent =
      `Learned from ${pairs} calibration pairs, for a share of duplicates of ${percentish(this.curve.prior)}. ` +
      `The learned threshold is a probability of ${this.curve.probability.toFixed(2)} ` +
      `(similarity ${this.curve.threshold.toFixed(3)}).`;
    this.reset();
  }

  reset() {
    this.held = this.curve.probability;
    part("slider").value = String(Math.round(100 * this.held));
    this.move();
  }

  draw() {
    width = Math.max(240, part("chart").clientWidth);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-labelledby": "chart-title" });
    svg.append(shape("title", { id: "chart-title" }, "Precision and recall against the threshold on the probability"));
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }));
      if (share * 2 === Math.round(share * 2)) {
        svg.append(shape("text", { class: "tick left", x: LEFT - 8, y: y(share) + 4 }, `${100 * share} %`));
      }
      svg.append(shape("text", { class: "tick middle", x: x(share), y: HEIGHT - 10 }, share.toFixed(2)));
    }
    const learned = x(this.curve.probability);
    svg.append(shape("line", { class: "learned", x1: learned, x2: learned, y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const name of ["recall", "precision"]) svg.append(shape("path", { class: name, d: this.path(name) }));
    this.line = shape("line", { class: "now", y1: TOP, y2: HEIGHT - BOTTOM });
    this.dots = ["recall", "precision"].map((name) => shape("circle", { class: `dot ${name}`, r: 5.5 }));
    svg.append(this.line, ...this.dots);
    const legend = document.createElement("ul");
    legend.className = "chart-legend";
    for (const [kind, text] of [
      ["precision", "precision: flagged pairs that are right"],
      ["recall", "recall: duplicates that are found"],
      ["learned", "learned threshold"],
    ]) {
      const entry = document.createElement("li");
      entry.className = kind;
      entry.textContent = text;
      legend.append(entry);
    }
    part("chart").replaceChildren(svg, legend);
    this.mark();
  }

  /** The line of a share, as the slider would read it out at each place. */
  path(name) {
    const steps = [];
    let pen = "M";
    for (let k = 0; k <= SAMPLES; k += 1) {
      const point = at(this.curve, k / SAMPLES);
      if (point === null && name === "precision") break; // of nothing flagged, no share is right
      steps.push(`${pen}${x(k / SAMPLES).toFixed(1)} ${y(point?.[name] ?? 0).toFixed(1)}`);
      pen = "L";
    }
    return steps.join("");
  }

  move() {
    const said = sentence(this.curve, this.probability);
    part("readout").textContent = said;
    part("slider").setAttribute("aria-valuetext", said);
    this.mark();
    this.countSoon();
  }

  /** Count once the slider, or a run of decisions, has come to rest. */
  countSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.count(), 150);
  }

  /** Put the line and the dots where the slider is. */
  mark() {
    const { probability } = this;
    const point = at(this.curve, probability);
    this.line.setAttribute("x1", x(probability));
    this.line.setAttribute("x2", x(probability));
    for (const [k, name] of ["recall", "precision"].entries()) {
      this.dots[k].setAttribute("cx", x(probability));
      this.dots[k].setAttribute("cy", y(point?.[name] ?? 0));
      this.dots[k].setAttribute("visibility", point === null && name === "precision" ? "hidden" : "visible");
    }
  }

  /** Ask how many pairs wait at or above the threshold. */
  async count() {
    if (this.curve === null) return;
    const turn = (this.turn += 1);
    try {
      const { counts } = await api.queue({ atLeast: this.probability, limit: 1 });
      if (turn !== this.turn) return;
      part("reach").textContent = counts.waiting.toLocaleString("en");
      part("reach-words").textContent = counts.waiting === 1 ? "pair waits at or above it." : "pairs wait at or above it.";
    } catch (error) {
      part("reach").textContent = "?";
      this.failed(error, () => this.count());
    }
  }
}

function percentish(share) {
  return `${Number((100 * share).toPrecision(2))} %`;
}
