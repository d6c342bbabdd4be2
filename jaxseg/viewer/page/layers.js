// Planes of volumes as the server sends them; the latest are kept, so that a slider feels instant.

const MOST = 600;  // planes
const kept = new Map();  // path -> {promise, values: null while it is on its way}
let onTheWay = new AbortController();

// Values of a plane that is here, else null, and it is sent for.
export function layerNow(path, arrived, failed) {
  const known = kept.get(path) ?? request(path);
  kept.delete(path);  // the latest used go last
  kept.set(path, known);
  if (!known.values) known.promise.then(arrived, failed);
  return known.values;
}

export function prefetch(path) {
  if (!kept.has(path)) request(path).promise.catch(() => {});
}

// Give up all that is on its way: it would only keep what is asked for next waiting.
export function abandon() {
  onTheWay.abort();
  onTheWay = new AbortController();
}

export async function get(path) {
  const response = await fetch(path, {signal: onTheWay.signal});
  if (!response.ok) throw new Error(await response.text());
  return response;
}

function request(path) {
  const entry = {values: null};
  entry.promise = get(path).then(response => response.arrayBuffer()).then(buffer => {
    entry.values = path.includes("/image-") ? new Uint16Array(buffer) : new Uint8Array(buffer);
  });
  entry.promise.catch(() => kept.delete(path));
  kept.set(path, entry);
  if (kept.size > MOST) kept.delete(kept.keys().next().value);
  return entry;
}
