// The page: puts its parts together, keeps the list of patients, and opens the first.

import {connectControls, showControls} from "./controls.js";
import {markChosen, ordered, showList, showSort, worstFirst} from "./list.js";
import {choose} from "./patient.js";
import {drawPictures} from "./pictures.js";
import {drawLegend} from "./readout.js";
import {$, gallery, onUpdate, state, view} from "./state.js";

function sortList() {
  state.order = ordered(gallery.patients, state.sort, $("filter").value);
  showList($("rows"), gallery.patients, state.order, gallery.volume_unit, choose);
  showSort(document.querySelectorAll("[data-sort]"), state.sort, gallery.volume_unit);
  markChosen($("rows"), view.patient);
}

function connectList() {
  for (const button of document.querySelectorAll("[data-sort]"))
    button.addEventListener("click", () => {
      const by = button.dataset.sort;
      state.sort = {by, down: state.sort.by === by && !state.sort.down};
      sortList();
    });
  $("filter").addEventListener("input", sortList);
}

function start() {
  for (const [name, colour] of Object.entries(gallery.colours))
    document.documentElement.style.setProperty(`--${name}`, colour);
  document.title = `${gallery.title} – jaxseg`;
  $("title").textContent = gallery.title;
  $("notes").textContent = $("notes").title = gallery.notes.join(" ");
  state.worst = worstFirst(gallery.patients);
  document.body.classList.toggle("unscored", !state.worst.length);
  if (state.worst.length) state.sort.by = "dice";
  $("space-row").hidden = !gallery.niivue;
  drawLegend($("legend"), gallery.threshold);
  onUpdate(showControls, drawPictures);
  connectList();
  connectControls();
  sortList();
  choose(state.order[0]);
}

start();
