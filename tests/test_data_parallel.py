"""`strategy: dp` where there is no CUDA device to divide the work among, and what a copy of the network computes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import calotype
from calotype.engine.data_parallel import run_in_parallel
from calotype.errors import ConfigError
from tests import harness
from tests.toys.configs import toy, write


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA devices dp divides the batch, here it must not")
def test_a_network_keeps_its_names_and_a_copy_computes_by_its_own_weights() -> None:
    """A copy has the attributes of what it was made of, as torch's replicas on other devices have."""
    network = nn.Linear(2, 1)
    names, image = list(network.state_dict()), torch.tensor([[1.0, 2.0]])
    expected = network(image)
    run_in_parallel(network)
    assert list(network.state_dict()) == names
    assert torch.equal(network(image), expected)
    parallel = network.__dict__["forward"]
    replica = copy.copy(network)
    replica._parameters = {name: nn.Parameter(p + 1) for name, p in network._parameters.items()}
    parallel.module.network = replica
    assert torch.equal(network(image), nn.functional.linear(image, network.weight + 1, network.bias + 1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA devices dp divides the batch, here it must not")
def test_without_cuda_dp_is_one_process(parity_root: Path, tmp_path: Path) -> None:
    runs = {}
    for strategy in ("dp", "single"):
        tree = toy("classification", parity_root, tmp_path / strategy, trainer={"strategy": strategy, "reduce": "fast"})
        runs[strategy] = calotype.train(write(tree, tmp_path / f"{strategy}.yaml"), quiet=True).folder
    assert harness.final_hash(runs["dp"]) == harness.final_hash(runs["single"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is refused on the CPU")
def test_synchronised_batch_norm_is_refused_by_name_on_the_cpu(parity_root: Path, tmp_path: Path) -> None:
    settings = {"sync_batchnorm": True, "reduce": "fast"}
    config = write(toy("classification", parity_root, tmp_path / "runs", trainer=settings), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"trainer\.sync_batchnorm: torch's SyncBatchNorm is for CUDA alone"):
        calotype.train(config, quiet=True)
    assert not list(tmp_path.glob("runs/*/*/record.json"))
