"""The study ``partial_decoding`` of ``evidence.py``: what the encoder learns where training decodes a part of the
hidden patches only (``MODEL.DECODER.PREDICT_RATIO``), with the data, the recipe and the tasks of ``motion_set``.
"""

from __future__ import annotations

from dataclasses import replace

from evidence_studies import SCRATCH, STUDIES, Arm


def _arm(decoder: str, ratio: float, title: str) -> Arm:
    overrides = ("MODEL.DECODER.TYPE", decoder, "MODEL.DECODER.PREDICT_RATIO", str(ratio))
    return Arm(f"{decoder}_{ratio:g}", f"{decoder}, {title}", ("diffmae.yaml",), overrides)


ALL = _arm("cross_self", 1.0, "all")

PARTIAL_DECODING = replace(
    STUDIES["motion_set"],
    name="partial_decoding",
    title="Rendered motion set, hidden patches that training decodes",
    arms=(
        ALL,
        # The same with another seed of its pre-training: how far chance alone takes two of them apart.
        replace(ALL, name="cross_self_1_again", title="cross_self, all, again", seed=1),
        _arm("cross_self", 0.5, "half"),
        _arm("cross_self", 0.25, "a quarter"),
        _arm("cross", 1.0, "all"),
        _arm("cross", 0.25, "a quarter"),
        SCRATCH,
    ),
    labels=(8, 0),
    floor="",  # motion_set has it
)
