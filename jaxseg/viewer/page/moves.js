// Changes of what is shown of the patient: the position, the channel and its window; what the mouse does.

import {showReadout, showSpace} from "./pictures.js";
import {fromPlane} from "./planes.js";
import {state, update, view} from "./state.js";
import {frame, measure, pan, zoomAtPixel} from "./tools.js";

export function moveTo(position) {
  if (!view.scan) return;
  view.position = position.map((p, axis) => Math.min(Math.max(p, 0), view.scan.shape[axis] - 1));
  update();
}

// Go where the truth of the region, else its prediction, has the most voxels along each axis.
export function goToTumour() {
  if (!view.scan) return;
  const [truth, prediction] = [view.scan.truth, view.prediction?.areas].map(areas => areas?.[state.region]);
  const areas = truth?.[0].some(Boolean) ? truth : prediction;
  if (areas?.[0].some(Boolean)) moveTo(areas.map(along => along.indexOf(Math.max(...along))));
}

export function setWindow(level, width, channel = state.channel) {
  if (!view.scan) return;
  const {offset, most} = view.scan.channels[channel];
  const half = Math.max(width, (most - offset) / 1000) / 2;
  view.windows[channel] = {low: level - half, high: level + half};
  update();
}

export function resetWindow() {
  const {low, high} = view.scan?.channels[state.channel] ?? {};
  if (view.scan) setWindow((low + high) / 2, high - low);
}

export function chooseChannel(channel) {
  if (!(channel < view.scan?.channels.length)) return;
  state.channel = channel;
  update();
  if (state.space) showSpace();
}

// What mouse and keys do in a plane.
export const actions = {
  go: (axis, index) => moveTo(view.position.with(axis, index)),
  step: (axis, by) => moveTo(view.position.with(axis, view.position[axis] + by)),
  frame: axis => view.scan && frame(axis),
  point(axis, pixel) {
    if (!view.scan) return;
    view.pointed = pixel && fromPlane(view.scan, axis, pixel, view.position);
    showReadout();
  },
  press(axis, place, first, moved) {
    if (state.tool === "ruler") measure(axis, place, first);
    else if (state.tool === "zoom") pan(axis, moved);
    else if (view.pointed && (view.scan.num_planes > 1 || state.sequences)) moveTo(view.pointed);
  },
  pan,
  zooms: event => event.ctrlKey || event.metaKey || state.tool === "zoom",
  zoom: zoomAtPixel,
  leave() { view.pointed = null; showReadout(); },
  window(across, down, channel) {
    if (!view.scan) return;
    const number = channel ?? state.channel;
    const {offset, most} = view.scan.channels[number], {low, high} = view.windows[number];
    const speed = (most - offset) / 500;
    setWindow((low + high) / 2 + down * speed, high - low + across * speed, number);
  },
};
