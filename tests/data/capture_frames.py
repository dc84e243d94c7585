"""Captures the frames of a real session, both ways, for the protocol's tests: `python tests/data/capture_frames.py`.

A daemon and a client go through attach, updates, marks, queries, a refusal and close, in a neutral folder; what the
client's link encodes and decodes is `frames.bin`: length u32 (little endian) and frame, back to back, in order.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HOME = Path("/tmp/edi")  # stands in the frames; a folder of nobody's
MAX_BYTES = 40_000


def record(target: object, name: str, frames: list[bytes], frame_of: Callable[[object, object], object]) -> None:
    """Let the function `name` of `target` keep the frame of each call, too."""
    original = getattr(target, name)

    def recording(given: object) -> object:
        made = original(given)
        frames.append(bytes(frame_of(given, made)))  # type: ignore[arg-type]
        return made

    setattr(target, name, recording)


def capture() -> list[bytes]:
    """Run the session and return its frames; the order between the two directions is the client's."""
    from edi_checkpoint import EdiCheckpointError, connect
    from edi_checkpoint.wire import codec, messages

    frames: list[bytes] = []
    record(codec, "encode", frames, lambda message, frame: frame)
    record(codec, "decode_from_daemon", frames, lambda frame, message: frame)

    with connect(app="edi") as client:
        with client.session("session_12345") as session:
            session.transition("analysis", reason="uploaded", image_path="/photos/dach über.jpg", status="in_progress")
            session["scene_analysis"] = {"entities": [{"id": "sky_0", "bbox": [0, 0, 640, 210.5], "confidence": 0.93}]}
            session.update(naive_prompt="make the sky dramatic 🌩", intent={"edit_type": "replace", "confidence": 1})
            session.checkpoint("manual", label="before the sky", pin=True)
            session["temp_files"] = []
            del session["temp_files"]
            for iteration in range(3):
                session.transition("refinement", current_iteration=iteration, prompts={"positive": f"sky {iteration}"})
            session.flush("checkpointed")
            name = session.checkpoints()[-1].name
            for question in (
                lambda n: messages.GetState(n, "session_12345"),
                lambda n: messages.GetState(n, "session_12345", sequence=2),
                lambda n: messages.GetState(n, "session_12345", checkpoint=name),
                lambda n: messages.GetHistory(n, "session_12345", since=2, limit=5),
                lambda n: messages.GetState(n, "nobody"),
                lambda n: messages.GetState(n, "session_12345", sequence=10_000),
            ):
                with suppress(EdiCheckpointError):
                    client.ask(question)
            client.sessions()
            client.interrupted()
            client.status()
        with client.session("session_12345.variation", parent="session_12345") as variation:
            variation._published.replace({"current_stage": b'"upload"'})
            variation._link._call(lambda: variation._link._connection.send(messages.Probe(variation._stream.id, 1)))
            variation._link._call(lambda: variation._link._connection.send(messages.AskMark(variation._stream.id, 1)))
            variation._link._call(lambda: variation._link._connection.send(messages.Close("0" * 32)))
            variation._link._call(lambda: variation._link._connection.send(messages.Probe("0" * 32, 7)))
            variation.flush()
        client.sessions(condition="unfinished", limit=2)
    return frames


def main() -> None:
    HOME.mkdir(mode=0o700)  # fails where somebody has one
    environment = {"EDI_CHECKPOINT_HOME": str(HOME), "EDI_CHECKPOINT_AUTOSTART": "0"}
    os.environ |= environment
    daemon = subprocess.Popen([sys.executable, "-m", "edi_checkpointd", "run"], stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        while not daemon.stderr.readline().startswith("ready "):
            assert daemon.poll() is None, "the daemon did not start"
        frames = capture()
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=20)
        shutil.rmtree(HOME)
    data = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
    assert len(data) < MAX_BYTES, len(data)
    here = Path(__file__).parent
    with tempfile.NamedTemporaryFile(dir=here, delete=False) as file:
        file.write(data)
    Path(file.name).rename(here / "frames.bin")
    print(f"{len(frames)} frames, {len(data)} bytes")


if __name__ == "__main__":
    main()
