from __future__ import annotations

import subprocess
import sys

import diffmae_video.data


def test_every_public_name_is_there():
    assert sorted(diffmae_video.data.__all__) == sorted(diffmae_video.data._MODULES)
    for name in diffmae_video.data.__all__:
        assert getattr(diffmae_video.data, name) is not None


def test_importing_the_package_is_cheap():
    """Neither a decoder nor torch is loaded before it is used."""
    code = (
        "import sys; from diffmae_video.data import read_frames, read_manifest, write_video; "
        "print([name for name in ('av', 'decord', 'torch', 'PIL') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]", shown.stdout
