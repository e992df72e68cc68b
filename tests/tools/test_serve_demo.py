"""tools/serve_demo.py and what its page does, without a browser; test_page_browser.py has the rest."""

from __future__ import annotations

import itertools
import re
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmae_video.data import read_frames, video_info
from diffmae_video.inpainting import inpaint_video
from diffmae_video.mask_input import box_mask, frames_mask, moving_box_mask, region_mask
from diffmae_video.quality import psnr

VALUES = {
    "model": "tiny", "start": 0, "count": 6, "stride": 1, "steps": 3, "sampler": "ddim", "seed": 0,
    "spacing": "trailing", "fit": "resize", "feather": 0, "grow": 0, "kind": "box", "ratio": 0.5,
    "left": 25, "top": 25, "right": 75, "bottom": 75, "keyframes": "", "frames": "", "editor": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()


@pytest.fixture
def actions(page, model, tiny_model, tmp_path):
    made = page.page_actions.Actions({"tiny": model, "mae": tiny_model("MAE")}, [], page.page_input.Limits(), tmp_path)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == [], "a job left files behind"


# --------------------------------------------------------------------------------------------------------------- mask


def mask_of(page, uploads, model, tmp_path, **choice):
    clip = page.page_input.read_clip(str(uploads / "clip.mp4"), 0, 6, 1, page.page_input.Limits())
    return page.page_mask.build_mask(page.page_mask.MaskChoice(**choice), clip, model, "resize", 0, tmp_path)


def test_every_kind_of_mask_hides_what_the_tools_hide(page, uploads, model, tmp_path):
    shape = (6, 48, 64)
    keyframes = "0:0.1,0.1,0.5,0.5 4:0.5,0.5,0.9,0.9"
    painted = np.zeros((96, 128, 4), np.uint8)
    painted[20:40, 60:100] = 255
    expected = {
        "box": ({"box": (0.25, 0.5, 0.75, 1.0)}, box_mask("16,24,48,48", shape)),
        "moving box": ({"keyframes": keyframes}, moving_box_mask(keyframes, shape)),
        "frames": ({"frames": "1,3-4"}, frames_mask("frames:1,3-4", shape)),
        "painted": ({"painted": {"layers": [painted]}}, box_mask("30,10,50,20", shape)),
        **{name: ({}, region_mask(name, shape)) for name in page.page_mask.REGIONS},
    }
    for kind, (choice, mask) in expected.items():
        assert np.array_equal(mask_of(page, uploads, model, tmp_path, kind=kind, **choice), mask), kind
    for kind in set(page.page_mask.KINDS) - set(expected):
        assert 0.1 < mask_of(page, uploads, model, tmp_path, kind=kind, ratio=0.4).mean() < 0.7, kind


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"kind": "box", "box": (0.5, 0.2, 0.5, 0.9)}, "the box is empty"),
        ({"kind": "frames", "frames": "9"}, "outside 0 to 5"),
        ({"kind": "painted"}, "nothing is painted"),
        ({"kind": "painted", "painted": {"layers": [np.zeros((48, 64, 4), np.uint8)]}}, "nothing is painted"),
        ({"kind": "painted", "painted": {"layers": [np.full((48, 64, 4), 255, np.uint8)]}}, "as painted hides every"),
        ({"kind": "tube", "ratio": 1.5}, "ratio 1.5"),
    ],
)
def test_masks_that_cannot_be(page, uploads, model, tmp_path, choice, message):
    with pytest.raises(page.page_input.Refused, match=message):
        mask_of(page, uploads, model, tmp_path, **choice)


@pytest.mark.parametrize("field", ["kind", "frames", "keyframes"])
def test_what_is_typed_is_never_taken_for_a_file(page, uploads, model, tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames:").mkdir()
    Image.new("L", (64, 48), 0).save(tmp_path / "secret.png")
    for given in (str(tmp_path / "secret.png"), "secret.png", "/../secret.png"):
        kind = {"kind": given, "frames": "frames", "keyframes": "moving box"}[field]
        with pytest.raises(page.page_input.Refused, match="expected|there is no mask"):
            mask_of(page, uploads, model, tmp_path, **{"kind": kind, **({field: given} if field != "kind" else {})})


# ---------------------------------------------------------------------------------------------------------------- job


def test_a_video_from_upload_to_result(page, uploads, model, actions, tmp_path):
    source = str(uploads / "clip.mp4")
    info, picture = actions.look({**VALUES, "source": source})
    assert "clip.mp4" in info and "Hidden: 25%" in info and picture.shape[1] > 4 * 64
    frames, mask = read_frames(source, range(6)), box_mask("16,12,48,36", (6, 48, 64))
    views = []
    for view in actions.run({**VALUES, "source": source}, "visitor"):
        views.append(view)
        if view.result is not None:  # now, because nothing is left afterwards
            assert video_info(view.result.comparison).frames == 6 and video_info(view.result.comparison).fps == 10
            written = read_frames(view.result.inpainted, range(6)).astype(int)
    expected = inpaint_video(model, frames, mask, 3, "ddim", 0)
    assert abs(written - expected).mean() < 6 < abs(written - frames).mean(), "no more than what H.264 loses"
    assert view.result.inpainted.name == "clip_inpainted.mp4"
    assert view.result.psnr["inpainted"] == pytest.approx(psnr(expected, frames, mask))
    assert f"{psnr(expected, frames, mask):.2f} dB" in view.status and "nearest visible patch" in view.status
    assert view.strip.shape[1] > 3 * 32 and all("<progress" in view.status for view in views[:-1])
    assert actions.jobs == {}


def test_what_is_painted_is_counted(uploads, actions):
    values = {**VALUES, "source": str(uploads / "clip.mp4"), "kind": "painted"}
    info, picture = actions.look(values)
    assert "Nothing is painted yet" in info and picture is None
    painted = np.zeros((48, 64, 4), np.uint8)
    painted[:12] = 255
    assert "Hidden: 25.0%" in actions.look({**values, "editor": {"layers": [painted]}})[0]


def test_a_picture_comes_back_as_a_picture_and_a_mae_has_no_trajectory(uploads, actions):
    values = {**VALUES, "source": str(uploads / "picture.png"), "model": "mae", "kind": "right-half"}
    for view in actions.run(values, "visitor"):
        if view.result is not None:
            result, original = (np.asarray(Image.open(p)) for p in (view.result.inpainted, uploads / "picture.png"))
    changed = (result != original).any(-1)
    assert changed[:, 26:].mean() > 0.9 and not changed[:, :26].any()
    assert view.result.comparison.suffix == ".png" and view.strip is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": None}, "choose a sample"),
        ({"source": "text.mp4"}, "text.mp4 cannot be read"),
        ({"kind": "every-second-frame", "count": 1}, "take more frames"),
        ({"steps": 251}, "251 steps: expected 1 to 250"),
        ({"seed": None}, "seed: expected a whole number"),
        ({"sampler": "euler"}, "euler"),
        ({"source": "<b>.txt"}, "&lt;b&gt;.txt is neither"),
    ],
)
def test_what_is_wrong_is_said_on_the_page_and_the_next_run_works(uploads, actions, values, message):
    (uploads / "<b>.txt").write_text("bold")
    values = {"source": "clip.mp4", **values}
    values["source"] = values["source"] and str(uploads / values["source"])
    *_, last = actions.run({**VALUES, **values}, "visitor")
    assert last.result is None and "role='alert'" in last.status and message in last.status
    *_, last = actions.run({**VALUES, "source": str(uploads / "clip.mp4")}, "visitor")
    assert last.result is not None


@pytest.fixture
def endless(page, monkeypatch):
    """Instead of an inpainting, steps without end; the event is set once its thread has left."""
    left = threading.Event()

    def steps(*arguments, on_step, **options):
        progress = arguments[7]
        try:
            for done in itertools.count(1):
                progress(done, 1_000_000)
                left.wait(0.001)
        finally:
            left.set()

    monkeypatch.setattr(page.page_job, "inpaint_video", steps)
    return left


def test_cancel_ends_the_job_of_this_visitor_alone(uploads, actions, endless):
    views = actions.run({**VALUES, "source": str(uploads / "clip.mp4")}, "visitor")
    next(view for view in views if "step" in view.status)
    assert "cancelled" in actions.cancel("somebody else") and "step" in next(views).status
    assert "cancelled" in actions.cancel("visitor")
    assert [view.status for view in views][-1] == "<div role='status'>cancelled</div>"
    assert endless.wait(30), "the thread goes on"


def test_a_visitor_who_leaves_ends_the_job(uploads, actions, endless):
    views = actions.run({**VALUES, "source": str(uploads / "clip.mp4")}, "visitor")
    next(view for view in views if "step" in view.status)
    views.close()
    assert endless.wait(30) and actions.jobs == {}


def test_a_job_that_takes_too_long_is_stopped(page, uploads, model, endless, tmp_path):
    limits = page.page_input.Limits(job_seconds=0.01)
    actions = page.page_actions.Actions({"tiny": model}, [], limits, tmp_path)
    *_, last = actions.run({**VALUES, "source": str(uploads / "clip.mp4")}, "visitor")
    assert "the longest that a job may take here" in last.status and endless.wait(30)
    actions.close()


# ------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_what_only_this_machine_reaches(page, host, loopback):
    assert page.serve_demo.is_loopback(host) is loopback
    assert page.serve_demo.parse(["--weights", "w"]).host == "127.0.0.1"


def test_errors_of_the_person_who_starts_it_are_one_line(page, tiny_model, save, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page.serve_demo.signal, "signal", lambda *_: None)  # of this process
    weights = save(tmp_path / "mae.pt", tiny_model("MAE", "MODEL.TARGET", "normalized"))
    classifier = save(tmp_path / "classifier.pt", tiny_model("DiffMAE", "TASK", "finetune", "MODEL.NUM_CLASSES", "3"))
    cases = [
        (["--weights", "nowhere"], "nowhere"),
        (["--weights", weights], "normalised targets"),
        (["--weights", classifier], "a VideoClassifier recognises and cannot inpaint"),
        (["--weights", weights, "--port", 0], "--port 0"),
        (["--weights", weights, "--max-upload", -1], "--max-upload -1"),
        (["--weights", weights, "--device", "tpu"], "expected auto, cpu, cuda"),
    ]
    for arguments, message in cases:
        assert page.serve_demo.main([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert page.serve_demo.main(["--weights", str(weights), "--port", str(port)]) == 2
        assert f"--port {port}: cannot listen there" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where it is not installed
    weights = save(tmp_path / "weights.pt", tiny_model())
    assert page.serve_demo.main(["--weights", str(weights), "--device", "cpu"]) == 2
    assert '-e ".[page]"' in capsys.readouterr().err


def test_the_page_of_the_docs_names_the_options_that_there_are(page):
    docs = Path(page.serve_demo.__file__).parents[1] / "docs"
    text = (docs / "page.md").read_text()
    known = set(vars(page.serve_demo.parse(["--weights", "w"])))
    named = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)[` ]", text)} - {"mask"}
    assert known == named | {"weights"} and (docs / "page.png").stat().st_size < 400_000
    assert "python tools/serve_demo.py --weights runs/demo" in text
    limits = page.page_input.Limits()
    for number in (limits.frames, limits.side, limits.steps, f"{limits.job_seconds:.0f} s", f"{limits.waiting} in the"):
        assert f"| {number}" in text or f", and {number}" in text
