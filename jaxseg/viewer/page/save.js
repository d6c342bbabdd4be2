// The planes as one picture, saved as PNG; the patient's name is in it only when asked for.

import {colourOf, regionName, several} from "./regions.js";
import {$, gallery, say, state, view} from "./state.js";
import {scoresText} from "./threshold.js";

const FONT = 13, LINE = 18, MARGIN = 8;  // pixels of the page

export async function savePicture() {
  const drawn = view.planes.filter(plane => plane.caption);
  if (state.space || !drawn.length || drawn.length < view.planes.length) return say("Only planes that are drawn are saved.");
  const named = $("save-name").checked ? gallery.patients[view.patient].patient : "";
  const canvas = compose(drawn, footer(named)), link = document.createElement("a");
  const place = drawn[0].output.textContent.split(", ").at(-1).replace(/ of \d+$/, "").replace(" ", "-");
  const name = named ? `${named.replaceAll(/[^\w.-]+/g, "-")}-` : "";
  const blob = await new Promise(made => canvas.toBlob(made, "image/png"));
  link.href = URL.createObjectURL(blob);
  link.download = `jaxseg-${name}${place}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Lines of [text, colour] below the planes.
function footer(named) {
  const masks = [["truth", view.scan.truth], ["prediction", view.prediction]]
    .filter(([name, known]) => known && !$("hidden").checked && ($(`${name}-contour`).checked || $(`${name}-filled`).checked))
    .map(([name]) => name);
  const regions = gallery.regions.map((_, k) => k).filter(k => !state.hidden.has(k));
  const legend = several
    ? regions.map(k => [regionName(k), colourOf("truth", k)])
    : masks.map(name => [name, colourOf(name, 0)]);
  const lines = [[["For research use only, not for diagnosis", "#fff"]]];
  if (named) lines[0].unshift([named, "#fff"]);
  if (masks.length) lines.push([...legend, ...(several ? [[masks.map(name => `${name} ${name === "truth" ? "broad" : "narrow"}`).join(", "), "#ccc"]] : [])]);
  if (view.preview) lines.push([[scoresText().split(";")[0], "#fff"]]);
  return lines;
}

function compose(planes, lines) {
  const density = window.devicePixelRatio || 1, canvas = document.createElement("canvas");
  const frame = $("planes").getBoundingClientRect();
  canvas.width = Math.round(frame.width * density);
  canvas.height = Math.round((frame.height + lines.length * LINE + 2 * MARGIN) * density);
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const plane of planes) {
    const {left, top} = plane.canvas.getBoundingClientRect();
    context.drawImage(plane.canvas, (left - frame.left) * density, (top - frame.top) * density);
  }
  context.scale(density, density);
  Object.assign(context, {font: `${FONT}px system-ui, sans-serif`, textBaseline: "middle", fillStyle: "#ccc"});
  for (const plane of planes) {
    const {left, bottom} = plane.canvas.getBoundingClientRect();
    context.fillText(plane.caption, left - frame.left + MARGIN, bottom - frame.top + LINE / 2);
  }
  lines.forEach((parts, i) => {
    let x = MARGIN;
    for (const [text, colour] of parts) {
      context.fillStyle = colour;
      context.fillText(text, x, frame.height + MARGIN + (i + .5) * LINE);
      x += context.measureText(text).width + 2 * MARGIN;
    }
  });
  return canvas;
}
