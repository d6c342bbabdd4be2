// The controls and the keys of the picture: what they show and what they do.

import {actions, chooseChannel, goToTumour, resetWindow, setWindow} from "./moves.js";
import {chooseNext} from "./patient.js";
import {showSpace} from "./pictures.js";
import {short} from "./readout.js";
import {$, gallery, state, update, view} from "./state.js";

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
};

export function showControls() {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("legend").hidden = !$("probability").checked;
  for (const id of ["channel", "level", "width", "reset"]) $(id).disabled = !view.scan;
  const known = {truth: view.scan?.truth, prediction: view.prediction};
  for (const name of ["truth", "prediction"])
    for (const way of ["contour", "filled"]) $(`${name}-${way}`).disabled = !known[name];
  $("probability").disabled = !view.prediction?.probability;
  if (view.scan) showWindow();
  else clearWindow();
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
  $("previous-worst").addEventListener("click", KEYS.N);
  $("next-worst").addEventListener("click", KEYS.n);
  $("channel").addEventListener("change", () => chooseChannel(Number($("channel").value)));
  for (const id of ["level", "width"])
    $(id).addEventListener("input", () => setWindow(Number($("level").value), Number($("width").value)));
  $("reset").addEventListener("click", resetWindow);
  for (const id of OVERLAYS) $(id).addEventListener("input", update);
  $("profile").addEventListener("pointerdown", event =>
    view.scan && actions.go(0, Math.floor(event.offsetX / $("profile").clientWidth * view.scan.shape[0])));
  $("space-button").addEventListener("click", toggleSpace);
  $("theme-button").addEventListener("click", toggleTheme);
  $("help-button").addEventListener("click", KEYS["?"]);
  addEventListener("keydown", onKey);
  addEventListener("pointerup", () => document.activeElement.matches("input:not([type=search])") && document.activeElement.blur());
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
