from __future__ import annotations

import json
import sys
from pathlib import Path

from harness import Home

README = Path(__file__).parents[2] / "README.md"
HEADLESS = """
import functools, sys
from textual.app import App
App.run_async = functools.partialmethod(App.run_async, headless=True)
exec(compile(sys.stdin.read(), "README.md", "exec"))
"""


def blocks() -> list[str]:
    """The README's Python, as a reader copies it."""
    return [part.partition("```")[0] for part in README.read_text().split("```python\n")[1:]]


def test_the_python_of_the_readme_compiles() -> None:
    assert len(blocks()) >= 4
    for block in blocks():
        compile(block, "README.md", "exec")


def test_the_readmes_asyncio_app_runs_as_it_stands(home: Home) -> None:
    (block,) = [block for block in blocks() if "edi_checkpoint.aio" in block]
    home.daemon()
    app = home.start([sys.executable, "-c", HEADLESS])
    assert app.popen.stdin is not None
    app.popen.stdin.write(block.encode())
    app.popen.stdin.close()
    assert app.wait() == 0, app.stderr
    (row,) = home.json("sessions")["sessions"]
    assert (row["condition"], row["stage"], row["image"]) == ("unfinished", "analysis", "lighthouse.jpg")
    documents = [json.loads(path.read_bytes()) for path in home.checkpoints(row["session_id"])]
    (made,) = [one for one in documents if one["checkpoint"]["kind"] == "manual"]
    assert (made["reason"], made["state_info"]["progress"]) == ("analysis_done", 0.1)
