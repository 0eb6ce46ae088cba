"""YAML files read with line numbers: every problem of a file is reported at once, by key and line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import InputError
from ..files import replacing
from ..reading import read_text_file

FILE_BYTES = 256 << 10  # profiles and models take a few kB
DEPTH = 16  # mappings and lists inside one another
SCALAR_CHARACTERS = 4000  # of one value; notes are the longest
PROBLEMS_SHOWN = 20
_SHOWN = 60  # characters of a wrong value that a message repeats


class Problem(NamedTuple):
    """One thing wrong with a file."""

    line: int
    key: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}: {self.text}" if self.key else f"line {self.line}: {self.text}"


class FileError(InputError):
    """A file with problems, all of them: `problems` in order of lines; the message holds the first ones in one line."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(set(problems)))
        plural = "s" if len(self.problems) > 1 else ""
        shown = "; ".join(map(str, self.problems[:PROBLEMS_SHOWN]))
        more = len(self.problems) - PROBLEMS_SHOWN
        super().__init__(
            f"{path}: {len(self.problems)} problem{plural}: {shown}" + (f"; and {more} more" if more > 0 else "")
        )


class Node:
    """A value of a YAML file that knows its dotted key and line; `problems` is shared by all nodes of a file.

    Readers return a default after noting a problem, so that reading goes on to the next one.
    """

    def __init__(self, node: yaml.Node, key: str, problems: list[Problem]) -> None:
        self.node = node
        self.key = key
        self.problems = problems
        self.read: set[str] = set()

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return int(self.node.start_mark.line) + 1

    def note(self, text: str) -> None:
        """Record a problem with this value."""
        self.problems.append(Problem(self.line, self.key, text))

    @property
    def value(self) -> Any:
        """The plain Python value."""
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(self.node, deep=True)
        except yaml.YAMLError as error:
            self.note(str(error).splitlines()[0])
            return None
        except (ValueError, OverflowError) as error:  # no such date, a number of thousands of digits
            self.note(f"{self.shown} is no value: {error}")
            return None
        finally:
            loader.dispose()

    def children(self) -> dict[str, Node]:
        """Values of a mapping by key; notes a problem when this is none, or a key twice."""
        if not isinstance(self.node, yaml.MappingNode):
            self.note("must be a mapping of keys to values")
            return {}
        found: dict[str, Node] = {}
        for key_node, value_node in self.node.value:
            name = str(key_node.value)[:_SHOWN]
            child = Node(value_node, f"{self.key}.{name}" if self.key else name, self.problems)
            if name in found:
                child.note("appears twice")
            found[name] = child
        return found

    def items(self) -> list[Node]:
        """Values of a list; notes a problem when this is none."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.note("must be a list")
            return []
        return [Node(item, f"{self.key}[{i}]", self.problems) for i, item in enumerate(self.node.value)]

    def get(self, name: str, required: bool = False) -> Node | None:
        """The value under `name`, None when absent; notes a problem when it is required."""
        self.read.add(name)
        child = self.children().get(name) if isinstance(self.node, yaml.MappingNode) else None
        if child is None and required:
            self.problems.append(Problem(self.line, f"{self.key}.{name}" if self.key else name, "is missing"))
        return None if child is not None and child.node.tag == "tag:yaml.org,2002:null" else child

    def text(self, name: str, default: str = "", required: bool = False) -> str:
        """A string; a date counts as one."""
        child = self.get(name, required)
        if child is None:
            return default
        if isinstance(child.node, yaml.ScalarNode) and child.node.tag.rpartition(":")[2] in ("str", "timestamp"):
            return str(child.node.value)
        child.note(f"must be text, is {child.shown}")
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        child = self.get(name)
        if child is None:
            return default
        if isinstance(child.value, bool):
            return bool(child.value)
        child.note(f"must be true or false, is {child.shown}")
        return default

    def whole(self, name: str, low: int, high: int, default: int = 0, required: bool = False) -> int:
        """A whole number between `low` and `high`."""
        child = self.get(name, required)
        if child is None:
            return default
        value = child.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            child.note(f"must be a whole number from {low} to {high}, is {child.shown}")
            return default
        return value

    @property
    def shown(self) -> str:
        """The value as a message shows it."""
        if isinstance(self.node, yaml.ScalarNode):
            text = repr(self.node.value)
            return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        return "a list" if isinstance(self.node, yaml.SequenceNode) else "a mapping"

    def only(self) -> None:
        """Note every key that was never asked for, with the nearest one that was."""
        for name, child in (self.children() if isinstance(self.node, yaml.MappingNode) else {}).items():
            if name not in self.read:
                near = difflib.get_close_matches(name, sorted(self.read), n=1)
                child.note("is not a known key" + (f"; did you mean {near[0]!r}?" if near else ""))


class _Loader(yaml.SafeLoader):
    """Reads plain trees: no anchors and no aliases, with which three kB stand for gigabytes, and no deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:  # an alias has one, too
            raise _refused("anchors and aliases are not read; write the value out", event)
        if self.depth > DEPTH:
            raise _refused(f"it is nested more than {DEPTH} deep", event)
        if len(getattr(event, "value", "")) > SCALAR_CHARACTERS:
            raise _refused(f"a value has more than {SCALAR_CHARACTERS:,} characters", event)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _refused(problem: str, event: Any) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, problem, event.start_mark)


def _composed(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(read_text_file(path, "a YAML file", FILE_BYTES), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise FileError(path, [Problem(mark.line + 1 if mark else 1, "", f"is no YAML: {reason}")]) from error


def read_yaml(path: Path, schema: str, reader: Callable[[Node], Any]) -> Any:
    """What `reader` makes of the mapping in the file. Raises FileError with every problem noted while reading."""
    return _read_root(path, _composed(path), schema, reader)


def read_document(document: Mapping[str, Any], where: str, schema: str, reader: Callable[[Node], Any]) -> Any:
    """The same of a mapping that is in memory; `where` it came from is named in place of a file."""
    try:
        text = dump_yaml(dict(document))
    except yaml.YAMLError as error:
        raise InputError(f"{where} is no document of schema {schema}: {error}") from error
    return _read_root(Path(where), yaml.compose(text, _Loader), schema, reader)


def _read_root(path: Path, node: yaml.Node | None, schema: str, reader: Callable[[Node], Any]) -> Any:
    problems: list[Problem] = []
    if not isinstance(node, yaml.MappingNode):
        raise FileError(path, [Problem(1, "", f"must be a mapping that starts with 'schema: {schema}'")])
    root = Node(node, "", problems)
    if root.text("schema", required=True) not in ("", schema):
        raise FileError(path, [Problem(root.line, "schema", f"must be {schema}, is {root.text('schema')!r}")])
    result = reader(root)
    root.only()
    if problems:
        raise FileError(path, problems)
    return result


class _Dumper(yaml.SafeDumper):
    """Block style, but each figure and each list of numbers on one line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        is_figure = isinstance(mapping, dict) and "value" in mapping
        return super().represent_mapping(tag, mapping, is_figure or flow_style)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, all(not isinstance(x, dict | str) for x in sequence))


def write_yaml(path: Path, document: dict[str, Any]) -> None:
    """Write the document atomically: a reader sees the old file or the new one. Raises InputError where it cannot."""
    with replacing(path) as temporary:
        temporary.write_text(dump_yaml(document), encoding="utf-8")


def dump_yaml(document: dict[str, Any]) -> str:
    """The document as YAML text, keys in their order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
