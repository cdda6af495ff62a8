"""How a file of the lake comes to stand on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stripemeter.store.lake import LocalLake


def test_every_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced before the rename, every changed directory after it."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")  # noqa: PTH119, PTH115
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    lake = LocalLake(root=tmp_path / "lake")
    lake.root.mkdir()
    lake.write("a", "file", b"content")
    assert [step.split("-")[0] for step in steps] == ["fsync lake", "fsync .tmp", "rename to file", "fsync a"]
