"""The viewer in a real headless Chromium: what a person does, and what is then on the canvas."""

import os
import threading
import time
from pathlib import Path

import browser
import cv2
import numpy as np
import pytest
from fake_gallery import make_gallery, serving
from viewer_page import DRAWN, of_plane, pixel, text

from jaxseg.scoring.contours import PREDICTION, TRUTH
from jaxseg.viewer import serve

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="needs Debian's chromium")

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture
def picture(page, request, tmp_path):
    """Write a screenshot; all are kept in $JAXSEG_SCREENSHOTS, to be looked at."""
    folder = Path(os.environ.get("JAXSEG_SCREENSHOTS", tmp_path))

    def write(name: str) -> np.ndarray:
        path = folder / f"{name}.png"
        page.screenshot(path)
        return cv2.imread(str(path))

    return write


def colour(name: str) -> tuple[int, ...]:
    return tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))


def test_the_list_opens_with_the_worst_patient_and_can_be_sorted(page, picture):
    names = "[...document.querySelectorAll('#rows td:first-child')].map(td => td.textContent)"
    assert page.run(names) == ["p9 <b>", "p10", "p8"]  # Dice 0.3, 0.6, none
    assert text(page, "#patient") == "p9 <b>"
    assert text(page, "#facts") == "Dice0.300IoU0.176"
    assert text(page, "#title") == "a run, test"
    page.run("document.querySelector('[data-sort=patient]').click()")
    assert page.run(names) == ["p8", "p9 <b>", "p10"]  # as numbers
    page.run("document.querySelector('[data-sort=volume]').click()")
    assert page.run(names) == ["p8", "p10", "p9 <b>"]
    page.run("document.querySelector('[data-sort=volume]').click()")
    assert page.run(names) == ["p9 <b>", "p10", "p8"]
    assert picture("list").shape == (800, 1280, 3)


def test_next_and_previous_worst_follow_the_dice(page):
    page.run("document.querySelector('[data-sort=patient]').click()")
    page.key("n")
    page.wait(f"{DRAWN}.startsWith('0 ')")
    assert text(page, "#patient") == "p10"
    assert text(page, "#rank") == "2 of 2, the worst first"
    page.key("n")  # the last: stays
    assert text(page, "#patient") == "p10"
    page.key("N")
    page.wait(f"{DRAWN}.startsWith('1 ')")
    assert text(page, "#patient") == "p9 <b>"


def test_slider_wheel_and_keys_move_the_slice(page):
    # It opens at the first slice with the most tumour, 2.
    page.wait(f"{DRAWN}.startsWith('1 2 ')")
    assert text(page, ".plane output") == "slice 3 of 6"
    slider = "document.querySelector('.plane input')"
    page.run(f"{slider}.value = 5, {slider}.dispatchEvent(new Event('input'))")
    page.wait(f"{DRAWN}.startsWith('1 5 ')")
    page.key("ArrowUp")
    page.wait(f"{DRAWN}.startsWith('1 4 ')")
    x, y = page.run(
        "(({left, top}) => [left + 50, top + 50])"
        "(document.querySelector('.plane canvas').getBoundingClientRect())"
    )
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=120)
    page.wait(f"{DRAWN}.startsWith('1 5 ')")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=120)  # beyond the last: stays
    page.key("Home")
    page.wait(f"{DRAWN}.startsWith('1 0 ')")
    page.key("g")
    page.wait(f"{DRAWN}.startsWith('1 2 ')")


def test_window_and_channel_decide_the_grey_level(page):
    page.key("h")  # overlays hidden
    page.run(
        "for (const [id, value] of [['level', 250], ['width', 200]]) {"
        " const e = document.getElementById(id); e.step = 'any'; e.value = value;"
        " e.dispatchEvent(new Event('input')); }"
    )
    page.wait("document.getElementById('width-value').textContent === '200'")
    # Window 150 to 350, intensity 200 + 10 y + x: grey (50 + 10 y + x) / 200 x 255.
    assert pixel(page, 0, 0) == pytest.approx((63.75,) * 3, abs=2.5)
    assert pixel(page, 9, 7) == pytest.approx((164.5,) * 3, abs=2.5)
    page.key("ArrowUp")
    page.wait(f"{DRAWN}.startsWith('1 1 ')")
    assert pixel(page, 0, 0) == (0, 0, 0)  # 100: below the window
    page.key("c")
    page.wait(f"{DRAWN}.includes('image-1')")
    assert page.run("document.getElementById('channel').value") == "1"
    options = "[...document.getElementById('channel').options].map(o => o.text).join()"
    assert page.run(options) == "T1,2 of 2"  # by name where there is one
    page.key("1")
    page.wait(f"{DRAWN}.includes('image-0')")
    page.key("r")
    page.wait("document.getElementById('width-value').textContent !== '200'")


def test_overlays_are_drawn_where_the_masks_are(page, picture):
    page.run("document.getElementById('opacity').value = 100")
    for key in "tpTP":  # filled instead of contours
        page.key(key)
    # Truth: rows 2 to 4, columns 3 to 6; the prediction, above it, columns 4 to 7.
    assert pixel(page, 3, 2) == colour(TRUTH)
    assert pixel(page, 4, 3) == pixel(page, 7, 4) == colour(PREDICTION)
    grey = pixel(page, 8, 3)
    assert len(set(grey)) == 1
    picture("filled")
    page.key("h")
    assert len(set(pixel(page, 4, 3))) == 1
    page.key("h")
    page.key("P")
    page.key("m")
    page.wait(f"{DRAWN}.endsWith('probability-0')")
    high, low = pixel(page, 7, 3), pixel(page, 0, 0)
    assert high[0] > 200 and high[0] > high[2]  # bright for 0.8
    assert low[0] < high[0] and low[1] < high[1]
    picture("probability")


def test_an_outline_runs_along_the_edges_of_the_pixels(page):
    page.run("import('./draw.js').then(module => { window.drawing = module })")
    edges = page.run("drawing.outline([0, 0, 0, 0, 1, 1, 0, 0, 0], 3, 3)")  # middle and right
    assert sorted(edges) == [[1, 1, 1, 2], [1, 1, 3, 1], [1, 2, 3, 2], [3, 1, 3, 2]]
    assert page.run("drawing.outline([0, 0, 0, 0], 2, 2)") == []
    # Two pixels that touch at a corner keep two outlines; at the image's edge they are closed.
    edges = page.run("drawing.outline([1, 0, 0, 1], 2, 2)")
    assert len(edges) == 6 and [0, 0, 1, 0] in edges and [0, 1, 2, 1] in edges
    assert page.run("drawing.dice([1, 1, 0, 0], [0, 1, 1, 0])") == 0.5
    assert page.run("drawing.dice([0, 0], [0, 0])") is None
    grey = page.run(
        "[...drawing.greyLevels([0, 1, 2, 3, 10], {offset: 5, step: 2}, 7, 11)]"
    )  # intensities 5, 7, 9, 11, 25
    assert grey == [0, 0, 128, 255, 255]


def test_the_dice_of_the_slice_and_the_voxel_under_the_pointer(page):
    # Slice 2: truth 12 pixels, prediction 12, both 9.
    assert text(page, "#slice-dice") == "Dice of this slice 0.750"
    page.key("m")
    page.wait(f"{DRAWN}.endsWith('probability-0')")
    x, y = page.run(
        "(({left, top, width, height}) => [left + width / 2 + 2, top + height / 2 + 2])"
        "(document.querySelector('.plane canvas').getBoundingClientRect())"
    )
    page.mouse("mouseMoved", x, y)
    page.wait("document.getElementById('where').textContent.includes('row')")
    # The middle of 8 rows and 10 columns: voxel (2, 4, 5), intensity 245.
    assert text(page, "#where") == "slice 3, row 5, column 6: intensity 245, probability 0.80"
    page.key("Home")
    page.wait(f"{DRAWN}.startsWith('1 0 ')")
    assert text(page, "#slice-dice") == "no tumour in this slice"


def test_three_planes_are_linked_and_in_proportion(page, picture):
    assert page.run("document.querySelectorAll('.plane').length") == 3
    # mm: columns 2 x 10 wide; rows 1 x 8; slices 3 x 6.
    ratios = [of_plane(page, axis, "at.width / at.height") for axis in range(3)]
    assert ratios == pytest.approx([20 / 8, 20 / 18, 8 / 18])
    outputs = "[...document.querySelectorAll('.plane output')].map(o => o.textContent)"
    assert page.run(outputs) == ["slice 3 of 6", "row 3 of 8", "column 4 of 10"]
    # A click in the upper left of the coronal plane: last slice, first column; the row stays.
    x, y = of_plane(page, 1, "[corner.left + at.x + 4, corner.top + at.y + 4]")
    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseReleased", x, y, button="left", clickCount=1)
    page.wait(f"{DRAWN}.startsWith('1 5 ')")
    assert page.run(outputs) == ["slice 6 of 6", "row 3 of 8", "column 1 of 10"]
    picture("three-planes")


def test_a_drag_with_the_right_button_sets_window_and_level(page):
    width = "Number(document.getElementById('width-value').textContent)"
    before = page.run(width)
    x, y = page.run(
        "(({left, top}) => [left + 100, top + 100])"
        "(document.querySelector('.plane canvas').getBoundingClientRect())"
    )
    page.mouse("mousePressed", x, y, button="right", buttons=2, clickCount=1)
    page.mouse("mouseMoved", x - 60, y, button="right", buttons=2)
    page.mouse("mouseReleased", x - 60, y, button="right", clickCount=1)
    page.wait(f"{width} < {before}")
    assert page.run(width) == pytest.approx(before - 60 * 579 / 500, abs=2)


def test_help_and_theme(page, picture):
    page.key("?")
    page.wait("document.getElementById('help').open")
    page.key("n")  # keys wait while the help is open
    picture("help")
    page.run("document.getElementById('help').close()")
    assert text(page, "#patient") == "p9 <b>"
    page.key("d")
    assert picture("light")[400, 20].mean() > 200
    page.key("d")
    assert picture("dark")[400, 20].mean() < 60


def test_a_failed_prediction_is_said_and_the_scan_still_shown(chromium, server):
    chromium.open(serve.address(server))
    chromium.wait(f"{DRAWN}.endsWith('prediction')")
    chromium.run("document.querySelectorAll('#rows tr')[2].click()")
    chromium.wait("document.getElementById('state').className === 'error'")
    assert text(chromium, "#state") == "the scan cannot be read"
    assert chromium.run(DRAWN) == "2 2 image-0,truth"
    assert chromium.run("document.getElementById('prediction-contour').disabled")


def test_the_mouse_over_the_last_patient_while_the_next_is_read_does_no_harm(chromium):
    waiting, gallery = threading.Event(), make_gallery()

    def scan(n):
        assert n != 0 or waiting.wait(browser.SECONDS)
        return gallery.scan(n)

    with serving(gallery._replace(scan=scan)) as server:
        chromium.errors.clear()
        chromium.open(serve.address(server))
        chromium.wait(f"{DRAWN}.endsWith('prediction')")
        x, y = of_plane(chromium, 0, "[corner.left + at.x + 40, corner.top + at.y + 40]")
        chromium.mouse("mouseMoved", x, y)
        chromium.key("n")
        chromium.mouse("mouseMoved", x + 1, y)
        chromium.mouse("mousePressed", x, y, button="right", buttons=2, clickCount=1)
        chromium.mouse("mouseMoved", x + 9, y, button="right", buttons=2)
        chromium.mouse("mouseReleased", x + 9, y, button="right", clickCount=1)
        chromium.mouse("mouseMoved", 5, 5)
        chromium.key("r")
        chromium.key("ArrowDown")
        assert text(chromium, "#state") == "Reading …"
        waiting.set()
        chromium.wait(f"{DRAWN}.startsWith('0 2 ')")
        assert chromium.errors == []
        # The neighbours are read ahead: a server that goes first would be an error of a later test.
        chromium.open("about:blank")


def test_niivue_renders_under_the_wider_policy(tmp_path):
    """With a copy of niivue.umd.js or index.js in $JAXSEG_NIIVUE."""
    script = os.environ.get("JAXSEG_NIIVUE")
    if script is None:
        pytest.skip("no copy of NiiVue; set JAXSEG_NIIVUE")
    software = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    with (
        serving(make_gallery(), Path(script)) as server,
        browser.open_browser(tmp_path / "profile", *software) as page,
    ):
        page.open(serve.address(server))
        page.wait(f"{DRAWN}.endsWith('prediction')")
        page.key("v")
        page.wait("!document.getElementById('space').hidden")
        page.wait("!document.getElementById('space-note').textContent.startsWith('Rendering')")
        assert text(page, "#space-note") == ""
        time.sleep(1)
        path = tmp_path / "space.png"
        page.screenshot(path)
        shown = cv2.imread(str(path))[60:700, 330:1010].reshape(-1, 3).astype(int)
        orange = (shown[:, 2] > 100) & (shown[:, 2] > 1.3 * shown[:, 0])
        assert orange.sum() > 100  # the prediction
        own = serve.address(server)
        inside = (own, "blob:", "data:")
        assert [url for url in page.requests if not url.startswith(inside)] == []
        assert page.errors == []


def test_a_phone_shows_the_picture_first_and_nothing_beside_the_page(page, picture):
    page.call("Emulation.setDeviceMetricsOverride", **PHONE)
    try:
        page.open(page.run("location.href"))
        page.wait(f"{DRAWN}.endsWith('prediction')")
        assert page.run("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.run("scrollY") == 0  # the chosen row of the list moves the list alone
        canvas, row = (
            page.run(f"document.querySelector('{s}').getBoundingClientRect().toJSON()")
            for s in (".plane canvas", "#rows tr")
        )
        assert canvas["width"] > 350 and canvas["bottom"] < PHONE["height"] < row["top"]
        assert picture("phone").shape == (844, 390, 3)
    finally:
        page.call("Emulation.setDeviceMetricsOverride", **browser.SCREEN)
