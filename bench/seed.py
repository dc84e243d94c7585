"""The program that this project replaces, for comparison."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any


class SeedStateManager:
    """The original class; it does exactly the same (it also prints).

    `honest`: with an fsync of file and folder; without them a power cut empties the newest checkpoint.
    """

    def __init__(self, session_id: str, folder: Path, *, honest: bool) -> None:
        self.session_id = session_id
        self.state_data: dict[str, Any] = {}
        self.checkpoint_dir = folder
        self.checkpoint_limit = 10
        self._honest = honest

    def set_state(self, key: str, value: object) -> None:
        self.state_data[key] = value

    def checkpoint(self, reason: str = "manual") -> None:
        document = {
            "session_id": self.session_id,
            "timestamp": datetime.now().isoformat(),  # noqa: DTZ005 - as the seed has it
            "reason": reason,
            "stage": self.state_data.get("current_stage", "unknown"),
            "state_info": self.state_data,
            "parent_session": self.state_data.get("parent_session", None),
        }
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")  # noqa: DTZ005
        path = self.checkpoint_dir / f"{self.session_id}_checkpoint_{stamp}.json"
        temporary = path.with_suffix(".tmp.json")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, ensure_ascii=False)
            if self._honest:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if self._honest:
            folder = os.open(self.checkpoint_dir, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
        self._manage_checkpoint_count()

    def _manage_checkpoint_count(self) -> None:
        files = sorted(self.checkpoint_dir.glob(f"{self.session_id}_checkpoint_*.json"), key=lambda path: path.name)
        while len(files) > self.checkpoint_limit:
            files.pop(0).unlink()
