// Changes of what is shown of the patient: the position, the channel and its window.

import {showReadout, showSpace} from "./pictures.js";
import {fromPlane} from "./planes.js";
import {state, update} from "./state.js";

export function moveTo(position) {
  if (!state.scan) return;
  state.position = position.map((p, axis) => Math.min(Math.max(p, 0), state.scan.shape[axis] - 1));
  update();
}

// Go where truth, else prediction, has the most voxels along each axis.
export function goToTumour() {
  if (!state.scan) return;
  const areas = state.scan.truth?.[0].some(Boolean) ? state.scan.truth : state.prediction?.areas;
  if (areas?.[0].some(Boolean)) moveTo(areas.map(along => along.indexOf(Math.max(...along))));
}

export function setWindow(level, width) {
  const {offset, most} = state.scan.channels[state.channel];
  const half = Math.max(width, (most - offset) / 1000) / 2;
  state.windows[state.channel] = {low: level - half, high: level + half};
  update();
}

export function resetWindow() {
  const {low, high} = state.scan?.channels[state.channel] ?? {};
  if (state.scan) setWindow((low + high) / 2, high - low);
}

export function chooseChannel(channel) {
  if (!(channel < state.scan?.channels.length)) return;
  state.channel = channel;
  update();
  if (state.space) showSpace();
}

// What mouse and keys do in a plane.
export const actions = {
  go: (axis, index) => moveTo(state.position.with(axis, index)),
  step: (axis, by) => moveTo(state.position.with(axis, state.position[axis] + by)),
  point(axis, pixel, moved) {
    if (!state.scan) return;  // the next patient is being read
    state.pointed = pixel && fromPlane(state.scan, axis, pixel, state.position);
    if (state.pointed && moved && state.scan.num_planes > 1) moveTo(state.pointed);
    else showReadout();
  },
  leave() { state.pointed = null; showReadout(); },
  window(across, down) {
    if (!state.scan) return;
    const {offset, most} = state.scan.channels[state.channel], {low, high} = state.windows[state.channel];
    const speed = (most - offset) / 500;
    setWindow((low + high) / 2 + down * speed, high - low + across * speed);
  },
};
