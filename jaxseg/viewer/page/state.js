// What is chosen and shown. Who changes it calls update(); who draws it is named in onUpdate().
//
// Whatever belongs to a patient is in its view. Another choice makes a new view: an answer that
// comes late finds that its view is no longer the one shown, and is dropped.

import {get} from "./layers.js";

export const $ = id => document.getElementById(id);
export const gallery = await (await get("patients.json")).json();
export const state = {
  channel: gallery.channel,
  sort: {by: "patient", down: false},
  order: [],  // the list as shown: numbers in gallery.patients
  worst: [],  // all with a Dice, the worst first
  space: false,  // 3D instead of planes
};
export let view = emptyView(null);

function emptyView(patient) {
  return {
    patient,  // number in gallery.patients
    scan: null,  // until it is read
    prediction: null,
    position: [0, 0, 0],  // slice, row, column
    pointed: null,  // voxel under the pointer
    windows: [],  // {low, high} of each channel
    planes: [],
  };
}

export function newView(patient) {
  return view = emptyView(patient);
}

const drawings = [];
export function onUpdate(...draw) {
  drawings.push(...draw);
}

export function updateNow() {
  for (const draw of drawings) draw();
}

let waiting = false;
export function update() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; updateNow(); });
  waiting = true;
}

export function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").className = wrong ? "error" : "";
}
