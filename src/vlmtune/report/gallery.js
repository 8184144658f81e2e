/* Rows: scores, filters, order, and cards. Data is only ever set as text, never as markup. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const ROWS = DATA.rows.map((row, n) => Object.assign(row, { n }));
const PER_PAGE = 50;
const LONG = 250; /* characters above which a text scrolls in its own box */

const delta = (row, metric) => (row.d ? row.d[metric] : null);
const score = (row, side, metric) => (row.s ? row.s[side][metric] : null);
const size = (text) => (text === null ? 0 : text.length);

/* Improvement of B over A in this row; null where undefined. */
function gain(row, metric) {
  const change = delta(row, metric);
  return change === null ? null : change * DATA.metrics[metric].sign;
}

function bothWrong(row, metric) {
  if (!row.s) return false;
  const wrong = DATA.metrics[metric].sign > 0 ? (value) => value <= 0 : (value) => value >= 1;
  return [0, 1].every((side) => score(row, side, metric) !== null && wrong(score(row, side, metric)));
}

const KINDS = [
  ["all", "All", () => true],
  ["wins", "Wins", (row, metric) => gain(row, metric) !== null && gain(row, metric) > 0],
  ["losses", "Losses", (row, metric) => gain(row, metric) !== null && gain(row, metric) < 0],
  ["ties", "Ties", (row, metric) => gain(row, metric) === 0],
  ["changed", "Changed", (row) => row.a !== row.b],
  ["wrong", "Both wrong", bothWrong],
  ["failed", "Failed", (row) => row.e !== undefined],
  ["flagged", "Flagged", (row) => row.f !== undefined],
];

const SORTS = [
  ["size", "largest change", (row, metric) => absolute(gain(row, metric)), -1],
  ["gain", "largest gain", gain, -1],
  ["loss", "largest loss", gain, 1],
  ["a-low", "score of A, lowest first", (row, metric) => score(row, 0, metric), 1],
  ["a-high", "score of A, highest first", (row, metric) => score(row, 0, metric), -1],
  ["b-low", "score of B, lowest first", (row, metric) => score(row, 1, metric), 1],
  ["b-high", "score of B, highest first", (row, metric) => score(row, 1, metric), -1],
  ["long", "length of B, longest first", (row) => size(row.b), -1],
  ["short", "length of B, shortest first", (row) => size(row.b), 1],
  ["data", "order in the dataset", (row) => row.n, 1],
];

const absolute = (value) => (value === null ? null : Math.abs(value));

/* Rows ordered by one of SORTS; those without the number come last, equal ones keep the dataset's order. */
function ordered(rows, sort, metric) {
  const [, , key, direction] = SORTS.find(([name]) => name === sort);
  const keyed = rows.map((row) => [key(row, metric), row]);
  keyed.sort(([x, one], [y, other]) => {
    if (x === null || y === null) return (x === null) - (y === null) || one.n - other.n;
    return (x - y) * direction || one.n - other.n;
  });
  return keyed.map(([, row]) => row);
}

/* Rows whose id, question, answers, references or metadata contain the text. */
function searched(rows, text) {
  const needle = text.trim().toLowerCase();
  return needle === "" ? rows : rows.filter((row) => haystack(row).includes(needle));
}

function haystack(row) {
  if (row.hay === undefined) row.hay = [row.i, row.q, row.a, row.b, ...row.r, ...(row.m || [])].join("\n").toLowerCase();
  return row.hay;
}

function element(tag, kind, ...content) {
  const created = document.createElement(tag);
  if (kind) created.className = kind;
  created.append(...content);
  return created;
}

function svgElement(tag, attributes) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  return created;
}

function fixed(value, digits, sign) {
  if (value === null) return "";
  const text = value.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1");
  return sign && !text.startsWith("-") ? `+${text}` : text;
}

const tone = (value) => (value === null || value === 0 ? "even" : value > 0 ? "good" : "bad");

function outcome(row, metric) {
  const better = gain(row, metric);
  if (row.e !== undefined) return element("span", "pill bad", "failed");
  if (better === null) return "";
  return element("span", `pill ${tone(better)}`, better > 0 ? "B better" : better < 0 ? "B worse" : "tie");
}

/* Texts of the data, not of this page: without their language, browsers draw Chinese with Japanese letter forms. */
function ownLanguage(line) {
  line.dir = "auto";
  if (DATA.language) line.lang = DATA.language;
  return line;
}

function thumbnail(row) {
  const cell = element("div", "image");
  if (row.h === undefined) return cell;
  const image = document.createElement("img");
  image.src = `data:image/webp;base64,${DATA.images[row.h]}`;
  image.alt = `Image of ${row.i}`;
  image.decoding = "async";
  const frame = element("div", "frame", image);
  if (row.x) frame.append(boxes(row.x), ...boxLabels(row.x));
  cell.append(frame);
  if (row.x) cell.append(boxLegend(row.x));
  return cell;
}

function boxes(sides) {
  const svg = svgElement("svg", { class: "boxes", viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const kind of ["references", "a", "b"]) {
    for (const [left, top, right, bottom] of sides[kind]) {
      const size = { width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
      svg.append(svgElement("rect", { class: `box-${kind}`, x: left, y: top, ...size }));
    }
  }
  return svg;
}

/* The labels of boxes, each side's in another corner: references above left, A below left, B below right. */
function boxLabels(sides) {
  if (!sides.labels) return [];
  return ["references", "a", "b"].flatMap((kind) =>
    sides[kind].flatMap(([left, top, right, bottom], n) => {
      if (sides.labels[kind][n] === null) return [];
      const name = element("span", `box-label label-${kind}`, sides.labels[kind][n]);
      const x = kind === "b" ? right : left;
      const y = kind === "references" ? top : bottom;
      name.style.left = `${Math.min(Math.max(x, 0), 1000) / 10}%`;
      name.style.top = `${Math.min(Math.max(y, 0), 1000) / 10}%`;
      name.setAttribute("aria-hidden", "true");
      return [name];
    })
  );
}

function boxLegend(sides) {
  const names = { references: "reference", a: "A", b: "B" };
  const kinds = Object.keys(names).filter((kind) => sides[kind].length > 0);
  const many = kinds.some((kind) => sides[kind].length > 1);
  const text = (kind) => (many ? `${names[kind]}: ${sides[kind].length}` : names[kind]);
  return element("p", "legend", ...kinds.map((kind) => element("span", `key-${kind}`, text(kind))));
}

function answer(side, text, pieces, flags, thought) {
  const content = element("div", "content");
  if (thought) {
    content.append(element("details", "thought", element("summary", "", "thought"), ownLanguage(element("p", "", thought))));
  }
  if (text === null) content.append(element("p", "none", "no answer"));
  else if (text.trim() === "") content.append(element("p", "none", "(empty)"));
  else {
    const line = element("p", "", ...pieces.map(([piece, same]) => (same ? piece : element(side === "a" ? "del" : "ins", "", piece))));
    content.append(scrollable(ownLanguage(line), text.length));
  }
  for (const flag of flags.filter((name) => name !== "failed")) content.append(element("span", "flag", DATA.flags[flag] || flag), " ");
  return element("div", `answer ${side}`, element("b", "tag", side.toUpperCase()), content);
}

function scores(row, metric) {
  const head = element("tr", "", ...["metric", "A", "B", "change"].map((name) => headCell(name, "col")));
  head.firstChild.replaceChildren(element("span", "unseen", "metric"));
  const lines = DATA.metrics.map((column, n) => {
    const numbers = [0, 1].map((side) => element("td", "", fixed(score(row, side, n), column.digits, false)));
    const change = element("td", tone(gain(row, n)), fixed(delta(row, n), column.digits, true));
    return element("tr", n === metric ? "chosen" : "", headCell(column.name, "row"), ...numbers, change);
  });
  return element("table", "scores", element("thead", "", head), element("tbody", "", ...lines));
}

function headCell(text, scope) {
  const cell = element("th", "", text);
  cell.scope = scope;
  return cell;
}

/* A long text scrolls in its own box, so the keyboard must be able to focus it. */
function scrollable(box, length) {
  if (length > LONG) box.tabIndex = 0;
  return box;
}

function expected(row) {
  if (row.r.length === 0) return "";
  const list = element("ul", "expected");
  list.setAttribute("aria-label", "References");
  for (const text of row.r) {
    list.append(ownLanguage(element("li", "", text)));
  }
  return scrollable(list, row.r.join(" ").length);
}

function question(row) {
  if (row.q === undefined) return "";
  return ownLanguage(element("p", "question", row.q));
}

/* A row as a card; `link` is the address of this row. */
function card(row, metric, link) {
  const name = element("a", "id", row.i);
  name.href = link;
  const pieces = row.a === null || row.b === null ? [[[row.a || "", true]], [[row.b || "", true]]] : wordDiff(row.a, row.b);
  const flags = row.f || [[], []];
  const texts = element(
    "div",
    "texts",
    element("h3", "", name, " ", outcome(row, metric)),
    question(row),
    answer("a", row.a, pieces[0], flags[0], row.t && row.t[0]),
    answer("b", row.b, pieces[1], flags[1], row.t && row.t[1]),
    ...(row.e || []).map(([side, reason]) => element("p", "failure", `${side} failed, ${reason}`)),
    expected(row),
    ...(row.m || []).flatMap((text) => [element("span", "metadata", text), " "])
  );
  const created = element("article", "card", thumbnail(row), texts, ...(row.s ? [scores(row, metric)] : []));
  created.tabIndex = -1;
  return created;
}
