// The server's answers: JSON in and out, the bearer token where it is asked for, and errors that say what failed.

const TOKEN = "textsiam-token";
const PATIENCE = 30_000; // milliseconds for an answer

/** A request that was not answered; the message is a sentence for the moderator. */
export class Refusal extends Error {
  constructor(message, status, pair = null) {
    super(message);
    this.status = status;
    this.pair = pair; // as it is now, where somebody else has decided about it
  }
}

let asking = null; // one dialogue, however many requests wait for it
let askForToken = async () => null;

/** Tell who asks the moderator for the token: a function of whether one was refused, which returns it or null. */
export function onTokenWanted(ask) {
  askForToken = ask;
}

function stored() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

let token = stored();

function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // It holds until the page is left.
  }
}

let cancelled = 0; // how often the moderator gave no token

async function fetched(path, options) {
  const [sent, before] = [token, cancelled];
  const headers = { ...options.headers, ...(sent ? { authorization: `Bearer ${sent}` } : {}) };
  let answer;
  try {
    const address = new URL(`../api/${path}`, import.meta.url);
    const signal = AbortSignal.timeout(PATIENCE);
    answer = await fetch(address, { ...options, headers, cache: "no-store", redirect: "error", signal });
  } catch {
    throw new Refusal("The server cannot be reached.", 0);
  }
  if (answer.status === 401) {
    // Of the requests that were under way together, only the first one asks.
    if (token === sent && cancelled === before) {
      asking ??= wanted(sent !== null).finally(() => (asking = null));
      await asking;
    }
    if (token === sent && cancelled !== before) throw new Refusal("The server asks for a token.", 401);
    return fetched(path, options);
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Refusal(reason(answer, body), answer.status, body?.pair);
  }
  return answer;
}

async function wanted(wasRefused) {
  const given = await askForToken(wasRefused);
  if (given === null) cancelled += 1;
  else keep(given);
}

function reason(answer, body) {
  const said = typeof body?.error === "string" ? body.error : `status ${answer.status}`;
  const wait = answer.status === 429 ? answer.headers.get("retry-after") : null;
  return `The server says: ${said}${wait ? `; try again in ${wait} s` : ""}.`;
}

export async function json(path, options = {}) {
  const answer = await fetched(path, options);
  try {
    return await answer.json();
  } catch {
    throw new Refusal("The server's answer cannot be read.", answer.status);
  }
}

export function post(path, body) {
  // keepalive: a decision made just before the tab is closed still arrives.
  const options = { method: "POST", keepalive: true };
  if (body === undefined) return json(path, options);
  return json(path, { ...options, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

/** Pairs of a state, most probable first, and the counts of all states that match. */
export function queue({ state = "waiting", search = "", atLeast = 0, tag = "", since = "", until = "", limit = 50, offset = 0 }) {
  const query = new URLSearchParams({ state, search, at_least: atLeast, tag, since, until, limit, offset });
  return json(`queue?${query}`);
}

/** Those of some pairs that are still there, as they are now. */
export async function pairs(numbers) {
  return numbers.length ? json(`pairs?${new URLSearchParams(numbers.map((number) => ["number", number]))}`) : [];
}

export const decide = (decision) => post("decisions", decision);
export const acceptAll = (number, body) => post(`clusters/${number}`, body);
export const undo = () => post("undo");
export const cluster = (number) => json(`clusters/${number}`);
export const curve = () => json("curve");
export const media = async (address, whole = false) => (await fetched(`${address}?${new URLSearchParams({ whole })}`, {})).blob();
export const exported = async () => (await fetched("export?format=tsv", {})).blob();
