"""The report: one file, everything in it, nothing from outside."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxseg.scoring import report
from jaxseg.scoring.baselines import ThresholdBaseline
from jaxseg.scoring.patient_score import score_patient
from jaxseg.scoring.scorecard import summarise

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img"}


class _Reader(HTMLParser):
    """Check that tags are closed in order; keep the tags, the attributes and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page():
    truth = np.ones((2, 3, 10), bool)
    found = {"good": 9, EVIL: 5, "bad": 1}
    scores = [score_patient(p, truth & (np.arange(10) < n), truth) for p, n in found.items()]
    summary = summarise(scores, 100, best_threshold=(ThresholdBaseline(1, 0.5, 0.4), scores))
    image = b"picture"
    return report.page(
        f"Title {EVIL}",
        summary,
        scores,
        {"learning_curves": image, f"other {EVIL}": image},
        f'{{"source": "{EVIL}"}}',
        {"python": EVIL},
        [EVIL],
    )


def _read(page):
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_nothing_from_outside(page):
    assert not re.search(r"https?://|//[a-z]|@import|url\(", page.split("base64,")[0])
    assert "http://" not in page and "https://" not in page
    reader = _read(page)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    sources = [value for name, value in reader.attributes if name in ("src", "href")]
    assert len(sources) == 2 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == b"picture"


def test_everything_is_escaped_and_still_readable(page):
    assert "<script" not in page
    # Title (head and heading), note, caption, patient, config, versions.
    assert "".join(_read(page).text).count(EVIL) == 7


def test_headline_research_line_definitions_and_warnings_are_there(page):
    text = "".join(_read(page).text)
    # Dice of 9, 5 and 1 of 10 columns: 18/19, 10/15, 2/11.
    assert f"Dice per patient {(18 / 19 + 10 / 15 + 2 / 11) / 3:.3f}" in text
    assert "For research use only" in text
    assert "Warning: 3 patients are few" in text
    assert "Truth and prediction both empty" in text
    assert "Best threshold: channel 2 >= 0.5" in text


def test_worst_patient_comes_first(page):
    table = page[page.index("All patients, worst first") :]
    places = [table.index(f"<td>{name}") for name in ("bad", "&lt;script", "good")]
    assert places == sorted(places)


def test_baselines_stand_beside_the_scores(page):
    row = re.search(r"<td>Dice</td>(.*?)</tr>", page)[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[0] == cells[4] and cells[3] == "0.000"  # mean = threshold's here; nothing 0
    row = re.search(r"<td>Dice, all slices</td>(.*?)</tr>", page)[1]
    assert "inflated" in row
