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
  region: 0,  // looked at: of the list, facts, threshold, lesions
  hidden: new Set(),  // regions
  tool: "cursor",  // of the left button: cursor, zoom or ruler
  sequences: false,  // all channels of one plane instead of all planes of one channel
  axis: 0,  // of that plane
};
export let view = emptyView(null);

function emptyView(patient) {
  return {
    patient,  // number in gallery.patients
    scan: null,  // until it is read
    prediction: null,
    preview: null,  // threshold that is tried: {percent, dice, areas}
    position: [0, 0, 0],  // slice, row, column
    pointed: null,  // voxel under the pointer
    zoom: 1, centre: null,  // [slice, row, column], voxel i from i to i + 1; null: all is shown
    ruler: null,  // {axis, index, from, to}, in pixels of the plane
    lesions: null,  // promise of the answer
    lesion: null,  // that was gone to
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
