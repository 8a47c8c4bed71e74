"""The viewer: who gets an answer, what the volumes hold, what is read out at a place."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest
from scenes import bend, oblique, organ, result_of, turned
from typer.testing import CliRunner
from viewer_runs import write_run

from regista.cli import app
from regista.core import FormatError, GeometryError, Grid, Image, LabelImage, PointSet
from regista.reporting import RunFolder, ViewerRun, ViewerServer, open_viewer
from regista.reporting._notebook import _table
from regista.reporting._viewer_run import _nice_block, _object_mm
from regista.reporting._viewer_volumes import checkerboard, coded, nifti_bytes, shrunk, window_of
from regista.transforms import Composite, resample, resample_labels


@pytest.fixture(scope="module")
def folder(pair, good, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "good", pair.fixed, pair.moving, good)


@pytest.fixture(scope="module")
def labels(pair):
    return tuple(
        LabelImage(np.where(i.data > 60, 90210, 0) - 7 * (i.data > 120), i.grid, names={90210: "rind"})
        for i in (pair.fixed, pair.moving)
    )


@pytest.fixture(scope="module")
def landmarks(pair):
    here = pair.fixed.grid.center_mm + np.random.default_rng(1).uniform(-6, 6, (5, 3))
    return PointSet(here), PointSet(pair.truth.map_points(here) + np.array([0, 0, 0.5]))


@pytest.fixture(scope="module")
def run(folder, pair, good, labels, landmarks):
    return ViewerRun(
        RunFolder(path=folder, fixed=pair.fixed, moving=pair.moving, result=good), labels, landmarks
    )


@pytest.fixture(scope="module")
def server(folder, labels, landmarks):
    server = open_viewer([folder], labels=labels, landmarks=landmarks)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def ask(server):
    def ask(path="", method="GET", headers=None, raw=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest(method, f"/{server.token}/{path}" if raw is None else raw, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{server.port}", **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    return ask


def test_listens_on_this_machine_only_at_a_secret_address(server) -> None:
    assert server._http.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    assert urlsplit(server.url).path == f"/{server.token}/"


def test_the_page_and_its_parts(ask) -> None:
    for path, kind in (("", "text/html"), ("viewer.js", "text/javascript"), ("viewer.css", "text/css")):
        answer, content = ask(path)
        assert answer.status == 200
        assert answer.getheader("Content-Type").startswith(kind)
        assert len(content) > 1000
        policy = answer.getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.getheader("Referrer-Policy") == "no-referrer"
        assert answer.getheader("X-Content-Type-Options") == "nosniff"


def test_head_tells_the_size_without_the_content(ask) -> None:
    answer, content = ask("api/runs/0/fixed.nii", "HEAD")
    assert content == b""
    assert int(answer.getheader("Content-Length")) == len(ask("api/runs/0/fixed.nii")[1])


@pytest.mark.parametrize("raw", ["/", "/api/runs", "/viewer.js", "/wrong/", "/%C3%A4/"])
def test_no_answer_without_the_secret(ask, raw) -> None:
    answer, content = ask(raw=raw)
    assert answer.status == 403
    assert len(content) < 100


def test_a_part_of_the_secret_is_none(ask, server) -> None:
    for token in (server.token[:-1], server.token + "x", server.token.lower() + "A"):
        assert ask(raw=f"/{token}/")[0].status == 403


@pytest.mark.parametrize(
    "path",
    [
        "../record.json",
        "..%2f..%2fetc/passwd",
        "%2e%2e/record.json",
        "api/runs/0/../../../../etc/passwd",
        "api/runs/0/record.json",
        "api/runs/0//etc/passwd",
        "api/runs/0/fixed.nii/..",
        "api/runs/1",
        "api/runs/-1",
        "api/runs/999999",
        "api/runs/0/other.nii",
        "api/runs/0/checker-0.nii",
        "api/runs/0/checker-a.nii",
        "api/runs/0/checker-0.0.nii",
        "api/runs/0/checker-0.5.5.nii",
        "api/runs/0/fixed-0.5.nii",
        "LICENCES.txt",
        "viewer.js/",
    ],
)
def test_nothing_but_what_is_named(ask, path) -> None:
    answer, content = ask(path)
    assert answer.status == 404
    assert b"root:" not in content


def test_what_starts_the_browser_opens_the_page_once(ask, server, monkeypatch) -> None:
    # other users of the machine see the words a program is started with
    opened = []
    monkeypatch.setattr("regista.reporting._viewer_server.webbrowser.open", opened.append)
    monkeypatch.setattr(server._http, "serve_forever", lambda poll_interval: None)
    server.serve(browser=True)
    while not opened:
        time.sleep(0.01)
    assert server.token not in opened[0]
    ticket = urlsplit(opened[0]).path
    answer, _ = ask(raw=ticket)
    assert (answer.status, answer.getheader("Location")) == (302, f"/{server.token}/")
    assert ask(raw=ticket)[0].status == 403
    assert ask(raw="/open-")[0].status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_reading_is_all_that_is_allowed(ask, method) -> None:
    answer, _ = ask("api/runs", method)
    assert answer.status == 405
    assert answer.getheader("Allow") == "GET, HEAD"


def test_other_sites_get_no_answer(ask, server) -> None:
    own = f"127.0.0.1:{server.port}"
    for headers in (
        {"Host": f"evil.example:{server.port}"},
        {"Host": "127.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{server.port + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert ask("api/runs", headers=headers)[0].status == 403, headers
    for headers in (
        {"Origin": f"http://{own}"},
        {"Host": f"localhost:{server.port}"},
        {"Sec-Fetch-Site": "same-origin"},
    ):
        assert ask("api/runs", headers=headers)[0].status == 200, headers


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?x=1&y=2",
        "?x=1&y=2&z=nan",
        "?x=1&y=2&z=1e9",
        "?x=1&y=2&z=3&space=etc",
        "?x=1&y=2&z=3" + "&a=1" * 9,
    ],
)
def test_a_place_that_is_none(ask, query) -> None:
    assert ask(f"api/runs/0/at{query}")[0].status == 400


def test_an_address_that_is_none(ask) -> None:
    assert ask(raw="http://[")[0].status == 400


def test_landmarks_correspond_by_name_as_on_the_page(folder, pair, good) -> None:
    here = pair.fixed.grid.center_mm + np.array([[0.0, 0, 0], [5, 0, 0], [0, 6, 0]])
    there = good.transform.map_points(here)
    points = PointSet(here, ("a", "b", "c")), PointSet(there[[2, 0]], ("c", "a"))
    run = ViewerRun(RunFolder(path=folder, fixed=pair.fixed, moving=pair.moving, result=good), None, points)
    found = run.landmark_pairs()
    assert [one["name"] for one in found] == ["a", "c"]
    assert max(one["error_mm"] for one in found) < 1e-6


def test_volumes_are_the_images(ask, pair, good, labels) -> None:
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving), ("warped", good.warped)):
        volume = nibabel.Nifti1Image.from_bytes(ask(f"api/runs/0/{name}.nii")[1])
        np.testing.assert_array_equal(np.asanyarray(volume.dataobj), image.data)
        np.testing.assert_allclose(volume.affine, image.grid.grid2world, atol=1e-4)
        assert float(volume.header["cal_max"]) > float(volume.header["cal_min"])
    moved = nibabel.Nifti1Image.from_bytes(ask("api/runs/0/labels-moved.nii")[1])
    expected = resample_labels(labels[1], pair.fixed.grid, good.transform)
    values = np.union1d(labels[0].data, labels[1].data)
    np.testing.assert_array_equal(np.asanyarray(moved.dataobj), coded(expected, values).data)
    assert moved.header.get_intent()[0] == "label"


def test_displacement_volume_is_the_length_of_the_map(run, pair, good) -> None:
    volume = nibabel.Nifti1Image.from_bytes(run.volume("displacement"))
    index = np.array([[3, 50, 7], [22, 28, 15]])
    here = pair.fixed.grid.index2world(index)
    expected = np.linalg.norm(good.transform.map_points(here) - here, axis=1)
    np.testing.assert_allclose(np.asanyarray(volume.dataobj)[tuple(index.T)], expected, rtol=1e-4)


def test_the_read_out_is_the_map_itself_between_voxels(ask, pair, good, labels) -> None:
    here = pair.fixed.grid.index2world([[20.3, 30.7, 14.2]])
    x, y, z = here[0]
    found = json.loads(
        ask(f"api/runs/0/at?x={x!r}&y={y!r}&z={z!r}".replace("np.float64(", "").replace(")", ""))[1]
    )
    there = good.transform.map_points(here)
    np.testing.assert_allclose(found["moving_mm"], there[0], atol=1e-6)
    np.testing.assert_allclose(found["displacement_mm"], (there - here)[0], atol=1e-6)
    assert found["length_mm"] == pytest.approx(float(np.linalg.norm(there - here)))
    np.testing.assert_allclose(found["fixed_vox"], [20.3, 30.7, 14.2], atol=1e-6)
    place = Grid((1, 1, 1), np.block([[np.eye(3), here.T], [np.zeros((1, 3)), np.ones((1, 1))]]))
    assert found["moving_value"] == pytest.approx(
        float(resample(pair.moving, place, good.transform).data), rel=1e-5
    )
    assert found["fixed_label"]["value"] in ("90210", "90203", "0")
    step = 1e-3 * np.eye(3)
    numeric = (good.transform.map_points(here + step) - good.transform.map_points(here - step)) / 2e-3
    assert found["jacobian"] == pytest.approx(float(np.linalg.det(numeric)), abs=0.02)


def test_a_place_of_the_moving_image_is_brought_back(run, pair, good) -> None:
    here = pair.fixed.grid.index2world([20.0, 30.0, 14.0])
    there = good.transform.map_points(here[None])[0]
    found = run.at(there.tolist(), "moving")
    np.testing.assert_allclose(found["fixed_mm"], here, atol=0.02)
    np.testing.assert_allclose(found["moving_mm"], there, atol=1e-9)


def test_outside_the_images_there_is_no_value(run) -> None:
    found = run.at([900.0, 900.0, 900.0])
    assert found["inside"] is False
    assert found["fixed_value"] is None
    assert found["fixed_label"] is None
    json.dumps(found, allow_nan=False)


def test_grid_lines_are_what_the_map_makes_straight(run, pair, good) -> None:
    raw = run.grid_lines()
    offset = int(raw.split(b"file: . ")[1].split(b"\n")[0])
    assert raw[:offset].endswith(b"END\n")
    points = np.frombuffer(raw[offset:], "<f4").reshape(-1, 3)
    assert np.isinf(points[-1]).all()
    ends = np.flatnonzero(np.isnan(points[:, 0]))
    lines = [points[a + 1 : b] for a, b in pairwise(ends)]
    assert len(lines) > 200

    def bow(line):
        along = line[-1] - line[0]
        away = line - line[0]
        return np.linalg.norm(away - np.outer(away @ along, along) / (along @ along), axis=1).max()

    bent = max(lines, key=bow)
    assert bow(bent) > 1.0
    assert bow(good.transform.map_points(bent.astype(float))) < 0.05


def test_landmarks_lie_where_the_map_brings_them(run, pair, landmarks, good) -> None:
    pairs = run.landmark_pairs()
    assert [p["error_mm"] for p in pairs] == pytest.approx([0.5] * 5, abs=1e-5)
    brought = good.inverse.map_points(landmarks[1].points_mm)
    np.testing.assert_allclose([p["moved_mm"] for p in pairs], brought)


def test_2d_colour_is_shown_in_colour_and_read_out(tmp_path, make_grid) -> None:
    grid = make_grid((40, 31), (0.8, 1.1))
    data = np.random.default_rng(0).integers(0, 255, (3, 40, 31), dtype=np.uint8)
    fixed = Image(data, grid, "channels", "fixed")
    moving = Image(data[:, ::-1].copy(), grid, "channels", "moving")
    transform = bend(grid, 1.0)
    result = result_of(fixed, moving, transform)
    result = replace_warped(result, result.warped.with_data(result.warped.data.astype(np.float32)))
    run = ViewerRun(RunFolder(path=tmp_path, fixed=fixed, moving=moving, result=result))
    for name in ("fixed", "warped", "checker-5"):
        volume = nibabel.Nifti1Image.from_bytes(run.volume(name))
        assert volume.shape == (40, 31, 1)
        assert volume.header.get_data_dtype().names == ("R", "G", "B")
    voxels = np.asanyarray(nibabel.Nifti1Image.from_bytes(run.volume("fixed")).dataobj)
    np.testing.assert_array_equal(voxels["G"][..., 0], data[1])
    here = grid.index2world([12.5, 20.25])
    found = run.at([*here, 77.0])
    np.testing.assert_allclose(
        found["displacement_mm"], transform.map_points(here[None])[0] - here, atol=1e-6
    )
    assert len(found["fixed_value"]) == 3
    points = np.frombuffer(run.grid_lines()[-1200:], "<f4").reshape(-1, 3)
    assert (points[np.isfinite(points[:, 2]), 2] == 0).all()


@pytest.mark.parametrize(
    ("spacing", "oriented", "unit", "world"),
    [(1.0, False, "pixels", "world pixels"), (0.5, False, "mm", "world mm"), (1.0, True, "mm", "RAS+ mm")],
)
def test_positions_of_a_picture_name_their_convention(tmp_path, spacing, oriented, unit, world) -> None:
    data = np.random.default_rng(0).integers(0, 255, (40, 31), dtype=np.uint8)
    image = Image(data, Grid((40, 31), np.diag([spacing, spacing, 1.0])), oriented=oriented)
    result = result_of(image, image, bend(image.grid, 1.0))
    run = ViewerRun(RunFolder(path=tmp_path, fixed=image, moving=image, result=result))
    about = run.details()
    assert (about["unit"], about["world"]) == (unit, world)
    assert about["letters"] == {"fixed": oriented, "moving": oriented}
    read_out = _table(run.at([3.0, 4.0, 0.0]), about)  # of the notebook
    for words in (f"Displacement, {unit}<", "along x, y<", f"Fixed, {world}<", f"Moving, {world}<"):
        assert words in read_out


def replace_warped(result, warped):
    return type(result)(result.transform, result.inverse, warped, result.record)


def test_checkerboard_alternates_in_mm() -> None:
    grid = oblique((12, 10, 6), (1.0, 2.0, 3.0))
    one, other = (Image(np.full(grid.shape, v, np.float32), grid) for v in (10.0, 20.0))
    board = checkerboard(one, other, ((0, 20), (0, 20)), 6.0).data
    assert set(np.unique(board)) == {128, 255}
    assert board[0, 0, 0] == board[5, 2, 1] == 128
    assert board[6, 0, 0] == board[0, 3, 0] == board[0, 0, 2] == 255


def test_blocks_are_a_tenth_of_what_is_seen_however_large_the_lattice() -> None:
    data = np.zeros((200, 240), np.float32)
    data[80:120, 60:121] = 9  # 6 × 9 mm of 30 × 36
    grid = Grid(data.shape, np.diag([0.15, 0.15, 1.0]))
    colour = Image(np.stack([data, data, data]).astype(np.uint8), grid, "channels")
    for image in (Image(data, grid), Image(9 - data, grid), colour):
        assert 8.5 < _object_mm(image) < 9.6
    assert _nice_block(9.2) == 0.5
    assert _nice_block(0.031) == pytest.approx(0.002)
    assert _object_mm(Image(np.zeros((20, 30), np.float32), Grid((20, 30), np.eye(3)))) > 0


def test_too_large_images_are_shrunk_and_stay_in_place() -> None:
    grid = Grid((5000, 7), np.array([[0.3, 0.1, 5], [-0.1, 0.4, 2], [0, 0, 1.0]]))
    ramp = grid.coordinates_mm()[0].astype(np.float32)
    small = shrunk(Image(ramp, grid))
    assert max(small.grid.shape) <= 2048
    np.testing.assert_allclose(small.data, small.grid.coordinates_mm()[0], atol=1e-2)
    labels = shrunk(LabelImage((ramp > 700).astype(np.uint16) * 5, grid))
    assert set(np.unique(labels.data)) == {0, 5}


def test_odd_voxels_become_what_the_page_reads() -> None:
    grid = Grid((3, 2, 2), np.eye(4))
    for data in (
        np.arange(12).astype(np.int64),
        np.arange(12).astype(">i2"),
        np.array([np.nan, np.inf, *range(10)]),
        np.arange(12) > 5,
        np.full(12, 7.0),
    ):
        image = Image(data.reshape(grid.shape), grid)
        low, high = window_of(image)
        assert low < high
        volume = nibabel.Nifti1Image.from_bytes(nifti_bytes(image, (low, high)))
        assert volume.header.get_data_dtype().name in ("uint8", "int16", "float32")
        assert np.isfinite(np.asanyarray(volume.dataobj)).all()
    all_bad = Image(np.full(grid.shape, np.nan), grid)
    assert window_of(all_bad) == (0.0, 1.0)
    assert not np.asanyarray(nibabel.Nifti1Image.from_bytes(nifti_bytes(all_bad)).dataobj).any()


def test_two_thousand_labels_get_a_colour_each_in_turn() -> None:
    data = np.arange(2001).reshape(1, 3, 667) * 10**9
    found = coded(LabelImage(data, Grid(data.shape, np.eye(4))))
    assert found.data.dtype == np.uint8
    assert found.data.max() == 255
    assert (found.data > 0).sum() == 2000


def test_a_label_has_one_colour_in_both_images_and_lies_on_the_fixed_grid(folder, pair, good) -> None:
    bright = pair.moving.data > 60
    there = LabelImage(np.where(bright, 9, 0), pair.moving.grid)  # label 4 is in the fixed image alone
    here = LabelImage(
        np.where(pair.fixed.data > 120, 4, np.where(pair.fixed.data > 60, 9, 0)), pair.fixed.grid
    )
    coarse = resample_labels(here, pair.fixed.grid.shrink((2, 2, 1)))
    shown = ViewerRun(
        RunFolder(path=folder, fixed=pair.fixed, moving=pair.moving, result=good), (coarse, there)
    )
    fixed, moved = (
        nibabel.Nifti1Image.from_bytes(shown.volume(f"labels-{name}")) for name in ("fixed", "moved")
    )
    assert fixed.shape == moved.shape == pair.fixed.grid.shape
    np.testing.assert_allclose(fixed.affine, moved.affine, atol=1e-4)
    first, second = (np.asanyarray(volume.dataobj) for volume in (fixed, moved))
    assert set(np.unique(first)) == {0, 1, 2}
    assert set(np.unique(second)) == {0, 2}  # the colour of label 9 in both
    assert (first[second == 2] > 0).mean() > 0.7


def test_names_are_told_apart_and_never_written_into_the_page(folder, tmp_path) -> None:
    for name in ("a/<script>alert(1)</script>", "b/<script>alert(1)</script>"):
        shutil.copytree(folder, tmp_path / name)
    server = open_viewer([tmp_path])
    try:
        assert len(set(server.names)) == 2
        assert all("<script>" in name for name in server.names)
        kind, content = server.answer("api/runs", "")
        assert kind == "application/json"
        assert {row["name"] for row in json.loads(content)} == set(server.names)
        assert b"alert(1)" not in server.answer("", "")[1]
    finally:
        server.release()


@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_run_among_others_says_what_it_lacks(folder, tmp_path, broken) -> None:
    for name in ("a", "b"):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "ab"[broken] / "warped.nii.gz").unlink()
    server = open_viewer([tmp_path])
    try:
        server.answer(f"api/runs/{1 - broken}", "")
        with pytest.raises(Exception, match="lacks warped") as caught:
            server.answer(f"api/runs/{broken}", "")
        assert caught.value.status == 422
    finally:
        server.release()


def test_what_does_not_fit_is_refused(folder, tmp_path, pair, labels) -> None:
    flat = LabelImage(np.zeros((3, 4), np.uint8), Grid((3, 4), np.eye(3)))
    with pytest.raises(GeometryError, match="the labels are"):
        open_viewer([folder], labels=(labels[0], flat))
    with pytest.raises(GeometryError, match="paired by order"):
        open_viewer([folder], landmarks=(PointSet(np.zeros((3, 3))), PointSet(np.zeros((2, 3)))))
    shutil.copytree(folder, tmp_path / "b")
    with pytest.raises(FormatError, match="single run"):
        open_viewer([folder, tmp_path / "b"], images=(folder / "fixed.nii.gz", None))
    first = ViewerServer({"x": lambda: None})
    with pytest.raises(FormatError, match=f"port {first.port}"):
        ViewerServer({"x": lambda: None}, first.port)
    first.release()


def test_the_command_tells_what_is_wrong(folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    record = json.loads((broken / "record.json").read_text(encoding="utf-8"))
    record["inputs"]["fixed"]["path"] = str(tmp_path / "gone.nii.gz")
    (broken / "record.json").write_text(json.dumps(record), encoding="utf-8")
    for words, text in (
        ([tmp_path / "empty"], "hold no record.json"),
        ([tmp_path / "absent"], "neither a folder"),
        ([broken], "gone.nii.gz"),
        ([folder, "--labels", tmp_path / "no.nii", tmp_path / "no.nii"], "does not exist"),
        ([folder, "--port", "70000"], "65535"),
    ):
        done = CliRunner().invoke(app, ["view", "--no-browser", *map(str, words)])
        assert done.exit_code == 2, (words, done.output)
        assert text in " ".join(done.stderr.split()), (words, done.stderr)


def test_ctrl_c_ends_the_command_cleanly(folder) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "regista", "view", str(folder), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        url = process.stdout.readline().strip()
        address = urlsplit(url)
        until = time.monotonic() + 120
        status = 0
        while not status and time.monotonic() < until:
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
            try:
                connection.request("GET", f"{address.path}api/runs/0")
                status = connection.getresponse().status
            except ConnectionError:
                time.sleep(0.1)
            finally:
                connection.close()
        assert status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert errors == ""


def test_gzip_is_not_needed_nor_sent(ask) -> None:
    content = ask("api/runs/0/fixed.nii", headers={"Accept-Encoding": "gzip"})[1]
    assert io.BytesIO(content).read(4) == (348).to_bytes(4, "little")


def test_a_chain_of_maps_is_read_out_whole(tmp_path) -> None:
    grid = oblique((20, 22, 12))
    fixed = organ(grid)
    fixed = Image(fixed.data, grid, space="fixed")
    chain = Composite((bend(grid, 1.0), turned(4, (1.0, 0.5, 0.0), grid.center_mm)))
    moving = Image(fixed.data, grid, space="moving")
    run = ViewerRun(
        RunFolder(path=tmp_path, fixed=fixed, moving=moving, result=result_of(fixed, moving, chain))
    )
    here = grid.index2world([9.5, 10.5, 5.5])
    expected = chain.map_points(here[None])[0]
    np.testing.assert_allclose(run.at(here.tolist())["moving_mm"], expected, atol=1e-9)
