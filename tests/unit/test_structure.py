"""The shape of the product's code: one class for a name, small packages, short constructors."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [path for top in ("client", "daemon") for path in sorted((ROOT / top).rglob("*.py"))]
MIRRORED = {"Client", "Session"}  # `edi_checkpoint.aio` has the names of the plain ones
RECORDS = {"Config", "Header", "OpenSession"}  # values with many fields, not parts that are handed other parts
MODULES_MAX = 10  # of a package
PARTS_MAX = 8  # of a constructor


def classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (path, node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]


def parts(node: ast.ClassDef) -> int:
    """How many arguments a class's constructor takes; a dataclass's fields are arguments."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return len([*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs]) - 1
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return 0
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    return sum(field.value is None or "init=False" not in ast.unparse(field.value) for field in fields)


def test_a_class_name_stands_for_one_class() -> None:
    places = defaultdict(list)
    for path, node in classes():
        places[node.name].append(path.name)
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in MIRRORED} == {}


def test_a_package_has_few_modules() -> None:
    packages = defaultdict(set)
    for path in MODULES:
        if path.name != "__init__.py":
            packages[path.parent].add(path.name)
    assert {folder: found for folder, found in packages.items() if len(found) > MODULES_MAX} == {}


def test_a_constructor_takes_few_parts() -> None:
    long = {node.name: parts(node) for _, node in classes() if parts(node) > PARTS_MAX}
    assert long.keys() == RECORDS
