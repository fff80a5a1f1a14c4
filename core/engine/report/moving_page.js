"use strict";
// Steps through the scans that the page holds. The address names the scan: #scan=08/000012.
const data = JSON.parse(document.getElementById("data").textContent);
const scans = data.scans;
const find = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const METRICS = ["iou", "precision", "recall"];
const LEFT = 40, RIGHT = 990, TOP = 10, BOTTOM = 165; // of the chart
let current = 0;
let timer = null;

const percent = (value) => (value === null ? "–" : value.toFixed(1) + " %");
const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");

function row(parts) {
  for (const [tag, text, kind] of parts) {
    const cell = document.createElement(tag);
    cell.textContent = text;
    if (kind) cell.className = kind;
    find("facts").append(cell);
  }
}

function show(index) {
  current = Math.max(0, Math.min(scans.length - 1, index));
  const scan = scans[current];
  find("picture").src = "data:image/png;base64," + scan.picture;
  find("slider").value = current;
  find("token").textContent = scan.token;
  find("place").textContent = "scan " + (current + 1) + " of " + scans.length;
  find("facts").replaceChildren();
  row([["span", "", "head"], ["span", "this scan", "head"], ["span", "all shown", "head"]]);
  const named = { iou: "moving IoU", precision: "precision", recall: "recall" };
  for (const [key, name] of Object.entries(named)) {
    row([["div", name], ["b", percent(scan[key])], ["span", percent(data.overall[key])]]);
  }
  const counted = { hits: "TP", false: "FP", missed: "FN" };
  for (const [key, name] of Object.entries(counted)) {
    row([["div", name + ", points"], ["b", grouped(scan[key])], ["span", grouped(data.overall[key])]]);
  }
  const x = across(current);
  find("cursor").setAttribute("x1", x);
  find("cursor").setAttribute("x2", x);
  history.replaceState(null, "", "#scan=" + scan.token);
}

function across(index) {
  return scans.length > 1 ? LEFT + ((RIGHT - LEFT) * index) / (scans.length - 1) : (LEFT + RIGHT) / 2;
}

function drawn(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  find("chart").append(element);
}

function chart() {
  const height = (value) => BOTTOM - ((BOTTOM - TOP) * value) / 100;
  for (const tick of [0, 25, 50, 75, 100]) {
    drawn("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: height(tick), y2: height(tick) });
    drawn("text", { class: "tick", x: LEFT - 8, y: height(tick) + 4, "text-anchor": "end" }, tick);
  }
  const last = scans.length - 1;
  for (const index of new Set([0, last])) {
    const anchor = index === 0 ? "start" : "end";
    drawn("text", { class: "tick", x: across(index), y: BOTTOM + 18, "text-anchor": anchor }, scans[index].token);
  }
  METRICS.forEach((metric, number) => {
    let path = "";
    let pen = "M"; // a scan without a value leaves a gap
    scans.forEach((scan, index) => {
      if (scan[metric] === null) {
        pen = "M";
        return;
      }
      path += pen + across(index).toFixed(1) + " " + height(scan[metric]).toFixed(1);
      pen = "L";
    });
    drawn("path", { class: "curve s" + number, d: path });
  });
  drawn("line", { class: "cursor", id: "cursor", x1: 0, x2: 0, y1: TOP, y2: BOTTOM });
}

function play(on) {
  clearInterval(timer);
  timer = null;
  find("play").textContent = on ? "Pause" : "Play";
  if (on) timer = setInterval(() => show((current + 1) % scans.length), 1000 / Number(find("rate").value));
}

function worst() {
  let lowest = -1;
  scans.forEach((scan, index) => {
    if (scan.iou !== null && (lowest < 0 || scan.iou < scans[lowest].iou)) lowest = index;
  });
  play(false);
  if (lowest >= 0) show(lowest);
}

function step(by) {
  play(false);
  show(current + by);
}

const KEYS = {
  " ": () => play(timer === null),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => step(-scans.length),
  End: () => step(scans.length),
  w: worst,
};

function fragment() {
  try {
    return decodeURIComponent(location.hash);
  } catch {
    return ""; // no text of this page's making
  }
}

function asked() {
  const token = fragment().replace("#scan=", "");
  const index = scans.findIndex((scan) => scan.token === token);
  return Math.max(index, 0);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});
for (const button of document.querySelectorAll("button")) {
  button.addEventListener("click", () => button.blur()); // else the space bar would press it too
}
find("play").addEventListener("click", () => play(timer === null));
find("back").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("worst").addEventListener("click", worst);
find("slider").addEventListener("input", (event) => {
  play(false);
  show(Number(event.target.value));
});
find("rate").addEventListener("change", () => play(timer !== null));
find("chart").addEventListener("click", (event) => {
  const box = find("chart").getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * 1000;
  play(false);
  show(Math.round(((x - LEFT) / (RIGHT - LEFT)) * (scans.length - 1)));
});
addEventListener("hashchange", () => show(asked()));
chart();
show(asked());
