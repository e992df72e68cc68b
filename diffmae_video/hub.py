"""Pre-trained models by their name on the Hugging Face hub, and onto it. Needs huggingface_hub (extra ``hub``).

from diffmae_video.hub import PretrainedModel

pretrained = PretrainedModel.from_pretrained("name/of-a-model")  # or anything that load_model takes
tokens = pretrained.encode(pretrained.normalize(pixels))
PretrainedModel.from_pretrained("exported").push_to_hub("name/of-a-model")
"""

from __future__ import annotations

from pathlib import Path

import torch

from diffmae_video.build.model_folder import FILES, PretrainedParts, read_parts, write_parts

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as error:
    raise ImportError(
        "models on the Hugging Face hub need the package huggingface_hub: pip install -c constraints.txt -e '.[hub]' "
        f"({error})"
    ) from error


class PretrainedModel(ModelHubMixin):
    """A model and its files on the hub; :meth:`from_pretrained` makes one.

    ``save_pretrained(folder)`` writes ``model.safetensors``, ``config.json`` and ``README.md``;
    ``push_to_hub("name/of-a-model")`` uploads these three. A model card that came with the model is kept as it is.

    Attributes:
        model: what ``load_model`` returns: in eval mode, its configuration the attribute ``cfg``.
    """

    def __init__(self, parts: PretrainedParts):
        self.parts, self.model = parts, parts.model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> PretrainedModel:
        """Loads what ``load_model`` takes if it exists on this machine, else downloads it from the hub.

        Args:
            pretrained_model_name_or_path: a folder, run, checkpoint or weights file, or a name on the hub.
            device: of the model.
            revision: branch, tag or commit on the hub; None = main.
            cache_dir, force_download, local_files_only, token: of the download, as everywhere in huggingface_hub.

        Raises:
            FileNotFoundError, engine.CheckpointError: what is there is no model of this project.
            huggingface_hub.errors.HFValidationError, HfHubHTTPError, LocalEntryNotFoundError: neither on this machine
                nor on the hub, or not to be reached.
        """
        place = Path(pretrained_model_name_or_path)
        if not place.exists():
            place = snapshot_download(
                str(pretrained_model_name_or_path),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(FILES),  # whatever else is there may be large, and is not read
            )
        parts = read_parts(place)
        parts.model.to(device)
        return cls(parts)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, T, H, W), uint8 or float in [0, 1] -> the float clip that :meth:`encode` takes."""
        return self.model.normalize(pixels)

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Normalised clip (B, C, T, H, W) -> patch tokens (B, N, D), by time, row, column."""
        return self.model.encode(clip)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_parts(save_directory, self.parts, save_directory.name)
