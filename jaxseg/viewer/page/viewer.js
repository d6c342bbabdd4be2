// The page: puts its parts together, keeps the list of patients, and opens the first.

import {connectControls, showControls} from "./controls.js";
import {choose, chooseRegion, sortList} from "./patient.js";
import {drawPictures} from "./pictures.js";
import {drawLegend} from "./readout.js";
import {openRegions} from "./regions.js";
import {$, gallery, onUpdate, state} from "./state.js";

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
  const scored = gallery.patients.some(({regions}) => regions.some(({dice}) => dice !== null));
  document.body.classList.toggle("unscored", !scored);
  if (scored) state.sort.by = "dice";
  $("space-row").hidden = !gallery.niivue;
  drawLegend($("legend"));
  openRegions(chooseRegion);
  onUpdate(showControls, drawPictures);
  connectList();
  connectControls();
  sortList();
  choose(state.order[0]);
}

start();
