"""Which process is slow, and which waits for data: gathered where a line is written."""

from __future__ import annotations

import json

import pytest
import torch
from engine_fakes import finish, run_in_process

from diffmae_video.engine import rank_times
from diffmae_video.engine.rank_times import OwnTime, RankTimes

CPU = torch.device("cpu")


def test_a_single_process_on_a_cpu_has_nothing_to_compare():
    times = RankTimes(CPU)
    times.add(1.0, 0.5, 0.7)
    assert times.gather() == {}


def test_spread_over_processes_names_the_slowest(monkeypatch):
    """Three processes in lockstep: the first waits for data, the second computes long, the third waits for both."""
    tables = []

    def others(table, world_size):
        tables.append(table.clone())
        return torch.stack([times_of[rank][len(tables) - 1] for rank in range(world_size)])

    monkeypatch.setattr(rank_times, "sum_over_ranks", others)
    times_of = {
        0: [torch.tensor([2.0, 1.0, 1.5], dtype=torch.float64), torch.ones(3)],
        1: [torch.tensor([2.0, 0.1, 1.9], dtype=torch.float64), torch.ones(3)],
        2: [torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64), torch.ones(3)],
    }
    own = RankTimes(CPU, rank=1, world_size=3)
    own.add(1.5, 0.2, 1.4)
    own.add(2.5, 0.0, 2.4)
    assert own.gather() == {
        "rank_seconds_min": 0.5,
        "rank_seconds_max": 1.9,
        "slowest_rank": 1,
        "rank_data_wait_max": 0.5,
        "rank_data_wait": [0.5, 0.05, 0.0],
    }
    own.add(7.0, 3.0, 5.0)
    own.gather()
    means = [table[1].tolist() for table in tables]
    assert means == [pytest.approx([2.0, 0.1, 1.9]), [7.0, 3.0, 5.0]], "means per step, and afresh after every line"
    assert all(table[[0, 2]].abs().sum() == 0 for table in tables), "every process fills its own row alone"


def test_own_time_ends_with_the_last_forward_pass(monkeypatch):
    now = iter([10.0, 11.0, 13.5])
    monkeypatch.setattr(rank_times.time, "perf_counter", lambda: next(now))
    own = OwnTime(CPU)
    own.start()
    own.stop()
    own.stop()
    assert own.seconds() == 3.5


def test_memory_of_a_gpu(monkeypatch):
    """The peaks since the last line: read, then reset."""
    resets = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    times = RankTimes(CPU)
    monkeypatch.setattr(times, "device", torch.device("cuda"))
    assert times._memory() == [3.0, 5.0] and resets == [torch.device("cuda")]


def test_processes_that_train_together_write_their_spread(tmp_path):
    options = {"steps": 3, "log_period": 2, "checkpoint_period": 3}
    ranks = [run_in_process("train_rank", str(tmp_path), rank, 2, wait=False, **options) for rank in range(2)]
    for process in ranks:
        finish(process)
        assert process.exitcode == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    for line in lines:
        assert len(line["rank_data_wait"]) == 2 and line["slowest_rank"] in (0, 1)
        assert 0 < line["rank_seconds_min"] <= line["rank_seconds_max"]
        assert line["rank_data_wait_max"] == max(line["rank_data_wait"]) <= 1
        assert 0 < line["update_norm"] < line["param_norm"]
