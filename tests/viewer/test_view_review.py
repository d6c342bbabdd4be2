"""Review in a real Chromium: regions, zoom, ruler, sequences, threshold, lesions, saved picture."""

import time

import browser
import cv2
import numpy as np
import pytest
from fake_gallery import SPACING_MM, box, make_gallery, volume
from viewer_page import DRAWN, click, drag, hover, of_plane, pixel, text

from jaxseg.scoring.colours import PALETTE
from jaxseg.viewer.pictures import PatientRow, RegionRow, make_prediction, make_scan

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="needs Debian's chromium")

GREEN, BLUE, ORANGE = PALETTE[:3]
REGIONS = ("whole_tumour", "tumour_core", "enhancing_tumour")
READY = f"{DRAWN}.endsWith('prediction')"


def nested() -> np.ndarray:
    """Return masks [D, H, W, 3], one in the other; the whole tumour has a second lesion."""
    whole = box(slice(1, 4), slice(1, 7), slice(1, 8)) | box(5, 7, slice(8, 10))
    core = box(slice(1, 4), slice(2, 6), slice(2, 7))
    return np.stack([whole, core, box(slice(2, 4), slice(3, 5), slice(3, 6))], axis=-1)


def gallery():
    """Return two patients with three regions and sequences, the second without spacing."""
    truth = nested()
    mask = truth & box(slice(0, 6), slice(0, 8), slice(0, 8))[..., None]  # without the second
    probability = np.where(mask, 0.9, 0.1).astype(np.float32)
    probability[2, 1:7, 8] = 0.4  # a column of six beside the whole tumour
    image = np.concatenate([volume(), volume()[..., :1] + 1000], axis=-1)
    scans = [make_scan(image, truth, spacing, voxel_mm3=6.0) for spacing in (SPACING_MM, ())]
    rows = tuple(
        PatientRow(
            f"Jane Doe {n}",
            tuple(
                RegionRow(dice, 10 * k, (("Dice", f"{dice:.3f}"),), f"{k}.5 mm")
                for k, dice in enumerate(dices)
            ),
        )
        for n, dices in enumerate(((0.9, 0.5, 0.7), (0.95, 0.4, 0.8)))
    )
    return make_gallery(
        rows=rows,
        scan=lambda n: scans[n],
        predict=lambda _: make_prediction(mask, probability),
        thresholds=(0.5, 0.6, 0.7),
        channels=("T1", "FLAIR", "T1C"),
        regions=REGIONS,
    )


@pytest.fixture(scope="module")
def shown():
    return gallery()


def fill(page):
    """Show areas, opaque, instead of contours."""
    page.run("document.getElementById('opacity').value = 100")
    for key in "tpT":
        page.key(key)


def test_the_patient_whose_whole_tumour_is_worst_is_shown_first(page):
    assert text(page, "#patient") == "Jane Doe 0"


def test_every_region_has_its_colour_its_scores_and_can_be_hidden(page):
    cells = (
        "[...document.querySelectorAll('#regions tr')].map(r => r.innerText.split(/\\s{2,}|\\t/))"
    )
    shown = [[part.strip() for part in row if part.strip()] for row in page.run(cells)]
    assert shown == [
        ["Region", "Dice", "HD95", "voxels"],
        ["whole tumour", "0.900", "0.5 mm", "0"],
        ["tumour core", "0.500", "1.5 mm", "10"],
        ["enhancing tumour", "0.700", "2.5 mm", "20"],
        ["mean", "0.700"],
    ]
    # The panel's right edge: nothing is to be scrolled for.
    panel = "document.querySelector('#regions').closest('aside')"
    assert page.run(f"{panel}.scrollWidth <= {panel}.clientWidth")
    fill(page)
    assert text(page, ".plane output") == "slice 2 of 6"
    page.key("ArrowDown")
    page.wait(f"{DRAWN}.startsWith('0 2 ')")
    assert pixel(page, 1, 1) == GREEN and pixel(page, 2, 2) == BLUE and pixel(page, 4, 3) == ORANGE
    assert len(set(pixel(page, 0, 0))) == 1
    box = "document.querySelectorAll('#regions input')[2].click()"
    page.run(box)
    assert pixel(page, 4, 3) == BLUE
    page.run(box)
    assert pixel(page, 4, 3) == ORANGE
    swatches = "[...document.querySelectorAll('#regions i')].map(i => i.style.background)"
    assert page.run(swatches) == [f"rgb{colour}" for colour in (GREEN, BLUE, ORANGE)]


def test_the_region_looked_at_rules_list_facts_and_slice(page):
    order = "[...document.querySelectorAll('#rows td:nth-child(2)')].map(td => td.textContent)"
    assert page.run(order) == ["0.900", "0.950"]
    assert text(page, "#slice-dice") == "whole tumour: Dice of this slice 1.000"
    page.key("e")
    page.wait("document.querySelector('#facts').textContent === 'Dice0.500'")
    assert page.run(order) == ["0.400", "0.500"]  # the worst first, of this region
    assert text(page, "#rank") == "2 of 2, the worst first"
    page.wait("document.getElementById('slice-dice').textContent.startsWith('tumour core:')")
    page.key("Home")
    page.wait(
        "document.getElementById('slice-dice').textContent === 'no tumour core in this slice'"
    )
    page.run("document.querySelectorAll('#regions button')[0].click()")
    assert page.run(order) == ["0.900", "0.950"]


def test_the_wheel_zooms_about_the_pointer_and_the_hand_moves(page):
    page.wait("document.querySelectorAll('.plane').length === 3")
    voxel = "document.getElementById('where').textContent.split(':')[0]"
    x, y, size = of_plane(page, 0, "[corner.left + at.x, corner.top + at.y, at.width / 10]")
    at, beside = (x + 7.2 * size, y + 0.6 * size), (x + 8.2 * size, y + 0.6 * size)
    assert hover(page, *at) == "slice 2, row 2, column 8"
    assert hover(page, *beside) == "slice 2, row 2, column 9"
    page.mouse("mouseWheel", *at, deltaX=0, deltaY=-480, modifiers=2)  # Ctrl: 4 times larger
    page.wait("import('./state.js').then(({view}) => view.zoom === 4)")
    assert hover(page, *at) == "slice 2, row 2, column 8"
    assert hover(page, *beside) == "slice 2, row 2, column 8"
    assert text(page, ".plane output") == "slice 2 of 6"  # the slice stays
    assert pixel_at(page, *at) == pytest.approx(pixel_at(page, *beside), abs=3)
    drag(page, *at, at[0] - 4 * size, at[1], modifiers=8)  # Shift: the hand
    assert hover(page, at[0] - 4 * size, at[1]) == "slice 2, row 2, column 8"
    zooms = "import('./state.js').then(({view}) => [view.zoom, view.centre])"
    page.key("z")
    page.mouse("mouseWheel", *at, deltaX=0, deltaY=480)
    page.wait("import('./state.js').then(({view}) => view.zoom === 1)")
    assert page.run(zooms) == [1, None]
    page.key("z")
    page.key("+")
    page.wait("import('./state.js').then(({view}) => view.zoom === 1.5)")
    page.key("f")
    assert page.run(zooms) == [1, None]
    assert hover(page, *at) == "slice 2, row 2, column 8"
    assert page.run(voxel) == "slice 2, row 2, column 8"


def pixel_at(page, x, y):
    """Return what the first canvas shows at a place of the page."""
    page.run("new Promise(requestAnimationFrame)")
    return of_plane(
        page,
        0,
        f"""(() => {{
          const context = new OffscreenCanvas(1, 1).getContext("2d");
          context.drawImage(canvas, -Math.floor({x} - corner.left), -Math.floor({y} - corner.top));
          return [...context.getImageData(0, 0, 1, 1).data];
        }})()""",
    )


RULER = """(async () => {
  const {rulerOf} = await import("./tools.js"), {view} = await import("./state.js");
  return rulerOf(%d, view.position[%d])?.text ?? "";
})()"""


def test_the_ruler_measures_in_mm_and_says_when_it_cannot(page):
    x, y, size = of_plane(page, 0, "[corner.left + at.x, corner.top + at.y, at.width / 20]")  # a mm
    page.key("u")
    page.key("h")
    drag(page, x + 4 * size, y + 1 * size, x + 10 * size, y + 5.5 * size)  # 6 by 4.5 mm
    page.wait(f"{RULER % (0, 0)}.then(text => text.endsWith(' mm'))")
    assert float(page.run(RULER % (0, 0)).removesuffix(" mm")) == pytest.approx(7.5, abs=0.15)
    red, green, blue, _ = pixel_at(page, x + 7 * size, y + 3.25 * size)
    assert red > 200 and green > 180 and blue < 150
    assert text(page, ".plane output") == "slice 2 of 6"
    page.key("ArrowDown")
    page.wait(f"{DRAWN}.startsWith('0 2 ')")
    assert page.run(RULER % (0, 0)) == ""  # it lies in the slice that was measured
    cx, cy = of_plane(page, 1, "[corner.left + at.x, corner.top + at.y]")
    mm = of_plane(page, 1, "at.width / 20")
    drag(page, cx + 2 * mm, cy + 2 * mm, cx + 2 * mm, cy + 14 * mm)  # four slices of 3 mm
    page.wait(f"{RULER % (1, 1)}.then(text => text.endsWith(' mm'))")
    assert float(page.run(RULER % (1, 1)).removesuffix(" mm")) == pytest.approx(12, abs=0.4)
    page.key("j")
    page.wait(f"{DRAWN}.startsWith('1 ') && {READY}")
    assert page.run(RULER % (0, 0)) == ""
    x, y = page.run(
        "(({left, top}) => [left + 200, top + 200])"
        "(document.querySelector('.plane canvas').getBoundingClientRect())"
    )
    drag(page, x, y, x + 60, y)
    page.wait(f"{RULER % (0, 0)}.then(text => text.endsWith(' pixels, spacing unknown'))")
    page.key("Escape")
    page.wait(f"{RULER % (0, 0)}.then(text => text === '')")


def test_all_sequences_stand_side_by_side_with_one_cursor(page):
    page.key("a")
    drawn = "[...document.querySelectorAll('.plane canvas')].map(c => c.dataset.drawn ?? '')"
    page.wait(f"({drawn}).length === 3 && ({drawn}).every(d => d.endsWith('prediction'))")
    assert page.run(drawn) == [f"0 1 image-{c},truth,prediction" for c in range(3)]
    outputs = "[...document.querySelectorAll('.plane output')].map(o => o.textContent)"
    assert page.run(outputs) == [f"{name}, slice 2 of 6" for name in ("T1", "FLAIR", "T1C")]
    x, y, size = page.run(
        """(async () => {
          const {placement} = await import("./draw.js"), {view} = await import("./state.js");
          const {canvas} = view.planes[1], {frame} = await import("./tools.js");
          const at = placement(canvas, frame(0)), corner = canvas.getBoundingClientRect();
          return [corner.left + at.x, corner.top + at.y, at.height / 8];
        })()"""
    )
    click(page, x + 5, y + 6.5 * size)  # row 7, the first column, in FLAIR
    page.wait("import('./state.js').then(({view}) => view.position[1] === 6)")
    assert page.run("import('./state.js').then(({view}) => view.position)") == [1, 6, 0]
    where = text(page, "#where")  # 100 z + 10 y + x, twice that, 1000 more
    assert where == "slice 2, row 7, column 1: T1 160, FLAIR 320, T1C 1160"
    page.key("ArrowDown")
    page.wait(f"({drawn}).every(d => d.startsWith('0 2 '))")
    page.key("x")
    page.wait(f"({drawn}).every(d => d.startsWith('0 6 '))")
    assert page.run(outputs)[0] == "T1, row 7 of 8"
    page.key("j")
    page.wait(f"({drawn}).length === 3 && ({drawn}).every(d => d.startsWith('1 '))")
    assert page.run(outputs)[2] == "T1C, slice 2 of 6"  # no planes across without spacing
    page.key("a")
    page.wait("document.querySelectorAll('.plane').length === 1")


def test_a_threshold_is_tried_and_said_to_be_a_preview(page):
    page.key("ArrowDown")
    page.wait(f"{DRAWN}.startsWith('0 2 ')")
    fill(page)
    page.key("P"), page.key("T")
    assert text(page, "#scores-of") == "Scores: at the operating point"
    assert text(page, "#threshold-value") == "0.50"
    assert pixel(page, 8, 3) != GREEN and pixel(page, 7, 2) == GREEN
    slide(page, 30)
    page.wait("document.getElementById('scores-of').textContent.includes('Dice')")
    # Truth 126 + 2 voxels; predicted 126, with the six more 132.
    dice = 2 * 126 / (128 + 132)
    assert text(page, "#scores-of") == (
        f"preview, Dice of whole tumour {dice:.3f} at 0.30; no lesion too small. "
        "All other scores: at the operating point"
    )
    page.wait(f"{DRAWN}.endsWith('probability-0')")
    assert pixel(page, 8, 3) == GREEN and pixel(page, 4, 3) == ORANGE
    assert text(page, "#slice-dice").endswith(", preview")
    page.key("o")
    page.wait(
        "document.getElementById('scores-of').textContent === 'Scores: at the operating point'"
    )
    assert pixel(page, 8, 3) != GREEN
    slide(page, 30)
    page.key("e")  # another region: its own threshold
    page.wait("document.getElementById('threshold-value').textContent === '0.60'")
    slide(page, 30)
    page.key("k")  # another patient: at the operating point
    page.wait(f"{DRAWN}.startsWith('1 ') && {READY}")
    time.sleep(0.3)
    assert text(page, "#threshold-value") == "0.60"
    assert text(page, "#scores-of") == "Scores: at the operating point"


def slide(page, percent: int):
    slider = "document.getElementById('threshold')"
    page.run(f"{slider}.value = {percent}, {slider}.dispatchEvent(new Event('input'))")


def test_keys_go_from_lesion_to_lesion_the_largest_first(page):
    page.key("l")
    page.wait("document.getElementById('lesion').textContent !== ''")
    assert text(page, "#lesion") == "lesion 1 of 2: truth 0.76 ml, prediction 0.76 ml"
    page.key("l")
    page.wait("document.getElementById('lesion').textContent.startsWith('lesion 2')")
    assert text(page, "#lesion") == "lesion 2 of 2: truth 0.01 ml, missed"
    page.wait(f"{DRAWN}.startsWith('0 5 ')")
    page.key("l")  # the last: stays
    page.key("L")
    page.wait("document.getElementById('lesion').textContent.startsWith('lesion 1')")
    page.key("e")
    page.wait("document.getElementById('lesion').textContent === ''")
    page.key("L")  # back from the end
    page.wait("document.getElementById('lesion').textContent.startsWith('lesion 1 of 1')")
    page.key("k")
    assert text(page, "#patient") == "Jane Doe 1" and text(page, "#lesion") == ""


def test_the_saved_picture_names_the_patient_only_when_asked(page, tmp_path):
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.key("s")
    path = tmp_path / "jaxseg-slice-2.png"
    shown = saved(path)
    planes = page.run("document.getElementById('planes').getBoundingClientRect().toJSON()")
    assert shown.shape[1] == round(planes["width"]) and shown.shape[0] > planes["height"] + 40
    canvas = shown[: round(planes["height"])].reshape(-1, 3)[:, ::-1].astype(int)
    for colour in (GREEN, BLUE):  # contours
        assert (np.abs(canvas - colour).max(1) < 12).sum() > 20
    footer = shown[round(planes["height"]) :]
    assert (footer.max(2) > 200).sum() > 100  # the line on research use
    page.run("document.getElementById('save-name').click()")
    page.key("s")
    named = saved(tmp_path / "jaxseg-Jane-Doe-0-slice-2.png")
    assert (named != shown).any() and named.shape == shown.shape


def saved(path) -> np.ndarray:
    deadline = time.monotonic() + browser.SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, [*path.parent.iterdir()]
        time.sleep(0.05)
    time.sleep(0.2)
    return cv2.imread(str(path))


def test_on_a_phone_regions_and_sequences_fit_the_width(page):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", **phone)
    try:
        drawn = "[...document.querySelectorAll('.plane canvas')].map(c => c.dataset.drawn ?? '')"
        for press in ("f", "a"):
            page.key(press)
            page.wait(f"({drawn}).length === 3 && ({drawn}).every(d => d.endsWith('prediction'))")
            assert page.run("document.documentElement.scrollWidth") == phone["width"]
            inside = (
                "[...document.querySelectorAll('.plane, .plane output, #tools > *, #regions')]"
                f".every(e => e.getBoundingClientRect().right <= {phone['width']})"
            )
            assert page.run(inside)
    finally:
        page.call("Emulation.setDeviceMetricsOverride", **browser.SCREEN)
