// Numbers as text: the voxel under the pointer, the slice, the patient; and the legend.

import {dice, heat} from "./draw.js";
import {planeShape, toPlane} from "./planes.js";
import {regionName, several, shownMask} from "./regions.js";
import {gallery, state, view} from "./state.js";

// An intensity with as many digits as its channel deserves.
export function short(value, {offset, most}) {
  return most - offset >= 20 ? Math.round(value).toString() : value.toPrecision(3);
}

export function channelName(channel) {
  return gallery.channels[channel] ?? `channel ${channel + 1}`;
}

// The voxel under the pointer, in the planes that it lies in: one, or one of each channel.
export function voxelText(planes) {
  const {scan, pointed: [slice, row, column]} = view, {axis, layers: {probability}} = planes[0];
  const {x, y} = toPlane(scan, axis, view.pointed), at = y * planeShape(scan, axis).width + x;
  const intensities = planes.map(({channel, layers}) => {
    const {offset, step} = scan.channels[channel ?? state.channel];
    const value = short(offset + step * layers.image[at], scan.channels[channel ?? state.channel]);
    return channel === null ? `intensity ${value}` : `${channelName(channel)} ${value}`;
  });
  if (probability) intensities.push(`probability ${(probability[at] / 255).toFixed(2)}`);
  return `slice ${slice + 1}, row ${row + 1}, column ${column + 1}: ${intensities.join(", ")}`;
}

// The Dice of a slice in the region looked at; nothing where truth or prediction is not known.
export function sliceText(layers) {
  const [truth, prediction] = ["truth", "prediction"].map(name => shownMask(layers, name, state.region));
  if (!truth || !prediction) return "";
  const score = dice(truth, prediction);
  if (score === null) return `no ${several ? regionName(state.region) : "tumour"} in this slice`;
  return `${several ? `${regionName(state.region)}: ` : ""}Dice of this slice ${score.toFixed(3)}${view.preview ? ", preview" : ""}`;
}

export function showFacts(list, facts) {
  list.replaceChildren(...facts.flatMap(texts => ["dt", "dd"].map((tag, i) => {
    const element = document.createElement(tag);
    element.textContent = texts[i];
    return element;
  })));
}

// The colours of the probabilities.
export function drawLegend(legend) {
  const context = legend.querySelector("canvas").getContext("2d");
  const image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([...heat(i / 255), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

// Mark the threshold among them where there is one.
export function markThreshold(legend, percent) {
  const mark = legend.querySelector("i");
  mark.hidden = percent === null;
  mark.style.left = `${percent}%`;
  mark.title = `predicted from ${(percent / 100).toFixed(2)} on`;
}
