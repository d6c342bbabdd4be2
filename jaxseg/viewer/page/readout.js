// Numbers as text: the voxel under the pointer, the slice, the patient; and the legend.

import {dice, heat} from "./draw.js";

// An intensity with as many digits as its channel deserves.
export function short(value, {offset, most}) {
  return most - offset >= 20 ? Math.round(value).toString() : value.toPrecision(3);
}

export function voxelText(scan, channelNumber, layers, [, row, column]) {
  const channel = scan.channels[channelNumber], at = row * scan.shape[2] + column;
  const intensity = short(channel.offset + channel.step * layers.image[at], channel);
  const probability = layers.probability ? `, probability ${(layers.probability[at] / 255).toFixed(2)}` : "";
  return `row ${row + 1}, column ${column + 1}: intensity ${intensity}${probability}`;
}

// The Dice of a slice; nothing where truth or prediction is not known.
export function sliceText({truth, prediction}) {
  if (!truth || !prediction) return "";
  const score = dice(truth, prediction);
  return score === null ? "no tumour in this slice" : `Dice of this slice ${score.toFixed(3)}`;
}

export function showFacts(list, facts) {
  list.replaceChildren(...facts.flatMap(texts => ["dt", "dd"].map((tag, i) => {
    const element = document.createElement(tag);
    element.textContent = texts[i];
    return element;
  })));
}

// The colours of the probabilities, the threshold marked where there is one.
export function drawLegend(legend, threshold) {
  const context = legend.querySelector("canvas").getContext("2d"), mark = legend.querySelector("i");
  const image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([...heat(i / 255), 255], 4 * i);
  context.putImageData(image, 0, 0);
  mark.hidden = threshold === null;
  mark.style.left = `${100 * threshold}%`;
  mark.title = `predicted from ${threshold} on`;
}
