// How values are written: the same as the templates write them (service/views.py).

const DASH = "–";

export function span(minutes) {
  if (minutes === null) return DASH;
  const whole = Math.floor(minutes);
  if (whole < 120) return `${whole} min`;
  const hours = Math.floor(whole / 60);
  return hours < 48 ? `${hours} h ${whole % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const when = (instant) => (instant === null ? DASH : instant.slice(0, 16).replace("T", " "));

export const percent = (value) => (value === null ? DASH : `${value.toFixed(2)} %`);

export const grade = (coverage) => (coverage === null || coverage < 95 ? "low" : coverage >= 99.5 ? "full" : "part");

export const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
