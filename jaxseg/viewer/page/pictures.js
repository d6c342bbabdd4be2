// The pictures of the patient: planes, profile, readout, and the 3D rendering in place of the planes.

import {drawPlane, drawProfile, greyLevels, outline, rgb} from "./draw.js";
import {layerNow, prefetch} from "./layers.js";
import {makePlane, planeName, planeShape, toPlane} from "./planes.js";
import {sliceText, voxelText} from "./readout.js";
import {clear, render} from "./space.js";
import {$, gallery, say, state, update, view} from "./state.js";

const NEAR = [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6];  // slices fetched ahead
const COLOURS = gallery.colours;
const resized = new ResizeObserver(update);

// Take all pictures from the page; what is drawn of a view without a scan is nothing.
export function clearPictures() {
  resized.disconnect();
  $("planes").replaceChildren();
  clear($("space-canvas"));
  $("space-note").textContent = "";
}

// Make the planes of the scan; actions: what the mouse does in them.
export function openPlanes(actions) {
  const {scan} = view;
  view.planes = [0, 1, 2].slice(0, scan.num_planes).map(axis => makePlane(scan, axis, actions));
  $("planes").className = scan.num_planes === 3 ? "three" : "";
  $("planes").replaceChildren(...view.planes.map(plane => plane.root));
  view.planes.forEach(plane => resized.observe(plane.canvas));
}

export function drawPictures() {
  const drawn = view, failed = error => view === drawn && say(error.message, true);
  for (const plane of view.planes) {
    const index = view.position[plane.axis], names = layersWanted();
    plane.slider.value = index;
    plane.output.textContent = `${planeName(view.scan, plane.axis)} ${index + 1} of ${view.scan.shape[plane.axis]}`;
    const values = names.map(name => layerNow(path(name, plane.axis, index), update, failed));
    if (values.some(v => v === null)) continue;  // the picture before stays until all is here
    plane.layers = Object.fromEntries(names.map((name, i) => [name.split("-")[0], values[i]]));
    drawLayers(plane);
    plane.canvas.dataset.drawn = `${view.patient} ${index} ${names}`;
    for (const by of plane.axis === 0 ? NEAR : NEAR.slice(0, 4))
      if (index + by >= 0 && index + by < view.scan.shape[plane.axis])
        for (const name of names) prefetch(path(name, plane.axis, index + by));
  }
  showReadout();
  drawProfile($("profile"), view.scan?.truth?.[0], view.prediction?.areas[0], view.position[0], COLOURS);
}

function path(layer, axis, index) {
  return `patient/${view.patient}/${layer}/${axis}/${index}`;
}

function layersWanted() {
  const wanted = [`image-${state.channel}`];
  if (view.scan.truth) wanted.push("truth");
  if (view.prediction) wanted.push("prediction");
  if (view.prediction?.probability && $("probability").checked) wanted.push("probability");
  return wanted;
}

function drawLayers({axis, canvas, layers}) {
  const shape = planeShape(view.scan, axis), {low, high} = view.windows[state.channel];
  const fills = [], contours = [], shown = !$("hidden").checked;
  const grey = greyLevels(layers.image, view.scan.channels[state.channel], low, high);
  for (const [name, thickness] of [["truth", 3], ["prediction", 1.5]]) {
    if (!layers[name] || !shown) continue;
    if ($(`${name}-filled`).checked) fills.push({values: layers[name], most: 1, colour: rgb(COLOURS[name])});
    if ($(`${name}-contour`).checked)
      contours.push({edges: outline(layers[name], shape.width, shape.height), colour: COLOURS[name], thickness});
  }
  if (layers.probability && shown) fills.unshift({values: layers.probability, most: 255});
  const cross = view.scan.num_planes > 1 ? toPlane(view.scan, axis, view.position) : null;
  drawPlane(canvas, {...shape, grey, fills, contours, cross}, $("opacity").value / 100);
}

// What lies under the pointer and how good the prediction is, of the slice that is drawn.
export function showReadout() {
  const layers = view.planes[0]?.layers, here = layers && view.pointed?.[0] === view.position[0];
  $("where").textContent = here ? voxelText(view.scan, state.channel, layers, view.pointed) : "\u00a0";
  $("slice-dice").textContent = layers ? sliceText(layers) : "";
}

// Show the rendering or the planes, as is chosen.
export async function showSpace() {
  $("planes").hidden = state.space;
  $("space").hidden = !state.space;
  $("space-button").textContent = state.space ? "Slices" : "3D";
  update();
  if (!state.space || !view.scan) return;
  const masks = [view.scan.truth && "truth", view.prediction && "prediction"].filter(Boolean);
  $("space-note").textContent = "Rendering …";
  const remark = await render(
    $("space-canvas"), view.scan, view.patient, state.channel, view.windows[state.channel], masks, COLOURS);
  if (remark !== null) $("space-note").textContent = remark;
}
