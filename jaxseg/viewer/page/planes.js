// The planes through a volume: axis 0 is a slice, 1 and 2 cut across the slices, the last on top.

import {placement} from "./draw.js";

const NAMES = [["slice", "row", "column"], ["axial", "coronal", "sagittal"]];
const LETTERS = [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]];

export function planeName(scan, axis) {
  return NAMES[Number(scan.oriented)][axis];
}

// Size of a plane in pixels, size of a pixel in mm (or 1), letters of the directions.
export function planeShape(scan, axis) {
  const [down, across] = [[1, 2], [0, 2], [0, 1]][axis];
  const spacing = scan.spacing_mm.length ? scan.spacing_mm : [1, 1, 1];
  return {
    width: scan.shape[across], height: scan.shape[down],
    stepX: spacing[across], stepY: spacing[down],
    letters: scan.oriented ? LETTERS[axis] : [],
  };
}

// Pixel of a plane at a position [slice, row, column], and the position at a pixel.
export function toPlane(scan, axis, [slice, row, column]) {
  const up = scan.shape[0] - 1 - slice;
  return [{x: column, y: row}, {x: column, y: up}, {x: row, y: up}][axis];
}

export function fromPlane(scan, axis, {x, y}, [slice, row, column]) {
  const up = scan.shape[0] - 1 - y;
  return [[slice, y, x], [up, row, x], [up, x, column]][axis];
}

// The same for places between the voxels: voxel i lies from i to i + 1.
export function edge(scan, axis, [slice, row, column]) {
  const up = scan.shape[0] - slice;
  return [{x: column, y: row}, {x: column, y: up}, {x: row, y: up}][axis];
}

export function at(scan, axis, {x, y}, [slice, row, column]) {
  const up = scan.shape[0] - y;
  return [[slice, y, x], [up, row, x], [up, x, column]][axis];
}

// Make the element of a plane; channel: null for that which is chosen. actions: frame(axis),
// go(axis, index), step(axis, by), point(axis, pixel or null), press(axis, place, first, moved),
// pan(axis, moved), zooms(event), zoom(axis, place, factor), leave(), window(across, down, channel).
// A place is a pixel with fractions, moved is in such pixels too.
export function makePlane(scan, axis, channel, actions) {
  const root = document.createElement("div"), view = document.createElement("div");
  const canvas = document.createElement("canvas"), row = document.createElement("label");
  const slider = document.createElement("input"), output = document.createElement("output");
  root.className = "plane";
  view.className = "view";
  row.className = "row";
  Object.assign(slider, {type: "range", min: 0, max: scan.shape[axis] - 1, step: 1});
  slider.setAttribute("aria-label", planeName(scan, axis));
  view.append(canvas);
  row.append(slider, output);
  root.append(view, row);
  slider.addEventListener("input", () => actions.go(axis, Number(slider.value)));
  listen(canvas, axis, channel, actions);
  return {axis, channel, root, canvas, slider, output};
}

function listen(canvas, axis, channel, actions) {
  let turned = 0;
  const zoom = (event, by) => {
    const plane = actions.frame(axis);
    if (plane) actions.zoom(axis, placeAt(canvas, plane, event), 2 ** (-by / 240));
  };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const by = event.deltaMode ? 40 * event.deltaY : event.deltaY;  // lines or pixels
    if (actions.zooms(event)) return zoom(event, by);
    turned += by;
    const steps = Math.abs(turned) >= 40 ? Math.sign(turned) : 0;
    if (steps) { turned = 0; actions.step(axis, steps); }
  }, {passive: false});
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("mousedown", event => event.button === 1 && event.preventDefault());  // no scrolling by it
  canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
  for (const kind of ["pointerdown", "pointermove"])
    canvas.addEventListener(kind, event => {
      if (event.buttons & 2) return actions.window(event.movementX, event.movementY, channel);
      const plane = actions.frame(axis);
      if (!plane) return;
      const place = placeAt(canvas, plane, event), size = pixelSize(canvas, plane);
      const moved = {x: event.movementX / size.x, y: event.movementY / size.y};
      actions.point(axis, pixelAt(plane, place));
      if (event.buttons & 4 || event.buttons & 1 && event.shiftKey) actions.pan(axis, moved);
      else if (event.buttons & 1) actions.press(axis, place, kind === "pointerdown", moved);
    });
  canvas.addEventListener("pointerleave", actions.leave);
}

// The place under the pointer, in pixels of the plane with fractions.
function placeAt(canvas, plane, event) {
  const density = canvas.width / canvas.clientWidth, at = placement(canvas, plane);
  return {
    x: (event.offsetX * density - at.x) / at.width * plane.width,
    y: (event.offsetY * density - at.y) / at.height * plane.height,
  };
}

// Size of a plane's pixel in pixels of the page.
function pixelSize(canvas, plane) {
  const density = canvas.width / canvas.clientWidth, at = placement(canvas, plane);
  return {x: at.width / plane.width / density, y: at.height / plane.height / density};
}

// The pixel at a place; null beside the picture.
function pixelAt(plane, place) {
  const x = Math.floor(place.x), y = Math.floor(place.y);
  return x >= 0 && y >= 0 && x < plane.width && y < plane.height ? {x, y} : null;
}
