// The pictures of the patient: planes, profile, readout, and the 3D rendering in place of the planes.

import {drawPlane, drawProfile, greyLevels, rgb} from "./draw.js";
import {layerNow, prefetch} from "./layers.js";
import {makePlane, planeName, toPlane} from "./planes.js";
import {channelName, sliceText, voxelText} from "./readout.js";
import {colourOf, several, shownMask, shownOutline} from "./regions.js";
import {clear, render} from "./space.js";
import {$, gallery, say, state, update, view} from "./state.js";
import {frame, rulerOf} from "./tools.js";

const NEAR = [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6];  // slices fetched ahead
const COLOURS = gallery.colours;
// Width and strength of the lines: the truth broad below, the prediction narrow above, and where
// both have the colour of their region, the truth pale.
const APART = [["truth", 3, 1], ["prediction", 1.5, 1]], TOGETHER = [["truth", 4.5, .55], ["prediction", 1.5, 1]];
const resized = new ResizeObserver(update);

// Take all pictures from the page; what is drawn of a view without a scan is nothing.
export function clearPictures() {
  resized.disconnect();
  $("planes").replaceChildren();
  clear($("space-canvas"));
  $("space-note").textContent = "";
}

// Make the planes of the scan, or one of them of every channel; actions: what the mouse does.
export function openPlanes(actions) {
  const {scan} = view, sequences = state.sequences && scan.channels.length > 1;
  if (sequences) {
    const axis = Math.min(state.axis, scan.num_planes - 1);
    view.planes = scan.channels.map((_, channel) => makePlane(scan, axis, channel, actions));
    $("planes").style.setProperty("--columns", Math.ceil(Math.sqrt(scan.channels.length)));
  } else
    view.planes = [0, 1, 2].slice(0, scan.num_planes).map(axis => makePlane(scan, axis, null, actions));
  $("planes").className = sequences ? "sequences" : scan.num_planes === 3 ? "three" : "";
  resized.disconnect();
  $("planes").replaceChildren(...view.planes.map(plane => plane.root));
  view.planes.forEach(plane => resized.observe(plane.canvas));
}

export function drawPictures() {
  const drawn = view, failed = error => view === drawn && say(error.message, true);
  for (const plane of view.planes) {
    const index = view.position[plane.axis], names = layersWanted(plane);
    plane.slider.value = index;
    plane.output.textContent = caption(plane, index);
    const values = names.map(name => layerNow(path(name, plane.axis, index), update, failed));
    if (values.some(v => v === null)) continue;  // the picture before stays until all is here
    plane.layers = Object.fromEntries(names.map((name, i) => [name.split("-")[0], values[i]]));
    drawLayers(plane, index);
    plane.caption = caption({axis: plane.axis, channel: plane.channel ?? state.channel}, index);
    plane.canvas.dataset.drawn = `${view.patient} ${index} ${names}`;
    for (const by of plane.axis === 0 ? NEAR : NEAR.slice(0, 4))
      if (index + by >= 0 && index + by < view.scan.shape[plane.axis])
        for (const name of names) prefetch(path(name, plane.axis, index + by));
  }
  showReadout();
  const predicted = view.preview ? view.preview.areas : view.prediction?.areas[state.region];
  const colours = {truth: colourOf("truth", state.region), prediction: colourOf("prediction", state.region)};
  drawProfile($("profile"), view.scan?.truth?.[state.region][0], predicted?.[0], view.position[0], colours);
}

function caption({axis, channel}, index) {
  const place = `${planeName(view.scan, axis)} ${index + 1} of ${view.scan.shape[axis]}`;
  return channel === null ? place : `${channelName(channel)}, ${place}`;
}

function path(layer, axis, index) {
  return `patient/${view.patient}/${layer}/${axis}/${index}`;
}

function layersWanted({channel}) {
  const wanted = [`image-${channel ?? state.channel}`];
  if (view.scan.truth) wanted.push("truth");
  if (view.prediction) wanted.push("prediction");
  if (view.prediction?.probability && ($("probability").checked || view.preview)) wanted.push(`probability-${state.region}`);
  return wanted;
}

function drawLayers({axis, channel, canvas, layers}, index) {
  const shape = frame(axis), number = channel ?? state.channel, {low, high} = view.windows[number];
  const fills = [], contours = [], shown = !$("hidden").checked;
  const grey = greyLevels(layers.image, view.scan.channels[number], low, high);
  for (const [name, thickness, strength] of several ? TOGETHER : APART)
    for (let region = 0; region < gallery.regions.length; region++) {
      const mask = shown && !state.hidden.has(region) ? shownMask(layers, name, region) : null;
      if (!mask) continue;
      const colour = colourOf(name, region);
      if ($(`${name}-filled`).checked) fills.push({values: mask, most: 1, colour: rgb(colour)});
      if ($(`${name}-contour`).checked)
        contours.push({edges: shownOutline(layers, name, region, shape), colour, thickness, strength});
    }
  if (layers.probability && $("probability").checked && shown) fills.unshift({values: layers.probability, most: 255});
  const linked = view.scan.num_planes > 1 || channel !== null;
  const cross = linked ? toPlane(view.scan, axis, view.position) : null;
  drawPlane(canvas, {...shape, grey, fills, contours, cross, ruler: rulerOf(axis, index)}, $("opacity").value / 100);
}

// What lies under the pointer and how good the prediction is, of the planes that are drawn.
export function showReadout() {
  const under = view.planes.filter(({axis, layers}) => layers && view.pointed?.[axis] === view.position[axis]);
  $("where").textContent = under.length ? voxelText(under[0].channel === null ? under.slice(0, 1) : under) : "\u00a0";
  const layers = view.planes[0]?.layers;
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
