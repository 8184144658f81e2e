/* What is shown: chips, sort, search and pages, kept in the address; keys; export. */

const START = { metric: DATA.metrics.length ? DATA.metrics[0].name : "", show: "all", sort: "size", q: "", page: 1, row: "" };
const state = { ...START };
const by = (id) => document.getElementById(id);
let found = [];
let waiting = 0;

const metricNumber = () => Math.max(0, DATA.metrics.findIndex((metric) => metric.name === state.metric));
const pagesOf = (rows) => Math.max(1, Math.ceil(rows.length / PER_PAGE));

/* The address of a state: only what differs from the start. */
function address(changed) {
  const wanted = { ...state, ...changed };
  const kept = Object.keys(START).filter((key) => wanted[key] !== START[key]);
  return `#${new URLSearchParams(kept.map((key) => [key, wanted[key]])).toString() || "show=all"}`;
}

/* Reads the address; false where it names a section of the page rather than a state. */
function readAddress() {
  const said = location.hash.slice(1);
  if (said !== "" && !said.includes("=")) return false;
  const params = new URLSearchParams(said);
  const known = (name, values) => (values.includes(params.get(name)) ? params.get(name) : START[name]);
  state.metric = known("metric", DATA.metrics.map((metric) => metric.name));
  state.show = known("show", KINDS.map(([name]) => name));
  state.sort = known("sort", SORTS.map(([name]) => name));
  state.q = params.get("q") || "";
  state.row = params.get("row") || "";
  state.page = Math.max(1, Number.parseInt(params.get("page") || "1", 10) || 1);
  return true;
}

function choose() {
  const metric = metricNumber();
  const matching = searched(ROWS, state.q);
  for (const chip of by("chips").children) {
    const [, , belongs] = KINDS.find(([name]) => name === chip.dataset.kind);
    const count = matching.reduce((sum, row) => sum + Boolean(belongs(row, metric)), 0);
    chip.lastChild.textContent = count.toLocaleString("en");
    chip.setAttribute("aria-pressed", String(chip.dataset.kind === state.show));
    chip.classList.toggle("nothing", count === 0);
  }
  const [, , belongs] = KINDS.find(([name]) => name === state.show);
  found = ordered(matching.filter((row) => belongs(row, metric)), state.sort, metric);
}

function show() {
  choose();
  const at = state.row === "" ? -1 : found.findIndex((row) => row.i === state.row);
  if (at >= 0) state.page = Math.floor(at / PER_PAGE) + 1;
  state.page = Math.min(state.page, pagesOf(found));
  const first = (state.page - 1) * PER_PAGE;
  const metric = metricNumber();
  const shown = found.slice(first, first + PER_PAGE);
  by("cards").replaceChildren(...shown.map((row) => card(row, metric, address({ row: row.i, page: 1 }))));
  by("found").textContent = sentence(first, shown.length);
  by("pages").hidden = pagesOf(found) < 2;
  by("place").textContent = `Page ${state.page} of ${pagesOf(found)}`;
  by("before").disabled = state.page === 1;
  by("after").disabled = state.page === pagesOf(found);
  for (const select of document.querySelectorAll("#metric, #metric-above")) select.value = state.metric;
  by("sort").value = state.sort;
  if (by("search").value !== state.q) by("search").value = state.q;
  for (const block of document.querySelectorAll(".drawings")) block.hidden = block.dataset.metric !== state.metric;
  if (at >= 0) focusCard(at - first);
}

function sentence(first, count) {
  if (ROWS.length === 0) return "";
  if (count === 0) return `No row matches. ${ROWS.length.toLocaleString("en")} rows in all.`;
  const range = found.length > PER_PAGE ? `Rows ${first + 1} to ${first + count} of ` : "";
  const rows = `${found.length.toLocaleString("en")} ${found.length === 1 ? "row" : "rows"}`;
  return `${range}${rows}${found.length < ROWS.length ? `, ${ROWS.length.toLocaleString("en")} in all` : ""}`;
}

function change(changed) {
  Object.assign(state, { page: 1, row: "" }, changed);
  writeAddress();
  show();
}

/* While somebody types, the address follows with the last letter: browsers refuse a hundred changes in a few seconds. */
function writeAddress() {
  clearTimeout(waiting);
  const write = () => history.replaceState(null, "", address({}));
  if (document.activeElement === by("search")) waiting = setTimeout(write, 300);
  else write();
}

function turn(way) {
  const page = state.page + way;
  if (page < 1 || page > pagesOf(found)) return false;
  change({ page });
  by("examples").scrollIntoView();
  return true;
}

function focusCard(n) {
  const chosen = by("cards").children[n];
  if (!chosen) return;
  chosen.focus({ preventScroll: true });
  chosen.scrollIntoView({ block: "start" });
}

function step(way) {
  const cards = [...by("cards").children];
  const now = cards.indexOf(document.activeElement && document.activeElement.closest(".card"));
  const next = now < 0 ? (way > 0 ? 0 : cards.length - 1) : now + way;
  if (next >= 0 && next < cards.length) focusCard(next);
  else if (turn(way)) focusCard(way > 0 ? 0 : PER_PAGE - 1);
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  n: () => turn(1),
  p: () => turn(-1),
  "/": () => by("search").focus(),
  "?": () => by("help").showModal(),
};

function pressed(event) {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) typing.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || by("help").open || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

/* A text that starts like a formula is kept from becoming one in a spreadsheet. */
function csvCell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const names = DATA.metrics.flatMap(({ name }) => [`${name} A`, `${name} B`, `${name} change`]);
  const head = ["id", "A", "B", "references", "flags A", "flags B", ...names];
  const lines = found.map((row) => {
    const flags = (row.f || [[], []]).map((some) => some.join(" "));
    const numbers = DATA.metrics.flatMap((_, n) => [score(row, 0, n), score(row, 1, n), delta(row, n)]);
    return [row.i, row.a, row.b, row.r.join(" | "), ...flags, ...numbers];
  });
  return [head, ...lines].map((cells) => cells.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv" }));
  link.download = "rows.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

function chip([name, label]) {
  const made = element("button", "chip", label, " ", element("span", "count", ""));
  made.type = "button";
  made.dataset.kind = name;
  made.addEventListener("click", () => change({ show: name }));
  return made;
}

function start() {
  for (const select of document.querySelectorAll("#metric, #metric-above")) {
    select.append(...DATA.metrics.map(({ name }) => option(name, name)));
    select.addEventListener("change", () => change({ metric: select.value }));
    select.closest("label").hidden = DATA.metrics.length < 2;
  }
  by("sort").append(...SORTS.map(([name, label]) => option(name, label)));
  by("chips").append(...KINDS.map(chip));
  by("sort").addEventListener("change", () => change({ sort: by("sort").value }));
  by("search").addEventListener("input", () => change({ q: by("search").value }));
  by("before").addEventListener("click", () => turn(-1));
  by("after").addEventListener("click", () => turn(1));
  by("csv").addEventListener("click", download);
  by("keys").addEventListener("click", KEYS["?"]);
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", () => readAddress() && show());
  by("controls").hidden = ROWS.length === 0;
  readAddress();
  show();
  document.documentElement.dataset.ready = "yes";
}

start();
