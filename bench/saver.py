"""A publisher process whose saves are measured; it runs commands as `worker.py` does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from worker import ACK_TIMEOUT_S, Publisher, serve, value_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "publishers"))


class Saver(Publisher):
    """The additional commands of this process."""

    def update(self, count: int) -> dict[str, object]:
        """Publish `count` small changes, each after the previous one is acknowledged."""
        for _ in range(count):
            self._number += 1
            self._session["progress"] = value_of(self._number)
            self._session.flush(timeout_s=ACK_TIMEOUT_S)
        return {}

    def save(self) -> dict[str, object]:
        """Publish a small change, and wait until it is in the auto-save."""
        self._number += 1
        self._session["progress"] = value_of(self._number)
        self._session.flush("checkpointed", timeout_s=ACK_TIMEOUT_S)
        return {}

    def hold_masks(self, count: int, size: int) -> dict[str, object]:
        """Open a session and make masks as EDI has them, without publishing them."""
        from masks import entities

        from edi_checkpoint import StateManager

        self._manager = StateManager("masks")
        self._entities = entities(count, size)
        self._turn = 0
        self.publish_masks()  # numpy is loaded by the first
        self._client = self._manager._session  # to be closed as any other
        return {}

    def publish_masks(self, *, changed: bool = True) -> float:
        """Publish all masks, of which `changed` differ from before; return the milliseconds of the call."""
        if changed:
            for entity in self._entities:
                entity.mask[0, self._turn] ^= 1
            self._turn += 1
        start_s = time.perf_counter()
        self._manager.set_state("entities", self._entities)
        return (time.perf_counter() - start_s) * 1000

    def checkpoint_masks(self) -> dict[str, object]:
        """Change a small value, and make a checkpoint."""
        self._manager.set_state("n", self._turn)
        self._manager.checkpoint()
        return {}

    def read_masks(self) -> dict[str, float]:
        """Resume the session in this process; return the milliseconds until it opens, and until all masks are read."""
        from edi_checkpoint import connect

        self._client = connect(autostart=False)
        start_s = time.perf_counter()
        session = self._client.session("masks")
        there_s = time.perf_counter()
        assert session["entities"]
        return {"resumed": (there_s - start_s) * 1000, "read": (time.perf_counter() - there_s) * 1000}

    def dump_mask(self, path: str) -> dict[str, float]:
        """Write the first mask as lists, as the seed does; return milliseconds and bytes."""
        import dataclasses
        import json

        import numpy as np

        start_s = time.perf_counter()
        with Path(path).open("w") as file:
            json.dump({"entities": [dataclasses.asdict(self._entities[0])]}, file, indent=2, default=np.ndarray.tolist)
        return {"ms": (time.perf_counter() - start_s) * 1000, "bytes": Path(path).stat().st_size}


if __name__ == "__main__":
    serve(Saver())
