"""The paper model of training on many GPUs, against numbers worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
try:
    import scaling_model as paper
finally:
    sys.path.pop(0)

# 100 MB of gradients, without latency; 8 GPUs in a node.
NETWORK = paper.Network(flops=1e12, parameters=25_000_000)
MACHINE = paper.Machine(peak=1e15, utilisation=0.5, memory=1e12, nvlink=1e11, network=1e9, latency=0.0, overlap=1.0)


def test_ring():
    """Every member sends its part n - 1 times for the sum, and as often to spread it."""
    assert paper.ring_bytes(100, 2) == 100 and paper.ring_bytes(100, 4) == 150 and paper.ring_bytes(100, 1) == 0


def test_all_reduce_in_a_node_and_between_nodes():
    assert paper.all_reduce_seconds(NETWORK.parameters, 1, MACHINE) == 0
    assert paper.all_reduce_seconds(NETWORK.parameters, 4, MACHINE) == pytest.approx(1.5 * 1e8 / 1e11)
    inside = 2 * 7 / 8 * 1e8 / 1e11
    assert paper.all_reduce_seconds(NETWORK.parameters, 8, MACHINE) == pytest.approx(inside)
    between = 2 * 3 / 4 * (1e8 / 8) / 1e9
    assert paper.all_reduce_seconds(NETWORK.parameters, 32, MACHINE) == pytest.approx(inside + between)
    half = replace(MACHINE, gradient_bytes=2)
    assert paper.all_reduce_seconds(NETWORK.parameters, 32, half) == pytest.approx((inside + between) / 2)


def test_latency_grows_with_buckets_and_the_logarithm_of_the_gpus():
    slow = replace(MACHINE, latency=1e-3)
    for gpus, hops in ((2, 2), (8, 6), (64, 12), (512, 18)):
        more = paper.all_reduce_seconds(NETWORK.parameters, gpus, slow)
        more -= paper.all_reduce_seconds(NETWORK.parameters, gpus, MACHINE)
        assert more == pytest.approx(4 * hops * 1e-3), "100 MB are four buckets of 25 MiB"


def test_step():
    """64 clips of 1 TFLOP at 500 TFLOP/s; 28 bytes for each of 25 M parameters at 1 TB/s."""
    one = paper.step(NETWORK, gpus=1, clips=64, at_once=64, machine=MACHINE)
    assert (one.arithmetic, one.optimiser) == pytest.approx((0.128, 0.0007))
    assert one.seconds == pytest.approx(0.1287) and one.efficiency == 1
    assert one.clips_per_second == pytest.approx(64 / 0.1287)
    assert one.derived() == {"seconds": one.seconds, "efficiency": 1, "clips_per_second": one.clips_per_second}


def test_what_the_backward_pass_hides():
    all_reduce = paper.all_reduce_seconds(NETWORK.parameters, 512, MACHINE)
    long = paper.step(NETWORK, 512, 64, 64, MACHINE)
    assert long.all_reduce == all_reduce and long.exposed == 0
    assert paper.step(NETWORK, 512, 64, 64, replace(MACHINE, overlap=0.75)).exposed == pytest.approx(all_reduce / 4)
    apart = paper.step(NETWORK, 512, 64, 64, replace(MACHINE, overlap=0.0))
    assert apart.exposed == all_reduce
    assert apart.efficiency == pytest.approx(1 - all_reduce / (0.128 + 0.0007 + all_reduce))
    short = paper.step(NETWORK, 512, 4, 64, MACHINE)  # 8 ms of arithmetic, two thirds of them backward
    assert short.exposed == pytest.approx(all_reduce - 0.008 * 2 / 3)
    parts = paper.step(NETWORK, 512, 4, 1, MACHINE)  # the last of four micro-batches alone
    assert parts.exposed == pytest.approx(all_reduce - 0.008 * 2 / 3 / 4)


def test_a_fixed_batch_gains_less_and_less():
    gpus = [8, 16, 64, 128, 256, 512]
    steps = [paper.step(NETWORK, n, paper.share_of(2048, n), 64, MACHINE) for n in gpus]
    assert [one.clips for one in steps] == [256, 128, 32, 16, 8, 4]
    shares = [one.efficiency for one in steps]
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.5 < shares[0]
    fixed = [paper.step(NETWORK, n, 64, 64, MACHINE).efficiency for n in gpus]
    assert min(fixed) == 1, "the same clips on every GPU hide it all"


def test_hours_and_cores():
    assert paper.training_hours(epochs=800, videos=240_000, clips_per_second=1000) == pytest.approx(192e6 / 3.6e6)
    assert paper.cores_per_gpu(1000, 50) == 20
    assert paper.loader_rates(["a=4.5", "b=10"]) == {"a": 4.5, "b": 10}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paper.share_of(2048, 24), "2048 clips cannot be shared evenly by 24 GPUs"),
        (lambda: paper.all_reduce_seconds(1, 12, MACHINE), "12 GPUs are no whole nodes of 8"),
        (lambda: paper.loader_rates(["4.5"]), "4.5: expected NAME=NUMBER"),
        (lambda: paper.loader_rates(["ours=fast"]), "ours=fast: expected NAME=NUMBER"),
        (lambda: paper.loader_rates(["ours=0"]), "above 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
