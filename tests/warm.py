"""Imported once by the process that tests fork their children from: everything a run needs, and no thread."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sklearn.datasets  # noqa: F401
import timm  # noqa: F401
import torch.distributed.device_mesh
import torch.distributed.fsdp
import torch.distributed.tensor  # noqa: F401
import torchvision.transforms.v2  # noqa: F401

import calotype.commands._assemble
import calotype.commands._execute
import calotype.commands._inputs
import calotype.commands.evaluate
import calotype.commands.train
import calotype.commands.verify
import calotype.data.loader
import calotype.record.record

# What a record asks of the installation, once instead of in every child. Not the machine: that would wake a GPU.
calotype.record.environment.packages()
calotype.record.environment.code()
