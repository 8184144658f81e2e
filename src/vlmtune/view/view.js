/* Keeps the page current, filters the table of runs, and lets two of them be chosen. */

const LIVE_MS = 2000;
const QUIET_MS = 10000;
/* At most so much of the time is the server at work for a page: it shares the machine with the runs. */
const SHARE = 0.1;
const live = document.getElementById("live");
const filter = document.getElementById("filter");
const button = document.getElementById("compare");
let current = "";
const boxes = () => [...live.querySelectorAll("input[name=run]")];

function applyFilter() {
  const words = filter.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of live.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.getElementById("none").hidden = shown > 0 || !live.querySelector("tbody");
}

function applyChoice() {
  const focus = live.contains(document.activeElement) ? document.activeElement : null;
  const chosen = boxes().filter((box) => box.checked).length;
  button.disabled = chosen !== 2;
  for (const box of boxes()) box.disabled = chosen === 2 && !box.checked;
}

/* Takes over what the server shows now; what was chosen and opened stays. */
function replace(page) {
  const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("live");
  if (fresh === null || fresh.innerHTML === current) return;
  current = fresh.innerHTML;
  const focus = live.contains(document.activeElement) ? document.activeElement : null;
  const chosen = boxes().filter((box) => box.checked).map((box) => box.value);
  const opened = [...live.querySelectorAll("details")].map((one) => one.open);
  const same = (one) => one.tagName === focus.tagName && (one.href || one.value) === (focus.href || focus.value);
  live.replaceChildren(...fresh.childNodes);
  live.dataset.live = fresh.dataset.live;
  for (const box of boxes()) box.checked = chosen.includes(box.value);
  live.querySelectorAll("details").forEach((one, number) => { one.open = opened[number] || false; });
  if (filter) { applyFilter(); applyChoice(); }
  if (focus) [...live.querySelectorAll("a, input, summary")].find(same)?.focus();
}

async function refresh() {
  const began = performance.now();
  if (!document.hidden) {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (answer.ok) replace(await answer.text());
    } catch { /* the server ended; the page stays as it is */ }
  }
  const rest = live.dataset.live === "yes" ? LIVE_MS : QUIET_MS;
  setTimeout(refresh, Math.max(rest, (performance.now() - began) / SHARE));
}

if (filter) {
  filter.addEventListener("input", applyFilter);
  live.addEventListener("change", applyChoice);
  applyChoice();
}
setTimeout(refresh, LIVE_MS);
document.documentElement.dataset.ready = "yes";
