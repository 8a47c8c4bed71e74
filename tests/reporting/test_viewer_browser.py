"""The viewer's page in a real browser, on a real registration."""

from __future__ import annotations

import io
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest
from accessibility import contrast, faults, walk
from devtools import Browser, find_browser
from PIL import Image as Picture
from scenes import bend, result_of
from viewer_runs import write_run

from regista.core import Grid, Image, LabelImage
from regista.registration import register
from regista.reporting import RunFolder, ViewerRun, ViewerServer, open_viewer

READY = "document.body.dataset.ready === 'yes' && document.querySelector('#readout dd')"
PATIENCE = 240  # a graphics card in software, on a busy machine


@pytest.fixture(scope="module")
def registered(pair):
    return register(pair.fixed, pair.moving, "rigid")


def octants(image):
    """Return labels whose borders are the middle planes of an image's lattice."""
    parts = sum((np.indices(image.grid.shape)[a] >= n // 2) * 2**a for a, n in enumerate(image.grid.shape))
    return LabelImage(np.where(image.data > 20, 1 + parts, 0), image.grid)


SERVED: set[str] = set()
"""Addresses of viewers that tests started beside the first."""


@pytest.fixture(scope="module")
def served(pair, registered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    server = open_viewer(
        [write_run(folder / name, pair.fixed, pair.moving, registered) for name in ("<b>one", "two")],
        labels=(octants(pair.fixed), octants(pair.moving)),
    )
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join(10)


@pytest.fixture(scope="module")
def page(served):
    program = find_browser()
    if program is None:
        pytest.skip(
            "REGISTA_CHROMIUM names no Chromium: `make test-browser` takes one from the path; drawing 3-D in software is slow"
        )
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture
def at(page, served):
    def at(hash_text: str = "") -> Browser:
        page.open("about:blank")
        page.open(served.url + hash_text)
        page.wait(READY, PATIENCE)
        return page

    return at


def press(page, *keys: str) -> None:
    """Press keys, each of which draws the page anew, and wait for the last."""
    before = int(page.evaluate("document.body.dataset.drawn"))
    for key in keys:
        page.press(key)
    page.wait(f"document.body.dataset.drawn >= {before + len(keys)} && {READY}", PATIENCE)


def pixels(page, canvas: str) -> np.ndarray:
    """Return a canvas as it looks, floats ``(H, W, 3)``."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = page.evaluate(
        f"(({{x, y, width, height}}) => [x, y, x + width, y + height])"
        f"(document.getElementById('{canvas}').getBoundingClientRect())"
    )
    picture = Picture.open(io.BytesIO(page.picture())).convert("RGB").crop([round(v) for v in box])
    return np.asarray(picture, float)


def test_the_page_shows_anatomy_and_answers_keys(at, served, pair, registered) -> None:
    page = at("#opacity=100")
    seen = pixels(page, "gl-fixed")
    gray = np.ptp(seen, axis=-1) < 8  # neither crosshair nor marks
    assert 0.05 < (gray & (seen.mean(-1) > 60)).mean() < 0.9  # an organ on black
    assert seen[gray].std() > 30
    assert pixels(page, "gl-moving").std() > 20

    press(page, " ")
    assert page.evaluate("document.body.dataset.hidden") == "yes"
    fixed_alone = pixels(page, "gl-fixed")
    assert np.abs(fixed_alone - seen).mean() > 0.5
    press(page, " ")
    assert np.abs(pixels(page, "gl-fixed") - seen).mean() < 0.2

    press(page, "g")
    yellow = pixels(page, "gl-fixed")
    assert ((yellow[..., 0] > 150) & (yellow[..., 2] < 90)).mean() > 0.005
    press(page, "g", "c")
    page.wait("location.hash.includes('over=checker')", 10)
    assert "grid" not in page.evaluate("location.hash")
    press(page, "2")
    assert pixels(page, "gl-warped").std() > 20
    press(page, "3")
    whole = pixels(page, "gl-fixed")
    gray = np.ptp(whole, axis=-1) < 8  # not the crosshair
    assert (gray & (whole.mean(-1) > 12)).mean() > 0.03  # the organ, dim at its soft edge, in 3-D

    page.press("?")
    assert page.evaluate("document.getElementById('help').open")
    page.press("?")
    assert not page.evaluate("document.getElementById('help').open")


def test_the_crosshair_is_seen_wherever_it_is(at, pair) -> None:
    """Between the middles of pixels too, where lines thinner than a pixel would be left out."""
    page = at("#over=none")
    middle = pair.fixed.grid.center_mm
    counts = []
    for shift in np.arange(8) * 0.05:
        place = ",".join(f"{v:.3f}" for v in middle + shift)
        before = int(page.evaluate("document.body.dataset.drawn"))
        page.evaluate(f"void (location.hash = '#over=none&at={place}')")
        page.wait(f"document.body.dataset.drawn > {before} && {READY}", PATIENCE)
        there = "parseFloat(document.querySelector('#readout dl').dataset.at)"
        page.wait(f"Math.abs({there} - {middle[0] + shift}) < 0.002", PATIENCE)
        counts.append([lines(page, canvas) for canvas in ("gl-fixed", "gl-moving")])
    assert np.min(counts) >= 4, counts  # three planes, some of which share a row or a column of pixels
    assert (np.ptp(counts, axis=0) <= 1).all(), counts  # two planes may come to share one


def lines(page, canvas: str) -> int:
    """Return how many rows and columns of a canvas hold a line of the crosshair."""
    blue = np.abs(pixels(page, canvas) - (87, 181, 232)).max(-1) < 60
    return sum(int((np.diff(blue.sum(axis) > 60, prepend=False) == 1).sum() + 1) // 2 for axis in (0, 1))


def test_outlines_of_labels_are_those_of_the_plane_that_is_shown(at, pair) -> None:
    """The crosshair lies beside the border of labels along every axis: outlines of the volume would be whole faces."""
    middle = pair.fixed.grid.index2world(np.array(pair.fixed.grid.shape) // 2)
    place = f"#at={','.join(f'{v:.3f}' for v in middle)}&over=checker&block=5"

    def coloured(hash_text: str, canvas: str = "gl-fixed") -> np.ndarray:
        return np.ptp(pixels(at(place + hash_text), canvas), axis=-1) > 25

    crosshair = coloured("")
    filled = coloured("&labels=fixed") & ~crosshair
    outlined = coloured("&labels=fixed&outline=1") & ~crosshair
    assert filled.mean() > 0.1
    assert 0.01 < outlined.sum() / filled.sum() < 0.2
    assert (outlined & ~filled).sum() < 0.05 * outlined.sum()
    for part in np.array_split(np.arange(filled.shape[0]), 2):  # the planes above and below
        assert outlined[part].sum() > 0.01 * filled[part].sum()


def test_a_click_moves_all_crosshairs_and_reads_the_map_out(at, registered) -> None:
    page = at()
    before = page.evaluate("document.querySelector('#readout dl').dataset.length")
    x, y, width, height = page.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])(document.getElementById('gl-fixed').getBoundingClientRect())"
    )
    page.click(x + 0.28 * width, y + 0.3 * height)
    page.wait(f"document.querySelector('#readout dl').dataset.length !== '{before}'", PATIENCE)
    here = np.array(
        [float(v) for v in page.evaluate("document.querySelector('#readout dl').dataset.at").split(",")]
    )
    there = registered.transform.map_points(here[None])[0]
    length = float(page.evaluate("document.querySelector('#readout dl').dataset.length"))
    assert length == pytest.approx(float(np.linalg.norm(there - here)), abs=1e-4)
    words = page.evaluate("document.getElementById('readout').innerText")
    said = words.split("Moving, RAS+ mm")[1].split("Volume")[0].replace(",", " ").split()
    np.testing.assert_allclose([float(v) for v in said], there, atol=0.02)
    page.evaluate("document.body.focus()")


def test_a_picture_has_pixels_and_no_letters_unless_its_file_states_them(page, tmp_path) -> None:
    data = np.random.default_rng(0).integers(0, 90, (60, 60)).astype(np.float32)
    runs = {}
    for name, oriented in (("picture", False), ("scan", True)):
        image = Image(data, Grid(data.shape, np.eye(3)), space=name, oriented=oriented)
        run = RunFolder(
            path=tmp_path, fixed=image, moving=image, result=result_of(image, image, bend(image.grid))
        )
        runs[name] = lambda run=run: ViewerRun(run)
    server = ViewerServer(runs)
    SERVED.add(urlsplit(server.url).netloc)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        page.open("about:blank")
        page.open(server.url + "#over=none&at=9,9,0")
        page.wait(READY, PATIENCE)
        words, bare = page.evaluate("document.getElementById('readout').innerText"), pixels(page, "gl-moving")
        for name in (
            "Displacement, pixels",
            "along x, y\n",
            "Fixed, world pixels",
            "Fixed, pixel\n",
            "Moving, world pixels",
        ):
            assert name in words
        page.press(".")
        page.wait(f"document.title.startsWith('scan') && {READY}", PATIENCE)
        page.wait("document.getElementById('readout').innerText.includes('Fixed, RAS+ mm')", PATIENCE)
        assert (np.abs(pixels(page, "gl-moving") - bare).max(axis=-1) > 60).sum() > 20  # the letters
    finally:
        server.close()
        thread.join(10)


def test_the_address_brings_the_same_view_back(at) -> None:
    page = at("#over=checker&block=10&at=30.5,-1,55")
    first = pixels(page, "gl-fixed")
    assert page.evaluate("document.getElementById('over').value") == "checker"
    again = pixels(at("#over=checker&block=10&at=30.5,-1,55"), "gl-fixed")
    assert np.abs(first - again).mean() < 0.2
    at("#over=evil&opacity=900&at=1,2&run=77&layout=%3Cscript%3E")
    assert page.evaluate("document.getElementById('over').value") == "warped"
    assert page.evaluate("document.getElementById('run').value") == "1"


def test_names_are_text_and_runs_are_chosen(at) -> None:
    page = at()
    assert page.evaluate("document.querySelectorAll('#run option').length") == 2
    assert page.evaluate("document.querySelector('#run option').textContent") == "<b>one"
    assert page.evaluate("document.querySelectorAll('b').length") == 0
    press(page, ".")
    page.wait("location.hash.includes('run=1')", PATIENCE)


def test_a_run_that_was_left_before_it_was_read_is_not_shown(at) -> None:
    page = at()
    page.evaluate(
        "(() => { const real = window.fetch; window.fetch = async (...asked) => { const answer = await real(...asked); "
        "if (/runs\\/1$/.test(asked[0])) await new Promise((done) => { window.letGo = done }); return answer } })()"
    )
    page.press(".")
    page.wait("window.letGo", PATIENCE)
    press(page, ",")
    before = page.evaluate("document.body.dataset.drawn")
    page.evaluate("window.letGo(), new Promise((done) => setTimeout(done, 3000))")
    assert page.evaluate("document.body.dataset.drawn") == before
    assert page.evaluate("document.getElementById('message').hidden")
    assert "run=1" not in page.evaluate("location.hash")


def test_the_page_is_readable_and_works_by_keyboard(at) -> None:
    page = at()
    found = contrast(page)
    assert found["checked"] > 40
    assert found["poor"] == []
    assert faults(page) == []
    assert walk(page) == ([], [])
    page.evaluate("document.getElementById('help-open').focus()")
    page.press("Enter")
    page.wait("document.getElementById('help').open", PATIENCE)
    assert contrast(page)["poor"] == []
    assert page.evaluate("document.activeElement.textContent") == "Close"
    page.press("Enter")
    page.wait("!document.getElementById('help').open", PATIENCE)


def test_single_key_shortcuts_can_be_switched_off(at) -> None:
    page = at("#over=checker&block=5")
    page.click_on("#keys")
    page.wait("location.hash.includes('keys=0')", PATIENCE)
    assert page.evaluate("getComputedStyle(document.querySelector('aside kbd')).display") == "none"
    drawn = page.evaluate("document.body.dataset.drawn")
    place = page.evaluate("document.querySelector('#readout dl').dataset.at")
    for where in ("body", "#gl-fixed", "#over"):  # NiiVue has keys of its own, h, j, k, l among them
        page.evaluate(f"document.querySelector('{where}').focus()")
        for key in "g2kh[?r.":
            page.press(key)
    assert page.evaluate("document.body.dataset.drawn") == drawn
    assert page.evaluate("document.querySelector('#readout dl').dataset.at") == place
    assert not page.evaluate("document.getElementById('help').open")
    page.evaluate("document.activeElement.blur()")
    page.press("ArrowLeft")  # no character
    page.wait(f"document.querySelector('#readout dl').dataset.at !== '{place}'", PATIENCE)

    page = at("#over=checker&block=5&keys=0")  # the address remembers
    assert not page.evaluate("document.getElementById('keys').checked")
    page.evaluate("document.getElementById('keys').focus()")
    page.press(" ")
    assert page.evaluate("document.getElementById('keys').checked")
    page.evaluate("document.activeElement.blur()")
    press(page, "w")
    page.wait("!/keys|over/.test(location.hash)", PATIENCE)


def test_nothing_leaves_the_machine_and_nothing_complains(page, served) -> None:
    """Comes last: over all that the tests before it did."""
    own = {*SERVED, urlsplit(served.url).netloc}
    strange = [
        url
        for url in page.requests()
        if urlsplit(url).netloc not in own and not url.startswith(("data:", "about:"))
    ]
    assert strange == []
    assert page.complaints() == []
    assert any("fixed.nii" in url for url in page.requests())
