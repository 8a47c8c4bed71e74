"""The notebook's widgets in a real browser: ipyniivue's own script, on models that speak with Python as Jupyter's do."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from devtools import Browser, find_browser
from PIL import Image as Picture

from regista.core import LabelImage, PointSet

PATIENCE = 300  # a graphics card in software, on a busy machine

_PAGE = """<!doctype html><html lang="en"><title>models</title><link rel="icon" href="data:,">
<body style="margin: 0; background: #000"><script type="module">
window.models = {}; window.out = [];
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const put = (state, path, value) => { let at = state; for (const k of path.slice(0, -1)) at = at[k]; at[path.at(-1)] = value; };
class Model {
  constructor(id) { this.id = id; this.state = {}; this.changed = {}; this.heard = {};
    this.widget_manager = { get_model: async (one) => window.models[one] }; }
  get(key) { return this.state[key]; }
  set(key, value) { this.state[key] = value; this.changed[key] = value; this.fire(`change:${key}`); }
  save_changes() { const state = {};
    for (const [k, v] of Object.entries(this.changed)) if (!k.startsWith('chunk_') && !ArrayBuffer.isView(v)) state[k] = v;
    this.changed = {}; window.out.push({ id: this.id, state }); }
  send(content) { window.out.push({ id: this.id, content }); }
  on(name, act) { (this.heard[name] ??= []).push(act); }
  off(name, act) { this.heard[name] = act ? (this.heard[name] ?? []).filter((one) => one !== act) : []; }
  get _comm_live() { return false; }  // keeps the voxels, which the page would send back in pieces
  send_sync_message() {}
  fire(name, ...all) { for (const act of [...(this.heard[name] ?? [])]) act(...all); }
}
window.take = (messages) => { for (const { id, data, paths, buffers } of messages) {
  const model = (window.models[id] ??= new Model(id));
  if (data.method === 'custom') { model.fire('msg:custom', data.content, buffers.map((b) => new DataView(bytes(b).buffer))); continue; }
  const state = data.state ?? {};
  paths.forEach((path, n) => put(state, path, new DataView(bytes(buffers[n]).buffer)));
  Object.assign(model.state, state);
  for (const key of Object.keys(state)) model.fire(`change:${key}`);
} };
window.render = async (id) => {
  const el = document.createElement('div'); el.id = `w${id}`; el.style.width = '900px'; document.body.append(el);
  const { default: widget } = await import(`./widget.js?${id}`);  // a copy for each widget, as anywidget makes
  const model = window.models[id];
  await widget.initialize({ model }); await widget.render({ model, el });
};
window.there = true;
</script>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self) -> None:
        if self.path.split("?")[0] != "/":
            return super().do_GET()
        content = _PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return self.wfile.write(content)


class Wire:
    """What a kernel and a page say to each other, carried by hand."""

    def __init__(self, page: Browser) -> None:
        self.page, self.waiting = page, []

    def comm(self, **options):
        import comm.base_comm

        wire = self

        class Comm(comm.base_comm.BaseComm):
            def publish_msg(self, kind, data=None, metadata=None, buffers=None, **_) -> None:
                if kind == "comm_close" or not data or data.get("method") not in (None, "update", "custom"):
                    return
                packed = [base64.b64encode(bytes(part)).decode() for part in buffers or ()]
                plain = json.loads(json.dumps(data, default=str))  # as it is at this moment
                wire.waiting.append(
                    {
                        "id": self.comm_id,
                        "data": plain,
                        "paths": plain.get("buffer_paths", []),
                        "buffers": packed,
                    }
                )

        return Comm(**options)

    def turn(self) -> None:
        """Carry messages both ways."""
        import ipywidgets

        while self.waiting:
            messages, self.waiting = self.waiting[:8], self.waiting[8:]
            self.page.evaluate(f"window.take({json.dumps(messages)})")
        for said in self.page.evaluate("window.out.splice(0)"):
            widget = (
                ipywidgets.Widget._instances[said["id"]]
                if hasattr(ipywidgets.Widget, "_instances")
                else ipywidgets.Widget.widgets[said["id"]]
            )
            if "state" in said:
                known = {k: v for k, v in said["state"].items() if v is not None and k in widget.keys}
                widget.set_state(known)
            else:
                widget._handle_custom_msg(said["content"], [])

    def until(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.page.complaints()
            self.turn()
            time.sleep(0.05)
        for _ in range(3):
            self.turn()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def wire():
    package = pytest.importorskip("ipyniivue", reason="the extra 'notebook' is not installed")
    program = find_browser()
    if program is None:
        pytest.skip("REGISTA_CHROMIUM names no Chromium: `make test-browser` takes one from the path")
    folder = str(Path(package.__file__).parent / "static")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(program)
    browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
    browser.wait("window.there", PATIENCE)
    yield Wire(browser)
    browser.close()
    server.shutdown()


@pytest.fixture(scope="module")
def viewer(wire, pair, good):
    import comm

    from regista.reporting import view

    labels = tuple(LabelImage((i.data > 60).astype(np.int16), i.grid) for i in (pair.fixed, pair.moving))
    here = pair.fixed.grid.center_mm + np.random.default_rng(1).uniform(-6, 6, (4, 3))
    landmarks = (PointSet(here), PointSet(pair.truth.map_points(here)))
    usual, comm.create_comm = comm.create_comm, wire.comm
    try:
        viewer = view(good, pair.fixed, pair.moving, labels=labels, landmarks=landmarks, height=320)
        wire.turn()
        for pane in (viewer.fixed, viewer.moving):
            wire.page.evaluate(f"void window.render('{pane.nv.model_id}')")
        wire.until(lambda: viewer.fixed.ready and viewer.moving.ready and "warped" in viewer.fixed.volumes)
        yield viewer
    finally:
        comm.create_comm = usual


def look(wire, pane) -> np.ndarray:
    """Return a pane as it looks, floats ``(H, W, 3)``."""
    for _ in range(4):
        wire.turn()
        time.sleep(0.2)
    wire.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = wire.page.evaluate(
        "(({x, y, width, height}) => [x, y, x + width, y + height])"
        f"(document.querySelector('#w{pane.nv.model_id} canvas').getBoundingClientRect())"
    )
    picture = Picture.open(io.BytesIO(wire.page.picture())).convert("RGB").crop([round(v) for v in box])
    return np.asarray(picture, float)


def test_a_notebook_shows_anatomy_and_marks(wire, viewer) -> None:
    seen = look(wire, viewer.fixed)
    gray = np.ptp(seen, axis=-1) < 8
    assert 0.03 < (gray & (seen.mean(-1) > 60)).mean() < 0.9
    assert look(wire, viewer.moving).std() > 15
    viewer.controls["hide"].value = True
    alone = look(wire, viewer.fixed)
    assert np.abs(alone - seen).mean() > 0.2
    viewer.controls["grid"].value = True
    yellow = look(wire, viewer.fixed)
    assert ((yellow[..., 0] > 150) & (yellow[..., 2] < 90)).mean() > 0.003
    viewer.controls["grid"].value = False
    viewer.controls["hide"].value = False
    viewer.controls["over"].value = "Displacement, mm"
    viewer.controls["opacity"].value = 100
    coloured = look(wire, viewer.fixed)
    assert (np.ptp(coloured, axis=-1) > 40).mean() > 0.1  # viridis


def test_a_click_reads_the_map_out_and_moves_the_other_crosshair(wire, viewer, good) -> None:
    before = look(wire, viewer.moving)
    box = wire.page.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])"
        f"(document.querySelector('#w{viewer.fixed.nv.model_id} canvas').getBoundingClientRect())"
    )
    viewer.read_out.value = ""
    wire.page.click(box[0] + 0.2 * box[2], box[1] + 0.3 * box[3])
    wire.until(lambda: viewer.read_out.value)
    here, there = np.array(viewer.fixed._at), np.array(viewer.moving._at)
    np.testing.assert_allclose(good.transform.map_points(here[None])[0], there, atol=1e-6)
    assert np.abs(look(wire, viewer.moving) - before).mean() > 0.1
    # where the browser draws the crosshair of the moving image is where the map leads
    matrix = np.asarray(viewer.moving.volumes["moving"].frac2mm, float).T
    fraction = [*viewer.moving.nv.scene.crosshair_pos, 1.0]
    np.testing.assert_allclose((matrix @ fraction)[:3], there, atol=1e-3)
    assert [text[-500:] for text in wire.page.complaints()] == []
