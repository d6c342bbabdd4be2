// Another threshold than that of the operating point, tried on the region that is looked at.

import {get} from "./layers.js";
import {regionName, several} from "./regions.js";
import {gallery, say, state, update, view} from "./state.js";

const REST = 120;  // ms that the slider rests before the server scores the volume

export function operatingPercent() {
  const threshold = gallery.thresholds?.[state.region];
  return threshold === undefined ? null : 100 * threshold;
}

export async function tryThreshold(percent) {
  if (!view.prediction?.probability) return;
  const mine = view, preview = view.preview = {percent, dice: undefined, areas: null};
  update();
  await new Promise(rested => setTimeout(rested, REST));
  if (view !== mine || view.preview !== preview) return;
  try {
    const answer = await (await get(`patient/${view.patient}/preview-${state.region}/${percent}.json`)).json();
    if (view === mine) Object.assign(preview, answer);
    update();
  } catch (error) {
    if (view === mine && view.preview === preview) say(error.message, true);
  }
}

export function backToOperatingPoint() {
  view.preview = null;
  update();
}

// Of which threshold the scores are.
export function scoresText() {
  const of = several ? ` of ${regionName(state.region)}` : "", scored = state.worst.length > 0;
  if (!view.preview) return scored ? "Scores: at the operating point" : "";
  const {percent, dice} = view.preview, at = (percent / 100).toFixed(2);
  const score = typeof dice === "number" ? `, Dice${of} ${dice.toFixed(3)}` : of;
  return `preview${score} at ${at}; no lesion too small${scored ? ". All other scores: at the operating point" : ""}`;
}
