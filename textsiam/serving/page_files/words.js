// Which words two texts do not share: the longest common subsequence of their words, whatever case and punctuation.

const MOST_CELLS = 4_000_000; // of the table; a million takes some 10 ms
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter("und", { granularity: "word" }) : null;

/** Split a text into pieces that join to it again; `key` is what a word is compared by, null for what is no word. */
export function pieces(text) {
  if (segmenter) {
    return Array.from(segmenter.segment(text), ({ segment, isWordLike }) => ({
      text: segment,
      key: isWordLike ? key(segment) : null,
    }));
  }
  const parts = text.match(/[\p{L}\p{N}\p{M}]+(?:['’][\p{L}\p{N}\p{M}]+)*|[^\p{L}\p{N}\p{M}]+/gu) ?? [];
  return parts.map((part) => ({ text: part, key: /^[\p{L}\p{N}\p{M}]/u.test(part) ? key(part) : null }));
}

function key(word) {
  return word.normalize("NFKC").toLowerCase().replaceAll("’", "'");
}

/**
 * Compare two texts word by word.
 *
 * Returns `{left, right, exact}`: runs `{text, differs}` of each that join to the text, and whether this is the
 * longest common subsequence; very long texts are compared by which words they hold at all.
 */
export function compare(left, right) {
  const sides = [pieces(left), pieces(right)];
  const words = sides.map((side) => side.filter((piece) => piece.key !== null).map((piece) => piece.key));
  let start = 0;
  let [n, m] = words.map((side) => side.length);
  while (start < n && start < m && words[0][start] === words[1][start]) start += 1;
  while (n > start && m > start && words[0][n - 1] === words[1][m - 1]) {
    n -= 1;
    m -= 1;
  }
  const middle = [words[0].slice(start, n), words[1].slice(start, m)];
  const exact = middle[0].length * middle[1].length <= MOST_CELLS;
  const shared = exact ? commonSubsequence(...middle) : commonWords(...middle);
  const marks = words.map((side, which) => side.map((_, at) => {
    const inside = at >= start && at < start + middle[which].length;
    return inside && !shared[which].has(at - start);
  }));
  return { left: runs(sides[0], marks[0]), right: runs(sides[1], marks[1]), exact };
}

/** Return the positions, in each of two lists, of one longest common subsequence. */
function commonSubsequence(a, b) {
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] =
        a[i] === b[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const found = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      found[0].add(i++);
      found[1].add(j++);
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return found;
}

/** Return the positions, in each of two lists, of the words that the other holds anywhere. */
function commonWords(a, b) {
  return [[a, new Set(b)], [b, new Set(a)]].map(([own, other]) => {
    return new Set(own.flatMap((word, at) => (other.has(word) ? [at] : [])));
  });
}

/** Join pieces into runs of equal kind; what stands between two differing words belongs to their run. */
function runs(side, marks) {
  const found = [];
  let word = -1;
  let between = "";
  const put = (text, differs) => {
    const last = found.at(-1);
    if (last && last.differs === differs) last.text += text;
    else found.push({ text, differs });
  };
  for (const piece of side) {
    if (piece.key === null) {
      between += piece.text;
      continue;
    }
    word += 1;
    const joins = marks[word] && found.at(-1)?.differs === true;
    if (between) put(between, joins);
    between = "";
    put(piece.text, marks[word]);
  }
  if (between) put(between, false);
  return found;
}
