"""The page of tools/serve_demo.py as a visitor has it: its own server process, driven by a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from diffmae_video.data import read_frames, video_info
from diffmae_video.data.writing import write_video

pytest.importorskip("gradio", reason="the page needs gradio (extra: page)")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright (extra: dev)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH; Debian: apt-get install --no-install-recommends chromium"
)

TOOL = Path(__file__).parents[2] / "tools" / "serve_demo.py"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-unsafe-swiftshader"  # the last: WebGL, for painting
)
# The tool, in an interpreter that writes down to which addresses it connects.
SCRIPT = """
import runpy, sys
log = open(sys.argv.pop(1), "a")
def hook(event, arguments):
    if event == "socket.connect":
        print(arguments[1], file=log, flush=True)
sys.addaudithook(hook)
sys.path[0] = sys.argv[1].rpartition("/")[0]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SECONDS = 120_000  # of patience, in playwright's unit: machines that test are busy


class Server(NamedTuple):
    address: str
    port: int
    temporary: Path  # where its temporary files are


@pytest.fixture(scope="module")
def server(tiny_model, save, tmp_path_factory) -> Iterator[Server]:
    """A page with a tiny model of random weights. Afterwards: it left no file and talked to no other machine."""
    folder = tmp_path_factory.mktemp("server")
    weights = save(folder / "weights.pt", tiny_model())
    temporary, empty, connected = folder / "temporary", folder / "empty", folder / "connected"
    temporary.mkdir()
    empty.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--weights", weights, "--port", port, "--device", "cpu", "--max-upload", 1, "--max-frames", 8]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(connected), str(TOOL), *map(str, options)],
            cwd=empty,
            # matplotlib, which Gradio imports where it is installed, keeps a list of the machine's fonts
            env={**os.environ, "TMPDIR": str(temporary), "HOME": str(empty), "MPLCONFIGDIR": str(folder / "fonts")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "the page is at" in (folder / "log").read_text() or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield Server(f"http://127.0.0.1:{port}", port, temporary)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    log = (folder / "log").read_text()
    assert code == 0 and "Traceback" not in log and "warning" not in log.lower(), log
    assert list(temporary.iterdir()) == [] and list(empty.iterdir()) == [], "files are left"
    assert all(re.match(r"\('(127\.0\.0\.1|::1)', |\W*/", line) for line in connected.read_text().splitlines())


def wait_for(condition, seconds: int = 120) -> None:
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, server) -> Iterator:
    """A fresh visitor, the page loaded. Afterwards: no error in the console, nothing asked of another server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(SECONDS)
    tab = context.new_page()
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(server.address)
    info(tab).filter(has_text="Hidden:").wait_for()
    yield tab
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((server.address, "blob:", "data:"))] == []


def info(tab):
    return tab.locator("#info")


def upload(tab, path: Path) -> None:
    tab.locator("#upload input[type=file]").set_input_files(str(path))


def run(tab) -> None:
    """Runs until the result is there."""
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator("#status").filter(has_text="PSNR inside the mask").wait_for()


def choose(tab, label: str, option: str) -> None:
    tab.get_by_label(label, exact=True).click()
    tab.get_by_role("option", name=option, exact=True).click()


def downloaded(tab, folder: Path) -> Path:
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download the inpainted").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def result_width(tab) -> int:
    """Pixels of the result as the browser decoded it."""
    video = tab.locator("#result video")
    video.wait_for()
    tab.wait_for_function("document.querySelector('#result video').videoWidth > 0")
    return video.evaluate("video => video.videoWidth")


def test_upload_run_watch_download(tab, server, uploads, tmp_path):
    assert tab.locator("#samples img").count() >= 2
    upload(tab, uploads / "clip.mp4")
    info(tab).filter(has_text="clip.mp4: 64x48, 6 frames; taken: 6, from 0 to 5. Hidden:").wait_for()
    choose(tab, "What to hide", "right half")
    info(tab).filter(has_text="Hidden: 50%").wait_for()
    run(tab)
    assert result_width(tab) > 3 * 256
    assert tab.locator("#trajectory img").evaluate("image => image.naturalWidth") > 3 * 128
    path = downloaded(tab, tmp_path)
    assert path.name == "clip_inpainted.mp4" and video_info(path).frames == 6
    original, result = (read_frames(p, range(6)).astype(int) for p in (uploads / "clip.mp4", path))
    difference = abs(result - original)
    assert difference[:, :, :28].mean() < 6 < difference[:, :, 36:].mean()
    wait_for(lambda: not list(server.temporary.glob("*/job_*")))


def test_garbage_is_named_and_the_next_file_works(tab, uploads, tmp_path):
    upload(tab, uploads / "cut.mp4")
    info(tab).get_by_role("alert").filter(has_text="cut.mp4 cannot be read").wait_for()
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator("#status").get_by_role("alert").filter(has_text="cut.mp4 cannot be read").wait_for()
    tab.locator("#samples button").last.click()  # Gradio's picture
    info(tab).filter(has_text="cheetah.jpg: 502x343").wait_for()
    choose(tab, "What to hide", "a box")
    run(tab)
    picture = tab.locator("#picture img")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 3 * 256
    with Image.open(downloaded(tab, tmp_path)) as image:
        assert image.format == "PNG" and image.size == (502, 343)


def test_the_sample_video_of_gradio_works_at_once(tab):
    tab.locator("#samples button").nth(-2).click()
    info(tab).filter(has_text="world.mp4: 480x270, 901 frames; taken: 8").wait_for()
    run(tab)
    assert result_width(tab) > 3 * 256


def test_what_is_painted_is_filled_in_and_nothing_else(tab, uploads, tmp_path):
    upload(tab, uploads / "picture.png")
    info(tab).filter(has_text="picture.png: 52x40").wait_for()
    choose(tab, "What to hide", "what I paint on the first frame")
    canvas = tab.locator("#editor canvas").first
    canvas.wait_for()
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator("#status").get_by_role("alert").filter(has_text="nothing is painted yet").wait_for()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(middle[0] - 30, middle[1])
    tab.mouse.down()
    tab.mouse.move(middle[0] + 30, middle[1], steps=6)
    tab.mouse.up()
    info(tab).filter(has_text=re.compile(r"Hidden: [1-9]\d?\.\d%")).wait_for()
    run(tab)
    result, original = (np.asarray(Image.open(p)) for p in (downloaded(tab, tmp_path), uploads / "picture.png"))
    rows, columns = np.nonzero((result != original).any(-1))
    assert 0.01 < len(rows) / original[..., 0].size < 0.3
    assert abs(rows.mean() - 20) < 5 and abs(columns.mean() - 26) < 5, "not where it was painted"


def test_cancel_and_run_again(tab, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 192, 256, 3), dtype=np.uint8)
    upload(tab, write_video(tmp_path / "noise.mp4", noise, fps=5, crf=40))
    info(tab).filter(has_text="noise.mp4").wait_for()
    choose(tab, "What to hide", "patches, at random")
    tab.get_by_role("button", name="More").click()
    choose(tab, "Size that is worked on", "native")  # hundreds of windows: it takes a minute
    tab.get_by_label("number input for Steps").fill("250")
    tab.get_by_label("number input for Steps").press("Tab")
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator("#status").filter(has_text=re.compile("step [1-9]")).wait_for()
    assert tab.locator("#status progress").get_attribute("max") == "250"
    tab.get_by_role("button", name="Cancel").click()
    tab.locator("#status").filter(has_text="cancelled").wait_for()
    tab.get_by_label("number input for Steps").fill("1")
    tab.get_by_label("number input for Steps").press("Tab")
    choose(tab, "Size that is worked on", "resize")
    run(tab)


def test_a_file_that_is_too_large_is_refused(tab, server, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 360, 480, 3), dtype=np.uint8)
    path = write_video(tmp_path / "large.mp4", noise, fps=5)
    assert path.stat().st_size > 1 << 20
    upload(tab, path)
    tab.get_by_text(re.compile("maximum allowed size", re.IGNORECASE)).first.wait_for()
    boundary = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    request = urllib.request.Request(
        f"{server.address}/gradio_api/upload",
        boundary + path.read_bytes() + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 413


@pytest.mark.parametrize("path", ["/etc/passwd", str(TOOL), "../weights.pt", "setup.py"])
def test_no_other_file_is_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.address}/gradio_api/file={path}", timeout=60)
    assert refused.value.code in (403, 404)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of connections")
def test_it_listens_on_the_loopback_address_alone(server):
    tables = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    listening = {
        line[1].partition(":")[0] for line in tables if line[1].endswith(f":{server.port:04X}") and line[3] == "0A"
    }
    assert listening == {"0100007F"}
