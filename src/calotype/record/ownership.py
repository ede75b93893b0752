"""Tells the runs of this user from somebody else's.

A config is code. One that the user wrote runs freely; one that came with a run or a model from elsewhere may name only
what the allow-list has. Runs made here are signed with a key that never leaves the user's folder, so a run folder that
was copied from elsewhere, or whose config was edited, is not taken for one's own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def _key(*, make: bool) -> bytes | None:
    folder = Path(os.environ.get("CALOTYPE_HOME") or "~/.calotype").expanduser()
    file = folder / "key"
    with suppress(OSError):
        if make and not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            whole = file.with_name(f"key-{secrets.token_hex(8)}")
            handle = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(handle, secrets.token_bytes(32))
            finally:
                os.close(handle)
            with suppress(FileExistsError):  # another process was first; neither ever reads half a key
                file.hardlink_to(whole)
            whole.unlink()
        found = file.read_bytes()
        return found if len(found) == 32 else None
    return None


def statement(config: bytes, command: Sequence[str], search: Sequence[str]) -> bytes:
    """What a run's signature is of: its config, and what verify composes again, the command and its folders."""
    return json.dumps([config.decode(errors="replace"), list(command), list(search)]).encode()


def sign(data: bytes) -> str:
    """A signature of `data` by this user's key, hex; empty where no key can be kept."""
    key = _key(make=True)
    return hmac.digest(key, data, hashlib.sha256).hex() if key else ""


def is_own(data: bytes, signature: str) -> bool:
    """Whether `signature` is this user's of `data`."""
    key = _key(make=False)
    return bool(key and signature) and hmac.compare_digest(
        hmac.digest(key or b"", data, hashlib.sha256).hex().encode(), signature.encode()
    )
