// What surrounds the pairs: messages, dialogues, the theme, and the question for the token.

const part = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Read what this browser remembers of the moderator's choices; null where it remembers nothing. */
export function remembered(name) {
  try {
    return localStorage.getItem(`textsiam-${name}`);
  } catch {
    return null;
  }
}

/** Remember a choice, where the browser allows it. */
export function remember(name, value) {
  try {
    localStorage.setItem(`textsiam-${name}`, value);
  } catch {
    // It holds until the page is left.
  }
}

/** Say something in passing; screen readers read it aloud. */
export function say(text) {
  part("status").textContent = text;
}

const retries = new Set(); // of everything that failed since the message came up

/** Show what went wrong, until it is closed or tried again. */
export function warn(text, again) {
  part("alert-text").textContent = text;
  part("alert").hidden = false;
  retries.add(again);
}

/** Tell what became of something, until it is closed; it takes no focus and no key. */
export function notice(text) {
  const entry = document.createElement("li");
  const close = document.createElement("button");
  Object.assign(close, { type: "button", className: "quiet", textContent: "Close" });
  close.addEventListener("click", () => entry.remove());
  entry.append(text, close);
  part("notices").append(entry);
  while (part("notices").children.length > 5) part("notices").firstChild.remove();
}

/** Take the messages away. */
export function calm() {
  part("notices")?.replaceChildren();
  part("alert").hidden = true;
  retries.clear();
}

function retry() {
  const all = [...retries];
  calm();
  for (const again of all) again();
}

/** Whether a dialogue is open, which then has the keys. */
export const busy = () => document.querySelector("dialog[open]") !== null;

function showTheme() {
  const chosen = document.documentElement.dataset.theme;
  const isDark = chosen ? chosen === "dark" : dark.matches;
  part("theme").textContent = isDark ? "Light" : "Dark";
  part("theme").setAttribute("aria-label", `Switch to the ${isDark ? "light" : "dark"} theme`);
  return isDark;
}

/** Wire the theme button, the dialogues and the alert. */
export function startFrame() {
  showTheme();
  dark.addEventListener("change", showTheme);
  part("theme").addEventListener("click", () => {
    const next = showTheme() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    remember("theme", next);
    showTheme();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  part("show-help").addEventListener("click", () => part("help").showModal());
  part("alert-retry").addEventListener("click", retry);
  part("alert-close").addEventListener("click", calm);
}

/** Ask for the bearer token; null when the moderator has none to give. */
export function askForToken(wasRefused) {
  const field = part("token");
  field.value = "";
  part("ask-title").textContent = wasRefused ? "That token was refused" : "This server asks for a token";
  part("ask").showModal();
  return new Promise((resolve) => {
    let given = null;
    part("ask-form").onsubmit = (event) => {
      event.preventDefault();
      const value = field.value.trim();
      // A header takes no other characters.
      if (!/^[\x21-\x7e]+$/.test(value)) {
        part("ask-title").textContent = "A token has no spaces and no accents";
        return;
      }
      given = value;
      part("ask").close();
    };
    part("ask").addEventListener("close", () => resolve(given), { once: true });
  });
}

/** Hand a blob to the browser as a download. */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
