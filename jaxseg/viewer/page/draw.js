// Pictures from numbers: nothing here knows of patients, of the page or of the server.

// Grey levels 0..255 of the numbers sent: black up to low, white from high on.
export function greyLevels(numbers, {offset, step}, low, high) {
  const grey = new Uint8ClampedArray(numbers.length);
  const gain = 255 / Math.max(high - low, 1e-12);
  for (let i = 0; i < numbers.length; i++) grey[i] = gain * (offset + step * numbers[i] - low);
  return grey;
}

// Edges between the pixels in and out of a mask, as [x0, y0, x1, y1] with pixel i from i to i + 1.
export function outline(mask, width, height) {
  const edges = [];
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] > 0;
  for (let y = 0; y <= height; y++)
    for (let x = 0, start = -1; x <= width; x++) {
      const edge = x < width && inside(x, y) !== inside(x, y - 1);
      if (edge && start < 0) start = x;
      if (!edge && start >= 0) { edges.push([start, y, x, y]); start = -1; }
    }
  for (let x = 0; x <= width; x++)
    for (let y = 0, start = -1; y <= height; y++) {
      const edge = y < height && inside(x, y) !== inside(x - 1, y);
      if (edge && start < 0) start = y;
      if (!edge && start >= 0) { edges.push([x, start, x, y]); start = -1; }
    }
  return edges;
}

// 2 |A and B| / (|A| + |B|); null where both are empty.
export function dice(a, b) {
  let both = 0, sum = 0;
  for (let i = 0; i < a.length; i++) {
    both += a[i] && b[i] ? 1 : 0;
    sum += (a[i] ? 1 : 0) + (b[i] ? 1 : 0);
  }
  return sum ? 2 * both / sum : null;
}

// Colour of a probability in 0..1: dark violet, red, yellow.
export function heat(p) {
  return [255 * Math.min(1, .25 + 1.1 * p), 255 * Math.max(0, 1.5 * p - .5), 255 * Math.max(0, .45 - p)];
}

export function rgb(colour) {
  return [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
}

// Where the picture lies on the canvas: in proportion, as large as fits times the zoom (1), its
// centre {x, y} (the middle), in pixels of the plane, in the middle of the canvas.
export function placement(canvas, plane) {
  const fitting = Math.min(canvas.width / (plane.width * plane.stepX), canvas.height / (plane.height * plane.stepY));
  const scale = fitting * (plane.zoom ?? 1), centre = plane.centre ?? {x: plane.width / 2, y: plane.height / 2};
  const width = plane.width * plane.stepX * scale, height = plane.height * plane.stepY * scale;
  return {
    x: canvas.width / 2 - centre.x * width / plane.width,
    y: canvas.height / 2 - centre.y * height / plane.height,
    width, height,
  };
}

// Draw a plane: {width, height, stepX, stepY, zoom, centre, grey, fills, contours, cross, ruler, letters}.
// ruler: {from, to, text}, from and to in pixels of the plane with fractions. fills: [{values, most (of the values), colour (none: by heat)}]; contours: [{edges, colour, thickness, strength}].
export function drawPlane(canvas, plane, opacity) {
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * density);
  canvas.height = Math.round(canvas.clientHeight * density);
  if (!canvas.width || !canvas.height) return;
  const context = canvas.getContext("2d"), at = placement(canvas, plane);
  paint(context, plane, at, true, (pixels, i) => {
    pixels[4 * i] = pixels[4 * i + 1] = pixels[4 * i + 2] = plane.grey[i];
    pixels[4 * i + 3] = 255;
  });
  for (const {values, most, colour} of plane.fills)
    paint(context, plane, at, false, (pixels, i) => {
      const share = values[i] / most;
      if (!share) return;
      pixels.set(colour ?? heat(share), 4 * i);
      pixels[4 * i + 3] = 255 * opacity * (colour ? 1 : Math.min(1, .1 + 1.5 * share));
    });
  for (const {edges, colour, thickness, strength} of plane.contours) {
    context.beginPath();
    for (const [x0, y0, x1, y1] of edges) {
      context.moveTo(at.x + x0 * at.width / plane.width, at.y + y0 * at.height / plane.height);
      context.lineTo(at.x + x1 * at.width / plane.width, at.y + y1 * at.height / plane.height);
    }
    Object.assign(context, {strokeStyle: colour, lineWidth: thickness * density, lineCap: "square", globalAlpha: strength});
    context.stroke();
  }
  context.globalAlpha = 1;
  if (plane.cross) drawCross(context, plane, at, density);
  if (plane.ruler) drawRuler(context, plane, at, density);
  drawLetters(context, plane.letters, density);
}

function paint(context, plane, at, smooth, setPixel) {
  const small = new OffscreenCanvas(plane.width, plane.height);
  const image = new ImageData(plane.width, plane.height);
  for (let i = 0; i < plane.width * plane.height; i++) setPixel(image.data, i);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, at.x, at.y, at.width, at.height);
}

function drawCross(context, plane, at, density) {
  const x = at.x + (plane.cross.x + .5) * at.width / plane.width;
  const y = at.y + (plane.cross.y + .5) * at.height / plane.height, gap = 8 * density;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [
    [at.x, y, x - gap, y], [x + gap, y, at.x + at.width, y],
    [x, at.y, x, y - gap], [x, y + gap, x, at.y + at.height]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  Object.assign(context, {strokeStyle: "rgb(110 190 255 / .75)", lineWidth: density});
  context.stroke();
}

function drawRuler(context, plane, at, density) {
  const [from, to] = [plane.ruler.from, plane.ruler.to].map(({x, y}) => ({
    x: at.x + x * at.width / plane.width, y: at.y + y * at.height / plane.height}));
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  for (const {x, y} of [from, to]) context.rect(x - 2 * density, y - 2 * density, 4 * density, 4 * density);
  Object.assign(context, {strokeStyle: "#ffe45c", lineWidth: 1.5 * density, lineCap: "butt"});
  context.stroke();
  const right = to.x > context.canvas.width * .7, x = to.x + (right ? -8 : 8) * density;
  Object.assign(context, {
    font: `600 ${13 * density}px system-ui, sans-serif`, fillStyle: "#ffe45c", shadowColor: "#000",
    shadowBlur: 3 * density, textAlign: right ? "right" : "left", textBaseline: "middle"});
  context.fillText(plane.ruler.text, x, to.y);
  context.shadowBlur = 0;
}

// Names of the directions at the left, right, upper and lower edge.
function drawLetters(context, letters, density) {
  const {width, height} = context.canvas, margin = 7 * density;
  Object.assign(context, {font: `600 ${13 * density}px system-ui, sans-serif`, fillStyle: "#cfd8e0", shadowColor: "#000", shadowBlur: 3 * density});
  for (const [text, x, y, align, baseline] of [
    [letters[0], margin, height / 2, "left", "middle"], [letters[1], width - margin, height / 2, "right", "middle"],
    [letters[2], width / 2, margin, "center", "top"], [letters[3], width / 2, height - margin, "center", "bottom"]]) {
    Object.assign(context, {textAlign: align, textBaseline: baseline});
    context.fillText(text ?? "", x, y);
  }
  context.shadowBlur = 0;
}

// Tumour area over the slices: truth as an area, prediction as a line, the present slice marked.
export function drawProfile(canvas, truth, prediction, present, colours) {
  const density = window.devicePixelRatio || 1, style = getComputedStyle(canvas);
  canvas.width = Math.round(canvas.clientWidth * density);
  canvas.height = Math.round(canvas.clientHeight * density);
  const context = canvas.getContext("2d"), number = (truth ?? prediction)?.length ?? 0;
  if (!number) return;
  const most = Math.max(1, ...(truth ?? []), ...(prediction ?? []));
  const x = i => (i + .5) * canvas.width / number, y = area => canvas.height - 2 - area / most * (canvas.height - 6 * density);
  context.fillStyle = style.getPropertyValue("--accent");
  context.globalAlpha = .35;
  context.fillRect(present * canvas.width / number, 0, Math.max(canvas.width / number, 2), canvas.height);
  for (const [areas, colour, filled] of [[truth, colours.truth, true], [prediction, colours.prediction, false]]) {
    if (!areas) continue;
    context.beginPath();
    context.moveTo(x(0), filled ? canvas.height : y(areas[0]));
    areas.forEach((area, i) => context.lineTo(x(i), y(area)));
    context.lineTo(x(number - 1), filled ? canvas.height : y(areas[number - 1]));
    Object.assign(context, {fillStyle: colour, strokeStyle: colour, lineWidth: 1.5 * density, globalAlpha: filled ? .6 : 1});
    filled ? context.fill() : context.stroke();
  }
  context.globalAlpha = 1;
}
