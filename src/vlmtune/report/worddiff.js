"use strict";

/* Word diff of two texts. In scripts written without spaces, every character is a word. */

const WORD =
  /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmr}\p{sc=Mymr}]\p{M}*|[\p{L}\p{N}\p{M}_'’]+|\s+|[^\s]/gu;

/* Above this many comparisons only a common prefix and suffix count as shared: a 100 KB line must not block the page. */
const MOST_COMPARED = 250000;

function wordsOf(text) {
  return text.match(WORD) || [];
}

/* Both texts as lists of [piece, shared]. */
function wordDiff(before, after) {
  const a = wordsOf(before);
  const b = wordsOf(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const middle = sharedWords(a.slice(start, a.length - end), b.slice(start, b.length - end));
  return [marked(a, start, end, middle[0]), marked(b, start, end, middle[1])];
}

function marked(words, start, end, shared) {
  const pieces = [];
  words.forEach((word, n) => {
    const inMiddle = n >= start && n < words.length - end;
    const same = !inMiddle || shared[n - start];
    const last = pieces[pieces.length - 1];
    if (last && last[1] === same) last[0] += word;
    else pieces.push([word, same]);
  });
  return pieces;
}

/* For every word whether it belongs to the longest common subsequence. */
function sharedWords(a, b) {
  const inA = new Array(a.length).fill(false);
  const inB = new Array(b.length).fill(false);
  if (a.length * b.length > MOST_COMPARED) return [inA, inB];
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let n = a.length - 1; n >= 0; n -= 1) {
    for (let m = b.length - 1; m >= 0; m -= 1) {
      const next = lengths[n + 1];
      lengths[n][m] = a[n] === b[m] ? next[m + 1] + 1 : Math.max(next[m], lengths[n][m + 1]);
    }
  }
  for (let n = 0, m = 0; n < a.length && m < b.length; ) {
    if (a[n] === b[m]) {
      inA[n] = true;
      inB[m] = true;
      n += 1;
      m += 1;
    } else if (lengths[n + 1][m] >= lengths[n][m + 1]) n += 1;
    else m += 1;
  }
  return [inA, inB];
}
