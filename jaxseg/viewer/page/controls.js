// The controls and the keys of the picture: what they show and what they do.

import {actions, chooseChannel, goToTumour, resetWindow, setWindow} from "./moves.js";
import {goToLesion, lesionText} from "./lesions.js";
import {chooseNext, chooseRegion} from "./patient.js";
import {openPlanes, showSpace} from "./pictures.js";
import {markThreshold, short} from "./readout.js";
import {savePicture} from "./save.js";
import {$, gallery, state, update, view} from "./state.js";
import {backToOperatingPoint, operatingPercent, scoresText, tryThreshold} from "./threshold.js";
import {clearRuler, fit, zoomAtCursor} from "./tools.js";

const OVERLAYS = ["truth-contour", "truth-filled", "prediction-contour", "prediction-filled", "probability", "opacity", "hidden"];
const KEYS = {
  ArrowUp: () => actions.step(0, -1), ArrowDown: () => actions.step(0, 1),
  PageUp: () => actions.step(0, -5), PageDown: () => actions.step(0, 5),
  Home: () => actions.go(0, 0), End: () => actions.go(0, Infinity),
  g: goToTumour,
  j: () => chooseNext(state.order, 1), k: () => chooseNext(state.order, -1),
  n: () => chooseNext(state.worst, 1), N: () => chooseNext(state.worst, -1),
  c: () => view.scan && chooseChannel((state.channel + 1) % view.scan.channels.length),
  t: () => toggle("truth-contour"), T: () => toggle("truth-filled"),
  p: () => toggle("prediction-contour"), P: () => toggle("prediction-filled"),
  m: () => toggle("probability"), h: () => toggle("hidden"),
  "[": () => fade(-10), "]": () => fade(10),
  r: resetWindow, d: toggleTheme, v: toggleSpace, "?": () => $("help").showModal(),
  e: () => chooseRegion(state.region + 1),
  l: () => goToLesion(1), L: () => goToLesion(-1),
  z: () => chooseTool("zoom"), u: () => chooseTool("ruler"), Escape: () => { chooseTool("cursor"); clearRuler(); },
  "+": () => zoomAtCursor(1.5), "=": () => zoomAtCursor(1.5), "-": () => zoomAtCursor(1 / 1.5), f: fit,
  a: toggleSequences, x: nextAxis, s: savePicture, o: backToOperatingPoint,
};
const BUTTONS = {
  "previous-worst": "N", "next-worst": "n", "help-button": "?", "previous-lesion": "L", "next-lesion": "l",
  zoom: "z", ruler: "u", larger: "+", smaller: "-", fit: "f", sequences: "a", save: "s", operating: "o",
};

export function showControls() {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("legend").hidden = !$("probability").checked;
  for (const id of ["channel", "level", "width", "reset"]) $(id).disabled = !view.scan;
  const known = {truth: view.scan?.truth, prediction: view.prediction};
  for (const name of ["truth", "prediction"])
    for (const way of ["contour", "filled"]) $(`${name}-${way}`).disabled = !known[name];
  $("probability").disabled = $("threshold").disabled = !view.prediction?.probability;
  showThreshold();
  $("lesion").textContent = lesionText();
  for (const tool of ["zoom", "ruler"]) $(tool).setAttribute("aria-pressed", state.tool === tool);
  $("sequences").setAttribute("aria-pressed", state.sequences);
  $("planes").dataset.tool = state.tool;
  if (view.scan) showWindow();
  else clearWindow();
}

function showThreshold() {
  const percent = view.preview?.percent ?? operatingPercent();
  $("threshold").value = percent ?? 50;
  $("threshold-value").textContent = percent === null ? "–" : (percent / 100).toFixed(2);
  $("operating").disabled = !view.preview;
  $("scores-of").textContent = scoresText();
  markThreshold($("legend"), percent);
}

function clearWindow() {
  $("channel").replaceChildren();
  for (const id of ["level", "width"]) {
    $(id).value = $(id).min;
    $(`${id}-value`).textContent = "";
  }
}

function showWindow() {
  const channel = view.scan.channels[state.channel], {low, high} = view.windows[state.channel];
  const range = channel.most - channel.offset || 1;
  $("channel").value = state.channel;
  Object.assign($("level"), {min: channel.offset, max: channel.most, step: range / 500, value: (low + high) / 2});
  Object.assign($("width"), {min: 0, max: range, step: range / 500, value: high - low});
  $("level-value").textContent = short((low + high) / 2, channel);
  $("width-value").textContent = short(high - low, channel);
}

export function connectControls() {
  for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => KEYS[key]());
  $("threshold").addEventListener("input", () => tryThreshold(Number($("threshold").value)));
  $("channel").addEventListener("change", () => chooseChannel(Number($("channel").value)));
  for (const id of ["level", "width"])
    $(id).addEventListener("input", () => setWindow(Number($("level").value), Number($("width").value)));
  $("reset").addEventListener("click", resetWindow);
  for (const id of OVERLAYS) $(id).addEventListener("input", update);
  $("profile").addEventListener("pointerdown", event =>
    view.scan && actions.go(0, Math.floor(event.offsetX / $("profile").clientWidth * view.scan.shape[0])));
  $("space-button").addEventListener("click", toggleSpace);
  $("theme-button").addEventListener("click", toggleTheme);
  addEventListener("keydown", onKey);
  addEventListener("pointerup", () => document.activeElement.matches("input:not([type=search])") && document.activeElement.blur());
}

function toggle(id) {
  if (!$(id).disabled) $(id).checked = !$(id).checked;
  update();
}

// The same tool again: back to the cursor.
function chooseTool(tool) {
  state.tool = state.tool === tool ? "cursor" : tool;
  update();
}

function toggleSequences() {
  state.sequences = !state.sequences;
  reopen();
}

function nextAxis() {
  if (!view.scan || !state.sequences) return;
  state.axis = (Math.min(state.axis, view.scan.num_planes - 1) + 1) % view.scan.num_planes;
  reopen();
}

function reopen() {
  if (view.scan) openPlanes(actions);
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

function fade(by) {
  $("opacity").value = Number($("opacity").value) + by;
  update();
}

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
