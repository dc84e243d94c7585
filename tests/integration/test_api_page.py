"""The page of the Python API: made from the docstrings as they are, complete, and its examples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Home

import edi_checkpoint

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/api.md"
# What happens before an example of an error, so that the error comes for real.
CAUSES = {
    "Fenced": "taken = connect().session(session.session_id, takeover=True)",
    "FlushTimeout": "stop_daemon()",
    "CheckpointFailed": "session.flush(); forbid_new_files()",
    "OutboxFull": "import resource, signal; stop_daemon(); limit_file_size()",
    "DaemonUnavailable": "leave_daemon(); client = connect(autostart=False); session = client.session()",
    "WrongFolder": "serve_elsewhere()",
    "AttachmentMissing": "session['mask'] = b'once'; spoil(None)",
    "AttachmentDamaged": "session['mask'] = b'twice'; spoil(b'damaged')",
    "ArraysMissing": "import numpy; session['mask'] = numpy.ones((4, 4), bool); hide_numpy()",
}
# Runs each example after the lines that the page begins with; the functions are those that `CAUSES` calls.
DRIVER = """
import contextlib, io, json, os, resource, signal, sqlite3, sys, time, traceback
from pathlib import Path
import edi_checkpoint

examples, beginning, daemon = json.load(sys.stdin)
environment = dict(os.environ)
os.chdir(environment["EDI_CHECKPOINT_HOME"])  # an example may make files
plain_limit = resource.getrlimit(resource.RLIMIT_FSIZE)

def stop_daemon():
    os.kill(daemon, signal.SIGSTOP)
    tasks = Path(f"/proc/{daemon}/task")  # each stops when it is scheduled
    while any(b") T " not in (task / "stat").read_bytes() for task in tasks.iterdir()):
        time.sleep(0.001)

def forbid_new_files():
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (8, open_files[1]))  # the first eight stay open

def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, plain_limit[1]))

def leave_daemon():
    os.environ["EDI_CHECKPOINT_HOME"] += "/another"

def serve_elsewhere():
    os.environ["EDI_CHECKPOINT_SESSIONS_DIR"] = environment["EDI_CHECKPOINT_HOME"] + "/elsewhere"

def hide_numpy():
    sys.modules["numpy"] = None

def in_journal(home):
    with contextlib.closing(sqlite3.connect(home / "state/journal.sqlite")) as journal:
        return journal.execute("SELECT count(*) FROM blobs").fetchone() != (0,)

def spoil(content):
    session = namespace["session"]
    session.flush("checkpointed")
    session.close()
    home = Path(environment["EDI_CHECKPOINT_HOME"])
    while (home / "state/outbox" / session.session_id).exists() or in_journal(home):
        time.sleep(0.01)
    reference = json.loads(session.texts()["mask"])["$attachment"]
    [file] = home.glob(f"sessions/attachments/*/{reference['sha256']}.raw")
    file.unlink()
    if content:
        file.write_bytes(content)
        file.chmod(0o600)
    exec("client = connect(); session = client.session(session.session_id)", namespace)

tools = [stop_daemon, forbid_new_files, limit_file_size, leave_daemon, serve_elsewhere, hide_numpy, spoil]
numpy = __import__("numpy")
open_files = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
for name, cause, code in examples:
    namespace = {tool.__name__: tool for tool in tools}
    said, error = io.StringIO(), ""
    try:
        exec(beginning, namespace)
        exec(cause, namespace)
        with contextlib.redirect_stdout(said):
            exec(compile(code, name, "exec"), namespace)
    except BaseException:
        error = traceback.format_exc()
    os.kill(daemon, signal.SIGCONT)
    resource.setrlimit(resource.RLIMIT_FSIZE, plain_limit)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, open_files)
    sys.modules["numpy"] = numpy
    os.environ.clear()
    os.environ.update(environment)
    for client in namespace.values():
        if isinstance(client, edi_checkpoint.Client):
            client.close()
    print(json.dumps([name, said.getvalue().splitlines(), error]), flush=True)
"""


def blocks(text: str) -> list[str]:
    """The page's blocks of Python, in order."""
    return [part.partition("```")[0] for part in text.split("```python\n")[1:]]


def entries() -> dict[str, str]:
    """The text of each entry of the page, by its title."""
    parts = re.split(r"^### `(.+)`\n", PAGE.read_text().replace("\n## ", "\n### `section`\n"), flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {title: text for title, text in found.items() if title != "section"}


def examples() -> list[tuple[str, str, str]]:
    """The title of each entry, what causes its error, and its example."""
    return [(title, CAUSES.get(title, ""), blocks(text)[-1]) for title, text in entries().items()]


def shown(example: str) -> list[str]:
    """What an example says that it prints, behind its calls of `print`."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", example, re.MULTILINE)


def test_the_page_is_what_make_manual_makes_of_the_docstrings(tmp_path: Path) -> None:
    made = tmp_path / "api.md"
    subprocess.run([sys.executable, ROOT / "docs/api/make.py", made], check=True, timeout=60)
    assert PAGE.read_text() == made.read_text(), "run `make manual`"


def test_each_public_name_is_on_the_page() -> None:
    assert not [name for name in edi_checkpoint.__all__ if name not in entries()]


@pytest.mark.leaves("attachment_missing", "attachment_damaged")
def test_each_example_of_the_page_runs_and_prints_what_it_shows(home: Home) -> None:
    daemon = home.daemon("--attachments-max-bytes", "2000000")
    beginning = blocks(PAGE.read_text())[0]
    driver = home.start([sys.executable, "-c", DRIVER])
    assert driver.popen.stdin is not None
    driver.popen.stdin.write(json.dumps([examples(), beginning, daemon.pid]).encode())
    driver.popen.stdin.close()
    assert driver.wait(100) == 0, driver.stderr
    found = {name: (lines, error) for name, lines, error in map(json.loads, driver.stdout)}
    assert found == {title: (shown(code), "") for title, _, code in examples()}
