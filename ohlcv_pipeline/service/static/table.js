// The table of series: which rows are shown, in which order, and both of them in the URL.

const form = document.getElementById("filters");
const table = document.getElementById("series");
const body = table.tBodies[0];
const given = [...body.rows].map((row) => row.dataset.key);

export const rows = () => [...body.rows];

function query() {
  const wanted = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value.trim()) wanted.set(name, value.trim());
  return wanted;
}

function shows(row, wanted) {
  const [market, asset, interval] = row.dataset.key.split("/");
  return (
    (!wanted.has("problems") || row.dataset.status !== "healthy" || row.dataset.stale === "true") &&
    (!wanted.has("gaps") || row.dataset.openGaps !== "0") &&
    (!wanted.has("market") || market === wanted.get("market")) &&
    (!wanted.has("interval") || interval === wanted.get("interval")) &&
    asset.includes((wanted.get("asset") ?? "").toUpperCase())
  );
}

function compare(a, b) {
  return a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a < b ? -1 : a > b ? 1 : 0;
}

function sort(key) {
  const column = key.replace(/^-/, "");
  const place = new Map(given.map((name, i) => [name, i]));
  const value = (row) => row.querySelector(`[data-col="${column}"]`).dataset.v;
  const inOrder = rows().sort((a, b) => {
    const before = (place.get(a.dataset.key) ?? 1e9) - (place.get(b.dataset.key) ?? 1e9);
    if (!column) return before;
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "") || before;
    return (key.startsWith("-") ? -compare(x, y) : compare(x, y)) || before;
  });
  if (inOrder.some((row, i) => row !== body.rows[i])) {
    const focused = document.activeElement;
    body.append(...inOrder);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  for (const head of table.tHead.rows[0].cells) {
    const mine = head.dataset.col === column;
    head.setAttribute("aria-sort", !mine ? "none" : key.startsWith("-") ? "descending" : "ascending");
  }
}

/** Show what the form says; `remember` writes it into the URL. Returns how many rows are shown. */
export function apply(remember = true) {
  const wanted = query();
  let shown = 0;
  for (const row of rows()) {
    row.hidden = !shows(row, wanted);
    shown += !row.hidden;
    const [market, asset, interval] = row.dataset.key.split("/");
    const named =
      wanted.get("market") === market && wanted.get("asset")?.toUpperCase() === asset && wanted.get("interval") === interval;
    row.classList.toggle("selected", named);
    named ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
  }
  sort(wanted.get("sort") ?? "");
  const text = wanted.size ? `?${wanted}` : "";
  document.getElementById("count").textContent = `${shown} of ${body.rows.length}`;
  document.getElementById("clear").hidden = !wanted.size;
  document.getElementById("none-shown").hidden = shown > 0;
  document.getElementById("export-csv").href = `/status/series.csv${text}`;
  document.getElementById("export-json").href = `/status/series.json${text}`;
  document.getElementById("refresh").href = `/status${text}`;
  const log = new URLSearchParams([...wanted].filter(([name, value]) => ["market", "interval"].includes(name) && value));
  log.set("format", "csv");
  const remediation = document.getElementById("export-remediation");
  if (remediation) remediation.href = `/status/remediation?${log}`;
  if (remember) history.replaceState(null, "", `/status${text}`);
  return shown;
}

function fill(search) {
  const wanted = new URLSearchParams(search);
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = wanted.has(field.name);
    else if (field.name) field.value = wanted.get(field.name) ?? "";
  }
}

export function start() {
  form.addEventListener("input", () => apply());
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  document.getElementById("clear").addEventListener("click", (event) => {
    event.preventDefault();
    fill("");
    apply();
    form.elements.asset.focus();
  });
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head || !event.target.closest("a")) return;
    event.preventDefault();
    const next = { none: head.dataset.col, ascending: `-${head.dataset.col}`, descending: "" }[head.getAttribute("aria-sort")];
    form.elements.sort.value = next;
    apply();
  });
}
