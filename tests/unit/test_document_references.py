"""No reference in the documents is dead: files, names of the code, options, commands, make targets and links exist.

Checked are the spans in backticks of README, CONTRIBUTING and `docs/*.md` that look like code, by the rules of `fault`.
A plain word in backticks (a key of a document, a kind, a value) is not checked, nor is a block of code.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("client", "daemon", "bench", "tests", "docs")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HERE = Path(__file__).name

FILE = re.compile(r"[\w./-]+\.(?:py|md|toml|c|service|socket)")
DATA = re.compile(r"[\w-]+\.(?:json|sqlite|log)")  # of the user
FOLDERS = re.compile(r"\.?[a-z_]\w*(?:/[a-z_]\w*)+/?")
DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?")
CALLED = re.compile(r"([a-z_]\w*)\(.*\)")
NAME = re.compile(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|_*[a-z][a-z0-9]*(?:_[a-z0-9]+)+|[A-Z][a-z]\w*)(?:=.*)?")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
COMMAND = re.compile(r"(edi-checkpointd?) ([a-z]+)\b")

NOT_OURS = {
    "posix_fadvise": "a call of the system that was not chosen",
    "Z_RLE": "a strategy of zlib",
    "ZMQ_IPC_FILTER_UID": "an option of libzmq, under its name in C",
    "Peer-Address": "a property of a message in ZeroMQ",
    "ExecStartPre": "a line of a unit of systemd that was not chosen",
    "python3-venv": "a package of Debian",
    "integrity.header": "keys in a document",
    "integrity.state": "keys in a document",
    "validation.score": "keys in EDI's state",
    "manager.checkpoint": "a variable of an example",
    "manager.current_stage": "an attribute that the state gives",
    "status.body": "a field of a message",
    "config.toml": "the user's file",
}


# -- what there is ---------------------------------------------------------------------------------------------------


class Names(ast.NodeVisitor):
    """What a module defines, by scope, and every name and word that its code (not its docstrings) has."""

    def __init__(self) -> None:
        self.top: set[str] = set()
        self.classes: dict[str, set[str]] = {}
        self.bases: dict[str, list[str]] = {}
        self.words: set[str] = set()
        self._class: str | None = None
        self._functions = 0  # around the node; what they define is local, except the attributes of `self`

    def read(self, tree: ast.Module) -> Names:
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (
                isinstance(body, list)
                and body
                and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
            ):
                del body[0]  # a docstring
        self.visit(tree)
        return self

    def _define(self, name: str) -> None:
        self.words.add(name)
        if not self._functions:
            (self.top if self._class is None else self.classes[self._class]).add(name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._define(node.name)
        outer, self._class = self._class, node.name
        self.classes.setdefault(node.name, set())
        self.bases.setdefault(node.name, []).extend(base.id for base in node.bases if isinstance(base, ast.Name))
        self.generic_visit(node)
        self._class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._define(node.name)
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Name(self, node: ast.Name) -> None:
        self.words.add(node.id)
        if isinstance(node.ctx, ast.Store):
            self._define(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.words.add(node.attr)
        if isinstance(node.ctx, ast.Store) and self._class is not None:
            self.classes[self._class].add(node.attr)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        self._define((node.asname or node.name).split(".")[0])
        self.words.update(node.name.split("."))

    def visit_arg(self, node: ast.arg) -> None:
        self.words.add(node.arg)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        self.words.add(node.arg or "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            self.words.update([text, *re.findall(r"\w+", text)])


@cache
def files() -> frozenset[str]:
    """All files and folders of the repository, each with a slash before it."""
    found = {f"/{path.name}" for path in ROOT.iterdir() if path.is_file()}
    for top in (".ci", "bench", "client", "daemon", "docs", "share", "systemd", "tests"):
        found.update(f"/{path.relative_to(ROOT)}" for path in [ROOT / top, *(ROOT / top).rglob("*")])
    return frozenset(found)


@cache
def modules() -> dict[str, Names]:
    """What each module of the repository has, by its dotted name."""
    found = {}
    for top in SOURCES:
        for path in (ROOT / top).rglob("*.py"):
            if path.name != HERE:
                parts = path.relative_to(ROOT / top).with_suffix("").parts
                dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[dotted] = Names().read(ast.parse(path.read_bytes()))
    return found


@cache
def words() -> frozenset[str]:
    """All names and words of the code, and those of the units of systemd."""
    found = set(dir(builtins))
    for names in modules().values():
        found |= names.words
    for path in (ROOT / "systemd").iterdir():
        found.update(re.findall(r"\w+", path.read_text()))
    return frozenset(found)


@cache
def manual(program: str) -> str:
    return (ROOT / "share" / "man" / "man1" / f"{program}.1").read_text().replace("\\-", "-")


@cache
def classes(name: str) -> list[tuple[Names, str]]:
    """The classes of that name, or of that name but for its case: `session.close` is `Session.close`."""
    alike = (name, "".join(part.capitalize() for part in name.split("_")))
    return [(names, kind) for names in modules().values() for kind in alike if kind in names.classes]


def has(names: Names, kind: str, rest: list[str]) -> bool:
    """Whether a class has an attribute, itself or by a base of ours."""
    if not rest or rest[0] in names.classes[kind]:
        return True
    return any(has(other, base, rest) for base in names.bases[kind] for other, base in classes(base))


def in_module(names: Names, rest: list[str]) -> bool:
    """Whether a module has a name, and where that is a class, the class the attribute."""
    return rest[0] in names.top and (rest[0] not in names.classes or has(names, rest[0], rest[1:]))


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, a thing in one, or an attribute of a class of ours."""
    parts = dotted.split(".")
    for at in range(1, len(parts) + 1):
        lead, rest = ".".join(parts[:at]), parts[at:]
        for name, names in modules().items():
            if f".{name}".endswith(f".{lead}") and (not rest or in_module(names, rest)):
                return True
    return any(has(names, kind, parts[1:]) for names, kind in classes(parts[0]))


def is_foreign(first: str) -> bool:
    """Whether a dotted name begins with a module or a class of somebody else, whose names are not checked."""
    ours = any(first in name.split(".") for name in modules()) or bool(classes(first))
    if first[0].isupper():
        return not ours and first in words()
    return first in sys.stdlib_module_names or hasattr(builtins, first) or (not ours and find_spec(first) is not None)


# -- what the documents say ------------------------------------------------------------------------------------------


def spans(text: str) -> Iterator[str]:
    """Yield what stands in backticks, outside of blocks of code."""
    text = re.sub(r"(?ms)^```.*?^```$", "", text)
    text = re.sub(r"(?m)^    .*$", "", text)
    for span in re.findall(r"`([^`]+)`", text):
        yield " ".join(span.split())


def fault(span: str) -> str | None:
    """Return what is dead in a span, None when nothing is, or when it does not look like code."""
    path, _, test = span.partition("::")
    if span in NOT_OURS or re.split(r"[=(]", span)[0] in NOT_OURS or span.startswith(("~", "/", "$", "@", "np.")):
        return None
    if FILE.fullmatch(path):
        found = [name for name in files() if name.endswith(f"/{path}")]
        if not found:
            return "no such file"
        if test and not any(f"def {test}(" in ROOT.joinpath(name[1:]).read_text() for name in found):
            return "no such test"
        return None
    if DATA.fullmatch(span):
        return None if span in words() else "no such file"
    if FOLDERS.fullmatch(span):
        lead = span.rstrip("/")
        return None if any(name.endswith((f"/{lead}", f"/{lead}.py")) for name in files()) else "no such file"
    if dotted := DOTTED.fullmatch(span):
        return None if resolves(dotted[1]) or is_foreign(dotted[1].split(".")[0]) else "no such name"
    if called := CALLED.fullmatch(span):
        return None if called[1] in words() else "no such name"
    if named := NAME.fullmatch(span):
        return None if named[1] in words() else "no such name"
    if span.startswith("make "):
        targets = (ROOT / "Makefile").read_text()
        return None if all(f"\n{target}:" in targets for target in span.split()[1:]) else "no such target"
    return command_fault(span)


def command_fault(span: str) -> str | None:
    """Return what is dead in a command of ours, or in an option."""
    pages = manual("edi-checkpoint") + manual("edi-checkpointd")
    if command := COMMAND.match(span):
        if f"\n.SS {command[0]}" not in manual(command[1]):
            return "no such command"
    elif not span.startswith("--") and f"\n.SS edi-checkpoint {span.split()[0]}" not in pages:
        return None
    return None if all(re.search(rf"{option}\b", pages) for option in OPTION.findall(span)) else "no such option"


def anchors(document: Path) -> set[str]:
    """The anchors that the headings of a document have."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_that_looks_like_code_exists(document: Path) -> None:
    found = {span: fault(span) for span in spans(document.read_text())}
    assert {span: dead for span, dead in found.items() if dead} == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "dead",
    [
        "Session.no_such", "NoSuchClass", "NoSuchClass.method", "document.NoSuch", "edi_checkpoint.no_such",
        "no_such_name", "NO_SUCH_NAME", "no_such()", "no_such.json", "no_such.py", "tests/no_such/",
        "tests/harness.py::test_none", "--no-such", "edi-checkpoint nothing", "edi-checkpoint log SESSION --no-such",
        "prune --no-such", "make nothing",
    ],
)  # fmt: skip
def test_a_dead_reference_is_found(dead: str) -> None:
    assert fault(dead) is not None


def test_each_exception_stands_in_a_document() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    assert [name for name in NOT_OURS if name not in text] == []
