"""How inpainting is measured: what every number is of, and what is written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffmae_video.baselines import mean_fill
from diffmae_video.build import build_model
from diffmae_video.config import from_dict
from diffmae_video.data import ClipDataset, EvaluationClips, read_manifest
from diffmae_video.engine import InpaintingRun, RunError
from diffmae_video.engine.inpainting_report import Row, steps_plot
from diffmae_video.inpainting import inpaint
from diffmae_video.inpainting.sampling import Sampling
from diffmae_video.mask_input import strategy_mask
from diffmae_video.quality import diversity, frame_difference_error, frechet_distance, psnr, ssim

SHAPE, PATCH = (4, 32, 32), (2, 8, 8)


def model(name="DiffMAE"):
    built = build_model(
        from_dict(
            {
                "DATA": {"NUM_FRAMES": 4, "CROP_SIZE": 32},
                "MODEL": {
                    "NAME": name,
                    "PATCH_SIZE": list(PATCH),
                    "ENCODER": {"WIDTH": 24, "DEPTH": 2, "HEADS": 2},
                    "DECODER": {"WIDTH": 16, "DEPTH": 2, "HEADS": 2},
                },
            }
        )
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.15, generator=generator)
    return built


def mask_of(number):
    return strategy_mask("random", 0.5, SHAPE, PATCH, seed=number)


@pytest.fixture
def clips(sample_videos):
    dataset = ClipDataset(read_manifest(sample_videos, "train"), 4, 2, 32, train=False)
    return EvaluationClips(dataset, batch_size=4)


def run(clips, folder, **options):
    arguments = {
        "models": {"DiffMAE": model(), "MAE": model("MAE")},
        "fills": {"mean colour": mean_fill},
        "clips": clips,
        "masks": {"random": mask_of},
        "samplings": [Sampling(2), Sampling(3, "dpmpp_2m", spacing="karras")],
        "samples": 2,
        "overlap": "time",
        "seed": 5,
        "patch_size": PATCH,
        "output_dir": folder,
        "config_text": "TASK: inpaint_eval\n",
        "device": torch.device("cpu"),
        "precision": "fp32",
        **options,
    }
    return InpaintingRun(**arguments)


def test_every_number_is_that_of_the_clips(clips, tmp_path):
    rows = {row.title: row for row in run(clips, tmp_path, feature_model=model()).run()}
    assert list(rows) == ["mean colour", "DiffMAE, ddim, 2", "DiffMAE, dpmpp_2m, karras, 3", "MAE"]
    batch = torch.cat([batch.clips for batch in clips])
    mask = torch.from_numpy(np.stack([mask_of(number) for number in range(6)]))
    frames = batch.permute(0, 2, 3, 4, 1).numpy()
    # sample k of clip i has seed 5 + k * 6 + i, in whatever batch it is
    samples = [
        inpaint(model(), batch, mask, 3, "dpmpp_2m", seed=5 + 6 * k, spacing="karras").permute(0, 2, 3, 4, 1).numpy()
        for k in range(2)
    ]
    row = rows["DiffMAE, dpmpp_2m, karras, 3"]
    assert (row.clips, row.samples, row.steps) == (6, 2, 3)
    for clip in range(6):
        own = [psnr(sample[clip], frames[clip], mask[clip].numpy()) for sample in samples]
        found = {name: values[clip] for name, values in row.values.items() if name != "frechet"}
        assert found["psnr"] == pytest.approx(own[0], abs=0.02) and found["psnr_best"] == pytest.approx(
            max(own), abs=0.02
        )
        first, original, hidden = samples[0][clip], frames[clip], mask[clip].numpy()
        assert found["ssim"] == pytest.approx(ssim(first, original, hidden), abs=1e-3)
        assert found["frame_difference"] == pytest.approx(frame_difference_error(first, original, hidden), abs=0.05)
        pair = np.stack([sample[clip] for sample in samples])
        assert found["diversity"] == pytest.approx(diversity(pair, hidden), abs=0.05)
    own_model = model()
    features = [
        own_model.encode(own_model.normalize(clips_)).mean(dim=1).double().detach().numpy()
        for clips_ in (batch, torch.from_numpy(samples[0]).permute(0, 4, 1, 2, 3))
    ]
    assert row.values["frechet"] == [pytest.approx(frechet_distance(*features), rel=1e-2)]
    fill = rows["mean colour"]
    expected = [psnr(mean_fill(f, m), f, m) for f, m in zip(frames, mask.numpy(), strict=True)]
    assert fill.values["psnr"] == fill.values["psnr_best"] == pytest.approx(expected)
    assert np.isnan(fill.mean("diversity")) and "lpips" not in fill.values


def test_what_is_written(clips, tmp_path, caplog):
    pytest.importorskip("matplotlib")
    run(clips, tmp_path, samplings=[Sampling(1), Sampling(4)], masks={"a": mask_of, "b/c": mask_of}).run()
    folder = tmp_path / "inpaint_eval"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [(row["mask"], row["method"], row["steps"]) for row in metrics[:4]] == [
        ("a", "mean colour", 0), ("a", "DiffMAE", 1), ("a", "DiffMAE", 4), ("a", "MAE", 1),
    ]  # fmt: skip
    assert metrics[0]["diversity"] is None and metrics[1]["psnr"] <= metrics[1]["psnr_best"]
    with (folder / "per_clip.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 4 * 6
    mean = np.mean([float(line["psnr"]) for line in lines[6:12]])
    assert mean == pytest.approx(metrics[1]["psnr"], rel=1e-4)
    table = (folder / "table.md").read_text()
    assert "6 videos, all readable" in table and table.count("| mask ") == 2 and "| mask b/c" in table
    assert (folder / "config.yaml").read_text() == "TASK: inpaint_eval\n"
    for name in ("sheet_a.png", "sheet_b_c.png", "steps_a.png", "steps_b_c.png"):
        assert min(Image.open(folder / name).size) > 200, name
    jsonl = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert len(jsonl) == 8 and json.loads(jsonl[0])["evaluator"] == "inpaint_eval"


def test_unreadable_videos_are_left_out_and_said(sample_videos, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lines = [f"{sample_videos / 'clip_0.mp4'} 0", f"{tmp_path / 'broken.mp4'} 0", f"{sample_videos / 'clip_1.mp4'} 1"]
    (tmp_path / "val.csv").write_text("\n".join(lines) + "\n")
    dataset = ClipDataset(read_manifest(tmp_path, "val"), 4, 2, 32, train=False)
    rows = run(EvaluationClips(dataset, batch_size=2), tmp_path / "out").run()
    assert all(row.clips == 2 for row in rows)
    assert "2 videos; 1 more are unreadable" in (tmp_path / "out" / "inpaint_eval" / "table.md").read_text()
    (tmp_path / "val.csv").write_text(lines[1] + "\n")
    dataset = ClipDataset(read_manifest(tmp_path, "val"), 4, 2, 32, train=False)
    with pytest.raises(RunError, match="no clip could be read"):
        run(EvaluationClips(dataset, batch_size=2), tmp_path / "out").run()


def test_a_plot_needs_several_numbers_of_steps():
    pytest.importorskip("matplotlib")
    rows = [Row("tube", "DiffMAE", "ddim", n, 1, 1, {"psnr": [n], "ssim": [1], "detail": [1]}, 1.0) for n in (1, 5)]
    assert steps_plot(rows[:1]) is None
    assert steps_plot([*rows, Row("tube", "MAE", "", 1, 1, 1, rows[0].values, 1.0)]).shape[2] == 3


def test_ratios_are_medians_and_unknown_values_are_left_out():
    row = Row("tube", "MAE", "", 1, 1, 3, {"detail": [0.5, 1.0, 99.0], "frame_difference": [2.0, float("nan")]}, 1.0)
    assert row.mean("detail") == 1.0 and row.mean("frame_difference") == 2.0 and np.isnan(row.mean("lpips"))
