// The coverage map on a canvas: a row for each symbol, a column for each partition. The table beside it says the same
// of every cell that lacks bars; arrow keys move through the cells.

import { coverage } from "./client.js";

const canvas = document.getElementById("heat");
const frame = canvas.parentElement;
const reading = document.getElementById("heat-reading");
const buttons = [...document.querySelectorAll(".segments button")];
const NAMES = 104;
const FOOT = 22;

let grid = null;
let interval = "minute";
let spot = null;
let layout = null;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw() {
  if (!grid || !frame.clientWidth) return;
  const { partitions, series } = grid;
  const left = series.length ? NAMES : 0;
  const width = Math.max(frame.clientWidth, left + partitions.length * 4);
  const step = (width - left) / Math.max(1, partitions.length);
  const row = Math.max(5, Math.min(18, Math.floor(440 / Math.max(1, series.length))));
  const height = series.length * row + FOOT;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  layout = { left, step, row };
  const tones = { full: colour("--fill"), part: colour("--part"), none: colour("--none") };
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  pen.textBaseline = "middle";
  pen.font = `${Math.min(12, row)}px ${getComputedStyle(document.body).fontFamily}`;
  series.forEach(({ asset, stored, due }, y) => {
    pen.fillStyle = colour("--soft");
    if (row >= 9) pen.fillText(asset, 0, y * row + row / 2, NAMES - 8);
    due.forEach((wanted, x) => {
      if (wanted === null) return;
      const [at, top, w, h] = [left + x * step, y * row, Math.max(1, step - 1), row - 1];
      pen.fillStyle = stored[x] >= wanted ? tones.full : stored[x] ? tones.part : tones.none;
      pen.fillRect(at, top, w, h);
      // Shape as well as colour: a notch where some are missing, a bar through the cell where all are.
      if (stored[x] < wanted) {
        pen.fillStyle = colour("--surface");
        stored[x] ? pen.fillRect(at, top + h / 2, Math.max(1, w / 2), Math.max(1, h / 2)) : pen.fillRect(at, top + h / 2 - 1, w, 2);
      }
    });
  });
  pen.fillStyle = colour("--soft");
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  let free = left;
  partitions.forEach((key, x) => {
    const first = interval === "minute" ? key.endsWith("-01") : key.endsWith("-01") || x === 0;
    const label = interval === "minute" ? key.slice(0, 7) : key.slice(0, 4);
    const at = left + x * step;
    if ((first || x === 0) && at >= free && at + 52 <= width) {
      pen.fillText(label, at, height - FOOT / 2 + 2);
      free = at + 58;
    }
  });
  if (spot) {
    pen.strokeStyle = colour("--text");
    pen.lineWidth = 1.5;
    pen.strokeRect(left + spot.x * step - 1, spot.y * row - 1, step + 1, row + 1);
  }
}

function read() {
  const { partitions, series } = grid;
  const { market, asset, stored, due } = series[spot.y];
  const wanted = due[spot.x];
  const held = stored[spot.x];
  const what =
    wanted === null ? "nothing is due"
      : held >= wanted ? `complete, ${held.toLocaleString("en")} bars`
        : `${held.toLocaleString("en")} of ${wanted.toLocaleString("en")} bars, ${(wanted - held).toLocaleString("en")} missing`;
  reading.textContent = `${asset} ${market}, ${partitions[spot.x]}: ${what}`;
}

function go(x, y) {
  if (!grid?.series.length) return;
  const limit = (value, size) => Math.max(0, Math.min(size - 1, value));
  spot = { x: limit(x, grid.partitions.length), y: limit(y, grid.series.length) };
  draw();
  read();
}

async function show() {
  try {
    grid = await coverage(interval);
    draw();
  } catch {
    reading.textContent = "The map could not be fetched. The table beside it is complete.";
  }
}

export function start() {
  const here = (event) => [Math.floor((event.offsetX - layout.left) / layout.step), Math.floor(event.offsetY / layout.row)];
  canvas.addEventListener("pointermove", (event) => layout && go(...here(event)));
  canvas.addEventListener("pointerleave", () => { spot = null; draw(); });
  canvas.addEventListener("click", (event) => {
    if (!layout) return;
    const row = grid.series[here(event)[1]];
    if (row) location.href = `/status/${row.market}/${row.asset}/${interval}`;
  });
  frame.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move || !grid?.series.length) return;
    event.preventDefault();
    const from = spot ?? { x: grid.partitions.length - 1 - move[0], y: 0 - move[1] };
    go(from.x + move[0], from.y + move[1]);
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      interval = button.dataset.interval;
      spot = null;
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      show();
    });
  }
  reading.setAttribute("aria-live", "polite");
  new ResizeObserver(draw).observe(frame);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.addEventListener("refreshed", (event) => event.detail.changed && show());
  // The map is below the table: it waits until it is about to be seen.
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    show();
  }, { rootMargin: "400px" });
  seen.observe(frame);
}
