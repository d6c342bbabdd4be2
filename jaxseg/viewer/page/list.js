// The list of patients: sorted by name, Dice or volume, those whose name holds what is searched for.

const name = new Intl.Collator("en", {numeric: true}).compare;

// Numbers of the patients in order; those without the value come last either way.
export function ordered(patients, {by, down}, wanted) {
  const compare = (a, b) => {
    const [x, y] = [patients[a], patients[b]];
    if (by !== "patient" && (x[by] === null) !== (y[by] === null)) return x[by] === null ? 1 : -1;
    const order = by === "patient" ? name(x.patient, y.patient) : x[by] - y[by];
    return (down ? -order : order) || name(x.patient, y.patient);
  };
  return [...patients.keys()].sort(compare)
    .filter(n => patients[n].patient.toLowerCase().includes(wanted.trim().toLowerCase()));
}

// Numbers of the patients with a Dice, the worst first.
export function worstFirst(patients) {
  return ordered(patients, {by: "dice", down: false}, "").filter(n => patients[n].dice !== null);
}

export function showList(body, patients, order, unit, choose) {
  body.replaceChildren(...order.map(n => {
    const {patient, dice, volume} = patients[n], row = document.createElement("tr");
    for (const [text, kind] of [[patient, ""], [dice?.toFixed(3) ?? "–", "scored"], [volumeText(volume, unit), ""]]) {
      const cell = row.insertCell();
      Object.assign(cell, {textContent: text, title: text, className: kind});
    }
    row.dataset.patient = n;
    row.addEventListener("click", () => choose(n));
    return row;
  }));
}

export function showSort(buttons, {by, down}, unit) {
  const labels = {patient: "Patient", dice: "Dice", volume: unit === "ml" ? "Volume, ml" : "Voxels"};
  for (const button of buttons) {
    const key = button.dataset.sort, arrow = down ? " ▾" : " ▴";
    button.setAttribute("aria-pressed", key === by);
    button.textContent = labels[key] + (key === by ? arrow : "");
  }
}

export function markChosen(body, patient) {
  for (const row of body.children) {
    const chosen = Number(row.dataset.patient) === patient;
    row.setAttribute("aria-selected", chosen);
    if (chosen) showInList(row);
  }
}

// Scrolls the list alone: on a phone the page is taller than its window, and must stay where it is.
function showInList(row) {
  const list = row.closest("#list").getBoundingClientRect(), place = row.getBoundingClientRect();
  const head = row.closest("table").tHead.offsetHeight;
  const above = place.top - list.top - head, below = place.bottom - list.bottom;
  row.closest("#list").scrollTop += above < 0 ? above : Math.max(below, 0);
}

export function volumeText(volume, unit) {
  if (volume === null) return "–";
  return unit === "ml" ? volume.toFixed(1) : volume.toLocaleString("en");
}
