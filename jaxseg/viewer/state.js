// What is chosen and shown. Who changes it calls update(); who draws it is named in onUpdate().

import {get} from "./layers.js";

export const $ = id => document.getElementById(id);
export const gallery = await (await get("patients.json")).json();
export const state = {
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

const drawings = [];
export function onUpdate(...draw) {
  drawings.push(...draw);
}

let waiting = false;
export function update() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; drawings.forEach(draw => draw()); });
  waiting = true;
}

export function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").className = wrong ? "error" : "";
}
