// The candle chart of one series, drawn by uPlot (vendor/uplot), with the volume below.

import { bars } from "./client.js";

const place = document.getElementById("chart");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const buttons = [...document.querySelectorAll(".segments button")];
let chart = null;
let shown = null;

/** Draws candles on the price scale and volume on its own, over the bars that are in view. */
function candles(u) {
  const pen = u.ctx;
  const [times, open, high, low, close, volume] = u.data;
  const [first, last] = u.series[0].idxs;
  const count = Math.max(1, u.scales.x.max - u.scales.x.min + 1);
  const width = Math.max(1, Math.min(14 * devicePixelRatio, (u.bbox.width / count) * 0.7));
  const [up, down, soft] = [colour("--up"), colour("--down"), colour("--edge")];
  pen.save();
  pen.beginPath();
  pen.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  pen.clip();
  const floor = u.valToPos(0, "volume", true);
  for (let i = first; i <= last; i++) {
    const x = Math.round(u.valToPos(times[i], "x", true));
    const y = (value) => u.valToPos(value, "y", true);
    const top = u.valToPos(volume[i], "volume", true);
    pen.globalAlpha = 0.35;
    pen.fillStyle = soft;
    pen.fillRect(x - width / 2, top, width, floor - top);
    pen.globalAlpha = 1;
    pen.fillStyle = pen.strokeStyle = close[i] >= open[i] ? up : down;
    pen.lineWidth = Math.max(1, devicePixelRatio);
    pen.beginPath();
    pen.moveTo(x, y(high[i]));
    pen.lineTo(x, y(low[i]));
    pen.stroke();
    const [a, b] = [y(Math.max(open[i], close[i])), y(Math.min(open[i], close[i]))];
    const height = Math.max(1, b - a);
    // A rising candle is hollow, so that the two are told apart without colour.
    if (close[i] >= open[i] && width > 4) {
      pen.fillStyle = colour("--surface");
      pen.fillRect(x - width / 2, a, width, height);
      pen.strokeRect(x - width / 2, a, width, height);
    } else pen.fillRect(x - width / 2, a, width, height);
  }
  pen.restore();
}

function draw(found) {
  const pixels = place.clientWidth;
  const stamps = found.time;
  const daily = place.dataset.interval === "day";
  const label = (i) => {
    const instant = stamps[Math.round(i)];
    return instant === undefined ? "" : new Date(instant * 1000).toISOString().slice(0, daily ? 10 : 16).replace("T", " ");
  };
  // On the axis the date of a minute stands only where it begins.
  const ticks = (splits) => {
    let day = "";
    return splits.map((i) => {
      if (!Number.isInteger(i)) return "";
      const [date, clock] = label(i).split(" ");
      if (daily || date === day) return daily ? date : clock;
      day = date;
      return clock ? `${date.slice(5)} ${clock}` : "";
    });
  };
  // Bars stand side by side whatever time lies between them, as nights and weekends do.
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `12px ${getComputedStyle(document.body).fontFamily}` };
  const number = (_, value) => (value == null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 8 }));
  const hidden = { paths: () => null, points: { show: false } };
  const lows = (u, from, to) => {
    const [a, b] = [Math.max(0, Math.ceil(u.scales.x.min ?? 0)), Math.min(stamps.length - 1, Math.floor(u.scales.x.max ?? stamps.length))];
    let [min, max] = [Infinity, -Infinity];
    for (let i = a; i <= b; i++) [min, max] = [Math.min(min, found.low[i]), Math.max(max, found.high[i])];
    const room = (max - min || max * 0.01) * 0.06;
    return min <= max ? [min - room * 3, max + room] : [from, to];
  };
  chart?.destroy();
  chart = new uPlot(
    {
      width: pixels,
      height: place.clientHeight - 34,
      scales: { x: { time: false, range: (_, min, max) => [min - 0.6, max + 0.6] }, y: { range: lows }, volume: { range: (_, __, max) => [0, (max || 1) * 5] } },
      axes: [{ ...axis, size: 32, values: (_, splits) => ticks(splits), space: 80 }, { ...axis, side: 1, size: 72, values: (u, splits) => splits.map((v) => number(u, v)) }],
      series: [
        { label: "Bar", value: (_, i) => (i == null ? "–" : label(i)) },
        ...["Open", "High", "Low", "Close"].map((name) => ({ label: name, value: number, ...hidden })),
        { label: "Volume", scale: "volume", value: number, ...hidden },
      ],
      padding: [8, 0, 0, 36],
      cursor: { points: { show: false } },
      hooks: { draw: [candles] },
    },
    [stamps.map((_, i) => i), found.open, found.high, found.low, found.close, found.volume],
    place,
  );
}

async function show(count) {
  try {
    shown = await bars(place.dataset.bars, count);
    draw(shown);
  } catch {
    document.getElementById("reading").textContent = "The bars could not be fetched. The newest ones are in the table below.";
  }
}

if (place) {
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      show(button.dataset.count);
    });
  }
  new ResizeObserver(() => chart && chart.width !== place.clientWidth && draw(shown)).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && draw(shown));
  show(buttons[0].dataset.count);
}
