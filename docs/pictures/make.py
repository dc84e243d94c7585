"""Make the pictures of the README: real commands on a session of real processes, as a terminal of 80 columns shows it.

`make pictures` runs it.
"""

from __future__ import annotations

import io
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from harness import Home, eventually

FOLDER = Path(__file__).parent
COLUMNS = 80
PICTURES = {
    "sessions": ("sessions", "--tree"),
    "log": ("log", "lighthouse"),
    "diff": ("diff", "lighthouse", "good so far"),
    "history": ("history", "lighthouse"),
}

EDITOR = """
import os, signal, time
import numpy as np
from edi_checkpoint import connect

def rows(first, last):
    mask = np.zeros((1080, 1920), bool)
    mask[first:last] = True
    return mask

ENTITIES = [
    {"id": "sky_0", "label": "sky", "confidence": 0.97, "bbox": [0, 0, 1920, 612], "area_percent": 47.2},
    {"id": "sea_0", "label": "sea", "confidence": 0.91, "bbox": [0, 598, 1920, 1080], "mask": rows(598, 1080)},
    {"id": "gull_0", "label": "gull", "confidence": 0.41, "bbox": [310, 95, 342, 110], "area_percent": 0.1},
]
FIRST = "storm clouds over the sea, lighthouse on the right, sunny, calm water"
SECOND = "towering storm clouds over the sea, lighthouse on the right, volumetric light, white caps"

with connect(app="edi", autostart=False) as client:
    with client.session("harbour") as session:
        session.update(image_path="harbour.png", naive_prompt="paint the shed yellow", validation={"score": 0.91})
        session.transition("validation", status="completed")
    session = client.session("lighthouse")

    def reach(stage, **values):
        session.transition(stage, **values)
        time.sleep(0.4)  # longer than transition_quiet_s, so that it becomes a checkpoint

    reach("upload", image_path="/home/ann/pictures/lighthouse.jpg", naive_prompt="let a storm come up")
    reach("analysis", scene_analysis={"entities": ENTITIES, "spatial_layout": "sky above sea"})
    session["clarification"] = ["yes, and the sea a little rougher"]
    reach("refinement", current_iteration=1, prompts={"iteration_0": {"positive": FIRST}}, validation={"score": 0.62})
    good = session.checkpoint("calm", label="good so far")
    session.fork(good, session_id="night")
    reach("refinement", current_iteration=2, prompts={"iteration_0": {"positive": SECOND}})
    ENTITIES[1]["mask"] = rows(560, 1064)
    session["scene_analysis"] = {"entities": ENTITIES[:2], "spatial_layout": "sky above sea"}
    reach("validation", validation={"score": 0.87})
    session["progress"] = 40
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def main() -> None:
    """Have a session edited and killed in a home of its own, and draw what each command shows of it."""
    with tempfile.TemporaryDirectory() as folder, closing(Home(Path(folder))) as home:
        home.daemon()
        home.python(EDITOR).wait()
        eventually(lambda: "interrupted" in home.command("log", "lighthouse"))
        for name, arguments in PICTURES.items():
            (FOLDER / f"{name}.svg").write_text(picture(name, arguments, home))


def picture(name: str, arguments: Sequence[str], home: Home) -> str:
    """Return the SVG of a command and what it shows."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(f"$ edi-checkpoint {shlex.join(arguments)}", "bold"))
    console.print(Text.from_ansi(home.on_a_terminal(*arguments, TZ="UTC").rstrip("\n")))
    # Rich's own format loads a font from the net. Any monospaced one does: each piece of text says how wide it is.
    rules = CONSOLE_SVG_FORMAT.split("@font-face")
    local = rules[0] + "".join(rule.split("}}", 1)[1] for rule in rules[1:])
    return console.export_svg(title="edi-checkpoint", code_format=local, unique_id=name)


if __name__ == "__main__":
    main()
