"""A real Chromium, one for each file of tests, and the viewer freshly opened in it."""

import browser
import pytest
from fake_gallery import make_gallery, serving
from viewer_page import DRAWN

from jaxseg.viewer import serve


@pytest.fixture(scope="module")
def shown():
    """What is served; a file of tests may have its own."""
    return make_gallery()


@pytest.fixture(scope="module")
def server(shown):
    with serving(shown) as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(chromium, server):
    """The viewer, freshly opened, its first patient drawn; must end without an error.

    Nothing is asked of another server than its own.
    """
    chromium.errors.clear()
    chromium.requests.clear()
    chromium.open(serve.address(server))
    chromium.wait(f"{DRAWN}.endsWith('prediction')")
    yield chromium
    assert chromium.errors == []
    own = serve.address(server)
    assert [url for url in chromium.requests if not url.startswith(own)] == []
