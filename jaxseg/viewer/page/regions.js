// Regions: their masks in what the server sends, their colours, and the table that is their legend.

import {outline} from "./draw.js";
import {volumeText} from "./list.js";
import {$, gallery, state, update, view} from "./state.js";

export const several = gallery.regions.length > 1;
const BYTES = Math.ceil(gallery.regions.length / 8);  // of a pixel: a bit for each region

// One region, a byte for each pixel, of a plane that holds all.
export function maskOf(bits, region) {
  const mask = new Uint8Array(bits.length / BYTES);
  for (let i = 0; i < mask.length; i++) mask[i] = bits[i * BYTES + (region >> 3)] >> (region & 7) & 1;
  return mask;
}

// What is made of a plane that the server sent is kept as long as that: {mask, edges: null until
// asked} of each region; of the thresholds that are tried the last, as there may be a hundred.
const known = new WeakMap(), tried = new WeakMap();

function shown(layers, name, region) {
  if (name === "prediction" && view.preview && region === state.region) return thresholded(layers.probability);
  const bits = layers[name];
  if (!bits) return null;
  if (!known.has(bits)) known.set(bits, []);
  return known.get(bits)[region] ??= {mask: maskOf(bits, region), edges: null};
}

function thresholded(probability) {
  if (!probability) return null;  // it is on its way
  const least = Math.ceil(255 * view.preview.percent / 100);  // as the server has it
  if (tried.get(probability)?.least !== least)
    tried.set(probability, {least, mask: probability.map(p => Number(p >= least)), edges: null});
  return tried.get(probability);
}

// The mask of truth or prediction in a plane: of a threshold that is tried where there is one.
export function shownMask(layers, name, region) {
  return shown(layers, name, region)?.mask ?? null;
}

export function shownOutline(layers, name, region, {width, height}) {
  const found = shown(layers, name, region);
  return found.edges ??= outline(found.mask, width, height);
}

// Of a single region truth and prediction have each a colour, of several each region.
export function colourOf(name, region) {
  return several ? gallery.regions[region].colour : gallery.colours[name];
}

export function regionName(region) {
  return gallery.regions[region].name;
}

// Make the table; choose: what a click on a region does.
export function openRegions(choose) {
  $("regions-row").hidden = !several;
  document.body.classList.toggle("several", several);
  $("regions").tBodies[0].replaceChildren(...gallery.regions.map(({name, colour}, k) => {
    const row = document.createElement("tr"), box = document.createElement("input"), button = document.createElement("button");
    const swatch = document.createElement("i");
    swatch.style.background = colour;
    Object.assign(box, {type: "checkbox", checked: true});
    box.setAttribute("aria-label", `${name} shown`);
    box.addEventListener("input", () => { box.checked ? state.hidden.delete(k) : state.hidden.add(k); update(); });
    button.append(swatch, name);
    button.title = `List, facts, threshold and lesions of ${name} (e: the next)`;
    button.addEventListener("click", () => choose(k));
    for (const child of [box, button, "", "", ""]) row.insertCell().append(child);
    row.cells[2].className = row.cells[3].className = "scored";
    return row;
  }));
  $("regions-unit").textContent = gallery.volume_unit;
}

// Mark the region that is looked at, and write the scores and volumes of the patient.
export function showRegions() {
  const scores = gallery.patients[view.patient]?.regions ?? [];
  [...$("regions").tBodies[0].rows].forEach((row, k) => {
    row.setAttribute("aria-selected", k === state.region);
    row.cells[2].textContent = scores[k]?.dice?.toFixed(3) ?? "–";
    row.cells[3].textContent = scores[k]?.hd95 || "–";
    row.cells[4].textContent = volumeText(scores[k]?.volume ?? null, gallery.volume_unit);
  });
  const dices = scores.map(({dice}) => dice), known = dices.length && dices.every(dice => dice !== null);
  $("regions-mean").textContent = known ? (dices.reduce((a, b) => a + b) / dices.length).toFixed(3) : "–";
}
