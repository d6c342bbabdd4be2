// Changes of what is shown of the patient: the position, the channel and its window.

import {showReadout, showSpace} from "./pictures.js";
import {fromPlane} from "./planes.js";
import {state, update, view} from "./state.js";

export function moveTo(position) {
  if (!view.scan) return;
  view.position = position.map((p, axis) => Math.min(Math.max(p, 0), view.scan.shape[axis] - 1));
  update();
}

// Go where truth, else prediction, has the most voxels along each axis.
export function goToTumour() {
  if (!view.scan) return;
  const areas = view.scan.truth?.[0].some(Boolean) ? view.scan.truth : view.prediction?.areas;
  if (areas?.[0].some(Boolean)) moveTo(areas.map(along => along.indexOf(Math.max(...along))));
}

export function setWindow(level, width) {
  if (!view.scan) return;
  const {offset, most} = view.scan.channels[state.channel];
  const half = Math.max(width, (most - offset) / 1000) / 2;
  view.windows[state.channel] = {low: level - half, high: level + half};
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
  point(axis, pixel, moved) {
    if (!view.scan) return;
    view.pointed = pixel && fromPlane(view.scan, axis, pixel, view.position);
    if (view.pointed && moved && view.scan.num_planes > 1) moveTo(view.pointed);
    else showReadout();
  },
  leave() { view.pointed = null; showReadout(); },
  window(across, down) {
    if (!view.scan) return;
    const {offset, most} = view.scan.channels[state.channel], {low, high} = view.windows[state.channel];
    const speed = (most - offset) / 500;
    setWindow((low + high) / 2 + down * speed, high - low + across * speed);
  },
};
