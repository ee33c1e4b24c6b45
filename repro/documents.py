"""Bounded reading of text, JSON and YAML.

What is read here may have been written by anybody, or by a process that was killed. A file that is
no regular file, too large, not UTF-8, nested too deeply or expanded by its aliases beyond bounds is
refused with one line before it costs memory or time, and so is a number that is not finite.

YAML is read without what it guesses: a date is text; `yes`, `010`, `1_000` and `1:30`, which its
versions read differently, have to be written plainly or in quotes; a key is text and stands once.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from repro.errors import ReproError
from repro.places import short

LARGEST = 64 * 2**20
"""Bytes of the largest JSON or text that is read."""
LARGEST_YAML = 2 * 2**20
"""Bytes of the largest YAML that is read; it is written by hand."""
DEEPEST = 64
"""Most levels of lists and mappings within each other."""
MOST_NODES = 200_000
"""Most values of a YAML document, each alias counted as what it stands for."""

_WORDS = {
    dict: "keys and values",
    Mapping: "keys and values",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "nothing",
}


def one_line(text: object, most: int = 300) -> str:
    """A text as it may stand in a message: one line of at most so many letters that are seen."""
    line = " ".join(str(text).split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def quoted(value: object) -> str:
    """The start of a value, as a message shows it."""
    try:
        return one_line(repr(value), 60)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list in itself
        return f"a large {type(value).__name__}"


def expect(path: Path, value: Any, kind: type) -> Any:
    """The value, if it is of that kind.

    Raises:
        ReproError: it is of another.
    """
    if not isinstance(value, kind):
        found = _WORDS.get(type(value), type(value).__name__)
        raise ReproError(
            f"{short(path)}: expected {_WORDS.get(kind, kind.__name__)}, found {found}"
        )
    return value


# Text ---------------------------------------------------------------------------------------


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        ReproError: missing, unreadable, no regular file (a folder, a pipe), or too large.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ReproError(f"{short(path)}: is a folder, expected a file")
        if not stat.S_ISREG(mode):
            raise ReproError(f"{short(path)}: is not a regular file")
        with path.open("rb") as handle:
            content = handle.read(largest + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ReproError(f"{one_line(path)}: cannot be read ({why})") from error
    if len(content) > largest:
        raise ReproError(f"{short(path)}: is larger than {largest / 2**20:g} MiB")
    return content


def read_text(path: Path, largest: int = LARGEST) -> str:
    """UTF-8 text, with or without a byte-order mark; every end of a line becomes a newline.

    Raises:
        ReproError: as :func:`read_bytes`; not UTF-8; it holds a NUL.
    """
    content = read_bytes(path, largest)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ReproError(f"{short(path)}: is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ReproError(
            f"{short(path)} line {line}: is not UTF-8 (byte 0x{content[error.start]:02x}); "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ReproError(f"{short(path)} line {line}: holds a NUL byte; it is no text or damaged")
    return text.replace("\r\n", "\n").replace("\r", "\n")


# JSON ---------------------------------------------------------------------------------------


def parse_json(text: str) -> Any:
    """JSON as its standard has it: finite numbers, every key once, at most `DEEPEST` levels.

    Raises:
        ValueError: it is none; the message is one line.
    """
    try:
        content = json.loads(
            text,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "int_max_str_digits" in str(error):
            raise ValueError("it holds an integer of thousands of digits") from None
        raise
    if _SURROGATE.search(text) and not _is_encodable(content):
        raise ValueError("it holds half of a surrogate pair")
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(content):
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    return content


def read_json(path: Path, kind: type = object) -> Any:
    """The content of a JSON file.

    Args:
        kind: what it has to be, as `dict` or `list`.

    Raises:
        ReproError: as :func:`read_text`; not JSON; of another kind.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ReproError(f"{short(path)}: is not whole JSON ({one_line(error)})") from error
    return expect(path, content, kind)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"`{text[:40]}` is not a finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {quoted(_repeated(keys))} stands twice")
    return content


def _repeated(names: Collection[Any]) -> Any:
    """The first that stands twice."""
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _is_encodable(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_deep(content: Any) -> bool:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(DEEPEST):
        level = [i for value in level for i in _children(value) if isinstance(i, dict | list)]
        if not level:
            return False
    return True


def _children(value: Any) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value


# YAML ---------------------------------------------------------------------------------------

# The one in C is many times faster, where PyYAML has it.
Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PLAIN = {
    "bool": re.compile("true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9]\d*)"),
    "float": re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?"),
    "null": re.compile("null|Null|NULL|~|"),
}
"""How a value is written that every reader of YAML reads alike."""
_MOST_DIGITS = 18
_HIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ufeff]")
"""Characters that no text needs and that a reader does not see."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TAG = "tag:yaml.org,2002:"


class _Loader(Base):
    """Safe; dates are text, and 1e-3 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


class _Problem(Exception):
    """What is wrong with a node, and where."""

    def __init__(self, mark: Any, message: str) -> None:
        super().__init__(message)
        self.line = mark.line + 1


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of one document: dicts with text keys, lists, plain values.

    Raises:
        ReproError: as :func:`read_text`; not YAML, or YAML with a trap; the message names the line.
    """
    text = read_text(path, LARGEST_YAML)
    try:
        _check_depth(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _Problem as problem:
        raise ReproError(f"{short(path)} line {problem.line}: {problem}") from problem
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise ReproError(
            f"{short(path)}{line}: not valid YAML: {one_line(error.problem)}"
        ) from error
    except yaml.YAMLError as error:
        raise ReproError(f"{short(path)}: not valid YAML: {one_line(error)}") from error


def _check_depth(text: str) -> None:
    """Before the nodes are made: that is done by recursion, which no Python limit stops."""
    loader = _Loader(text)
    depth = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    raise _Problem(event.start_mark, f"is nested deeper than {DEEPEST} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    finally:
        loader.dispose()


def _check_node(root: yaml.Node) -> None:
    """Raises _Problem for what is no plain data, and for what aliases make too large."""
    sizes: dict[int, tuple[int, int]] = {}  # of nodes that are done: values and levels in them
    open_nodes: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
            return 1, 0
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise _Problem(node.start_mark, "an alias stands inside of what it names")
        open_nodes.add(id(node))
        found = [measure(child) for child in _nodes_in(node)]
        size = 1 + sum(values for values, _ in found)
        levels = 1 + max((levels for _, levels in found), default=0)
        if size > MOST_NODES:
            raise _Problem(node.start_mark, f"its aliases make more than {MOST_NODES} values")
        if levels > DEEPEST:
            raise _Problem(node.start_mark, f"is nested deeper than {DEEPEST} levels")
        sizes[id(node)] = size, levels
        return size, levels

    measure(root)


def _nodes_in(node: yaml.Node) -> Iterator[yaml.Node]:
    """The values of a list or mapping; a mapping's keys are checked on the way."""
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.SequenceNode):
        if kind != "seq":
            _refuse_tag(node)
        yield from node.value
        return
    if kind != "map":
        _refuse_tag(node)
    seen = set()
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":
            _check_merged(value)
        elif not isinstance(key, yaml.ScalarNode):
            raise _Problem(key.start_mark, "a key is a list or a mapping, expected text")
        else:
            _check_scalar(key)
            if key.tag != f"{_TAG}str":
                raise _Problem(
                    key.start_mark, f"the key `{one_line(key.value, 40)}` is not text; quote it"
                )
        if key.value in seen:
            raise _Problem(key.start_mark, f"the key `{one_line(key.value, 40)}` stands twice")
        seen.add(key.value)
        yield value


def _check_merged(value: yaml.Node) -> None:
    sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if not all(isinstance(source, yaml.MappingNode) for source in sources):
        raise _Problem(value.start_mark, "`<<` takes keys and values, or a list of such")


def _check_scalar(node: yaml.ScalarNode) -> None:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "str":
        if not text.isprintable() and (hidden := _HIDDEN.search(text)):
            code = f"U+{ord(hidden[0]):04X}"
            raise _Problem(node.start_mark, f"holds the hidden character {code}")
        return
    plain = _PLAIN.get(kind)
    if plain is None:
        _refuse_tag(node)
    shown = one_line(text, 40)
    if kind == "float" and not _is_finite(text):
        raise _Problem(node.start_mark, f"`{shown}` is not a finite number; quote text")
    if not plain.fullmatch(text):
        raise _Problem(node.start_mark, f"`{shown}` is read as {_reading(kind, text)}")
    if kind == "int" and len(text.lstrip("+-")) > _MOST_DIGITS:
        raise _Problem(node.start_mark, f"a whole number of more than {_MOST_DIGITS} digits")


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return text.lstrip("+-").lower() not in (".inf", ".nan")


def _reading(kind: str, text: str) -> str:
    """How YAML takes a value that is not written plainly, and what to write."""
    if kind == "bool":
        return "true or false; write that, or put it in quotes"
    if kind == "null":
        return "no value; write null, or put it in quotes"
    return "another number than it looks like; write it in plain decimals, or in quotes"


def _refuse_tag(node: yaml.Node) -> NoReturn:
    tag = node.tag.replace(_TAG, "!!")
    raise _Problem(node.start_mark, f"the tag {one_line(tag, 60)} is not read; write plain values")
