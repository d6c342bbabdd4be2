// 3D rendering with the user's own copy of NiiVue, which the server hands out as niivue.js.

import {rgb} from "./draw.js";
import {get} from "./layers.js";

// The head is a haze, densest where it is bright: an opaque one would hide the masks in it.
const HEAD = {R: [0, 255], G: [0, 255], B: [0, 255], A: [0, 24], I: [0, 255]};

let shown = null;  // the one NiiVue of the page
let latest = null;  // the rendering that is wanted
let before = Promise.resolve();  // the loading before: two at once would mix their volumes

async function start(canvas, colours) {
  const module = await import("./niivue.js");
  const Niivue = module.Niivue ?? globalThis.niivue?.Niivue;  // a module or a plain script
  if (!Niivue) throw new Error("no NiiVue in the file of --niivue; give dist/niivue.umd.js");
  const niivue = new Niivue({backColor: [0, 0, 0, 1], show3Dcrosshair: false, logLevel: "error"});
  await niivue.attachToCanvas(canvas);
  niivue.addColormap("head", HEAD);
  for (const [name, colour] of Object.entries(colours)) {
    const [R, G, B] = rgb(colour).map(level => [level, level]);
    niivue.addColormap(name, {R, G, B, A: [0, 255], I: [0, 255]});
  }
  niivue.setSliceType(niivue.sliceTypeRender);
  return niivue;
}

// Hide the rendering; one on its way is not shown.
export function clear(canvas) {
  canvas.style.visibility = "hidden";
  latest = null;
}

// Render a channel and masks (names of layers, each with a colour of its name); return a remark,
// null if another rendering or none is wanted by then.
export async function render(canvas, scan, patient, channel, {low, high}, masks, colours) {
  clear(canvas);
  const mine = latest = {};
  const volumes = [
    {name: `image-${channel}.nii.gz`, colormap: "head", cal_min: low, cal_max: high},
    ...masks.map(name => ({name: `${name}.nii.gz`, colormap: name, cal_min: 0, cal_max: 1, opacity: .7})),
  ];
  try {
    const files = await Promise.all(volumes.map(async ({name}) => (await get(`patient/${patient}/${name}`)).blob()));
    const loaded = before.then(() => latest === mine && load(canvas, volumes, files, colours));
    before = loaded.catch(() => {});
    await loaded;
  } catch (error) {
    return latest === mine ? `3D rendering failed: ${error.message}` : null;
  }
  if (latest !== mine) return null;
  canvas.style.visibility = "visible";
  return scan.spacing_mm.length ? "" : "Voxel size unknown: shown as cubes, not in proportion.";
}

async function load(canvas, volumes, files, colours) {
  shown ??= await start(canvas, colours);
  const urls = files.map(file => URL.createObjectURL(file));
  try {
    await shown.loadVolumes(volumes.map((volume, i) => ({...volume, url: urls[i]})));
  } finally {
    urls.forEach(url => URL.revokeObjectURL(url));
  }
}
