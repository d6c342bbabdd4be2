// Zoom, pan and ruler. All planes share one zoom and one centre, so that they show one place.

import {at, edge, planeShape} from "./planes.js";
import {update, view} from "./state.js";

const MOST = 32;  // times larger than the whole plane

// A plane with the part of it that is shown, as `placement` takes it.
export function frame(axis) {
  const shape = planeShape(view.scan, axis);
  return view.centre ? {...shape, zoom: view.zoom, centre: edge(view.scan, axis, view.centre)} : shape;
}

// Make all larger by a factor; what lies at the place [slice, row, column] stays where it is.
export function zoomAbout(place, factor) {
  const {shape} = view.scan, before = view.centre ?? middle();
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MOST), grown = zoom / view.zoom;
  view.zoom = zoom;
  view.centre = zoom === 1 ? null : before.map((c, i) => inside(place[i] + (c - place[i]) / grown, shape[i]));
  update();
}

export function zoomAtPixel(axis, pixel, factor) {
  if (view.scan) zoomAbout(at(view.scan, axis, pixel, view.centre ?? middle()), factor);
}

export function zoomAtCursor(factor) {
  if (view.scan) zoomAbout(view.position.map(p => p + .5), factor);
}

// Move the picture with the hand, by so many pixels of the plane.
export function pan(axis, {x, y}) {
  if (!view.scan || !view.centre) return;
  const {shape} = view.scan, seen = edge(view.scan, axis, view.centre);
  view.centre = at(view.scan, axis, {x: seen.x - x, y: seen.y - y}, view.centre).map((c, i) => inside(c, shape[i]));
  update();
}

export function fit() {
  Object.assign(view, {zoom: 1, centre: null});
  update();
}

// Measure in the plane that is shown, from where the button went down.
export function measure(axis, pixel, first) {
  if (!view.scan) return;
  const index = view.position[axis];
  if (first) view.ruler = {axis, index, from: pixel, to: pixel};
  else if (view.ruler?.axis === axis) view.ruler.to = pixel;
  update();
}

export function clearRuler() {
  view.ruler = null;
  update();
}

// The ruler of a plane, with its length; null: it lies elsewhere.
export function rulerOf(axis, index) {
  const {ruler, scan} = view;
  if (ruler?.axis !== axis || ruler.index !== index) return null;
  return {...ruler, text: lengthText(ruler, planeShape(scan, axis), scan.spacing_mm.length > 0)};
}

function lengthText({from, to}, {stepX, stepY}, known) {
  const length = Math.hypot((to.x - from.x) * stepX, (to.y - from.y) * stepY);
  return known ? `${length.toFixed(1)} mm` : `${length.toFixed(1)} pixels, spacing unknown`;
}

function middle() {
  return view.scan.shape.map(size => size / 2);
}

function inside(value, size) {
  return Math.min(Math.max(value, 0), size);
}
