"use strict";
// Similarity of one feature to all others, in the basis that the page's bytes are coefficients of.
// The address names the question: #point=12, #pixel=CAMERA,column,row, #superpixel=CAMERA,label.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

const floats = (text) => new Float32Array(bytes(text).buffer);
const points = floats(data.points);
const count = points.length / 3;
const [ofPoints, ofPixels, ofSuperpixels] = data.features.map((part) => ({ ...part, values: bytes(part.values) }));
const colors = data.colors.map(bytes);
const scale = bytes(data.scale);
let offset = 0;
let firstSuperpixel = 0;
const cameras = data.cameras.map((camera) => {
  const ready = {
    ...camera,
    first: offset,
    firstSuperpixel,
    seen: new Uint32Array(bytes(camera.seen).buffer),
    places: floats(camera.places),
    labels: camera.labels === null ? null : new Uint16Array(bytes(camera.labels).buffer),
  };
  offset += camera.grid[0] * camera.grid[1];
  firstSuperpixel += camera.superpixels;
  return ready;
});

const NO_LABEL = 65535;
const DIM = [52, 57, 66];
const view = { x: 0, y: 0, extent: data.extent }; // m: the middle of the cloud's canvas, and half its width
let query = null;
let toPoints = null; // similarities
let toPixels = null;
let ends = [[-1, 1], [-1, 1]]; // of the scale of points, and of that of pixels

// --- similarities ----------------------------------------------------------------------------------------------------
function coefficients(part, row) {
  const width = part.low.length;
  const found = new Float64Array(width);
  for (let k = 0; k < width; k++) found[k] = part.low[k] + part.step[k] * part.values[row * width + k];
  return found;
}

function similarities(part, asked) {
  const width = part.low.length;
  const found = new Float32Array(part.values.length / width);
  const weights = new Float64Array(width);
  let constant = 0;
  for (let k = 0; k < width; k++) {
    weights[k] = part.step[k] * asked[k];
    constant += part.low[k] * asked[k];
  }
  for (let i = 0, at = 0; i < found.length; i++) {
    let sum = constant;
    for (let k = 0; k < width; k++) sum += weights[k] * part.values[at++];
    found[i] = Math.max(-1, Math.min(1, sum)); // no cosine lies outside
  }
  return found;
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

function ask(next) {
  query = next;
  const sources = { point: ofPoints, pixel: ofPixels, superpixel: ofSuperpixels };
  const asked = coefficients(sources[query.kind], query.row);
  toPoints = similarities(ofPoints, asked);
  toPixels = similarities(ofPixels, asked);
  history.replaceState(null, "", address());
  spread();
  draw();
}

function address() {
  if (query.kind === "point") return "#point=" + query.row;
  const name = cameras[query.camera].name;
  if (query.kind === "superpixel") return "#superpixel=" + name + "," + query.label;
  return "#pixel=" + name + "," + query.column + "," + query.line;
}

function range(values) {
  const sorted = values.slice().sort();
  const low = quantile(sorted, 0.01);
  return [low, Math.max(quantile(sorted, 0.999), low + 0.001)];
}

function spread() {
  const wanted = find("span").value;
  ends = [[-1, 1], [-1, 1]];
  if (wanted === "apart") ends = [range(toPoints), range(toPixels)];
  if (wanted === "both") {
    const all = new Float32Array(toPoints.length + toPixels.length);
    all.set(toPoints);
    all.set(toPixels, toPoints.length);
    ends = [range(all), range(all)];
  }
}

function askPixel(camera, column, line) {
  const one = cameras[camera];
  const across = Math.min(one.grid[0] - 1, Math.floor((column * one.grid[0]) / one.size[0]));
  const down = Math.min(one.grid[1] - 1, Math.floor((line * one.grid[1]) / one.size[1]));
  ask({ kind: "pixel", camera, column, line, row: one.first + down * one.grid[0] + across });
}

function askSuperpixel(camera, label) {
  find("kind").value = "superpixel";
  ask({ kind: "superpixel", camera, label, row: cameras[camera].firstSuperpixel + label });
}

// --- colours ---------------------------------------------------------------------------------------------------------
const threshold = () => Number(find("threshold").value);
const byFeatures = () => find("mode").value === "features";

function shade(set, value) {
  const [low, high] = ends[set];
  return 3 * Math.max(0, Math.min(255, Math.round((255 * (value - low)) / (high - low))));
}

function colorOf(set, values, row) {
  if (byFeatures()) return [colors[set][3 * row], colors[set][3 * row + 1], colors[set][3 * row + 2]];
  if (values[row] < threshold()) return null;
  const at = shade(set, values[row]);
  return [scale[at], scale[at + 1], scale[at + 2]];
}

// --- the cloud -------------------------------------------------------------------------------------------------------
const cloud = find("cloud");

function toCanvas(x, y) {
  const half = cloud.width / 2;
  return [half * (1 + (x - view.x) / view.extent), half * (1 - (y - view.y) / view.extent)];
}

function drawCloud() {
  const size = Math.round(cloud.clientWidth * Math.min(2, devicePixelRatio));
  cloud.width = cloud.height = size;
  const context = cloud.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#0d1016";
  context.fillRect(0, 0, size, size);
  context.strokeStyle = "#262c36";
  const [sensorX, sensorY] = toCanvas(0, 0);
  for (let radius = 10; radius <= 100; radius += 10) {
    context.beginPath();
    context.arc(sensorX, sensorY, (radius / view.extent) * (size / 2), 0, 7);
    context.stroke();
  }
  const image = context.getImageData(0, 0, size, size);
  const side = Math.max(2, Math.min(9, Math.round((size / 300) * (data.extent / view.extent) ** 0.5)));
  for (const row of drawingOrder()) {
    const color = colorOf(0, toPoints, row) || DIM;
    const [x, y] = toCanvas(points[3 * row], points[3 * row + 1]);
    square(image, Math.round(x - side / 2), Math.round(y - side / 2), side, color);
  }
  context.putImageData(image, 0, 0);
  context.fillStyle = "#fff";
  context.fillRect(sensorX - 3, sensorY - 3, 6, 6);
  if (query.kind === "point") ring(context, ...toCanvas(points[3 * query.row], points[3 * query.row + 1]), size / 70);
}

function drawingOrder() {
  const order = new Uint32Array(count);
  for (let i = 0; i < count; i++) order[i] = i;
  if (byFeatures()) return order.sort((a, b) => points[3 * a + 2] - points[3 * b + 2]); // the higher covers
  return order.sort((a, b) => toPoints[a] - toPoints[b]);
}

function square(image, left, top, side, color) {
  const right = Math.min(image.width, left + side);
  const bottom = Math.min(image.height, top + side);
  for (let y = Math.max(0, top); y < bottom; y++) {
    for (let x = Math.max(0, left); x < right; x++) {
      const at = 4 * (y * image.width + x);
      image.data[at] = color[0];
      image.data[at + 1] = color[1];
      image.data[at + 2] = color[2];
    }
  }
}

function ring(context, x, y, radius) {
  for (const [color, width] of [["#000", 6], ["#50fff0", 3]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.stroke();
  }
  context.lineWidth = 1;
}

function nearest(x, y) {
  let best = -1;
  let least = Infinity;
  for (let i = 0; i < count; i++) {
    const distance = (points[3 * i] - x) ** 2 + (points[3 * i + 1] - y) ** 2;
    if (distance < least) {
      least = distance;
      best = i;
    }
  }
  return best;
}

function placeIn(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function inMetres(event) {
  const [x, y] = placeIn(cloud, event);
  return [view.x + (2 * x - 1) * view.extent, view.y + (1 - 2 * y) * view.extent];
}

let held = null;
cloud.addEventListener("pointerdown", (event) => {
  held = { at: inMetres(event), x: event.clientX, y: event.clientY, moved: false };
  cloud.setPointerCapture(event.pointerId);
});
cloud.addEventListener("pointermove", (event) => {
  if (held === null) return tellPoint(nearest(...inMetres(event)));
  if (Math.hypot(event.clientX - held.x, event.clientY - held.y) > 4) held.moved = true;
  if (!held.moved) return;
  const [x, y] = inMetres(event);
  view.x += held.at[0] - x;
  view.y += held.at[1] - y;
  drawCloud();
});
cloud.addEventListener("pointerup", (event) => {
  const click = held !== null && !held.moved;
  held = null;
  if (click) ask({ kind: "point", row: nearest(...inMetres(event)) });
});
cloud.addEventListener("pointercancel", () => (held = null));
cloud.addEventListener("wheel", (event) => {
  event.preventDefault();
  const [x, y] = inMetres(event);
  const extent = Math.max(2, Math.min(200, view.extent * Math.exp(0.0015 * event.deltaY)));
  view.x = x + ((view.x - x) * extent) / view.extent;
  view.y = y + ((view.y - y) * extent) / view.extent;
  view.extent = extent;
  drawCloud();
}, { passive: false });

// --- the images ------------------------------------------------------------------------------------------------------
const tell = (text) => (find("under").textContent = text);
const three = (value) => value.toFixed(3);

function tellPoint(row) {
  const place = [0, 1, 2].map((k) => points[3 * row + k].toFixed(1)).join(", ");
  tell("point " + row + " at " + place + " m: " + three(toPoints[row]));
}

function drawCamera(camera) {
  const canvas = camera.canvas;
  const context = canvas.getContext("2d");
  const [across, down] = camera.grid;
  context.filter = "grayscale(1)";
  context.drawImage(camera.image, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  const cells = new ImageData(across, down);
  for (let i = 0; i < across * down; i++) {
    const color = colorOf(1, toPixels, camera.first + i);
    if (color !== null) cells.data.set([...color, 255], 4 * i);
  }
  const small = document.createElement("canvas");
  [small.width, small.height] = camera.grid;
  small.getContext("2d").putImageData(cells, 0, 0);
  context.globalAlpha = Number(find("opacity").value);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  mark(camera, context);
}

function mark(camera, context) {
  const { width, height } = camera.canvas;
  if (query.kind === "point") {
    const at = camera.seen.indexOf(query.row);
    if (at >= 0) ring(context, camera.places[2 * at] * width, camera.places[2 * at + 1] * height, width / 60);
    return;
  }
  if (cameras[query.camera] !== camera) return;
  if (query.kind === "pixel") {
    const [x, y] = [(query.column + 0.5) / camera.size[0], (query.line + 0.5) / camera.size[1]];
    ring(context, x * width, y * height, width / 60);
    return;
  }
  outline(camera, context, query.label);
}

function outline(camera, context, label) {
  const [across, down] = camera.grid;
  const [w, h] = [camera.canvas.width / across, camera.canvas.height / down];
  const inside = (x, y) =>
    x >= 0 && y >= 0 && x < across && y < down && camera.labels[y * across + x] === label;
  context.strokeStyle = "#50fff0";
  context.lineWidth = 2;
  context.beginPath();
  for (let y = 0; y <= down; y++) {
    for (let x = 0; x <= across; x++) {
      const here = inside(x, y);
      if (here !== inside(x - 1, y)) {
        context.moveTo(x * w, y * h);
        context.lineTo(x * w, (y + 1) * h);
      }
      if (here !== inside(x, y - 1)) {
        context.moveTo(x * w, y * h);
        context.lineTo((x + 1) * w, y * h);
      }
    }
  }
  context.stroke();
}

function pixelAt(camera, event) {
  const [x, y] = placeIn(camera.canvas, event);
  const limit = (value, size) => Math.max(0, Math.min(size - 1, Math.floor(value * size)));
  return [limit(x, camera.size[0]), limit(y, camera.size[1])];
}

function cellAt(camera, column, line) {
  const across = Math.floor((column * camera.grid[0]) / camera.size[0]);
  const down = Math.floor((line * camera.grid[1]) / camera.size[1]);
  return down * camera.grid[0] + across;
}

function clicked(number, event) {
  const camera = cameras[number];
  const [column, line] = pixelAt(camera, event);
  const wanted = find("kind");
  const label = camera.labels === null ? NO_LABEL : camera.labels[cellAt(camera, column, line)];
  if (wanted !== null && wanted.value === "superpixel" && label !== NO_LABEL) askSuperpixel(number, label);
  else askPixel(number, column, line);
}

async function prepare(camera, number) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = camera.name;
  camera.canvas = document.createElement("canvas");
  [camera.canvas.width, camera.canvas.height] = camera.shown;
  camera.canvas.id = "camera-" + number;
  camera.canvas.addEventListener("click", (event) => clicked(number, event));
  camera.canvas.addEventListener("pointermove", (event) => {
    const [column, line] = pixelAt(camera, event);
    const value = toPixels[camera.first + cellAt(camera, column, line)];
    tell(camera.name + ", pixel " + column + ", " + line + ": " + three(value));
  });
  figure.append(camera.canvas, caption);
  find("cameras").append(figure);
  camera.image = new Image();
  camera.image.src = "data:image/webp;base64," + camera.picture;
  await camera.image.decode();
}

// --- the words -------------------------------------------------------------------------------------------------------
function described() {
  if (query.kind === "point") {
    const place = [0, 1, 2].map((k) => points[3 * query.row + k].toFixed(1)).join(", ");
    return "Asked: point " + query.row + " at " + place + " m";
  }
  const name = cameras[query.camera].name;
  if (query.kind === "superpixel") return "Asked: superpixel " + query.label + " of " + name;
  return "Asked: pixel " + query.column + ", " + query.line + " of " + name;
}

function summary(name, values, first, end, place) {
  let best = first;
  let above = 0;
  for (let i = first; i < end; i++) {
    if (values[i] > values[best]) best = i;
    if (values[i] >= threshold()) above += 1;
  }
  const share = ((100 * above) / Math.max(end - first, 1)).toFixed(1) + " %";
  return [name, three(values[best]), place(best), above + " of " + (end - first), share];
}

function tabulate() {
  const rows = [["", "highest", "where", "shown, at least " + threshold().toFixed(2), "share"]];
  const at = (i) => "point " + i + " at " + [0, 1, 2].map((k) => points[3 * i + k].toFixed(1)).join(", ") + " m";
  const others = toPoints.slice();
  if (query.kind === "point") others[query.row] = -Infinity; // itself
  rows.push(summary("points", others, 0, count, at));
  for (const camera of cameras) {
    const [across, down] = camera.grid;
    const pixel = (i) => {
      const cell = i - camera.first;
      const column = Math.floor((((cell % across) + 0.5) * camera.size[0]) / across);
      return "pixel " + column + ", " + Math.floor(((Math.floor(cell / across) + 0.5) * camera.size[1]) / down);
    };
    rows.push(summary(camera.name, toPixels, camera.first, camera.first + across * down, pixel));
  }
  find("best").replaceChildren();
  rows.forEach((cells, number) => {
    const row = find("best").insertRow();
    cells.forEach((text, column) => {
      const cell = document.createElement(number === 0 || column === 0 ? "th" : "td");
      cell.textContent = text;
      row.append(cell);
    });
  });
}

function legend() {
  const context = find("bar").getContext("2d");
  const row = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) row.data.set([scale[3 * i], scale[3 * i + 1], scale[3 * i + 2], 255], 4 * i);
  context.putImageData(row, 0, 0);
  const [ofCloud, ofImages] = ends.map(([low, high]) => low.toFixed(2) + " to " + high.toFixed(2));
  find("ends").textContent = ofCloud === ofImages ? ofCloud : "points " + ofCloud + ", images " + ofImages;
  find("legend").hidden = byFeatures();
  find("level").textContent = threshold().toFixed(2);
}

function draw() {
  find("asked").textContent = described();
  drawCloud();
  cameras.forEach(drawCamera);
  legend();
  tabulate();
}

function fragment() {
  try {
    return decodeURIComponent(location.hash);
  } catch {
    return ""; // no text of this page's making
  }
}

function asked() {
  const [kind, value] = fragment().slice(1).split("=");
  const [name, first, second] = (value || "").split(",");
  const camera = cameras.findIndex((one) => one.name === name);
  const within = (number, limit) => Number.isInteger(number) && number >= 0 && number < limit;
  if (kind === "point" && within(Number(value), count)) return ask({ kind: "point", row: Number(value) });
  if (kind === "superpixel" && camera >= 0 && within(Number(first), cameras[camera].superpixels)) {
    return askSuperpixel(camera, Number(first));
  }
  if (kind === "pixel" && camera >= 0) {
    const [column, line] = [Number(first), Number(second)];
    const [width, height] = cameras[camera].size;
    if (within(column, width) && within(line, height)) return askPixel(camera, column, line);
  }
  return ask({ kind: "point", row: data.query });
}

for (const id of ["mode", "threshold", "opacity"]) find(id).addEventListener("input", draw);
find("span").addEventListener("input", () => {
  spread();
  draw();
});
addEventListener("hashchange", asked);
addEventListener("resize", () => query && drawCloud());
Promise.all(cameras.map(prepare)).then(() => {
  asked();
  document.body.dataset.ready = "yes";
});
