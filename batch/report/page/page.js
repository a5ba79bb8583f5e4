"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const { states, keys, sources, clones, names, state, attempts, codes, code, errors, error, hints, hint, bars, pauses, words } = data;
const count = keys.length, PAGE = 100;
let language = "en", shown = [], page = 0, from = 0, to = data.end, column = -1, descending = false, isPrinting = false;

const say = (word) => words[language][word] || words.en[word] || word;
const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
const source = (i) => sources[i] || keys[i];
const seconds = (ms) => (ms / 1000).toLocaleString(language, { maximumFractionDigits: ms < 1e4 ? 2 : 0 });
const clock = (ms) => {
  const all = Math.round(ms / 1000), h = Math.floor(all / 3600), m = Math.floor(all / 60) % 60, s = all % 60;
  return h ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}` : `${m}:${String(s).padStart(2, "0")}`;
};
const advised = (i) => errors[error[i]] + (hint[i] ? ` (${say(hints[hint[i]])})` : "");
const trouble = (i) => [codes[code[i]], advised(i)].filter(Boolean).join(": ");

// A bar: target, lane, start, milliseconds to acceptance (-1: never), milliseconds to the end, state, later attempts.
const parsed = bars.map((b) => ({ target: b[0], lane: b[1], start: b[2], accepted: b[3] < 0 ? null : b[2] + b[3], end: b[2] + b[4], state: states[b[5]], again: b.slice(6).map((at) => b[2] + at) }));
const took = new Map(parsed.map((b) => [b.target, b.end - b.start]));
const laneCount = parsed.reduce((most, b) => Math.max(most, b.lane + 1), 1);
const byLane = Array.from({ length: laneCount }, () => []);
for (const bar of parsed) byLane[bar.lane].push(bar);

function sheet(canvas, height) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return { pen, width, height };
}

const LEFT = 46, BOTTOM = 18;
const across = (width, low, high) => (ms) => LEFT + ((ms - low) / Math.max(1, high - low)) * (width - LEFT - 4);

function hatch(pen, x, wide, height) {
  pen.save();
  pen.beginPath();
  pen.rect(x, 0, wide, height);
  pen.clip();
  pen.globalAlpha = 0.45;
  pen.strokeStyle = colour("pause");
  pen.beginPath();
  for (let at = x - height; at < x + wide; at += 6) { pen.moveTo(at, height); pen.lineTo(at + height, 0); }
  pen.stroke();
  pen.restore();
}

// A fill that differs from a plain one also without colour: stripes of the paper.
function striped(pen, name, way) {
  const tile = document.createElement("canvas"), inner = tile.getContext("2d");
  tile.width = tile.height = 6;
  inner.fillStyle = colour(name);
  inner.fillRect(0, 0, 6, 6);
  inner.strokeStyle = colour("paper");
  inner.beginPath();
  for (const at of [-6, 0, 6]) { inner.moveTo(at, way > 0 ? 6 : 0); inner.lineTo(at + 6, way > 0 ? 0 : 6); }
  inner.stroke();
  return pen.createPattern(tile, "repeat");
}

function drawPauses(pen, width, foot, x) {
  for (const [start, end] of pauses) {
    const left = Math.max(LEFT, x(start)), right = Math.min(width - 4, x(end));
    if (right <= left) continue;
    pen.globalAlpha = 0.7;
    pen.fillStyle = colour("paper");
    pen.fillRect(left, 0, right - left, foot);
    pen.globalAlpha = 1;
    hatch(pen, left, Math.max(2, right - left), foot);
  }
}

function frame(pen, width, height, low, high) {
  const x = across(width, low, high), foot = height - BOTTOM;
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400].map((s) => s * 1000);
  const step = steps.find((s) => (high - low) / s <= 9) || Math.ceil((high - low) / 9);
  pen.fillStyle = colour("faint");
  pen.strokeStyle = colour("line");
  pen.textAlign = "center";
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) {
    pen.beginPath();
    pen.moveTo(x(at), 0);
    pen.lineTo(x(at), foot);
    pen.stroke();
    if (x(at) < width - 20) pen.fillText(step < 1000 ? seconds(at) : clock(at), x(at), height - 4);
  }
  pen.textAlign = "right";
  return { x, foot };
}

function drawProgress() {
  const { pen, width, height } = sheet($("progress"), 150);
  const { x, foot } = frame(pen, width, height, 0, data.end);
  drawPauses(pen, width, foot, x);
  const y = (n) => foot - (n / Math.max(1, count)) * (foot - 14);
  const ends = parsed.filter((b) => ["cloned", "failed", "conflict"].includes(b.state)).sort((a, b) => a.end - b.end);
  const curve = (wanted, stroke, fill) => {
    let n = 0;
    pen.beginPath();
    pen.moveTo(LEFT, foot);
    for (const bar of ends) {
      if (!wanted(bar)) continue;
      pen.lineTo(x(bar.end), y(n));
      n += 1;
      pen.lineTo(x(bar.end), y(n));
    }
    pen.lineTo(x(data.end), y(n));
    pen.strokeStyle = pen.fillStyle = stroke;
    pen.lineWidth = 2;
    pen.stroke();
    if (fill) {
      pen.lineTo(x(data.end), foot);
      pen.globalAlpha = 0.15;
      pen.fill();
      pen.globalAlpha = 1;
    }
    return n;
  };
  pen.fillStyle = colour("faint");
  pen.fillText(String(count), LEFT - 6, 18);
  pen.fillText("0", LEFT - 6, foot);
  curve((b) => b.state === "cloned", colour("cloned"), true);
  if (ends.some((b) => b.state !== "cloned")) curve((b) => b.state !== "cloned", colour("failed"), false);
  pen.lineWidth = 1;
}

let laneHeight = 1, laneFoot = 0;
function drawLanes() {
  laneHeight = Math.max(1, Math.min(16, 420 / laneCount));
  const { pen, width, height } = sheet($("lanes"), Math.max(60, laneCount * laneHeight) + BOTTOM + 2);
  const { x, foot } = frame(pen, width, height, from, to);
  laneFoot = foot;
  const paint = {};
  for (const name of [...states, "retry"]) paint[name] = colour(name) || colour("planned");
  paint.accepted = paint.undone = paint.sent;
  const thick = Math.max(1, laneHeight - (laneHeight > 3 ? 1 : 0));
  const bad = new Set(["failed", "conflict", "uncertain"]);
  if (thick >= 4) for (const name of bad) paint[name] = striped(pen, name, name === "uncertain" ? -1 : 1);
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, width - LEFT, height);
  pen.clip();
  const draw = (bar) => {
    if (bar.end < from || bar.start > to) return;
    const y = bar.lane * laneHeight, left = x(bar.start), right = Math.max(left + 1, x(bar.end) - 0.6);
    if (bad.has(bar.state)) { pen.fillStyle = paint[bar.state]; pen.fillRect(left, y, Math.max(2, right - left), thick); }
    else {
      pen.fillStyle = paint.sent;
      pen.fillRect(left, y, Math.max(0.5, right - left), thick);
      const made = bar.accepted === null ? left : Math.min(right - 1, x(bar.accepted));
      pen.fillStyle = paint[bar.state];
      pen.fillRect(made, y, Math.max(1, right - made), thick);
    }
    pen.fillStyle = paint.retry;
    for (const at of bar.again) pen.fillRect(x(at) - 0.75, y, 1.5, thick);
  };
  parsed.forEach((bar) => bad.has(bar.state) || draw(bar));
  parsed.forEach((bar) => bad.has(bar.state) && draw(bar));
  pen.restore();
  drawPauses(pen, width, foot, x);
  pen.fillStyle = colour("faint");
  const every = Math.max(1, Math.ceil(laneCount / 12));
  for (let lane = 0; lane < laneCount; lane += every) pen.fillText(String(lane + 1), LEFT - 6, lane * laneHeight + Math.max(9, laneHeight / 2 + 4));
}

const timeAt = (px) => from + ((px - LEFT) / Math.max(1, $("lanes").clientWidth - LEFT - 4)) * (to - from);
function barAt(px, py) {
  const row = byLane[Math.floor(py / laneHeight)];
  if (!row || py >= laneFoot) return null;
  const at = timeAt(px), slack = ((to - from) / $("lanes").clientWidth) * 2;
  let low = 0, high = row.length;
  while (low < high) { const half = (low + high) >> 1; if (row[half].start <= at + slack) low = half + 1; else high = half; }
  const bar = row[low - 1];
  return bar && bar.end + slack >= at ? bar : null;
}
function point(event) {
  const bar = barAt(event.offsetX, event.offsetY), tip = $("tip");
  tip.hidden = !bar;
  if (!bar) return;
  const i = bar.target;
  const lines = [keys[i], `${source(i)} → ${clones[i] || "–"}`, `${say(bar.state)} · ${seconds(bar.end - bar.start)} s` + (bar.again.length ? ` · ${say("attempts")}: ${bar.again.length + 1}` : "")];
  if (bar.state !== "cloned" && trouble(i)) lines.push(trouble(i));
  tip.textContent = lines.join("\n");
  tip.style.left = Math.max(0, Math.min(event.offsetX + 14, $("lanes").clientWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = event.offsetY + 16 + "px";
}
function zoom(low, high) {
  const wide = Math.max(Math.min(high - low, data.end), Math.min(50, data.end));
  from = Math.max(0, Math.min(low, data.end - wide));
  to = from + wide;
  drawLanes();
}
const scale = (factor, at = (from + to) / 2) => zoom(at - (at - from) * factor, at + (to - at) * factor);
const whole = () => zoom(0, data.end);
const lanes = $("lanes"), pointers = new Map();
let grip = null, pinch = null;
lanes.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, event.offsetX);
  const [one, other] = pointers.values();
  grip = pointers.size === 1 ? one : null;
  pinch = pointers.size === 2 ? { apart: Math.abs(one - other), at: timeAt((one + other) / 2), from, to } : null;
  point(event);
});
lanes.addEventListener("pointermove", (event) => {
  point(event);
  if (!pointers.has(event.pointerId)) return;
  pointers.set(event.pointerId, event.offsetX);
  const [one, other] = pointers.values();
  if (pinch) {
    const factor = pinch.apart / Math.max(10, Math.abs(one - other));
    zoom(pinch.at - (pinch.at - pinch.from) * factor, pinch.at + (pinch.to - pinch.at) * factor);
  }
});
lanes.addEventListener("pointerup", (event) => {
  if (grip !== null && Math.abs(event.offsetX - grip) > 8) zoom(timeAt(Math.min(grip, event.offsetX)), timeAt(Math.max(grip, event.offsetX)));
});
for (const end of ["pointerup", "pointercancel", "pointerleave"]) lanes.addEventListener(end, (event) => {
  pointers.delete(event.pointerId);
  grip = pinch = null;
  if (end !== "pointerup") $("tip").hidden = true;
});
lanes.addEventListener("dblclick", whole);
lanes.addEventListener("keydown", (event) => {
  const step = (to - from) / 4;
  const action = { "+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), ArrowLeft: () => zoom(from - step, to - step), ArrowRight: () => zoom(from + step, to + step), Home: whole, Escape: whole }[event.key];
  if (action) { event.preventDefault(); action(); }
});
$("closer").addEventListener("click", () => scale(0.5));
$("wider").addEventListener("click", () => scale(2));
$("whole").addEventListener("click", whole);

let texts = [];
function find() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), wanted = $("state").value;
  shown = [];
  for (let i = 0; i < count; i += 1) if ((!wanted || states[state[i]] === wanted) && words.every((word) => texts[i].includes(word))) shown.push(i);
  arrange();
}
const URGENT = ["failed", "conflict", "uncertain", "sent", "accepted", "planned", "undone", "cloned", "withdrawn"];
const urgency = states.map((name) => URGENT.indexOf(name));
const VALUES = [(i) => keys[i], source, (i) => clones[i], (i) => names[i], (i) => urgency[state[i]], (i) => attempts[i], (i) => took.get(i) || 0, trouble];
function arrange() {
  const value = VALUES[column < 0 ? 4 : column], way = descending ? -1 : 1;
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, language, { numeric: true }));
  shown = shown.map((i) => [value(i), i]).sort((a, b) => way * compare(a[0], b[0]) || a[1] - b[1]).map((pair) => pair[1]);
  page = 0;
  turn();
}
const heads = [...document.querySelectorAll("#targets th")];
heads.forEach((head, number) => head.firstChild.addEventListener("click", () => {
  descending = column === number && !descending;
  column = number;
  heads.forEach((other) => other.setAttribute("aria-sort", other !== head ? "none" : descending ? "descending" : "ascending"));
  arrange();
}));
async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch {
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.classList.add("done");
  $("found").textContent = `${say("copied")}: ${text}`;
  setTimeout(() => button.classList.remove("done"), 1500);
}
function turn() {
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  page = Math.max(0, Math.min(page, pages - 1));
  const body = document.createDocumentFragment();
  for (const i of isPrinting ? shown : shown.slice(page * PAGE, (page + 1) * PAGE)) {
    const row = document.createElement("tr"), name = states[state[i]];
    const time = took.has(i) && name !== "planned" ? seconds(took.get(i)) : "";
    for (const text of [keys[i], source(i), clones[i], names[i], say(name), attempts[i] || "", time, trouble(i)]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    row.cells[4].className = "s " + name;
    for (const cell of [row.cells[1], row.cells[2]]) {
      const text = cell.textContent;
      if (!text) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.setAttribute("aria-label", `${say("copy")} ${text}`);
      button.addEventListener("click", () => copy(text, button));
      cell.append(" ", button);
    }
    body.append(row);
  }
  $("rows").replaceChildren(body);
  $("found").textContent = `${shown.length.toLocaleString(language)} / ${count.toLocaleString(language)}`;
  $("page").textContent = `${page + 1} / ${pages}`;
  $("back").disabled = page === 0;
  $("next").disabled = page === pages - 1;
}
$("search").addEventListener("input", find);
$("state").addEventListener("change", find);
$("back").addEventListener("click", () => { page -= 1; turn(); });
$("next").addEventListener("click", () => { page += 1; turn(); });

const FORMULA = /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212\t\r\n\0]/;
const cell = (value) => `"${(FORMULA.test(value) ? "'" : "") + String(value).replaceAll('"', '""')}"`;
$("csv").addEventListener("click", () => {
  const lines = [["key", "source_uuid", "clone_uuid", "name", "state", "attempts", "error_code", "error"]];
  for (const i of shown) lines.push([keys[i], source(i), clones[i], names[i], states[state[i]], String(attempts[i]), codes[code[i]], advised(i)]);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff" + lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.download = data.file + ".csv";
  link.click();
  URL.revokeObjectURL(link.href);
});

function speak(chosen) {
  language = chosen;
  texts = keys.map((key, i) => [key, sources[i], clones[i], names[i], trouble(i)].join("\n").toLowerCase());
  root.lang = chosen === "zh" ? "zh-CN" : "en";
  for (const item of document.querySelectorAll("[data-t]")) item.textContent = say(item.dataset.t);
  for (const item of document.querySelectorAll("[data-a]")) item.setAttribute("aria-label", say(item.dataset.a));
  for (const item of document.querySelectorAll("[data-p]")) item.placeholder = say(item.dataset.p);
  $("language").textContent = chosen === "zh" ? "English" : "中文";
  const before = $("state").value, options = ["", ...states.filter((_, number) => state.includes(number))];
  $("state").replaceChildren(...options.map((name) => new Option(name ? say(name) : say("every_state"), name)));
  $("state").value = before;
  turn();
}
for (const [name, is] of [["beforeprint", true], ["afterprint", false]]) window.addEventListener(name, () => { isPrinting = is; turn(); });
function draw() { drawProgress(); drawLanes(); }
function shade(theme) { root.dataset.theme = theme; draw(); }
$("language").addEventListener("click", () => { speak(language === "zh" ? "en" : "zh"); draw(); });
$("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  shade(dark ? "light" : "dark");
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
let width = 0;
new ResizeObserver(() => { if (width !== root.clientWidth) { width = root.clientWidth; draw(); } }).observe(root);

const asked = new URLSearchParams(location.hash.slice(1));
if (asked.get("theme")) root.dataset.theme = asked.get("theme");
language = "en";
find();
speak(asked.get("lang") || ((navigator.language || "").startsWith("zh") ? "zh" : "en"));
width = root.clientWidth;
draw();
root.dataset.ready = String(Math.round(performance.now()));
})();
