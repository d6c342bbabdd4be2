// The pictures of the patient: planes, profile, readout, and the 3D rendering in place of the planes.

import {drawPlane, drawProfile, greyLevels, outline, rgb} from "./draw.js";
import {layerNow, prefetch} from "./layers.js";
import {makePlane, planeName, planeShape, toPlane} from "./planes.js";
import {sliceText, voxelText} from "./readout.js";
import {render} from "./space.js";
import {$, gallery, say, state, update} from "./state.js";

const NEAR = [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6];  // slices fetched ahead
const COLOURS = gallery.colours;
const resized = new ResizeObserver(update);

// Make the planes of the scan; actions: what the mouse does in them.
export function openPlanes(actions) {
  const {scan} = state;
  state.planes = [0, 1, 2].slice(0, scan.num_planes).map(axis => makePlane(scan, axis, actions));
  $("planes").className = scan.num_planes === 3 ? "three" : "";
  $("planes").replaceChildren(...state.planes.map(plane => plane.root));
  state.planes.forEach(plane => resized.observe(plane.canvas));
}

export function drawPictures() {
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
export function showReadout() {
  const layers = state.planes[0]?.layers;
  if (!state.scan || !layers) return;
  const here = state.pointed?.[0] === state.position[0];
  $("where").textContent = here ? voxelText(state.scan, state.channel, layers, state.pointed) : "\u00a0";
  $("slice-dice").textContent = sliceText(layers);
}

// Show the rendering or the planes, as is chosen.
export async function showSpace() {
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
