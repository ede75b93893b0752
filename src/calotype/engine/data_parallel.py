"""`strategy: dp`: torch's DataParallel, by which one process divides each shard among its CUDA devices.

Only the network's forward pass is divided; loss and update are made on the first device. Each device normalises its
part by its own statistics, of which those of the first stay, so the number of devices is part of the arithmetic. It is
here for those who ask for it: one process for each device (ddp) is faster.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class _Forward(nn.Module):
    """A network's own forward pass, also that of a copy which was made of it with all its attributes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *values: Any) -> Any:
        return type(self.network).forward(self.network, *values)


def run_in_parallel(network: nn.Module) -> None:
    """Divide a network's forward passes among this process's CUDA devices. Its parameters keep their names."""
    parallel = nn.DataParallel(_Forward(network))
    network.__dict__["forward"] = parallel  # not by setattr, which would make it a part of the network
