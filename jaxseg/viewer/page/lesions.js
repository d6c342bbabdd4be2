// From lesion to lesion of the region that is looked at, the largest first.

import {get} from "./layers.js";
import {moveTo} from "./moves.js";
import {say, state, update, view} from "./state.js";

export async function goToLesion(by) {
  if (!view.scan) return;
  const mine = view, region = state.region;
  try {
    view.lesions ??= get(`patient/${view.patient}/lesions-${region}.json`).then(answer => answer.json());
    const {lesions} = await view.lesions;
    if (view !== mine || state.region !== region) return;
    const last = view.lesion?.number ?? (by > 0 ? -1 : lesions.length);
    const number = Math.min(Math.max(last + by, 0), lesions.length - 1);
    view.lesion = {number, count: lesions.length, ...lesions[number]};
    lesions.length ? moveTo(lesions[number].position) : update();
  } catch (error) {
    if (view !== mine) return;
    view.lesions = null;
    say(error.message, true);
  }
}

export function forgetLesions() {
  view.lesions = view.lesion = null;
}

export function lesionText() {
  if (!view.lesion) return "";
  const {number, count, truth, prediction} = view.lesion;
  if (!count) return "no lesion";
  const size = voxels => view.scan.voxel_mm3 ? `${(voxels * view.scan.voxel_mm3 / 1000).toFixed(2)} ml` : `${voxels} voxels`;
  const parts = [["truth", truth], ["prediction", prediction]].filter(([, part]) => part).map(([name, part]) => `${name} ${size(part)}`);
  const known = truth !== null && prediction !== null, fate = !known ? "" : !prediction ? ", missed" : !truth ? ", invented" : "";
  return `lesion ${number + 1} of ${count}: ${parts.join(", ")}${fate}${view.preview ? "; at the operating point" : ""}`;
}
