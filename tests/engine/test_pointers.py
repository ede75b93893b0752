"""Pointers to checkpoints that somebody wrote over."""

from __future__ import annotations

from pathlib import Path

import pytest

from calotype.engine.checkpoint import Checkpoints
from calotype.errors import CheckpointError


@pytest.mark.parametrize("content", [b"\xe1\xff\x00", b"../../elsewhere\n"])
def test_a_pointer_of_other_bytes_is_told_as_that(tmp_path: Path, content: bytes) -> None:
    store = Checkpoints(tmp_path)
    store.prepare()
    store.save(1, {}, {}, {})
    (tmp_path / "last").write_bytes(content)
    with pytest.raises(CheckpointError, match="no readable manifest"):
        store.named("last")
