// Keeps the page current without reloading it: cells from the summary, panels from the page's own newest copy.

import { page, summary } from "./client.js";
import { grade, percent, plural, span, when } from "./formats.js";
import { apply, rows } from "./table.js";

const EVERY = 30_000;
const byId = (id) => document.getElementById(id);
const button = byId("refresh");
const pause = byId("pause");

let timer = 0;
let paused = false;
let running = null;
let current = new Date(byId("as-of").dateTime);

const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

function badge(kind, status) {
  const found = document.querySelector(`template[data-badge="${kind}/${status}"]`);
  return { nodes: [found.content.firstElementChild.cloneNode(true)], value: found.dataset.v };
}

function time(instant) {
  if (instant === null) return make("span", { className: "none", textContent: when(null) });
  return make("time", { dateTime: instant, textContent: when(instant) });
}

function alertCell(row) {
  if (!row.alert_status) return { nodes: [make("span", { className: "none", textContent: "None" })], value: "" };
  const { nodes, value } = badge("alert", row.alert_status);
  if (row.last_alerted_at) {
    const told = make("span", { className: "soft" });
    told.append(time(row.last_alerted_at), ` · ${span(row.last_alert_lag_minutes)}`);
    nodes.push(told);
  }
  return { nodes, value };
}

function coverageCell(row, cell) {
  const bar = cell.querySelector(".bar").cloneNode(true);
  const fill = bar.querySelector(".fill");
  fill.setAttribute("width", row.coverage_pct || 0);
  fill.setAttribute("class", `fill ${grade(row.coverage_pct)}`);
  const dates = [row.coverage_start, row.coverage_end].map((each) => when(each).slice(0, 10));
  return {
    nodes: [
      make("span", { className: "pct", textContent: percent(row.coverage_pct) }),
      bar,
      make("span", { className: "soft window", textContent: row.coverage_start ? dates.join(" to ") : "no bars" }),
    ],
    value: row.coverage_pct ?? "",
  };
}

function checksumCell(row, cell) {
  const short = row.last_checksum?.slice(0, 12);
  if (!short) return { nodes: [make("span", { className: "none", textContent: "–" })], value: "" };
  const query = `interval=${row.interval}&market=${row.market}&asset=${row.asset}`;
  const link = cell.querySelector("a")?.cloneNode() ?? make("a", { className: "mono" });
  link.dataset.testid = "report-link";
  link.href = `/ingestion/runs/latest?${query}`;
  link.textContent = short;
  link.setAttribute("aria-label", `Newest run report of ${row.asset} ${row.interval}, checksum ${short}`);
  return { nodes: [link], value: row.last_checksum };
}

const text = (value, shown) => ({ nodes: [document.createTextNode(shown)], value: value ?? "" });

const CELLS = {
  status: (row) => badge("status", row.status),
  coverage: coverageCell,
  newest: (row) => ({ nodes: [time(row.latest_timestamp)], value: row.latest_timestamp ?? "" }),
  lag: (row) => text(row.freshness_minutes, span(row.freshness_minutes)),
  gaps: (row) => text(row.open_gaps, String(row.open_gaps)),
  vendor: (row) => badge("vendor", row.vendor_status),
  alert: alertCell,
  success: (row) => ({ nodes: [time(row.last_success_at)], value: row.last_success_at ?? "" }),
  checksum: checksumCell,
};

/** Put new content where it differs; what has the focus keeps it. */
function replace(target, nodes, mark) {
  const fresh = make("div");
  fresh.append(...nodes);
  if (fresh.innerHTML === target.innerHTML) return;
  const focused = target.contains(document.activeElement) ? document.activeElement : null;
  const among = focused ? [...target.querySelectorAll("a, button, [tabindex]")].indexOf(focused) : -1;
  target.replaceChildren(...fresh.childNodes);
  if (focused) target.querySelectorAll("a, button, [tabindex]")[among]?.focus({ preventScroll: true });
  if (!mark) return;
  target.classList.remove("changed");
  void target.offsetWidth;
  target.classList.add("changed");
}

function patchRow(element, row) {
  element.dataset.status = row.status;
  element.dataset.stale = row.is_stale;
  element.dataset.openGaps = row.open_gaps;
  for (const [column, content] of Object.entries(CELLS)) {
    const cell = element.querySelector(`[data-col="${column}"]`);
    const { nodes, value } = content(row, cell);
    cell.dataset.v = value;
    replace(cell, nodes, column === "status");
  }
}

function patchRows(found, newest) {
  const wanted = new Map(found.assets.map((row) => [`${row.market}/${row.asset}/${row.interval}`, row]));
  for (const element of rows()) {
    const row = wanted.get(element.dataset.key);
    row ? patchRow(element, row) : element.remove();
    wanted.delete(element.dataset.key);
  }
  // A symbol that was enabled since: its row comes from the page, which knows how to make one.
  for (const key of wanted.keys()) {
    const made = newest.querySelector(`tr[data-key="${CSS.escape(key)}"]`);
    if (made) byId("series").tBodies[0].append(document.adoptNode(made));
  }
}

function patchParts(newest) {
  for (const part of document.querySelectorAll("[data-part]")) {
    const made = newest.querySelector(`[data-part="${part.dataset.part}"]`);
    if (made) replace(part, [...made.childNodes], false);
  }
  document.title = newest.title;
}

async function load(asked) {
  const [found, newest] = await Promise.all([summary(), page()]);
  const scroll = [scrollX, scrollY];
  if (found) {
    patchRows(found, newest);
    current = new Date(found.generated_at);
  }
  patchParts(newest);
  apply(false);
  scrollTo(...scroll);
  const stale = rows().filter((row) => row.dataset.stale === "true").length;
  const asOf = current.toISOString();
  byId("as-of").dateTime = asOf;
  byId("as-of").textContent = asOf.slice(11, 19);
  byId("warning").hidden = true;
  if (found || asked) byId("announce").textContent = `Updated at ${asOf.slice(11, 19)} UTC, ${plural(stale, "series is", "series are")} stale`;
  document.dispatchEvent(new CustomEvent("refreshed", { detail: { changed: Boolean(found) } }));
}

function failed() {
  const warning = byId("warning");
  const age = Math.max(0, (Date.now() - current) / 60_000);
  warning.textContent = `The newest state could not be fetched. What you see is ${age < 1 ? "less than a minute" : span(age)} old; the page tries again by itself.`;
  warning.hidden = false;
}

/** Refresh once; a second call while one is under way waits for that one. */
export function refresh(asked = false) {
  running ??= (async () => {
    clearTimeout(timer);
    button.setAttribute("aria-busy", "true");
    try {
      await load(asked);
    } catch {
      failed();
    } finally {
      button.removeAttribute("aria-busy");
      running = null;
      schedule();
    }
  })();
  return running;
}

function schedule() {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(refresh, EVERY);
}

export function start() {
  button.addEventListener("click", (event) => { event.preventDefault(); refresh(true); });
  button.addEventListener("keydown", (event) => { if (event.key === " ") { event.preventDefault(); refresh(true); } });
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    byId("announce").textContent = paused ? "Automatic refresh is paused" : "Automatic refresh is on, every 30 seconds";
    paused ? schedule() : refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || paused) schedule();
    else if (Date.now() - current > EVERY) refresh();
    else schedule();
  });
  schedule();
}
