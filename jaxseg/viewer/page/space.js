// 3D rendering with the user's own copy of NiiVue, which the server hands out as niivue.js.

import {rgb} from "./draw.js";

let shown = null;  // the one NiiVue of the page

async function start(canvas, colours) {
  const module = await import("./niivue.js");
  const Niivue = module.Niivue ?? globalThis.niivue?.Niivue;  // a module or a plain script
  if (!Niivue) throw new Error("no NiiVue in the file of --niivue; give dist/niivue.umd.js");
  const niivue = new Niivue({backColor: [0, 0, 0, 1], show3Dcrosshair: false, logLevel: "error"});
  await niivue.attachToCanvas(canvas);
  for (const [name, colour] of Object.entries(colours)) {
    const [R, G, B] = rgb(colour).map(level => [level, level]);
    niivue.addColormap(name, {R, G, B, A: [0, 255], I: [0, 255]});
  }
  niivue.setSliceType(niivue.sliceTypeRender);
  return niivue;
}

// Render a channel and masks (names of layers, each with a colour of its name); return a remark.
export async function render(canvas, scan, patient, channel, {low, high}, masks, colours) {
  const file = name => ({url: `patient/${patient}/${name}.nii.gz`, name: `${name}.nii.gz`});
  try {
    shown ??= await start(canvas, colours);
    await shown.loadVolumes([
      {...file(`image-${channel}`), colormap: "gray", cal_min: low, cal_max: high},
      ...masks.map(name => ({...file(name), colormap: name, cal_min: 0, cal_max: 1, opacity: .7})),
    ]);
  } catch (error) {
    return `3D rendering failed: ${error.message}`;
  }
  return scan.spacing_mm.length ? "" : "Voxel size unknown: shown as cubes, not in proportion.";
}
