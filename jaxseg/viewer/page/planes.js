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

// Make the element of a plane; actions: go(axis, index), step(axis, by), point(axis, pixel, moved),
// leave(), window(across, down).
export function makePlane(scan, axis, actions) {
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
  listen(canvas, scan, axis, actions);
  return {axis, root, canvas, slider, output};
}

function listen(canvas, scan, axis, actions) {
  let turned = 0;
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    turned += event.deltaMode ? 40 * event.deltaY : event.deltaY;  // lines or pixels
    const steps = Math.abs(turned) >= 40 ? Math.sign(turned) : 0;
    if (steps) { turned = 0; actions.step(axis, steps); }
  }, {passive: false});
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
  for (const kind of ["pointerdown", "pointermove"])
    canvas.addEventListener(kind, event => {
      if (event.buttons & 2) return actions.window(event.movementX, event.movementY);
      actions.point(axis, pixelAt(canvas, planeShape(scan, axis), event), Boolean(event.buttons & 1));
    });
  canvas.addEventListener("pointerleave", actions.leave);
}

// The pixel under the pointer; null beside the picture.
function pixelAt(canvas, plane, event) {
  const density = canvas.width / canvas.clientWidth, at = placement(canvas, plane);
  const x = Math.floor((event.offsetX * density - at.x) / at.width * plane.width);
  const y = Math.floor((event.offsetY * density - at.y) / at.height * plane.height);
  return x >= 0 && y >= 0 && x < plane.width && y < plane.height ? {x, y} : null;
}
