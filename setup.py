"""Installs the package ``diffmae_video`` and nothing else of this repository.

The package list is explicit: ``datasets/``, ``tools/`` and ``slurm/`` are folders of scripts, not packages. An
installed folder named ``datasets`` would hide the PyPI package of that name from every library that probes for it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "diffmae_video/__init__.py").read_text(), re.MULTILINE)[1]

# decord publishes wheels for 64-bit x86 only; elsewhere DATA.DECODER "auto" reads everything with PyAV.
HAS_DECORD_WHEEL = "platform_machine == 'x86_64' or platform_machine == 'AMD64'"

setup(
    name="diffmae_video",
    version=VERSION,
    description="DiffMAE and MAE pre-training on video, and video inpainting with the same weights",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["diffmae_video", "diffmae_video.*"]),
    install_requires=[
        "torch>=2.11",
        "numpy",
        "pillow",
        "av",
        f"decord; {HAS_DECORD_WHEEL}",
        "pytorchvideo",
        "fvcore",
        "iopath",
        "yacs",
        "pyyaml",
        "rich",
        "safetensors",
        "simplejson",
        "submitit",
        "tensorboard",
    ],
    extras_require={
        # DATA.DECODER "torchcodec"; needs FFmpeg's shared libraries on the system, and the release made for your torch
        "torchcodec": ["torchcodec"],
        # MODEL.LDAE.TOKENIZER "conv_vae"
        "vae": ["diffusers"],
        # sample photographs for the rendered demo set
        "demo": ["scikit-image", "scikit-learn"],
        # plots: tools/evidence.py, tools/visualize.py schedules, quality against steps
        "evidence": ["matplotlib"],
        # the fill of OpenCV that inpainting is compared with
        "opencv": ["opencv-python-headless"],
        # CLIP targets: MODEL.CLIP.WEIGHTS
        "clip": ["transformers"],
        # the page of tools/serve_demo.py
        "page": ["gradio>=6"],
        # encoder.onnx of tools/export.py
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        # Weights & Biases: TRAIN.WANDB
        "wandb": ["wandb"],
        # models of the Hugging Face hub: diffmae_video.hub
        "hub": ["huggingface_hub"],
        # test runner, lint, what drives a browser, and the independent implementations that tests compare with
        "dev": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "playwright",
            "matplotlib",
            "opencv-python-headless",
            "transformers",
            "diffusers",
            "webdataset",
            "onnx",
            "onnxscript",
            "onnxruntime",
            "huggingface_hub",
        ],
    },
)
