/* State of the page (metric, filter, sort, search, page), kept in the URL; keyboard shortcuts; CSV export. */

const START = { metric: DATA.metrics.length ? DATA.metrics[0].name : "", show: "all", sort: "size", q: "", page: 1, row: "" };
const state = { ...START };
const by = (id) => document.getElementById(id);
let matches = [];
let addressTimer = 0;

const metricNumber = () => Math.max(0, DATA.metrics.findIndex((metric) => metric.name === state.metric));
const pagesOf = (rows) => Math.max(1, Math.ceil(rows.length / PER_PAGE));

/* URL fragment of the state with some changes; holds only what differs from the initial state. */
function address(changes) {
  const target = { ...state, ...changes };
  const keys = Object.keys(START).filter((key) => target[key] !== START[key]);
  return `#${new URLSearchParams(keys.map((key) => [key, target[key]])).toString() || "show=all"}`;
}

/* Restores the state from the URL; false if its fragment names a section of the page instead. */
function readAddress() {
  const hash = location.hash.slice(1);
  if (hash !== "" && !hash.includes("=")) return false;
  const params = new URLSearchParams(hash);
  const known = (name, values) => (values.includes(params.get(name)) ? params.get(name) : START[name]);
  state.metric = known("metric", DATA.metrics.map((metric) => metric.name));
  state.show = known("show", KINDS.map(([name]) => name));
  state.sort = known("sort", SORTS.map(([name]) => name));
  state.q = params.get("q") || "";
  state.row = params.get("row") || "";
  state.page = Math.max(1, Number.parseInt(params.get("page") || "1", 10) || 1);
  return true;
}

function selectRows() {
  const metric = metricNumber();
  const matching = searched(ROWS, state.q);
  for (const chip of by("chips").children) {
    const [, , matchesKind] = KINDS.find(([name]) => name === chip.dataset.kind);
    const count = matching.reduce((sum, row) => sum + Boolean(matchesKind(row, metric)), 0);
    chip.lastChild.textContent = count.toLocaleString("en");
    chip.setAttribute("aria-pressed", String(chip.dataset.kind === state.show));
    chip.classList.toggle("nothing", count === 0);
  }
  const [, , matchesKind] = KINDS.find(([name]) => name === state.show);
  matches = ordered(matching.filter((row) => matchesKind(row, metric)), state.sort, metric);
}

function show() {
  selectRows();
  const at = state.row === "" ? -1 : matches.findIndex((row) => row.i === state.row);
  if (at >= 0) state.page = Math.floor(at / PER_PAGE) + 1;
  state.page = Math.min(state.page, pagesOf(matches));
  const first = (state.page - 1) * PER_PAGE;
  const metric = metricNumber();
  const visible = matches.slice(first, first + PER_PAGE);
  by("cards").replaceChildren(...visible.map((row) => card(row, metric, address({ row: row.i, page: 1 }))));
  by("summary").textContent = sentence(first, visible.length);
  by("pages").hidden = pagesOf(matches) < 2;
  by("position").textContent = `Page ${state.page} of ${pagesOf(matches)}`;
  by("previous").disabled = state.page === 1;
  by("next").disabled = state.page === pagesOf(matches);
  for (const select of document.querySelectorAll("#metric, #metric-above")) select.value = state.metric;
  by("sort").value = state.sort;
  if (by("search").value !== state.q) by("search").value = state.q;
  for (const block of document.querySelectorAll(".charts")) block.hidden = block.dataset.metric !== state.metric;
  if (at >= 0) focusCard(at - first);
}

function sentence(first, count) {
  if (ROWS.length === 0) return "";
  if (count === 0) return `No row matches. ${ROWS.length.toLocaleString("en")} rows in all.`;
  const range = matches.length > PER_PAGE ? `Rows ${first + 1} to ${first + count} of ` : "";
  const rows = `${matches.length.toLocaleString("en")} ${matches.length === 1 ? "row" : "rows"}`;
  return `${range}${rows}${matches.length < ROWS.length ? `, ${ROWS.length.toLocaleString("en")} in all` : ""}`;
}

function change(changes) {
  Object.assign(state, { page: 1, row: "" }, changes);
  writeAddress();
  show();
}

/* While the user types, the URL is updated after a pause: browsers limit the rate of history changes. */
function writeAddress() {
  clearTimeout(addressTimer);
  const write = () => history.replaceState(null, "", address({}));
  if (document.activeElement === by("search")) addressTimer = setTimeout(write, 300);
  else write();
}

function turnPage(direction) {
  const page = state.page + direction;
  if (page < 1 || page > pagesOf(matches)) return false;
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

function step(direction) {
  const cards = [...by("cards").children];
  const now = cards.indexOf(document.activeElement && document.activeElement.closest(".card"));
  const next = now < 0 ? (direction > 0 ? 0 : cards.length - 1) : now + direction;
  if (next >= 0 && next < cards.length) focusCard(next);
  else if (turnPage(direction)) focusCard(direction > 0 ? 0 : PER_PAGE - 1);
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  n: () => turnPage(1),
  p: () => turnPage(-1),
  "/": () => by("search").focus(),
  "?": () => by("help").showModal(),
};

function onKey(event) {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) typing.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || by("help").open || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

/* A CSV cell; text that looks like a formula gets an apostrophe, so that no spreadsheet evaluates it. */
function csvCell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const names = DATA.metrics.flatMap(({ name }) => [`${name} A`, `${name} B`, `${name} change`]);
  const head = ["id", "A", "B", "references", "flags A", "flags B", ...names];
  const lines = matches.map((row) => {
    const flags = (row.f || [[], []]).map((names) => names.join(" "));
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
  const item = element("option", "", text);
  item.value = value;
  return item;
}

function chip([name, label]) {
  const button = element("button", "chip", label, " ", element("span", "count", ""));
  button.type = "button";
  button.dataset.kind = name;
  button.addEventListener("click", () => change({ show: name }));
  return button;
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
  by("previous").addEventListener("click", () => turnPage(-1));
  by("next").addEventListener("click", () => turnPage(1));
  by("csv").addEventListener("click", download);
  by("keys").addEventListener("click", KEYS["?"]);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => readAddress() && show());
  by("controls").hidden = ROWS.length === 0;
  readAddress();
  show();
  document.documentElement.dataset.ready = "yes";
}

start();
