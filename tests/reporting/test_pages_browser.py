"""The quality page and the page of a cohort in a real browser: contrast, keyboard, sorting, filters, download."""

from __future__ import annotations

import csv
import time

import numpy as np
import pytest
from accessibility import contrast, faults, walk
from devtools import Browser, find_browser

from regista.core import LabelImage, PointSet
from regista.reporting import CohortRow, write_report
from regista.reporting._cohort import cohort_html

PATIENCE = 120
OUTCOMES = ("unreadable", "fail", "fail", "look", "look", "pass", "pass", "pass", "pass", "pass")


@pytest.fixture(scope="module")
def page():
    program = find_browser()
    if program is None:
        pytest.skip("REGISTA_CHROMIUM names no Chromium: `make test-browser` takes one from the path")
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(pair, good, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "report.html"
    labels = tuple(LabelImage((i.data > 60) + 1 * (i.data > 110), i.grid) for i in (pair.fixed, pair.moving))
    here = pair.fixed.grid.center_mm + np.random.default_rng(1).uniform(-6, 6, (5, 3))
    landmarks = (PointSet(here), PointSet(pair.truth.map_points(here) + 0.5))
    write_report(path, pair.fixed, pair.moving, good, labels=labels, landmarks=landmarks)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    rows = [
        CohortRow(
            name="=1+1, of all" if number == 3 else f"run {number}",
            outcome=outcome,
            reasons=("a reason; and, another",) if outcome != "pass" else (),
            probability=1 - 0.1 * number,
            measures={}
            if outcome == "unreadable"
            else {"ncc": 0.9 + (-1) ** number * 0.01 * number, "odd": 5.0 + 60 * (number == 9)},
            link="report.html" if number % 2 else "",
        )
        for number, outcome in enumerate(OUTCOMES)
    ]
    path = tmp_path_factory.mktemp("cohort") / "page.html"
    path.write_text(cohort_html(rows, "ten runs"), encoding="utf-8")
    return path


def show(page, path) -> None:
    page.open("about:blank")
    page.wait("location.href === 'about:blank'", PATIENCE)
    page.open(path.as_uri())
    page.wait("document.readyState === 'complete' && document.querySelector('footer')", PATIENCE)


def schemes(page):
    """Ask for light and for dark: a page that has one scheme must stay readable under both."""
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        yield scheme
    page.call("Emulation.setEmulatedMedia", features=[])


def test_the_measure_of_contrast_finds_what_is_poor(page, cohort) -> None:
    show(page, cohort)
    page.evaluate("document.querySelector('footer').style.color = '#999'")
    page.evaluate("document.querySelector('h1').style.opacity = 0.3")
    page.evaluate("document.getElementById('shown').style.color = '#777'")  # 4.48 to 1
    page.evaluate("document.querySelector('h2').style.color = '#777'")  # enough for large letters
    poor = contrast(page)["poor"]
    assert len(poor) == 3, poor
    assert any(": 2.85," in text for text in poor), poor  # #999 on white
    assert any(": 4.48," in text for text in poor), poor


def test_the_quality_page_is_readable_and_works_by_keyboard(page, report) -> None:
    show(page, report)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    views = page.evaluate("[...document.querySelectorAll('input[name=view]')].map((one) => one.value)")
    assert len(views) == 8
    for _ in schemes(page):
        found = contrast(page)
        assert found["checked"] > 60
        assert found["poor"] == []
    assert faults(page) == []
    for number, view in enumerate(views, 1):
        page.press(str(number))
        assert page.evaluate("document.querySelector('input[name=view]:checked').value") == view
        assert page.evaluate("document.querySelectorAll('#stage img').length") >= 1
        assert contrast(page)["poor"] == []
    page.press("1")
    assert walk(page) == ([], [])
    shown = "document.getElementById('caption').textContent"
    page.click_on("#pause")
    assert page.evaluate("document.getElementById('pause').textContent") == "Play"
    held = page.evaluate(shown)
    time.sleep(1.2)  # more than a flip
    assert page.evaluate(shown) == held
    page.press("p")
    assert page.evaluate("document.getElementById('pause').textContent") == "Pause"
    page.wait(f"{shown} !== '{held}'", PATIENCE)
    page.evaluate("document.querySelector('input[name=view]:checked').focus()")
    page.press("ArrowRight")
    assert page.evaluate("document.querySelector('input[name=view]:checked').value") == views[1]
    before = page.evaluate("document.getElementById('when').textContent")
    page.evaluate("document.getElementById('when').focus()")
    page.press("Enter")
    assert page.evaluate("document.getElementById('when').textContent") != before


def test_the_keys_of_the_quality_page_can_be_switched_off(page, report) -> None:
    def state() -> list[str]:
        return list(
            page.evaluate(
                "[document.querySelector('input[name=view]:checked').value, document.getElementById('when').textContent, "
                "document.getElementById('pause').textContent]"
            )
        )

    show(page, report)
    usual = state()
    page.click_on("#keys")
    for key in "3bp":
        page.press(key)
    assert state() == usual
    show(page, report)  # remembered
    assert not page.evaluate("document.getElementById('keys').checked")
    page.press("3")
    assert state() == usual
    page.evaluate("document.getElementById('keys').focus()")
    page.press(" ")
    page.press("3")
    assert state()[0] == "edges"
    # a browser that keeps nothing
    refusing = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused') } })"
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=refusing)
    show(page, report)
    page.call("Page.removeScriptToEvaluateOnNewDocument", **script)
    page.press("3")
    assert state()[0] == "edges"
    page.click_on("#keys")
    page.press("4")
    assert state()[0] == "edges"
    assert page.complaints() == []


def test_the_cohort_page_is_readable_and_works_by_keyboard(page, cohort) -> None:
    show(page, cohort)
    for _ in schemes(page):
        found = contrast(page)
        assert found["checked"] > 60
        assert found["poor"] == []
    assert faults(page) == []
    assert walk(page) == ([], [])


def names(page) -> list[str]:
    """Return the runs that are shown, from top to bottom."""
    return list(
        page.evaluate(
            "[...document.querySelectorAll('#table tbody tr:not([hidden])')].map((row) => row.cells[1].textContent.trim())"
        )
    )


def head(name: str) -> str:
    order = ["Picture", "Run", "Verdict", "P(fail)", "Reasons", "ncc", "odd"]
    return f"#table thead th:nth-child({order.index(name) + 1}) button"


def test_runs_are_sorted_by_a_click_and_by_a_key(page, cohort) -> None:
    show(page, cohort)
    usual = ["run 0", "run 1", "run 2", "=1+1, of all", *(f"run {n}" for n in range(4, 10))]
    assert names(page) == usual
    page.click_on(head("ncc"))
    falling = ["run 9", "run 7", "run 5", "=1+1, of all", "run 1"]  # odd runs lie below .9
    assert names(page) == [*falling, "run 2", "run 4", "run 6", "run 8", "run 0"]  # who has none comes last
    assert page.evaluate(f"document.querySelector('{head('ncc')}').parentElement.ariaSort") == "ascending"
    assert page.evaluate("document.querySelectorAll('#table [aria-sort=none]').length") == 4
    page.click_on(head("ncc"))
    assert names(page) == ["run 8", "run 6", "run 4", "run 2", *falling[::-1], "run 0"]
    page.evaluate(f"document.querySelector('{head('Run')}').focus()")
    page.press("Enter")
    assert names(page)[0] == "=1+1, of all"
    page.press(" ")
    assert names(page)[0] == "run 9"
    page.click_on(head("P(fail)"))
    assert names(page)[0] == "run 9"
    page.click_on(head("Verdict"))
    assert names(page)[0] == "run 0"


def test_runs_are_filtered_by_verdict_and_name(page, cohort) -> None:
    show(page, cohort)
    said = "document.getElementById('shown').textContent"
    page.click_on(".filter[value=pass]")
    assert names(page) == ["run 0", "run 1", "run 2", "=1+1, of all", "run 4"]
    assert page.evaluate(said) == "5 shown"
    page.evaluate("document.querySelector('.filter[value=fail]').focus()")
    page.press(" ")
    assert names(page) == ["run 0", "=1+1, of all", "run 4"]
    page.click_on("#search")
    page.type("RUN 4")
    assert names(page) == ["run 4"]
    page.click_on(".filter[value=look]")
    assert names(page) == []
    assert page.evaluate(said) == "0 shown"


def saved_rows(page, folder):
    """Return the rows of the table that a page saves, once it is there."""
    until = time.monotonic() + PATIENCE
    while not (folder / "runs.csv").exists() and time.monotonic() < until:
        page.evaluate("1")
        time.sleep(0.1)
    with (folder / "runs.csv").open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_is_shown_is_saved_as_csv(page, cohort, tmp_path) -> None:
    show(page, cohort)
    page.download_to(tmp_path)
    page.click_on(".filter[value=pass]")
    page.click_on(head("P(fail)"))
    page.evaluate("document.getElementById('download').focus()")
    page.press("Enter")
    rows = saved_rows(page, tmp_path)
    assert [row["Run"] for row in rows] == ["run 4", "'=1+1, of all", "run 2", "run 1", "run 0"]  # no formula
    assert [row["Verdict"] for row in rows] == ["look", "look", "fail", "fail", "unreadable"]
    assert float(rows[0]["P(fail)"]) == pytest.approx(0.6)
    assert float(rows[0]["ncc"]) == pytest.approx(0.94)
    assert rows[-1]["ncc"] == ""
    assert rows[0]["Reasons"] == "a reason; and, another"


def test_an_outlier_leads_to_its_run(page, cohort) -> None:
    show(page, cohort)
    page.evaluate(
        "[...document.querySelectorAll('figcaption a')].find((one) => one.hash === '#run-9').focus()"
    )
    page.press("Enter")
    page.wait("location.hash === '#run-9'", PATIENCE)
    assert page.evaluate("document.querySelector(':target').cells[1].textContent.trim()") == "run 9"


def test_nothing_complains(page) -> None:
    """Comes last: over all that the tests before it did."""
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith(("file:", "data:", "about:", "blob:"))] == []


def test_every_measure_and_the_reasons_fit_a_small_screen(page, tmp_path) -> None:
    names = (
        "ncc",
        "lncc",
        "mi",
        "ssim",
        "displacement_p50_mm",
        "displacement_p95_mm",
        "folded_percent",
        "seconds",
    )
    names = (*names, "mean_dice", "min_dice", "tre_mean_mm", "tre_max_mm")
    reason = (
        "the images share little information where they are laid on each other (0.12 of the smaller entropy)"
    )
    row = CohortRow(
        name="sub-01/deformable: t1 → mni",
        outcome="unreadable",
        reasons=(reason,) * 3,
        measures=dict.fromkeys(names, 0.875) | {"seconds": 130.9},
    )
    path = tmp_path / "page.html"
    path.write_text(cohort_html([row, row], "two"), encoding="utf-8")
    show(page, path)  # 1280 pixels wide
    box = "document.querySelector('.scroll')"
    assert page.evaluate(f"{box}.scrollWidth - {box}.clientWidth") <= 0
    assert page.evaluate("document.querySelector('td.wide').offsetWidth") > 250
    page.download_to(tmp_path)
    page.click_on("#download")
    assert set(saved_rows(page, tmp_path)[0]) >= {name.replace("_", " ") for name in names}
