"""The tensors of another program's network. Each is used once, or left out by name with a reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch

SHOWN = 4  # names that a message lists


class ConversionError(ValueError):
    """Weights that cannot be converted as asked; the message names tensors or options and says what to do."""


class Source:
    """A state dict that is used up.

    Args:
        tensors: state dict.

    Attributes:
        used: names of the tensors that were taken.
        left_out: name -> reason, of those that were not.
        folded: what was put into another tensor of ours, or added, and what that means.
        assumed: what no shape shows, with the value that was taken.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self._left = dict(tensors)
        self.used: list[str] = []
        self.left_out: dict[str, str] = {}
        self.folded: list[str] = []
        self.assumed: list[str] = []

    def has(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that is not taken yet.

        Raises:
            ConversionError: there is none of that name.
        """
        return tuple(self._found(name).shape)

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """A tensor as float32, of which ``shape`` is expected.

        Raises:
            ConversionError: none of that name, another shape, or a value that is not finite.
        """
        found = self._found(name)
        if tuple(found.shape) != shape:
            raise ConversionError(f"{name} is {tuple(found.shape)}, expected {shape} as the tensors before it say")
        if not torch.isfinite(found).all():
            raise ConversionError(f"{name} holds values that are not finite: these weights are of no use")
        self.used.append(name)
        return self._left.pop(name).float()

    def leave(self, beginnings: tuple[str, ...], reason: str) -> None:
        """Leaves out, for ``reason``, every tensor whose name begins with one of ``beginnings``."""
        for name in [name for name in self._left if name.startswith(beginnings)]:
            self.left_out[name] = reason
            del self._left[name]

    def depth(self, prefix: str) -> int:
        """How many blocks ``prefix`` + 0, 1, ... there are: one more than the highest number."""
        numbers = [name.removeprefix(prefix).split(".")[0] for name in self._left if name.startswith(prefix)]
        return max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1

    def fold(self, text: str) -> None:
        if text not in self.folded:
            self.folded.append(text)

    def assume(self, text: str) -> None:
        if text not in self.assumed:
            self.assumed.append(text)

    def finish(self) -> None:
        """Raises ConversionError if a tensor was neither used nor left out."""
        if self._left:
            raise ConversionError(
                f"{listed(self._left)}: nothing here knows what to do with that; the network is another one, or a "
                "variant that is not supported"
            )

    def _found(self, name: str) -> torch.Tensor:
        if name not in self._left:
            raise ConversionError(
                f"{name} is missing: the file holds a part of the network only, or the network is another one"
            )
        return self._left[name]


def listed(tensors: Mapping[str, torch.Tensor]) -> str:
    """``blocks.0.gamma_1 (48,), blocks.0.gamma_2 (48,) and 22 more``."""
    names = [f"{name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:SHOWN]]
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    return ", ".join(names) + more
