// The page: what is chosen, the list, the controls and the keys.

import {drawPlane, drawProfile, greyLevels, outline, rgb} from "./draw.js";
import {get, layerNow, prefetch} from "./layers.js";
import {markChosen, ordered, showList, showSort, worstFirst} from "./list.js";
import {fromPlane, makePlane, planeName, planeShape, toPlane} from "./planes.js";
import {drawLegend, short, showFacts, sliceText, voxelText} from "./readout.js";
import {render} from "./space.js";

const NEAR = [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6];  // slices fetched ahead
const REST = 250;  // ms on a patient before it is predicted: flipping through predicts none
const $ = id => document.getElementById(id);
const gallery = await (await get("patients.json")).json();
const COLOURS = gallery.colours;
const state = {
  patient: null,  // number in gallery.patients
  scan: null,  // of the patient; null until it is read
  prediction: null,
  position: [0, 0, 0],  // slice, row, column
  pointed: null,  // voxel under the pointer
  channel: gallery.channel,
  windows: [],  // {low, high} of each channel
  sort: {by: "patient", down: false},
  order: [],  // the list as shown: numbers in gallery.patients
  worst: [],  // all with a Dice, the worst first
  planes: [],
  space: false,
};

// ---- patient ----

function neighbour(order, by) {
  const at = order.indexOf(state.patient);
  return at < 0 ? order[0] : order[at + by];
}

function chooseNext(order, by) {
  const next = neighbour(order, by);
  if (next !== undefined) choose(next);
}

async function choose(n) {
  if (n === undefined || n === state.patient) return;
  Object.assign(state, {patient: n, scan: null, prediction: null, pointed: null});
  markChosen($("rows"), n);
  describePatient(n);
  try {
    say("Reading …");
    const scan = await (await get(`patient/${n}/scan.json`)).json();
    if (state.patient !== n) return;
    openScan(scan);
    say("Predicting …");
    await new Promise(rested => setTimeout(rested, REST));
    if (state.patient !== n) return;
    const prediction = await (await get(`patient/${n}/prediction.json`)).json();
    if (state.patient !== n) return;
    state.prediction = prediction;
    say("");
    if (!scan.truth) goToTumour();
    update();
    if (state.space) showSpace();
  } catch (error) {
    if (state.patient === n) say(error.message, true);
  }
}

function describePatient(n) {
  const row = gallery.patients[n], rank = state.worst.indexOf(n);
  $("patient").textContent = row.patient;
  $("rank").textContent = rank < 0 ? "" : `${rank + 1} of ${state.worst.length}, the worst first`;
  showFacts($("facts"), row.facts);
  $("previous-worst").disabled = neighbour(state.worst, -1) === undefined;
  $("next-worst").disabled = neighbour(state.worst, 1) === undefined;
}

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").className = wrong ? "error" : "";
}

function openScan(scan) {
  state.scan = scan;
  state.channel = Math.min(state.channel, scan.channels.length - 1);
  state.windows = scan.channels.map(({low, high}) => ({low, high}));
  $("channel").replaceChildren(...scan.channels.map((_, c) => new Option(`${c + 1} of ${scan.channels.length}`, c)));
  $("channel-row").hidden = scan.channels.length < 2;
  state.planes = [0, 1, 2].slice(0, scan.num_planes).map(axis => makePlane(scan, axis, actions));
  $("planes").className = scan.num_planes === 3 ? "three" : "";
  $("planes").replaceChildren(...state.planes.map(plane => plane.root));
  state.planes.forEach(plane => resized.observe(plane.canvas));
  state.position = scan.shape.map(size => size >> 1);
  goToTumour();
  update();
}

function goToTumour() {
  const areas = state.scan.truth?.[0].some(Boolean) ? state.scan.truth : state.prediction?.areas;
  if (!areas?.[0].some(Boolean)) return;
  state.position = areas.map(along => along.indexOf(Math.max(...along)));
}

// ---- pictures ----

let waiting = false;
function update() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
  waiting = true;
}

function path(layer, axis, index) {
  return `patient/${state.patient}/${layer}/${axis}/${index}`;
}

function layersWanted() {
  const wanted = [`image-${state.channel}`];
  if (state.scan.truth) wanted.push("truth");
  if (state.prediction) wanted.push("prediction");
  if (state.prediction?.probability && $("probability").checked) wanted.push("probability");
  return wanted;
}

function draw() {
  showControls();
  if (!state.scan) return;
  const failed = error => say(error.message, true);
  for (const plane of state.planes) {
    const index = state.position[plane.axis], names = layersWanted();
    plane.slider.value = index;
    plane.output.textContent = `${planeName(state.scan, plane.axis)} ${index + 1} of ${state.scan.shape[plane.axis]}`;
    const values = names.map(name => layerNow(path(name, plane.axis, index), update, failed));
    if (values.some(v => v === null)) continue;  // the picture before stays until all is here
    plane.layers = Object.fromEntries(names.map((name, i) => [name.split("-")[0], values[i]]));
    drawLayers(plane);
    plane.canvas.dataset.drawn = `${state.patient} ${index} ${names}`;
    for (const by of plane.axis === 0 ? NEAR : NEAR.slice(0, 4))
      if (index + by >= 0 && index + by < state.scan.shape[plane.axis])
        for (const name of names) prefetch(path(name, plane.axis, index + by));
  }
  showReadout();
  drawProfile($("profile"), state.scan.truth?.[0], state.prediction?.areas[0], state.position[0], COLOURS);
}

function drawLayers({axis, canvas, layers}) {
  const shape = planeShape(state.scan, axis), {low, high} = state.windows[state.channel];
  const fills = [], contours = [], shown = !$("hidden").checked;
  const grey = greyLevels(layers.image, state.scan.channels[state.channel], low, high);
  for (const [name, thickness] of [["truth", 3], ["prediction", 1.5]]) {
    if (!layers[name] || !shown) continue;
    if ($(`${name}-filled`).checked) fills.push({values: layers[name], most: 1, colour: rgb(COLOURS[name])});
    if ($(`${name}-contour`).checked)
      contours.push({edges: outline(layers[name], shape.width, shape.height), colour: COLOURS[name], thickness});
  }
  if (layers.probability && shown) fills.unshift({values: layers.probability, most: 255});
  const cross = state.scan.num_planes > 1 ? toPlane(state.scan, axis, state.position) : null;
  drawPlane(canvas, {...shape, grey, fills, contours, cross}, $("opacity").value / 100);
}

// What lies under the pointer and how good the prediction is, of the slice that is drawn.
function showReadout() {
  const layers = state.planes[0]?.layers;
  if (!state.scan || !layers) return;
  const here = state.pointed?.[0] === state.position[0];
  $("where").textContent = here ? voxelText(state.scan, state.channel, layers, state.pointed) : "\u00a0";
  $("slice-dice").textContent = sliceText(layers);
}

const resized = new ResizeObserver(update);
const actions = {
  go: (axis, index) => moveTo(state.position.with(axis, index)),
  step: (axis, by) => moveTo(state.position.with(axis, state.position[axis] + by)),
  point(axis, pixel, moved) {
    if (!state.scan) return;  // the next patient is being read
    state.pointed = pixel && fromPlane(state.scan, axis, pixel, state.position);
    if (state.pointed && moved && state.scan.num_planes > 1) moveTo(state.pointed);
    else showReadout();
  },
  leave() { state.pointed = null; showReadout(); },
  window(across, down) {
    if (!state.scan) return;
    const {offset, most} = state.scan.channels[state.channel], {low, high} = state.windows[state.channel];
    const speed = (most - offset) / 500;
    setWindow((low + high) / 2 + down * speed, high - low + across * speed);
  },
};

function moveTo(position) {
  if (!state.scan) return;
  state.position = position.map((p, axis) => Math.min(Math.max(p, 0), state.scan.shape[axis] - 1));
  update();
}

function setWindow(level, width) {
  const {offset, most} = state.scan.channels[state.channel];
  const half = Math.max(width, (most - offset) / 1000) / 2;
  state.windows[state.channel] = {low: level - half, high: level + half};
  update();
}

function chooseChannel(channel) {
  if (!(channel < state.scan?.channels.length)) return;
  state.channel = channel;
  update();
  if (state.space) showSpace();
}

// ---- controls ----

function showControls() {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("legend").hidden = !$("probability").checked;
  if (!state.scan) return;
  const channel = state.scan.channels[state.channel], {low, high} = state.windows[state.channel];
  const range = channel.most - channel.offset || 1;
  $("channel").value = state.channel;
  Object.assign($("level"), {min: channel.offset, max: channel.most, step: range / 500, value: (low + high) / 2});
  Object.assign($("width"), {min: 0, max: range, step: range / 500, value: high - low});
  $("level-value").textContent = short((low + high) / 2, channel);
  $("width-value").textContent = short(high - low, channel);
  const known = {truth: state.scan.truth, prediction: state.prediction};
  for (const name of ["truth", "prediction"])
    for (const way of ["contour", "filled"]) $(`${name}-${way}`).disabled = !known[name];
  $("probability").disabled = !state.prediction?.probability;
}

async function showSpace() {
  $("planes").hidden = state.space;
  $("space").hidden = !state.space;
  $("space-button").textContent = state.space ? "Slices" : "3D";
  update();
  if (!state.space || !state.scan) return;
  const masks = [state.scan.truth && "truth", state.prediction && "prediction"].filter(Boolean);
  $("space-note").textContent = "Rendering …";
  $("space-note").textContent = await render(
    $("space-canvas"), state.scan, state.patient, state.channel, state.windows[state.channel], masks, COLOURS);
}

function toggle(id) {
  if (!$(id).disabled) $(id).checked = !$(id).checked;
  update();
}

function toggleTheme() {
  const root = document.documentElement, light = root.dataset.theme === "dark";
  root.dataset.theme = light ? "light" : "dark";
  $("theme-button").textContent = light ? "Dark" : "Light";
  update();
}

function toggleSpace() {
  if (!gallery.niivue) return;
  state.space = !state.space;
  showSpace();
}

function resetWindow() {
  const {low, high} = state.scan?.channels[state.channel] ?? {};
  if (state.scan) setWindow((low + high) / 2, high - low);
}

function fade(by) {
  $("opacity").value = Number($("opacity").value) + by;
  update();
}

const KEYS = {
  ArrowUp: () => actions.step(0, -1), ArrowDown: () => actions.step(0, 1),
  PageUp: () => actions.step(0, -5), PageDown: () => actions.step(0, 5),
  Home: () => actions.go(0, 0), End: () => actions.go(0, Infinity),
  g: () => { if (state.scan) { goToTumour(); update(); } },
  j: () => chooseNext(state.order, 1), k: () => chooseNext(state.order, -1),
  n: () => chooseNext(state.worst, 1), N: () => chooseNext(state.worst, -1),
  c: () => state.scan && chooseChannel((state.channel + 1) % state.scan.channels.length),
  t: () => toggle("truth-contour"), T: () => toggle("truth-filled"),
  p: () => toggle("prediction-contour"), P: () => toggle("prediction-filled"),
  m: () => toggle("probability"), h: () => toggle("hidden"),
  "[": () => fade(-10), "]": () => fade(10),
  r: resetWindow, d: toggleTheme, v: toggleSpace, "?": () => $("help").showModal(),
};

function onKey(event) {
  const {target, key} = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (target.matches("input[type=search], select")) return;
  if (target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(key)) return;
  const act = KEYS[key] ?? (/^[1-9]$/.test(key) ? () => chooseChannel(key - 1) : null);
  if (!act) return;
  event.preventDefault();
  act();
}

function sortList() {
  state.order = ordered(gallery.patients, state.sort, $("filter").value);
  showList($("rows"), gallery.patients, state.order, gallery.volume_unit, choose);
  showSort(document.querySelectorAll("[data-sort]"), state.sort, gallery.volume_unit);
  markChosen($("rows"), state.patient);
}

function start() {
  for (const [name, colour] of Object.entries(COLOURS))
    document.documentElement.style.setProperty(`--${name}`, colour);
  document.title = `${gallery.title} – jaxseg`;
  $("title").textContent = gallery.title;
  $("notes").textContent = $("notes").title = gallery.notes.join(" ");
  state.worst = worstFirst(gallery.patients);
  document.body.classList.toggle("unscored", !state.worst.length);
  if (state.worst.length) state.sort.by = "dice";
  $("space-row").hidden = !gallery.niivue;
  drawLegend($("legend"), gallery.threshold);
  connect();
  sortList();
  choose(state.order[0]);
}

function connect() {
  for (const button of document.querySelectorAll("[data-sort]"))
    button.addEventListener("click", () => {
      const by = button.dataset.sort;
      state.sort = {by, down: state.sort.by === by && !state.sort.down};
      sortList();
    });
  $("filter").addEventListener("input", sortList);
  $("previous-worst").addEventListener("click", KEYS.N);
  $("next-worst").addEventListener("click", KEYS.n);
  $("channel").addEventListener("change", () => chooseChannel(Number($("channel").value)));
  for (const id of ["level", "width"])
    $(id).addEventListener("input", () => setWindow(Number($("level").value), Number($("width").value)));
  $("reset").addEventListener("click", resetWindow);
  for (const id of ["truth-contour", "truth-filled", "prediction-contour", "prediction-filled", "probability", "opacity", "hidden"])
    $(id).addEventListener("input", update);
  $("profile").addEventListener("pointerdown", event =>
    state.scan && actions.go(0, Math.floor(event.offsetX / $("profile").clientWidth * state.scan.shape[0])));
  $("space-button").addEventListener("click", toggleSpace);
  $("theme-button").addEventListener("click", toggleTheme);
  $("help-button").addEventListener("click", KEYS["?"]);
  addEventListener("keydown", onKey);
  addEventListener("pointerup", () => document.activeElement.matches("input:not([type=search])") && document.activeElement.blur());
}

start();
