"""The model card of an exported folder: what the Hugging Face hub shows, from what is known and nothing else."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import yaml
from fvcore.common.config import CfgNode

METHODS = {
    "DiffMAE": (
        "DiffMAE ([arXiv 2304.03283](https://arxiv.org/abs/2304.03283)): a space-time Vision Transformer encodes the "
        "visible patches of a clip, a diffusion decoder denoises the hidden ones"
    ),
    "MAE": (
        "a masked autoencoder ([arXiv 2205.09113](https://arxiv.org/abs/2205.09113) on video): a space-time Vision "
        "Transformer encodes the visible patches of a clip, a decoder predicts the hidden ones in one step"
    ),
    "LatentDAE": (
        "l-DAE ([arXiv 2401.14404](https://arxiv.org/abs/2401.14404)): a denoising autoencoder whose noise is added in "
        "a latent space of patches"
    ),
    "finetune": "a space-time Vision Transformer, fine-tuned to classify",
    "linear": "a linear probe on a frozen space-time Vision Transformer",
    "attentive": "an attentive probe on a frozen space-time Vision Transformer",
}
UNKNOWN_LICENSE = "unknown"

CARD = """\
---
{header}---

# {name}

{summary}

| | |
|---|---|
{rows}

## Use

With `diffmae_video` {version} or later installed, and `path` this folder or the weights file in it:

```python
{use}
```

`PretrainedModel.from_pretrained` of `diffmae_video.hub` loads it by its name on the hub. `encoder.onnx` and
`encoder.pt2`, where they lie beside this card, run without the project: uint8 `pixels` `(B, {channels}, T, {height},
{width})` in, `tokens` `(B, N, {token_width})`, `pooled` `(B, {token_width})`{logits} out.

## Limitations

{limits}

## Configuration

```yaml
{configuration}```
"""

ENCODE = """\
import torch

from diffmae_video import load_model

model = load_model(path)
pixels = torch.zeros(1, {channels}, {frames}, {height}, {width}, dtype=torch.uint8)  # RGB, 0 to 255
with torch.no_grad():
    clip = model.normalize(pixels)
    tokens = model.encode(clip)  # (1, {tokens}, {token_width}), by time, row, column"""
SCORES = """
    scores = model(clip).softmax(dim=-1)  # (1, {classes})"""


def model_card(name: str, description: Mapping[str, Any], notes: Mapping[str, str], cfg: CfgNode) -> str:
    """Markdown with a YAML header.

    Args:
        name: of the model.
        description: what ``config.json`` says (``model_folder.describe``).
        notes: of the weights file.
        cfg: the model's configuration.
    """
    is_classifier = "head" in description["architecture"]
    use = ENCODE + SCORES * is_classifier
    clip, encoder = description["input"], description["architecture"]["encoder"]
    sizes = {
        "channels": clip["channels"],
        "frames": clip["num_frames"],
        "height": clip["height"],
        "width": clip["width"],
        "tokens": math.prod(encoder["token_grid"]),
        "token_width": encoder["width"],
        "classes": description["architecture"].get("head", {}).get("num_classes"),
    }
    return CARD.format(
        header=yaml.safe_dump(_header(description, notes), sort_keys=False),
        name=name,
        summary=_summary(description),
        rows="\n".join(f"| {key} | {value} |" for key, value in _rows(description, notes, cfg).items()),
        version=description["library_version"],
        use=use.format(**sizes),
        logits=f" and `logits` `(B, {sizes['classes']})`" if is_classifier else "",
        limits="\n".join(f"- {line}" for line in _limits(description)),
        configuration=description["config_yaml"],
        **sizes,
    )


def _header(description: Mapping[str, Any], notes: Mapping[str, str]) -> dict[str, Any]:
    """Keys and values that the hub knows; the tasks are those of its list."""
    is_video = description["input"]["num_frames"] > 1
    if "head" in description["architecture"]:
        task = "video-classification" if is_video else "image-classification"
    else:
        task = "feature-extraction" if is_video else "image-feature-extraction"
    tags = ["video" if is_video else "image", "vision-transformer", "self-supervised-learning", "pytorch"]
    return {
        "library_name": description["library_name"],
        "license": notes.get("license", UNKNOWN_LICENSE),
        "pipeline_tag": task,
        "tags": [*tags, *([description["method"].lower()] if description["method"] in METHODS else [])],
    }


def _summary(description: Mapping[str, Any]) -> str:
    method = METHODS.get(description["method"])
    if description["class"] == "EncoderModel":
        # One that was converted or taken out of a comparison of neighbours names no method of training.
        origin = (
            f"the encoder alone, without decoder or head, of {method}" if method else "a space-time Vision Transformer"
        )
        return f"{origin[0].upper()}{origin[1:]}."
    return f"{method[0].upper()}{method[1:]}."


def _rows(description: Mapping[str, Any], notes: Mapping[str, str], cfg: CfgNode) -> dict[str, str]:
    encoder, clip = description["architecture"]["encoder"], description["input"]
    sampled = "one from each part of a video" if clip["sampling"] == "segment" else f"{clip['sampling_rate']} apart"
    rows = {
        "encoder": f"{encoder['depth']} blocks of width {encoder['width']}, {encoder['heads']} heads",
        "patch": f"{_by(encoder['patch_size'])} (frames, rows, columns), {_by(encoder['token_grid'])} tokens",
        "input": f"{clip['num_frames']} frames of {clip['height']} x {clip['width']} pixels, {sampled}",
        "parameters": f"{description['parameters']:,}",
        "trained on": notes.get("trained_on") or _data(cfg),
        "trained for": _length(notes),
        "weights": notes.get("weights", "not recorded"),
    }
    if clip["num_frames"] == 1:
        rows["input"] = f"images of {clip['height']} x {clip['width']} pixels"
    if "source" in notes:
        rows["converted from"] = notes["source"]
    return rows


def _by(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes))


def _length(notes: Mapping[str, str]) -> str:
    if "step" not in notes:
        return "not recorded"
    clips = f", {int(notes['clips']):,} clips" if "clips" in notes else ""
    return f"{int(notes['step']):,} steps{clips}"


def _data(cfg: CfgNode) -> str:
    """Names of the folders of the data, without the folders of the machine that they lie in."""
    paths = [path for path in (cfg.DATA.PATH_TO_DATA_DIR, *cfg.DATA.MIX.PATHS) if path]
    names = [os.path.basename(os.path.normpath(path)) for path in paths]
    return f"`{'`, `'.join(names)}`, prepared as {cfg.DATA.PAGE} of the project says" if names else "not recorded"


def _limits(description: Mapping[str, Any]) -> list[str]:
    clip, head = description["input"], description["architecture"].get("head")
    frames = f" and {clip['num_frames']} frames or fewer" if clip["num_frames"] > 1 else ""
    lines = [
        f"It takes {clip['height']} x {clip['width']} pixels{frames}; other sizes have to be brought to that first.",
        "It was not measured for this card: how good it is at a task has to be found out on that task.",
        "What its training data do not show it has not learnt, and what is lopsided in them may be so in its results.",
    ]
    if head:
        lines.append(
            f"Its classes are the numbers 0 to {head['num_classes'] - 1} of the list that it was trained on; their "
            "names are not in the file."
        )
    if description["inpaints"]:
        lines.append("What it paints is likely, not true: it is no evidence of what was hidden.")
    elif "decoder" in description["architecture"]:
        lines.append("It cannot inpaint: its objective was another one.")
    return lines
