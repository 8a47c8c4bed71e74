"""The page stands alone, escapes what it is given, and survives what is strange."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scenes import result_of

from regista.core import GeometryError, Grid, Image, LabelImage, LevelHistory, PointSet, RunRecord, Status
from regista.evaluation._likeness import contrasts_differ
from regista.io import read
from regista.reporting import make_report, write_report
from regista.reporting._colours import EDGE_COLOUR, FIXED_COLOUR, MOVING_COLOUR, two_colours
from regista.reporting._curves import curves
from regista.reporting._outlines import edges
from regista.reporting._page import SUMMARY_END, SUMMARY_START, page_text
from regista.reporting._pictures import _outlines, draw_pair
from regista.reporting._scene import make_scene
from regista.reporting._slices import choose_slices
from regista.transforms import Affine, DisplacementField

EVIL = "<script>alert('x')</script>"


class _Page(HTMLParser):
    """Collects tags, and whether those that need an end have one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br", "i", "polyline", "line", "circle", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag in ("i", "polyline"):
            return
        assert self.open, tag
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(pair, good):
    labels = LabelImage((pair.fixed.data > 60).astype(np.int16), pair.fixed.grid, names={1: EVIL})
    there = LabelImage((pair.moving.data > 60).astype(np.int16), pair.moving.grid)
    rng = np.random.default_rng(0)
    here = PointSet(pair.fixed.grid.center_mm + rng.uniform(-8, 8, (12, 3)))
    found = PointSet(pair.truth.map_points(here.points_mm) + 0.5)
    record = replace(
        good.record,
        history=(LevelHistory(EVIL, 0, (4, 4, 2), (3.0, 2.0, 1.5), Status.CONVERGED, 0.4),),
        warnings=(EVIL,),
        plan={"name": EVIL},
        command=f"regista register {EVIL}",
        inputs={"fixed": {"path": EVIL}},
    )
    pictured = replace(good, record=record)
    return make_report(
        replace(pair.fixed, space=EVIL),
        pair.moving,
        pictured,
        labels=(labels, there),
        landmarks=(here, found),
    )


def test_names_are_escaped_everywhere(page) -> None:
    assert EVIL not in page.html
    assert page.html.count("&lt;script&gt;alert") >= 6
    scripts = re.findall(r"<script[^>]*>", page.html)
    assert scripts == ["<script>", '<script type="application/json" id="summary">']


def test_it_is_well_formed_and_needs_nothing_from_elsewhere(page) -> None:
    parsed = _Page(page.html)
    assert parsed.open == []
    for _tag, attributes in parsed.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert str(attributes[name]).startswith(("data:image/", "#")), attributes[name]
    assert "http://" not in page.html
    assert "https://" not in page.html
    assert "@import" not in page.html
    assert len(page.html) < 8e6


def test_every_picture_has_words_and_every_control_a_name(page) -> None:
    for tag, attributes in _Page(page.html).tags:
        if tag == "img":
            assert attributes.get("alt")
    assert page.html.count("<h1>") == 1
    assert 'lang="en"' in page.html


def test_the_numbers_are_right(page) -> None:
    text = re.sub(r"<[^>]+>", " ", page.html)
    assert re.search(r"TRE, mean, mm \(12 landmarks\)\s+\S+\s+0\.866", text)  # 0.5 mm along each axis
    dice = float(re.search(r"Dice, mean of 1 labels\s+\S+\s+(\S+)", text).group(1))
    assert dice > 0.9
    assert page.summary["measures"]["dice"] == pytest.approx(dice, abs=2e-3)


def test_the_row_for_a_list_cannot_end_its_script(page) -> None:
    start = page.html.rindex(SUMMARY_START) + len(SUMMARY_START)
    row = json.loads(page.html[start : page.html.index(SUMMARY_END, start)])
    assert row["outcome"] == str(page.verdict.outcome)
    assert EVIL in row["name"]
    assert row["thumbnail"].startswith("data:image/jpeg;base64,")


def test_a_label_map_of_2000_values_survives(pair, good) -> None:
    rng = np.random.default_rng(0)
    maps = [
        LabelImage(rng.integers(0, 2001, image.grid.shape).astype(np.int32), image.grid)
        for image in (pair.fixed, pair.moving)
    ]
    made = make_report(pair.fixed, pair.moving, good, labels=tuple(maps))
    assert "Overlap of 200 of 2000 labels" in made.html
    assert len(made.html) < 8e6


def test_two_dimensions_and_colour(tmp_path) -> None:
    rng = np.random.default_rng(1)
    data = np.zeros((3, 90, 70), np.uint8)
    data[0, 20:60, 15:50] = 220
    data[2] = rng.integers(0, 40, (90, 70))
    image = Image(data, Grid((90, 70), np.diag([-1.0, -1.0, 1.0])), "channels")
    shift = np.eye(3)
    shift[0, 2] = 2.0
    result = result_of(image, image, Affine(shift))
    points = PointSet(np.array([[-20.0, -30.0], [-40.0, -45.0], [-300.0, -9.0]]))
    options = {"landmarks": (points, PointSet(points.points_mm + np.array([5.0, 0.0])))}
    made = write_report(tmp_path / "page.html", image, image, result, **options)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text == made.html
    assert "Radiological" not in text  # a picture has no left and right of a person
    assert text.count("data:image/") > 12
    assert "displacement, largest, pixels" in text  # no size was stated
    assert "Displacement (the map is linear), pixels" in text
    assert "TRE, mean, pixels (3 landmarks)" in text
    assert " mm</" not in text
    assert ", mm" not in text
    lengths = ["displacement_p50_pixels", "displacement_p95_pixels", "tre_mean_pixels", "tre_max_pixels"]
    assert set(lengths) < set(made.summary["measures"])
    assert made.summary["measures"]["tre_mean_pixels"] == pytest.approx(3.0)
    assert not any("mm" in name for name in made.summary["measures"])
    scan = replace(image, oriented=True)
    measured = make_report(scan, scan, result, **options)
    assert measured.summary["measures"]["tre_mean_mm"] == pytest.approx(3.0)
    stated = measured.html
    assert "displacement, largest, mm" in stated
    assert "pixels</" not in stated
    assert "Radiological" in stated


def test_a_file_name_that_is_no_utf8_is_escaped(tmp_path) -> None:
    image = Image(np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32), Grid((12, 9), np.eye(3)))
    write_report(
        tmp_path / "p.html", image, image, result_of(image, image, Affine.identity(2)), title="scan\udcff"
    )
    assert "<h1>scan\\udcff</h1>" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_a_huge_image_is_shown_smaller_and_it_is_said() -> None:
    data = np.random.default_rng(0).normal(100, 20, (1500, 1100)).astype(np.float32)
    image = Image(data, Grid(data.shape, np.eye(3)))
    made = make_report(image, image, result_of(image, image, Affine.identity(2)))
    assert "1500×1100 voxels; the pictures are down-sampled" in made.html
    assert len(made.html) < 8e6


def test_all_of_before_is_from_one_start_where_headers_are_apart(pair) -> None:
    matrix = pair.fixed.grid.grid2world.copy()
    matrix[:3, 3] += 900.0
    moving = Image(pair.fixed.data, Grid(pair.fixed.grid.shape, matrix))
    shift = Affine(np.block([[np.eye(3), np.full((3, 1), 900.0)], [np.zeros((1, 3)), 1.0]]))
    here = pair.fixed.grid.center_mm + np.array([[0.0, 0, 0], [3, 1, 2]])
    made = make_report(
        pair.fixed,
        moving,
        result_of(pair.fixed, moving, shift),
        landmarks=(PointSet(here), PointSet(here + 900.0)),
        labels=tuple(LabelImage((i.data > 60).astype(np.uint8), i.grid) for i in (pair.fixed, moving)),
    )
    rows = dict(
        re.findall(
            r'<th scope="row">([^<]*)</th><td class="n">[^<]*</td><td class="n">([^<]*)</td>', made.html
        )
    )
    assert float(rows["TRE, mean, mm (2 landmarks)"]) < 1e-3
    assert float(rows["Dice, mean of 1 labels"]) > 0.99


def test_labels_and_landmarks_of_other_dimensions_are_refused(pair, good) -> None:
    flat = LabelImage(np.ones((5, 6), np.uint8), Grid((5, 6), np.eye(3)))
    with pytest.raises(
        GeometryError, match="images are 3-D, the labels 2-D and 2-D: give labels of the same"
    ):
        make_report(pair.fixed, pair.moving, good, labels=(flat, flat))
    points = PointSet(np.zeros((2, 3))), PointSet(np.zeros((2, 2)))
    with pytest.raises(GeometryError, match="landmarks 3-D and 2-D"):
        make_report(pair.fixed, pair.moving, good, landmarks=points)


def test_nan_and_a_flat_image_do_not_stop_the_page(pair) -> None:
    data = pair.fixed.data.copy()
    data[:5] = np.nan
    for moving in (pair.fixed.with_data(data), pair.fixed.with_data(np.zeros_like(data))):
        made = make_report(pair.fixed, moving, result_of(pair.fixed, moving, Affine.identity(3)))
        assert made.verdict.outcome in ("fail", "look", "pass")


def drawn(fixed, moving, transform):
    layout = choose_slices(fixed)
    return draw_pair(fixed, moving, result_of(fixed, moving, transform), layout)


@pytest.mark.parametrize(
    ("look", "shift_mm", "differ"),
    [
        (lambda x: x, 0, False),
        (lambda x: 3 * np.maximum(x, 0) ** 1.5, 0, False),  # brighter and steeper, but of one contrast
        (
            lambda x: np.where(x > 20, 260 - x, x),
            0,
            True,
        ),  # dark where the other is bright, on a dark background
        (lambda x: np.where(x > 20, 60 + np.abs(x - 100), x), 0, True),  # no line at all
        (lambda x: x, 9, False),  # laid wrong: the difference is no matter of contrast
    ],
)
def test_it_is_said_that_the_difference_of_two_contrasts_does_not_vanish(
    pair, look, shift_mm, differ
) -> None:
    rng = np.random.default_rng(4)
    data = look(pair.fixed.data) + rng.normal(0, 4, pair.fixed.grid.shape).astype(np.float32)
    moving = pair.fixed.with_data(data.astype(np.float32))
    matrix = np.eye(4)
    matrix[0, 3] = shift_mm
    html = make_report(pair.fixed, moving, result_of(pair.fixed, moving, Affine(matrix)), judged=False).html
    words = 'Difference after, fixed less registered. <span id="contrasts">The two images are of different contrast: their difference does not'
    assert (words in html) == differ
    assert "Means little between contrasts" in html  # in the script, for where it is not known


@pytest.mark.data
def test_real_contrasts_are_told_apart(data_dir) -> None:
    folder = data_dir / "t1t2_slices_2d"
    images = {name: read(folder / f"{name}.nii.gz") for name in ("S10_t1", "S10_t2", "S1_t1", "S1_t2")}
    for (one, fixed), (other, moving) in itertools.permutations(images.items(), 2):
        scene = make_scene(fixed, moving, Affine.identity(2))
        region = scene.inside & scene.seen & scene.seen_warped
        apart = one.split("_")[1] != other.split("_")[1]
        assert contrasts_differ(scene.fixed, scene.warped, region) == apart, (one, other)


def test_what_lies_beyond_the_moving_image_is_striped_and_no_difference() -> None:
    rng = np.random.default_rng(0)
    image = Image(rng.uniform(100, 200, (60, 40)).astype(np.float32), Grid((60, 40), np.diag([-1.0, -1, 1])))
    assert drawn(image, image, Affine.identity(2)).notes == []
    shift = np.eye(3)
    shift[0, 2] = -20.0  # world x falls with the first index: its last 20 leave the image
    found = drawn(image, image, Affine(shift))
    assert found.notes == ["Striped: beyond the moving image's field of view."]
    width = found.plain["after"].shape[1]
    beyond = found.plain["after"][:, round(width * 41 / 60) :]
    assert set(np.unique(beyond)) == {0, 58}
    gone = found.plain["difference_after"][:, round(width * 41 / 60) :]
    assert np.ptp(gone, axis=-1).max() == 0
    assert np.ptp(found.plain["difference_after"], axis=-1).max() > 100
    assert np.ptp(found.plain["difference_before"], axis=-1).max() < 3  # all of it known, and none


def test_values_beyond_the_moving_image_do_not_set_the_grays() -> None:
    """Of CT, whose zero is water and whose air is far below."""
    rng = np.random.default_rng(0)
    image = Image(rng.uniform(-1000, -900, (60, 40)).astype(np.float32), Grid((60, 40), np.eye(3)))
    shift = np.eye(3)
    shift[0, 2] = 30.0
    found = drawn(image, image, Affine(shift))
    assert np.ptp(found.plain["before"]) > 230


def test_colours_beside_gray_are_shown_alike_before_and_after() -> None:
    rng = np.random.default_rng(0)
    grid = Grid((60, 40), np.eye(3))
    colours = Image(rng.integers(0, 255, (3, 60, 40), dtype=np.uint8), grid, "channels")
    found = drawn(Image(colours.data[1].astype(np.float32), grid), colours, Affine.identity(2))
    np.testing.assert_array_equal(found.plain["before"], found.plain["after"])


def test_opacity_is_left_out_and_other_channels_are_told() -> None:
    rng = np.random.default_rng(0)
    grid = Grid((60, 40), np.eye(3))
    data = rng.integers(0, 255, (4, 60, 40), dtype=np.uint8)
    four, three = (Image(part, grid, "channels") for part in (data, data[:3]))
    found = [drawn(one, one, Affine.identity(2)) for one in (four, three)]
    assert found[0].colour
    np.testing.assert_array_equal(found[0].plain["after"], found[1].plain["after"])
    words = "Of the moving image the first of 4 channels is shown."
    real = Image(data.astype(np.float32), grid, "channels")
    assert words not in make_report(four, four, result_of(four, four, Affine.identity(2)), judged=False).html
    assert words in make_report(four, real, result_of(four, real, Affine.identity(2)), judged=False).html


def test_edges_of_a_texture_are_those_of_its_outline() -> None:
    index = np.indices((300, 400))
    disc = np.hypot(index[0] - 150, index[1] - 200) < 90
    plane = np.random.default_rng(0).normal(0.5, 0.2, disc.shape) + 0.3 * disc
    plane = np.clip(plane, 0, 1).astype(np.float32)
    assert edges(plane, 400 / 240).sum() > 16 * 400  # a carpet
    found = _outlines(plane)
    assert found.sum() <= 16 * 400
    near = np.abs(np.hypot(index[0] - 150, index[1] - 200) - 90) < 8
    assert (found & near).sum() > 0.5 * 2 * np.pi * 90


def test_edges_are_thin_and_lie_on_the_border() -> None:
    index = np.indices((60, 80))
    disc = ((index[0] - 30) ** 2 + (index[1] - 40) ** 2 < 18**2).astype(np.float32)
    found = edges(disc)
    radius = np.hypot(index[0] - 30, index[1] - 40)[found]
    assert np.abs(radius - 18).max() < 2.5
    assert found.sum() < 4 * 2 * np.pi * 18
    assert not edges(np.full((20, 20), 3.0, np.float32)).any()


def _luminance(colour) -> float:
    c = np.asarray(colour, float) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(c @ [0.2126, 0.7152, 0.0722])


def _contrast(a, b) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_of_wcag_aa() -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", page_text("style.css")))
    rgb = {
        n: [int((c[1:] if len(c) == 7 else "".join(2 * x for x in c[1:]))[i : i + 2], 16) for i in (0, 2, 4)]
        for n, c in colours.items()
    }
    pairs = [("ink", "paper"), ("soft", "paper"), ("ink", "panel"), ("soft", "panel"), ("link", "paper")]
    pairs += [(name, f"{name}-bg") for name in ("pass", "look", "fail")]
    for text, ground in pairs:
        assert _contrast(rgb[text], rgb[ground]) >= 4.5, (text, ground)
    for colour in (FIXED_COLOUR, MOVING_COLOUR, EDGE_COLOUR):
        assert _contrast(colour, (0, 0, 0)) >= 3


def test_two_colours_of_equal_images_are_gray_and_differ_in_blue_and_orange_else() -> None:
    one = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    same = two_colours(one, one).astype(int)
    assert np.abs(same - same[..., :1]).max() <= 1
    alone = two_colours(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32))[0, 0]
    other = two_colours(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))[0, 0]
    assert alone[0] > 200 > alone[2]
    assert other[2] > 200 > other[0]


def _disc(shift: float = 0.0, bright: float = 200.0, ground: float = 10.0) -> Image:
    index = np.indices((120, 100))
    near = np.hypot(index[0] - 60 - shift, index[1] - 50)
    texture = 20 * np.sin(index[0] / 3) * np.cos(index[1] / 4)
    data = np.where(near < 30, bright + np.sign(bright - ground) * texture, ground)
    return Image(data.astype(np.float32), Grid(data.shape, np.eye(3)))


def _warmth(picture) -> np.ndarray:
    """Red less blue: above 0 orange, below 0 blue."""
    return picture[..., 0].astype(int) - picture[..., 2]


@pytest.mark.parametrize("ground", [10.0, 240.0])
def test_what_the_fixed_image_has_alone_is_orange_in_every_picture(ground: float) -> None:
    fixed, moving = (_disc(shift, bright=120.0, ground=ground) for shift in (-8, 8))
    found = drawn(fixed, moving, Affine.identity(2))
    height, width = found.plain["fixed"].shape[:2]
    # world x grows to the left of a picture: the fixed disc is on the right
    alone = {"fixed": round(width * (1 - 24 / 120)), "moving": round(width * (1 - 96 / 120))}
    for name in ("blend_after", "difference_after"):
        line = _warmth(found.plain[name])[height // 2]
        assert line[alone["fixed"]] > 40, name
        assert line[alone["moving"]] < -40, name
    assert any("inverted" in note for note in found.notes) == (ground > 200)
    html = make_report(fixed, moving, result_of(fixed, moving, Affine.identity(2)), judged=False).html
    assert "Difference after, fixed less registered" in html


def test_two_colours_are_gray_where_the_same_thing_is_darker_in_one_image() -> None:
    fixed = _disc(bright=200.0)
    look = fixed.with_data(np.where(fixed.data > 100, 60 + 0.002 * fixed.data**2, fixed.data))
    look.data[:40] = look.data[0, 0]  # a third is missing, and stays visible
    look.data[70:80, 60:70] = 600.0  # a bright vessel, which makes all else darker in the range of the image
    found = drawn(fixed, look, Affine.identity(2))
    warm = np.abs(_warmth(found.plain["blend_after"]))
    height, width = warm.shape
    assert np.median(warm[height // 2, round(width * 0.4) : round(width * 0.6)]) < 6
    assert warm[height // 2, round(width * (1 - 36 / 120))] > 40
    assert "matched" in found.blend


def test_borders_are_shown_in_two_colours_where_contrasts_differ() -> None:
    fixed = _disc()
    moving = fixed.with_data(300 - fixed.data)
    layout, result = choose_slices(fixed), result_of(fixed, moving, Affine.identity(2))
    plain, borders = (draw_pair(fixed, moving, result, layout, contrasts=c) for c in (False, True))
    assert "borders" in borders.blend
    assert np.abs(_warmth(plain.plain["blend_after"])).mean() > 4  # tissues in colours, though all is aligned
    assert np.abs(_warmth(borders.plain["blend_after"])).mean() < 1
    assert borders.plain["blend_after"].max() > 200


def test_legends_mark_the_ends_that_values_lie_beyond() -> None:
    fixed = _disc()
    vectors = np.zeros((2, *fixed.grid.shape), np.float32)
    vectors[0, 60, 50] = 3.0
    field, least = DisplacementField(vectors, fixed.grid), '<i class="sequential"></i> 0.1 pixels'
    spiked, still = (
        make_report(fixed, fixed, result_of(fixed, fixed, map_), judged=False).html
        for map_ in (field, Affine.identity(2))
    )
    assert '<i class="sequential"></i> ≥ ' in spiked
    assert "≤ −" in spiked
    assert "≥ " not in still
    assert "≤ −" not in still
    assert still.count(least) == 2  # displacement and inverse consistency


def test_curves_go_down_when_the_cost_does() -> None:
    record = RunRecord(
        status=Status.CONVERGED,
        history=(LevelHistory("rigid", 0, (4, 4), (3.0, 2.0, float("nan"), 1.0), Status.CONVERGED, 0.1),),
    )
    (curve,) = curves(record.to_dict()["history"])
    heights = [float(p.split(",")[1]) for p in curve.points.split()]
    assert heights == sorted(heights)  # downwards on the screen
    assert (curve.first, curve.last, curve.steps) == (3.0, 1.0, 2)


@pytest.mark.parametrize(
    "view", ["flicker", "slider", "edges", "checker", "blend", "difference", "labels", "landmarks"]
)
def test_every_view_has_its_control(page, view) -> None:
    assert f'value="{view}"' in page.html
    assert f"  {view}() {{" in page_text("run.js") or f"    {view}() {{" in page_text("run.js")


def test_the_script_runs_in_a_browser(page, tmp_path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    target = tmp_path / "page.html"
    target.write_text(page.html, encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", target.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-500:]
    stage = re.search(r'<div class="stage" id="stage".*?</div>', done.stdout, re.DOTALL).group(0)
    assert stage.count("<img") == 2  # the fixed image below the registered one
    assert "Show before" in done.stdout
