"""The tables of the paper model: what scaling_model.py says of a recipe on many GPUs. Computed, not measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from fvcore.common.config import CfgNode
from scaling_model import Machine, Network, Step, cores_per_gpu, loader_rates, share_of, step, training_hours
from scaling_points import count, encoder_overrides, load_recipe

from diffmae_video.benchmarking import format_table

NOTE = "Computed, not measured"
HEADER = ("encoder", "GPUs", "clips per GPU", "arithmetic ms", "optimiser ms", "all-reduce ms", "not hidden ms")
HEADER += ("step ms", "clips/s", "efficiency", "hours")


@dataclass(frozen=True)
class Paper:
    """What is computed of a recipe.

    Attributes:
        machine: what is assumed of the machines.
        networks: what is counted of the model, by the encoder's name.
        steps: title -> (encoder, step) for every row.
        epochs, videos: of a whole run.
        rates: clips per second that a core loads, by loader.
    """

    machine: Machine
    networks: dict[str, Network]
    steps: dict[str, list[tuple[str, Step]]]
    epochs: float
    videos: int
    rates: dict[str, float]

    @classmethod
    def of(cls, cfg: CfgNode, options: argparse.Namespace) -> Paper:
        """Counts the encoders' models and computes all steps.

        Raises:
            ValueError: GPUs that are no whole nodes or cannot share the recipe's batch; clips per core that are none.
        """
        machine, rates, most = Machine.of(options), loader_rates(options.clips_per_core), options.clips_per_gpu
        batch, networks = cfg.SOLVER.BATCH_SIZE, {}
        shares = [(gpus, share_of(batch, gpus)) for gpus in options.gpus]
        for size in options.paper_sizes:
            counted = count(load_recipe(options, encoder_overrides(size)))
            networks[size] = Network(counted.flops, counted.parameters)
        plans = {
            f"{most} clips on every GPU": [(gpus, most) for gpus in options.gpus],
            f"{batch} clips on all GPUs, at most {most} at a time": shares,
        }
        steps = {
            title: [(size, step(networks[size], *pair, most, machine)) for size in networks for pair in pairs]
            for title, pairs in plans.items()
        }
        return cls(machine, networks, steps, cfg.SOLVER.EPOCHS, options.videos, rates)

    def hours(self, one: Step) -> float:
        return training_hours(self.epochs, self.videos, one.clips_per_second)

    def lines(self) -> Iterator[str]:
        """The paragraphs that are printed."""
        m = self.machine
        yield (
            f"\n{NOTE}: a step with {m.peak / 1e12:g} TFLOP/s per GPU of which {m.utilisation:.0%} are reached, memory "
            f"{m.memory / 1e9:g} GB/s, NVLink {m.nvlink / 1e9:g} GB/s in nodes of {m.gpus_per_node}, network "
            f"{m.network / 1e9:g} GB/s per GPU, {1e6 * m.latency:g} us a hop, gradients of {m.gradient_bytes} bytes, "
            f"{m.overlap:.0%} of whose all-reduce can overlap; hours: {self.epochs:g} epochs of {self.videos} videos"
        )
        for title, steps in self.steps.items():
            rows = [_row(size, one, self.hours(one)) for size, one in steps]
            yield f"\n{title} ({NOTE.lower()})\n\n{format_table(HEADER, rows)}"
        header = ["encoder", "GFLOP per clip", "clips/s of a GPU", *(f"{n} ({r:g}/s)" for n, r in self.rates.items())]
        rows = [
            [size, f"{network.flops / 1e9:.0f}", f"{self.alone(size):.0f}", *(f"{c:.0f}" for c in cores.values())]
            for (size, network), cores in zip(self.networks.items(), self.cores().values(), strict=True)
        ]
        yield f"\nCores that load for one GPU ({NOTE.lower()})\n\n{format_table(header, rows)}"

    def alone(self, size: str) -> float:
        """Clips per second that a GPU computes, were there nothing but forward and backward pass."""
        return self.machine.peak * self.machine.utilisation / self.networks[size].flops

    def cores(self) -> dict[str, dict[str, float]]:
        """Encoder -> loader -> cores that keep one GPU busy."""
        return {
            size: {name: cores_per_gpu(self.alone(size), rate) for name, rate in self.rates.items()}
            for size in self.networks
        }

    def figures(self) -> dict[str, object]:
        """The same for the report; seconds, bytes and operations per second."""
        return {
            "note": NOTE,
            "assumptions": {**asdict(self.machine), "clips_per_core": self.rates},
            "epochs": self.epochs,
            "videos": self.videos,
            "networks": {size: network._asdict() for size, network in self.networks.items()},
            "steps": {
                title: [
                    {"size": size, **one._asdict(), **one.derived(), "hours": self.hours(one)} for size, one in steps
                ]
                for title, steps in self.steps.items()
            },
            "cores_per_gpu": self.cores(),
        }


def _row(size: str, one: Step, hours: float) -> list[object]:
    """A row under ``HEADER``."""
    seconds = (one.arithmetic, one.optimiser, one.all_reduce, one.exposed, one.seconds)
    shown = [f"{1000 * value:.1f}" for value in seconds]
    return [size, one.gpus, one.clips, *shown, f"{one.clips_per_second:.0f}", f"{one.efficiency:.0%}", f"{hours:.3g}"]
