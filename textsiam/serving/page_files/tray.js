// Decisions that are not on the server yet: kept in order, sent again by themselves, and never in the moderator's way.

import * as api from "./api.js";
import { notice } from "./frame.js";
import { conflictOf } from "./pair.js";

const part = (id) => document.getElementById(id);
const LASTING = new Set([400, 403, 404, 409, 413, 422]); // another try would be refused as well

/** What was decided and not saved; `saved()` is called after each that is, `refused()` after each that never will be. */
export class Tray {
  constructor({ saved, refused }) {
    this.unsaved = new Map(); // decisions by the number of their pair, in the order of the keys
    this.made = []; // numbers of the pairs that were decided on this page, to take them back
    this.why = "";
    Object.assign(this, { saved, refused });
  }

  /** How many decisions the server has failed to take. */
  get size() {
    return this.failed().length;
  }

  failed() {
    return [...this.unsaved.values()].filter((decision) => decision.tried);
  }

  /** Return what says, of an answer that is asked for now, which pairs it shows as they were before a decision. */
  outdated() {
    const [open, from] = [new Set(this.unsaved.keys()), this.made.length];
    return (number) => open.has(number) || this.unsaved.has(number) || this.made.indexOf(number, from) >= 0;
  }

  /** Keep a decision about a pair until it is saved. */
  keep(pair, body) {
    this.made.push(pair.number);
    this.unsaved.set(pair.number, { pair, body, tried: false, arrived: "unknown" });
  }

  /** Send the decision about a pair; where it fails it stays in the tray. */
  async send(number) {
    await this.deliver(this.unsaved.get(number));
    this.show();
  }

  async deliver(decision) {
    const { pair, body } = decision;
    try {
      await api.decide({ number: pair.number, was: pair.state, ...body });
      this.unsaved.delete(pair.number);
      this.saved();
    } catch (error) {
      if (!(error instanceof api.Refusal)) console.error(error);
      this.why = error instanceof api.Refusal ? error.message : "Something went wrong on this page.";
      decision.tried = true;
      decision.arrived = error.status ? "no" : "unknown";
      if (!LASTING.has(error.status)) return;
      this.unsaved.delete(pair.number);
      this.made = this.made.filter((number) => number !== pair.number);
      notice(error.pair ? conflictOf(error.pair) : `Pair ${pair.number} was not decided. ${this.why}`);
      this.refused(pair, error.pair);
    }
  }

  /** Send what is left, in order, until the server fails again. */
  async resend() {
    for (const decision of this.failed()) {
      await this.deliver(decision);
      if (this.unsaved.has(decision.pair.number)) break;
    }
    this.show();
  }

  /**
   * Take back the last decision of this page where it is in the tray.
   *
   * Returns its pair; null where the server has the last decision. Throws where nobody knows who has it.
   */
  async takeBack() {
    const last = this.made.at(-1);
    if (this.unsaved.get(last)?.arrived === "unknown") await this.deliver(this.unsaved.get(last));
    const decision = this.unsaved.get(last);
    if (decision?.arrived === "unknown") throw new api.Refusal(`${this.why} Whether the decision arrived is not known.`, 0);
    this.made.pop();
    this.unsaved.delete(last);
    this.show();
    return decision?.pair ?? null;
  }

  show() {
    part("tray").hidden = this.size === 0;
    const what = this.size === 1 ? "1 decision is not saved yet." : `${this.size} decisions are not saved yet.`;
    part("tray-text").textContent = `${what} ${this.why} It is tried again by itself.`;
  }
}
