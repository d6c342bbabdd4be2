"""Fast changes between patients of a slow server: nothing of one beside another's name."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable

import browser
import numpy as np
import pytest
from fake_gallery import SPACING_MM, make_gallery, serving

from jaxseg.errors import TrainingFailed
from jaxseg.viewer import serve
from jaxseg.viewer.pictures import PatientRow, RegionRow, make_prediction, make_scan

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="needs Debian's chromium")

SECONDS = (0.05, 0.4, 0.15)  # until the server has a scan, or a slice of it
ROWS, COLUMNS = 4, 6  # of a quarter of a slice
DRAWN = "(document.querySelector('.plane canvas')?.dataset.drawn ?? '')"
# Keeps what the page shows at every change of the name and in every picture of the screen.
WATCH = """(() => {
  const text = selector => document.querySelector(selector)?.textContent.trim() ?? "";
  const every = (selector, value) => [...document.querySelectorAll(selector)].map(value);
  const context = new OffscreenCanvas(6, 2).getContext("2d", {willReadFrequently: true});
  context.imageSmoothingQuality = "high";
  // The brightest of so many parts of a canvas's upper share, null where all is empty.
  function brightest(canvas, across, down, height) {
    if (!canvas?.width || !canvas.height) return null;
    context.clearRect(0, 0, 6, 2);
    context.drawImage(canvas, 0, 0, canvas.width, height * canvas.height, 0, 0, across, down);
    const {data} = context.getImageData(0, 0, across, down), light = [];
    for (let i = 0; i < data.length; i += 4)
      light.push(data[i + 3] * (data[i] + data[i + 1] + data[i + 2]));
    const most = Math.max(...light);
    return most ? light.indexOf(most) : null;
  }
  window.look = () => {
    const space = document.getElementById("space-canvas");
    const shown = {
      name: text("#patient"),
      drawn: every(".plane canvas", canvas => canvas.dataset.drawn ?? null),
      quarter: brightest(document.querySelector(".plane canvas"), 2, 2, 1),
      captions: every(".plane output", output => output.textContent),
      voxel: text("#where"),
      dice: text("#slice-dice"),
      lesion: text("#lesion"),
      preview: text("#scores-of"),
      level: text("#level-value"),
      channels: every("#channel option", option => option.value).length,
      third: brightest(document.getElementById("profile"), 3, 1, .5),
      rendered: space.checkVisibility({visibilityProperty: true}) && space.dataset.rendered || null,
      wrong: document.getElementById("state").className === "error",
    };
    seen.add(JSON.stringify(shown));
    return shown;
  };
  window.seen = new Set();
  new MutationObserver(look).observe(document.getElementById("patient"), {childList: true});
  (function frame() { look(); requestAnimationFrame(frame); })();
})()"""
# Stands for NiiVue: some time after it has the volumes it shows how many slices they have.
NIIVUE = """export class Niivue {
  attachToCanvas(canvas) { this.canvas = canvas; }
  addColormap() {}
  setSliceType() {}
  async loadVolumes(volumes) {
    const slices = new Set();
    for (const {url} of volumes) {
      const body = (await fetch(url)).body.pipeThrough(new DecompressionStream("gzip"));
      slices.add(new Int16Array(await new Response(body).arrayBuffer())[23]);
    }
    this.canvas.dataset.loading = [...slices];
    await window.held;
    await new Promise(loaded => setTimeout(loaded, 300));
    this.canvas.dataset.rendered = [...slices];
  }
}"""


def make_patient(n: int):
    """Return scan and prediction of a patient known by all that is shown of it.

    The n-th quarter of its slices is bright, its tumour lies in the n-th third of 6 + 3 n slices,
    and it has n + 1 channels.
    """
    slices, row, column = 6 + 3 * n, ROWS * (n // 2), COLUMNS * (n % 2)
    quarter = np.s_[:, row : row + ROWS, column : column + COLUMNS]
    image = np.full((slices, 2 * ROWS, 2 * COLUMNS, 1), dark(n), np.uint16)
    image[quarter] = bright(n) + 10 * np.arange(COLUMNS)[:, None]
    third = slice(n * slices // 3, (n + 1) * slices // 3)
    truth, mask = np.zeros(image.shape[:3], bool), np.zeros(image.shape[:3], bool)
    truth[third][quarter] = True
    mask[third, row : row + ROWS, column : column + n + 2] = True
    scan = make_scan(image.repeat(n + 1, axis=3), truth[..., None], SPACING_MM)
    probability = 0.9 * mask[..., None].astype(np.float32)
    return scan, make_prediction(mask[..., None], probability)


def dark(n: int) -> int:
    return 10 * (n + 1)


def bright(n: int) -> int:
    return 1000 * (n + 1)


PATIENTS = [make_patient(n) for n in range(3)]


def slow_scan(n: int):
    time.sleep(SECONDS[n])
    return PATIENTS[n][0]


def slow_prediction(n: int):
    time.sleep(0.2)
    return PATIENTS[n][1]


def gallery(scan=slow_scan, predict=slow_prediction):
    rows = tuple(PatientRow(f"p{n}", (RegionRow(0.1 * n, 240),)) for n in range(3))
    return make_gallery(rows=rows, scan=scan, predict=predict)


@contextlib.contextmanager
def watched(page, shown, niivue=None):
    """Open the page; at the end it must never have shown one patient under another's name."""
    with serving(shown, niivue) as server:
        page.requests.clear()
        page.open(serve.address(server))
        page.wait(f"{DRAWN}.startsWith('0 ')")
        page.run(WATCH)
        yield
        page.run("new Promise(requestAnimationFrame)")
        seen = [json.loads(look) for look in page.run("[...seen]")]
        wrong = [(look, foreign(look)) for look in seen if foreign(look)]
        assert wrong == []
    page.seen = seen


def foreign(look: dict) -> list[str]:
    """Return what is not of the patient whose name is shown."""
    n = int(look["name"].removeprefix("p"))
    channel = PATIENTS[n][0].channels[0]
    columns = n + 2  # predicted, of the quarter's
    dice = 2 * columns / (COLUMNS + columns)
    shape = (6 + 3 * n, 2 * ROWS, 2 * COLUMNS)
    intensity = int(look["voxel"].split(" ")[-1]) if look["voxel"] else None
    ours = {
        "drawn": all(drawn is None or drawn.startswith(f"{n} ") for drawn in look["drawn"]),
        "quarter": look["quarter"] in (None, n),
        "captions": all(
            caption == "" or caption.endswith(f" of {shape[0] if ',' in caption else size}")
            for caption, size in zip(look["captions"], (*shape, 0), strict=False)
        ),
        "voxel": intensity is None or intensity == dark(n) or 0 <= intensity - bright(n) < 100,
        "dice": look["dice"].removesuffix(", preview") in ("", f"Dice of this slice {dice:.3f}"),
        "lesion": look["lesion"].split(";")[0] in ("", lesion_of(n)),
        "preview": "Dice" not in look["preview"] or f"Dice {dice:.3f} at 0.40" in look["preview"],
        "level": look["level"] in ("", f"{(channel.low + channel.high) / 2:.0f}"),
        "channels": look["channels"] in (0, n + 1),
        "third": look["third"] in (None, n),
        "rendered": look["rendered"] in (None, str(shape[0])),
        "wrong": not look["wrong"],
    }
    return [name for name, right in ours.items() if not right]


def lesion_of(n: int) -> str:
    slices = 2 + n  # a third of them
    truth, mask = slices * ROWS * COLUMNS, slices * ROWS * (n + 2)
    return f"lesion 1 of 1: truth {truth} voxels, prediction {mask} voxels"


def switch(page, keys: str, seconds: tuple[float, ...]):
    """Press the keys, after each a wait, the mouse always on the picture."""
    for key, pause, x in zip(keys, itertools.cycle(seconds), itertools.count(500), strict=False):
        page.key(key)
        page.mouse("mouseMoved", x, 360)
        time.sleep(pause)
        page.mouse("mouseMoved", x, 361)


def shown_in_full(look: dict) -> bool:
    return (
        look["drawn"] != []
        and all(drawn is not None and "prediction" in drawn for drawn in look["drawn"])
        and None not in (look["quarter"], look["third"])
        and "" not in (look["dice"], look["level"], *look["captions"])
    )


def rendered(look: dict) -> bool:
    return look["rendered"] is not None


def wait(page, n: int, ready: Callable[[dict], bool]):
    """Wait until the n-th patient is shown."""
    deadline = time.monotonic() + browser.SECONDS
    while not ((look := page.run("look()"))["name"] == f"p{n}" and ready(look)):
        assert time.monotonic() < deadline, look
        time.sleep(0.02)


def point(page, n: int):
    """Move the mouse on the picture of the n-th patient until its voxel is read."""
    for y in itertools.cycle((360, 361)):
        page.mouse("mouseMoved", 500, y)
        look = page.run("look()")
        assert look["name"] == f"p{n}"
        if look["voxel"]:
            return
        time.sleep(0.02)


def test_nothing_of_a_patient_stands_beside_the_name_of_another(chromium):
    with watched(chromium, gallery()):
        chromium.wait(f"{DRAWN}.endsWith('prediction')")
        switch(chromium, "jjkkjjkk", (0.02,))
        switch(chromium, "jjkkjkjjkk", (0.3, 0.02, 0.6))
        for key, n in (("j", 1), ("j", 2), ("k", 1), ("k", 0), ("j", 1)):
            switch(chromium, key, (0.7,))
            wait(chromium, n, shown_in_full)
            point(chromium, n)
        switch(chromium, "kjkjkjkj", (0.1,))
        chromium.key("j")
        wait(chromium, 2, shown_in_full)
    assert {look["name"] for look in chromium.seen if look["voxel"]} == {"p0", "p1", "p2"}
    blank = [look for look in chromium.seen if look["drawn"] == [] and look["third"] is None]
    assert {look["name"] for look in blank} == {"p0", "p1", "p2"}


def test_the_rendering_of_a_patient_stands_beside_its_own_name_only(chromium, tmp_path):
    script = tmp_path / "niivue.js"
    script.write_text(NIIVUE)
    with watched(chromium, gallery(), script):
        chromium.key("v")
        wait(chromium, 0, rendered)
        switch(chromium, "jkjjkkjk", (0.6, 0.3, 0.9))
        for key, n in (("j", 1), ("j", 2), ("k", 1), ("j", 2)):
            chromium.key(key)
            wait(chromium, n, rendered)
        for key in "vkkv":  # changed while the planes are shown
            chromium.key(key)
        wait(chromium, 0, rendered)
        # Two are never loaded at once: the one that is left could be done last.
        chromium.run("void (window.held = new Promise(go => { window.release = go }))")
        chromium.key("j")
        chromium.wait("document.getElementById('space-canvas').dataset.loading === '9'")
        chromium.run("window.held = undefined")
        chromium.key("k")
        time.sleep(2)
        chromium.run("release()")
        wait(chromium, 0, rendered)
        time.sleep(0.5)


def test_lesions_thresholds_and_sequences_stay_with_their_patient(chromium):
    with watched(chromium, gallery()):
        chromium.wait(f"{DRAWN}.endsWith('prediction')")
        chromium.key("a")
        chromium.run("import('./threshold.js').then(module => { window.threshold = module })")
        for key, pause in [("j", 0.4), ("j", 1.2), ("k", 0.02), ("k", 0.7)] * 3:
            chromium.key("l")
            chromium.run("void threshold.tryThreshold(40)")
            time.sleep(pause / 2)
            chromium.run("void threshold.tryThreshold(40)")
            switch(chromium, key, (pause,))
        for key, n in (("j", 1), ("j", 2), ("k", 1), ("k", 0)):
            chromium.key(key)
            wait(chromium, n, shown_in_full)
            chromium.key("l")
            chromium.run("void threshold.tryThreshold(40)")
            wait(chromium, n, lambda look: look["lesion"] and "Dice" in look["preview"])
    for part in ("lesion", "preview"):
        assert len({look[part] for look in chromium.seen if look[part]}) > 2


def test_who_comes_back_to_a_patient_finds_it_read_once(chromium):
    waiting = threading.Event()

    def scan(n):
        assert n != 1 or waiting.wait(browser.SECONDS)
        return PATIENTS[n][0]

    with watched(chromium, gallery(scan)):
        for key in "jkj":
            chromium.key(key)
        waiting.set()
        chromium.wait(f"{DRAWN}.startsWith('1 ') && {DRAWN}.endsWith('prediction')")
        asked = [url for url in chromium.requests if url.endswith("/1/prediction.json")]
        assert len(asked) == 1


def test_an_error_that_comes_late_is_not_said_of_another_patient(chromium):
    calls, waiting = itertools.count(), threading.Event()

    def scan(n):
        if n == 1 and next(calls):  # the description is fine, the slices are not
            assert waiting.wait(browser.SECONDS)
            raise TrainingFailed("the scan cannot be read")
        return PATIENTS[n][0]

    with watched(chromium, gallery(scan)):
        chromium.key("j")
        chromium.wait("document.querySelector('.plane output')?.textContent.endsWith(' of 9')")
        chromium.key("j")
        waiting.set()
        chromium.wait(f"{DRAWN}.startsWith('2 ') && {DRAWN}.endsWith('prediction')")
        time.sleep(0.3)
        assert chromium.run("document.getElementById('state').textContent") == ""


def test_without_a_prediction_the_scan_is_rendered(chromium, tmp_path):
    def fail(n):
        if n:
            raise TrainingFailed("it cannot be predicted")
        return PATIENTS[n][1]

    script = tmp_path / "niivue.js"
    script.write_text(NIIVUE)
    with serving(gallery(predict=fail), script) as server:
        chromium.open(serve.address(server))
        chromium.wait(f"{DRAWN}.startsWith('0 ')")
        chromium.run(WATCH)
        chromium.key("v")
        wait(chromium, 0, rendered)
        chromium.key("j")
        wait(chromium, 1, rendered)
        assert chromium.run("look()")["rendered"] == "9"
