// What two texts do not share: the longest common subsequence of their words and symbols.
//
// First by what is said: the case of a sentence's first letter and the punctuation between words do not count, all else
// does. Where nothing differs so, every character counts. Equal strings alone have no difference.

const MOST_CELLS = 4_000_000; // of the table; a million takes some 10 ms
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter("und", { granularity: "word" }) : null;
const PUNCTUATION = /^[\s.,;:!?…¿¡'"‘’“”„«»。、，！？；：]+$/u;
const PARTS = /[\p{L}\p{N}\p{M}]+(?:['’][\p{L}\p{N}\p{M}]+)*|\s+|\p{Extended_Pictographic}[\u{200d}\u{fe0f}\p{Extended_Pictographic}\p{Emoji_Modifier}]*|./gsu;

/** Split a text into pieces that join to it again; `key` is what a piece is compared by, null for punctuation. */
export function pieces(text) {
  const parts = segmenter ? Array.from(segmenter.segment(text), ({ segment }) => segment) : text.match(PARTS) ?? [];
  let starts = true; // whether the next word is the first of a sentence
  return parts.map((part) => {
    if (PUNCTUATION.test(part)) {
      starts ||= /[.!?…。！？\n]/u.test(part);
      return { text: part, key: null, first: false };
    }
    const first = starts;
    starts = false;
    return { text: part, key: part.replaceAll("’", "'"), first };
  });
}

const lowered = (key) => key.replace(/^./su, (letter) => letter.toLowerCase());

/** Whether two pieces say the same: at the beginning of a sentence, the case of the first letter does not count. */
function alike(a, b) {
  return a.key === b.key || ((a.first || b.first) && lowered(a.key) === lowered(b.key));
}

const equal = (a, b) => a.text === b.text;

/**
 * Compare two texts.
 *
 * Returns `{left, right, exact, identical, fine}`: runs `{text, differs}` of each that join to the text; whether this is
 * the longest common subsequence, as very long texts are compared by what they hold at all; whether the texts are one
 * string; and whether only case, punctuation, spaces, or characters that look alike differ.
 */
export function compare(left, right) {
  const sides = [pieces(left), pieces(right)];
  const said = marked(sides, (piece) => piece.key !== null, alike);
  const identical = left === right;
  const fine = !identical && !said.differs;
  const { marks, exact } = fine ? marked(sides, () => true, equal) : said;
  return { left: runs(sides[0], marks[0]), right: runs(sides[1], marks[1]), exact, identical, fine };
}

/** Return, for each piece of both sides, whether it differs; null for those that do not count. */
function marked(sides, counts, same) {
  const places = sides.map((side) => side.flatMap((piece, at) => (counts(piece) ? [at] : [])));
  const words = sides.map((side, which) => places[which].map((at) => side[at]));
  let start = 0;
  let [n, m] = words.map((side) => side.length);
  while (start < n && start < m && same(words[0][start], words[1][start])) start += 1;
  while (n > start && m > start && same(words[0][n - 1], words[1][m - 1])) {
    n -= 1;
    m -= 1;
  }
  const middle = [words[0].slice(start, n), words[1].slice(start, m)];
  const differs = middle.some((side) => side.length > 0);
  const exact = middle[0].length * middle[1].length <= MOST_CELLS;
  let shared = exact ? commonSubsequence(...middle, same) : commonWords(...middle);
  if (differs && shared.every((side, which) => side.size === middle[which].length)) shared = [new Set(), new Set()];
  const marks = sides.map((side) => side.map(() => null));
  for (const which of [0, 1]) {
    for (const [k, at] of places[which].entries()) {
      marks[which][at] = k >= start && k < start + middle[which].length && !shared[which].has(k - start);
    }
  }
  return { marks, exact, differs };
}

/** Return the positions, in each of two lists, of one longest common subsequence. */
function commonSubsequence(a, b, same) {
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = same(a[i], b[j])
        ? lengths[(i + 1) * width + j + 1] + 1
        : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const found = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (same(a[i], b[j])) {
      found[0].add(i++);
      found[1].add(j++);
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return found;
}

/** Return the positions, in each of two lists, of what the other holds anywhere. */
function commonWords(a, b) {
  const known = [a, b].map((side) => new Set(side.map((piece) => piece.key ?? piece.text)));
  return [[a, known[1]], [b, known[0]]].map(([own, other]) => {
    return new Set(own.flatMap((piece, at) => (other.has(piece.key ?? piece.text) ? [at] : [])));
  });
}

/** Join pieces into runs of equal kind; what stands uncounted between two that differ belongs to their run. */
function runs(side, marks) {
  const found = [];
  let between = "";
  const put = (text, differs) => {
    const last = found.at(-1);
    if (last && last.differs === differs) last.text += text;
    else found.push({ text, differs });
  };
  for (const [at, piece] of side.entries()) {
    if (marks[at] === null) {
      between += piece.text;
      continue;
    }
    if (between) put(between, marks[at] && found.at(-1)?.differs === true);
    between = "";
    put(piece.text, marks[at]);
  }
  if (between) put(between, false);
  return found;
}

/**
 * The part of two texts where they differ, for a line each: `{before, differs, after}`, of which `before` begins near
 * the difference where the texts share a long beginning. Cheap: what both begin and end with.
 */
export function excerpts(left, right, { lead = 24, most = 200 } = {}) {
  const [a, b] = [left, right].map((text) => Array.from(text.length > 4000 ? text.slice(0, 4000) : text));
  const word = /[\p{L}\p{N}\p{M}]/u;
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  while (start > 0 && word.test(a[start - 1])) start -= 1;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  while (end > 0 && word.test(a[a.length - end])) end -= 1;
  return [a, b].map((side) => {
    const from = start > 2 * lead ? start - lead : 0;
    const until = Math.max(start, side.length - end);
    return {
      before: (from ? "…" : "") + side.slice(from, start).join(""),
      differs: side.slice(start, Math.min(until, start + most)).join(""),
      after: side.slice(until, until + most).join(""),
    };
  });
}
