"""Write docs/api.md, the page of the public names of `edi_checkpoint`, from their docstrings.

`make manual` runs it; `make.py FILE` writes to another file, for the test that compares the two.

A docstring has plain paragraphs, then sections: `Args`, `Attributes`, `Fields`, `Returns`, `Waits`, `Raises`, `Source`
and `Example`, each with text behind the colon or in indented lines. A member whose docstring has a line that begins
with `Internal:` is left out.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
from error_examples import EXAMPLES
from value_table import rows

import edi_checkpoint
from edi_checkpoint import aio, errors
from edi_checkpoint.session.core import Level

PAGE = Path(__file__).parents[1] / "api.md"
LINE_MAX = 100  # of a signature; a longer one gets a line for each parameter

INTRODUCTION = """\
# The Python API

`make manual` writes this page from the docstrings of `edi_checkpoint`. A test runs every example.

Import a name from `edi_checkpoint`, unless its section says otherwise. All times are in seconds. Every error is an
`EdiCheckpointError` with `.code` and `.hint`. Where **Waits** is missing, the call never waits. Where **Raises** is
missing, it raises no error of its own.

The examples begin with these lines:

```python
from edi_checkpoint import connect

client = connect()
session = client.session()  # a new session
session.update(image_path="/pictures/roof.jpg", prompts=["a green roof"], progress=0)
```
"""

GROUPS = {
    "Connecting": ("connect", "Client", "Client.connected", "Client.usable", "Client.close"),
    "Sessions": (
        "Client.session", "Session", "Session.resume_report", "Session.resumed", "Session.durable", "Session.flush",
        "Session.usable", "Session.closed", "Session.stream", "Session.end", "Session.close", "Session.leave",
    ),
    "Values": (
        "Session.__getitem__", "Session.__setitem__", "Session.__delitem__", "Session.__iter__", "Session.__len__",
        "Session.update", "Session.pop", "Session.clear", "Session.transition", "Session.edit",
    ),
    "Checkpoints and going back": (
        "Session.checkpoint", "Session.checkpoints", "Session.amend", "Session.at", "Session.rollback", "Session.fork",
    ),
    "Reading without writing": (
        "Client.sessions", "Client.interrupted", "Client.status", "Client.ask", "Session.texts",
    ),
    "EDI's own class": ("StateManager",),
    "The same for asyncio": (),
    "Records returned": (),
    "Errors": ("EdiCheckpointError",),
    "Modules for other programs": (),
}  # fmt: skip
# Where a public name goes that no group names.
HOME = {"Client": "Connecting", "Session": "Sessions", "StateManager": "EDI's own class"}

OPERATORS = {
    "__getitem__": "session[key]",
    "__setitem__": "session[key] = value",
    "__delitem__": "del session[key]",
    "__iter__": "iter(session)",
    "__len__": "len(session)",
}
MODULES = {
    "named_files": ("paths_in", "look", "look_around", "look_in_time", "compare"),
    "protocol": ("encode", "decode_from_client", "decode_from_daemon", "encode_entry", "decode_entry"),
    "records": ("pack", "scan", "scan_all", "whole"),
}
VALUES = """\
### What becomes of a value

The table is made by storing each value and reading it back. `Stage` is an `Enum`, `Entity` a dataclass, `Size` a named
tuple, `np` is numpy. An array comes back bit for bit. [format.md](format.md#values) has all types, the limits and the
files of attachments. `connect(encoder=...)` adds types of your own.

| value | stored as | read back |
|---|---|---|
"""
OTHER_ERRORS = """\
### Errors outside `edi_checkpoint`

These are imported from `edi_checkpoint.errors`.

| error | code | when |
|---|---|---|
"""
SECTIONS = ("Args", "Attributes", "Fields", "Returns", "Waits", "Raises", "Source", "Example")
_HEADER = re.compile(rf"({'|'.join(SECTIONS)}):(?: +(.+))?")
_ITEM = re.compile(r"([^:]+): (.+)")


class Written(str):
    """An annotation that a signature shows as it is written, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the text itself."""
        return str(self)


class Item(NamedTuple):
    """One line of a section: an argument, a field or an error, and what is to say of it."""

    name: str
    text: str


@dataclass
class Docstring:
    """A docstring in its parts."""

    paragraphs: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # of sections, by title
    items: dict[str, list[Item]] = field(default_factory=dict)  # of sections that are lists
    example: str = ""


def parse(text: str | None) -> Docstring:
    """Return the parts of a docstring. The indentation is the same with and without Python 3.13's own cleaning."""
    found = Docstring()
    lines = inspect.cleandoc(text or "").splitlines()
    while lines:
        if match := _HEADER.fullmatch(lines[0]):
            del lines[0]
            _section(found, match[1], match[2] or "", lines)
        elif paragraph := _taken(lines, lambda line: bool(line) and not _HEADER.fullmatch(line)):
            code = all(line.startswith("    ") for line in paragraph)
            found.paragraphs.append("\n".join(paragraph) if code else " ".join(map(str.strip, paragraph)))
        else:
            del lines[0]
    return found


def _section(found: Docstring, title: str, text: str, lines: list[str]) -> None:
    body = _taken(lines, lambda line: not line or line.startswith("    "))
    if title == "Example":
        found.example = inspect.cleandoc("\n".join(["", *body])).strip()
    elif text:
        found.texts[title] = " ".join([text, *map(str.strip, body)]).strip()
    else:
        found.items[title] = list(_items([line[4:] for line in body if line]))


def _items(lines: list[str]) -> Iterator[Item]:
    """Yield the items of a section; a line that is indented further belongs to the item before it."""
    while lines:
        first, *further = [lines.pop(0), *_taken(lines, lambda line: line.startswith("    "))]
        match = _ITEM.fullmatch(" ".join([first, *map(str.strip, further)]))
        if match is None:
            raise ValueError(f"{first!r} is no `name: text`")
        yield Item(match[1], match[2])


def _taken(lines: list[str], wanted: Any) -> list[str]:
    """Remove and return the first lines that are wanted."""
    found = []
    while lines and wanted(lines[0]):
        found.append(lines.pop(0))
    return found


# -- names -----------------------------------------------------------------------------------------------------------


def public(cls: type) -> Iterator[str]:
    """Yield the documented members of a class, in the order of its source."""
    for name, member in vars(cls).items():
        if (not name.startswith("_") or name in OPERATORS) and is_documented(member):
            yield f"{cls.__name__}.{name}"


def is_documented(member: object) -> bool:
    """Return whether a member is a method or property with a docstring that does not keep it for the package."""
    callable_or_property = inspect.isfunction(member) or isinstance(member, property)
    return callable_or_property and not re.search(r"^ *Internal:", member.__doc__ or "", re.MULTILINE)


def grouped() -> dict[str, list[str]]:
    """Return the names of the page by group: those that `GROUPS` names first, then all others."""
    groups = {title: list(names) for title, names in GROUPS.items()}
    taken = {name for names in groups.values() for name in names}
    for name in edi_checkpoint.__all__:
        if name not in taken:
            groups[_group_of(name)].append(name)
        if name in HOME:
            groups[HOME[name]] += [member for member in public(resolve(name)) if member not in taken]
    return groups


def _group_of(name: str) -> str:
    found = resolve(name)
    if isinstance(found, type) and issubclass(found, Exception):
        return "Errors"
    return HOME.get(name, "Records returned" if isinstance(found, type) else "Connecting")


def resolve(name: str) -> Any:
    """Return what a name of the page stands for."""
    owner, _, member = name.partition(".")
    found = getattr(edi_checkpoint, owner)
    return vars(found)[member] if member else found


# -- signatures ------------------------------------------------------------------------------------------------------


def signature(called: str, function: Any) -> str:
    """Return how a function is called; the same text under every Python."""
    shown = inspect.signature(function)
    parameters = [_written(one) for name, one in shown.parameters.items() if name != "self"]
    returns = _annotation(shown.return_annotation)
    if shown.return_annotation in (inspect.Signature.empty, None):
        returns = Written("None")
    arguments = [str(one) for one in _with_marks(parameters)]
    line = f"{called}({', '.join(arguments)}) -> {returns}"
    if len(line) <= LINE_MAX:
        return line
    return "\n".join([f"{called}(", *(f"    {one}," for one in arguments), f") -> {returns}"])


def _written(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.annotation is inspect.Parameter.empty:
        return parameter
    default = parameter.default
    if type(default) is object:  # "not given", whose own repr is an address
        default = Written("...")
    return parameter.replace(annotation=_annotation(parameter.annotation), default=default)


def _annotation(text: object) -> Written:
    """Return an annotation by the names that a reader of the page knows."""
    return Written(
        str(text).replace("messages.", "protocol.") if text != "Level" else f"Literal{list(get_args(Level))}"
    )


def _with_marks(parameters: list[inspect.Parameter]) -> Iterator[object]:
    """Yield the parameters, and `*` before the first that can only be given by name."""
    kinds = [one.kind for one in parameters]
    for at, one in enumerate(parameters):
        first = one.kind is one.KEYWORD_ONLY and one.KEYWORD_ONLY not in kinds[:at]
        if first and one.VAR_POSITIONAL not in kinds:
            yield "*"
        yield one


def called(name: str) -> str:
    """Return how a name is written where it is used: `session.flush` for `Session.flush`."""
    owner, _, member = name.partition(".")
    variable = {"Client": "client", "Session": "session", "StateManager": "manager"}.get(owner, owner)
    return f"{variable}.{member}" if member else owner


def usage(name: str) -> str:
    """Return the lines that say how a name is used."""
    found = resolve(name)
    operator = OPERATORS.get(name.partition(".")[2])
    if operator is not None:
        return operator
    if isinstance(found, property):
        changed = "" if found.fset is None else "  # may be set"
        return f"{called(name)}: {inspect.signature(found.fget).return_annotation}{changed}"
    if not isinstance(found, type):
        return signature(called(name), found)
    bases = [base.__name__ for base in found.__bases__ if base not in (object, tuple)]
    if not issubclass(found, Exception) and is_documented(vars(found).get("__init__")):
        return signature(name, found.__init__).removesuffix(" -> None")
    return f"class {name}({', '.join(bases)})" if bases else f"class {name}"


# -- the page --------------------------------------------------------------------------------------------------------


def page() -> str:
    """Return the whole page."""
    groups = grouped()
    parts = [INTRODUCTION, *_contents(groups)]
    for title, names in groups.items():
        parts.append(f"\n## {title}\n")
        if title == "The same for asyncio":
            parts += _aio()
        elif title == "Modules for other programs":
            parts += [part for name in MODULES for part in _module(name)]
        for name in names:
            parts += _entry(name)
        if title == "Values":
            parts += [VALUES + "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows())]
        elif title == "Errors":
            parts += [OTHER_ERRORS + "\n".join(_other_errors()), ""]
    return "\n".join(parts).rstrip() + "\n"


def _contents(groups: dict[str, list[str]]) -> Iterator[str]:
    for title, names in groups.items():
        links = ", ".join(f"[`{one}`](#{_slug(one)})" for one in map(_title, names))
        yield f"- [{title}](#{_slug(title)}){': ' + links if links else ''}"


def _title(name: str) -> str:
    return OPERATORS.get(name.partition(".")[2], name)


def _slug(title: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _entry(name: str) -> Iterator[str]:
    found = resolve(name)
    said = parse(found.__doc__)
    example = EXAMPLES.get(name, said.example)
    if not example:
        raise ValueError(f"{name} has no example")
    yield f"### `{_title(name)}`\n\n```python\n{usage(name)}\n```\n"
    yield from (f"{paragraph}\n" for paragraph in said.paragraphs)
    if isinstance(found, type):
        yield from _about_class(name, found, said)
    yield from _sections(said)
    yield f"```python\n{example.strip()}\n```\n"


def _sections(said: Docstring) -> Iterator[str]:
    for title in SECTIONS:
        if title in said.texts:
            yield f"**{title}**: {said.texts[title]}\n"
        elif title in said.items and title != "Fields":
            listed = "\n".join(f"- {_item_name(title, name)}: {text}" for name, text in said.items[title])
            yield f"**{title}**:\n\n{listed}\n"


def _item_name(title: str, name: str) -> str:
    return name if title == "Raises" and " " in name else ", ".join(f"`{one}`" for one in name.split(", "))


def _about_class(name: str, found: type, said: Docstring) -> Iterator[str]:
    if issubclass(found, errors.EdiCheckpointError):
        yield f"Code `{found.code}`. Hint: {found.default_hint}.\n"
    elif issubclass(found, Enum):
        yield "\n".join(f"- `{name}.{one.name}`, `{one.value!r}`" for one in found) + "\n"
    elif types := _fields(found):
        meanings = {one: item.text for item in said.items.get("Fields", ()) for one in item.name.split(", ")}
        if list(meanings) != list(types):
            raise ValueError(f"{name} has the fields {list(types)}, its docstring tells of {list(meanings)}")
        yield "| field | type | meaning |\n|---|---|---|"
        yield from (f"| `{one}` | `{_cell(kind)}` | {_cell(meanings[one])} |" for one, kind in types.items())
        yield ""


def _fields(cls: type) -> dict[str, str]:
    """Return the fields of a record and their types, as they are written."""
    if not (issubclass(cls, (msgspec.Struct, tuple)) or is_dataclass(cls)):
        return {}
    annotations = vars(cls).get("__annotations__", {})
    return {name: str(getattr(kind, "__forward_arg__", kind)) for name, kind in annotations.items()}


def _aio() -> Iterator[str]:
    said = parse(aio.__doc__)
    yield "### `edi_checkpoint.aio`\n"
    yield from (f"{paragraph}\n" for paragraph in said.paragraphs)
    yield "Call a coroutine with `await`, and the other names without.\n"
    owners = {"": {"connect": aio.connect}, "client": vars(aio.Client), "session": vars(aio.Session)}
    for owner, members in owners.items():
        for name, member in members.items():
            if is_documented(member) and not name.startswith("_"):
                yield _aio_line(f"{owner}.{name}".lstrip("."), member)
    yield f"\n```python\n{said.example}\n```\n"


def _aio_line(name: str, member: Any) -> str:
    text = " ".join(parse(member.__doc__).paragraphs)
    if isinstance(member, property):
        return f"- `{name}`: {text}"
    wait = "await " if inspect.iscoroutinefunction(member) else ""
    return f"- `{wait}{' '.join(signature(name, member).split())}`: {text}".replace("( ", "(").replace(", )", ")")


def _module(name: str) -> Iterator[str]:
    module = import_module(f"edi_checkpoint.{name}")
    said = parse(module.__doc__)
    yield f"### `edi_checkpoint.{name}`\n"
    yield from (f"{paragraph}\n" for paragraph in said.paragraphs)
    for one in MODULES[name]:
        function = getattr(module, one)
        yield f"```python\n{signature(one, function)}\n```\n"
        yield from (f"{paragraph}\n" for paragraph in parse(function.__doc__).paragraphs)
    yield f"```python\n{said.example}\n```\n"


def _other_errors() -> Iterator[str]:
    for name, error in vars(errors).items():
        known = isinstance(error, type) and issubclass(error, errors.EdiCheckpointError)
        if known and name not in edi_checkpoint.__all__:
            yield f"| `{name}` | `{error.code}` | {_cell(' '.join(parse(error.__doc__).paragraphs))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
