// Choosing a patient: its name and scores at once, then the scan, then the prediction. And choosing
// the region whose scores are shown.

import {abandon, get} from "./layers.js";
import {forgetLesions} from "./lesions.js";
import {markChosen, ordered, showList, showSort, worstFirst} from "./list.js";
import {actions, goToTumour} from "./moves.js";
import {clearPictures, openPlanes, showSpace} from "./pictures.js";
import {showFacts} from "./readout.js";
import {showRegions} from "./regions.js";
import {$, gallery, newView, say, state, update, updateNow, view} from "./state.js";

const REST = 250;  // ms on a patient before it is predicted: flipping through predicts none

// The list as it is asked for, by the region that is looked at.
export function sortList() {
  const rows = gallery.patients.map(({patient, regions}) => ({patient, ...regions[state.region]}));
  state.worst = worstFirst(rows);
  state.order = ordered(rows, state.sort, $("filter").value);
  showList($("rows"), rows, state.order, gallery.volume_unit, choose);
  showSort(document.querySelectorAll("[data-sort]"), state.sort, gallery.volume_unit);
  markChosen($("rows"), view.patient);
}

export function chooseRegion(region) {
  state.region = region % gallery.regions.length;
  view.preview = null;
  forgetLesions();
  sortList();
  describePatient(view.patient);
  update();
}

function neighbour(order, by) {
  const at = order.indexOf(view.patient);
  return at < 0 ? order[0] : order[at + by];
}

export function chooseNext(order, by) {
  const next = neighbour(order, by);
  if (next !== undefined) choose(next);
}

export async function choose(n) {
  if (n === undefined || n === view.patient) return;
  const mine = newView(n);
  abandon();
  markChosen($("rows"), n);
  describePatient(n);
  clearPictures();
  updateNow();
  try {
    say("Reading …");
    const scan = await (await get(`patient/${n}/scan.json`)).json();
    if (view !== mine) return;
    openScan(scan);
    say("Predicting …");
    await new Promise(rested => setTimeout(rested, REST));
    if (view !== mine) return;
    const prediction = await (await get(`patient/${n}/prediction.json`)).json();
    if (view !== mine) return;
    view.prediction = prediction;
    say("");
    if (!scan.truth) goToTumour();
    update();
    if (state.space) showSpace();
  } catch (error) {
    if (view !== mine) return;
    say(error.message, true);
    if (state.space) showSpace();  // of the scan, if that is here
  }
}

function describePatient(n) {
  const row = gallery.patients[n], rank = state.worst.indexOf(n);
  $("patient").textContent = row.patient;
  $("rank").textContent = rank < 0 ? "" : `${rank + 1} of ${state.worst.length}, the worst first`;
  showFacts($("facts"), row.regions[state.region].facts);
  showRegions();
  $("previous-worst").disabled = neighbour(state.worst, -1) === undefined;
  $("next-worst").disabled = neighbour(state.worst, 1) === undefined;
}

function openScan(scan) {
  view.scan = scan;
  state.channel = Math.min(state.channel, scan.channels.length - 1);
  view.windows = scan.channels.map(({low, high}) => ({low, high}));
  $("channel").replaceChildren(...scan.channels.map((_, c) => new Option(gallery.channels[c] ?? `${c + 1} of ${scan.channels.length}`, c)));
  $("channel-row").hidden = scan.channels.length < 2;
  openPlanes(actions);
  $("sequences").hidden = scan.channels.length < 2;
  view.position = scan.shape.map(size => size >> 1);
  goToTumour();
  update();
}
