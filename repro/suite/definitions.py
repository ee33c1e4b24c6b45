"""What a function reaches: the closure over the definitions of this tree, read from the syntax.

A *definition* is what one statement at the top of a module binds: a function, a class, a constant.
It depends on the definitions whose names it loads, through imports, aliases and attributes of
modules, at any depth; nothing is executed. Where names cannot be followed (a module handed on as a
value, a module ``__getattr__``, a star import) it depends on the whole module. Statements that bind
nothing (a call at the top of a module) belong to everybody who imports the module.

The meaning of a definition is its syntax tree without what cannot change a number: comments,
layout, docstrings, annotations of functions, the arguments of a raised error, and what is only said
(log messages, the description of a progress bar). The text of a meaning does not depend on the
version of Python.

Not followed: ``REMARKS``, what only speaks to a person, and ``VERIFIED``, what fetches data whose
content is verified against its checksum afterwards.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from repro import documents, store
from repro.errors import ReproError, nearest
from repro.places import ROOT, short, work_root

PACKAGES = ("repro", "methods")
SUITE = Path(__file__).resolve().parents[2]
REMARKS = (
    *("repro.errors", "repro.display", "repro.stopping", "repro.training.progress", "repro.suite"),
    "repro.data.items",
)
VERIFIED = ("repro.data.catalogue",)
LOOSE = "<module>"
MOST_IMPORTS = 10
"""Modules through which a name is followed to where it is written."""
_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_NOTES = ("only", "made", "glance")
_LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


class Reference(NamedTuple):
    """What an expression names: a module and the attributes after it, ``fid.frechet_distance``.

    Without attributes: the whole module.
    """

    module: str
    names: tuple[str, ...] = ()


class Definition(NamedTuple):
    """What one name is bound to: the digest of its meaning, and what it refers to.

    ``on_device``: whether it reads the device of the job, as ``job.device`` or ``self.job.device``.
    """

    digest: str
    references: frozenset[Reference]
    on_device: bool = False


@dataclass
class Module:
    """What the text of a source file alone says; how its names resolve is found out later."""

    name: str
    package: str
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, Reference] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)


def closure(roots: Iterable[str], remarks: tuple[str, ...] = REMARKS) -> dict[str, str]:
    """Everything that functions reach, as ``module:name`` → digest of its meaning.

    Args:
        roots: ``module:name`` of functions, classes or constants.
        remarks: modules that are not followed.

    Raises:
        ReproError: no such module or name, or a source that is not Python.
    """
    found: dict[str, str] = {}
    seen: set[Reference] = set()
    executed: set[str] = set()
    todo = [_root(root) for root in roots]
    while todo:
        reference = todo.pop()
        if reference in seen or _within(reference.module, (*remarks, *VERIFIED)):
            continue
        seen.add(reference)
        module = _module(reference.module)
        if module is None:
            continue
        todo += _executed(module, executed, remarks)
        if not reference.names:
            todo += [Reference(star) for star in module.stars]
            todo += module.imports.values()
            todo += [Reference(module.name, (name,)) for name in module.definitions]
            continue
        name, *rest = reference.names
        if name in module.definitions:
            definition = module.definitions[name]
            found[f"{module.name}:{name}"] = definition.digest
            todo += definition.references
        elif name in module.imports:
            target = module.imports[name]
            todo.append(Reference(target.module, (*target.names, *rest)))
        elif module_path(f"{module.name}.{name}"):
            todo.append(Reference(f"{module.name}.{name}", tuple(rest)))
        elif not (name.startswith("__") and name.endswith("__")):
            # A star import, a module __getattr__, or made in a way that syntax does not show.
            todo.append(Reference(module.name))
    return dict(sorted(found.items()))


@functools.cache
def uses_device(root: str) -> bool:
    """Whether a function, or what it reaches, reads the device of its job; else it is on the CPU.

    Raises:
        ReproError: there is no such function.
    """
    for label in closure([root]):
        name, _, bound = label.partition(":")
        module = _module(name)
        if module is not None and module.definitions[bound].on_device:
            return True
    return False


def files(labels: Iterable[str]) -> list[Path]:
    """The source files that hold definitions given as ``module:name``."""
    paths = (module_path(label.split(":")[0]) for label in labels)
    return sorted({path for path in paths if path is not None})


def place(text: str) -> tuple[Path, int] | None:
    """The source file and the line of what a card names as ``module:name``.

    What a module imports from another of this tree is where it is written. None where it cannot be
    found.
    """
    name, _, attribute = text.partition(":")
    for _ in range(MOST_IMPORTS):
        path = module_path(name)
        if path is None:
            return None
        tree = _tree(documents.read_bytes(path))
        for node in tree.body:
            if not isinstance(node, ast.Import | ast.ImportFrom) and attribute in _bound(node):
                return path, node.lineno
        module = _module(name)
        reference = module.imports.get(attribute) if module else None
        if reference is None or len(reference.names) != 1:
            return None
        name, attribute = reference.module, reference.names[0]
    return None


def texts(text: str) -> frozenset[str]:
    """The texts in ``module:name`` and in what it reaches of its own module.

    They say of a figure which measurements and arms it shows. Nothing where it cannot be found.
    """
    name, _, attribute = text.partition(":")
    path = module_path(name)
    if path is None:
        return frozenset()
    bound: dict[str, list[ast.stmt]] = {}
    for node in _tree(documents.read_bytes(path)).body:
        for one in _bound(node):
            bound.setdefault(one, []).append(node)
    found: set[str] = set()
    seen: set[str] = set()
    todo = [attribute]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        for inner in (inner for node in bound.get(one, ()) for inner in ast.walk(node)):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                found.add(inner.value)
            elif isinstance(inner, ast.Name):
                todo.append(inner.id)
    return frozenset(found)


def _root(text: str) -> Reference:
    name, _, attribute = text.partition(":")
    module = _module(name)
    if module is None:
        raise ReproError(f"no module `{name}`; a card names it as module:function")
    if attribute not in module.definitions and attribute not in module.imports:
        known = [n for n in module.definitions if n != LOOSE]
        raise ReproError(
            f"a card names `{text}`; the module has no `{attribute}`{nearest(attribute, known)}"
        )
    return Reference(name, (attribute,))


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages)


def _executed(module: Module, seen: set[str], remarks: tuple[str, ...]) -> list[Reference]:
    """The loose statements that importing a module runs: its own and those of what it imports."""
    found, todo = [], [module.name]
    while todo:
        name = todo.pop()
        if name in seen or _within(name, (*remarks, *VERIFIED)):
            continue
        seen.add(name)
        here = _module(name)
        if here is None:
            continue
        if LOOSE in here.definitions:
            found.append(Reference(name, (LOOSE,)))
        parents = name.split(".")[:-1]
        todo += [".".join(parents[: n + 1]) for n in range(len(parents))]
        todo += here.imported
    return found


# Modules -------------------------------------------------------------------------------------


def module_path(name: str) -> Path | None:
    """The source file of a module of this tree, or None."""
    package = name.split(".")[0]
    if package not in PACKAGES:
        return None
    base = (ROOT if package == "methods" else SUITE).joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _module(name: str) -> Module | None:
    path = module_path(name)
    if path is None:
        return None
    text = documents.read_bytes(path)
    key = f"{name}:{_hash(text)}"
    kept = _index().get(key)
    if kept is None:
        kept = _index()[key] = _sealed(key, _dumped(_parsed(name, path, text)))
        atexit.register(_keep)
    return _restored(name, json.loads(kept[1]))


def _parsed(name: str, path: Path, text: bytes) -> Module:
    """Reads a source.

    Raises:
        ReproError: it is not Python, or nested too deeply to be read.
    """
    try:
        return _read(name, path, _tree(text))
    except SyntaxError as error:
        line = f" line {error.lineno}" if error.lineno else ""
        raise ReproError(f"{short(path)}{line}: {documents.one_line(error.msg)}") from error
    except ValueError as error:  # a NUL byte
        raise ReproError(f"{short(path)}: {documents.one_line(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise ReproError(f"{short(path)}: is nested too deeply to be read") from error


@functools.lru_cache(maxsize=16)
def _tree(text: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # said when the source is run
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(text)


def _read(name: str, path: Path, tree: ast.Module) -> Module:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    module = Module(name, package)
    statements: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if not _is_docstring(node) and not _is_type_checking(node):
            _bind(module, statements, node)
    # The reader has to know what this module binds before it follows a name.
    module.definitions = dict.fromkeys(statements, Definition("", frozenset()))
    for bound, nodes in statements.items():
        reader = _Reader(module)
        meaning = "\n".join(reader.meaning(node) for node in nodes)
        digest = hashlib.sha256(meaning.encode()).hexdigest()[:16]
        on_device = any(_is_device(inner) for node in nodes for inner in ast.walk(node))
        module.definitions[bound] = Definition(digest, frozenset(reader.references), on_device)
    return module


def _is_device(node: ast.AST) -> bool:
    """The device of a job, by the name that a job has everywhere."""
    if not (isinstance(node, ast.Attribute) and node.attr in ("device", "device_name")):
        return False
    owner = node.value
    return (isinstance(owner, ast.Name) and owner.id == "job") or (
        isinstance(owner, ast.Attribute) and owner.attr == "job"
    )


def _bind(module: Module, statements: dict[str, list[ast.stmt]], node: ast.stmt) -> None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        _import(module, node)
        return
    names = _bound(node)
    for name in names or [LOOSE]:
        statements.setdefault(name, []).append(node)
    if names and not _is_plain(node):
        # Runs on import whatever it binds: try, if, with, a loop.
        statements.setdefault(LOOSE, []).append(node)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                module.imported += [r.module for _, r in _aliases(module, inner)]


def _import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    for alias, reference in _aliases(module, node):
        module.imports[alias] = reference
        module.imported += [reference.module, ".".join([reference.module, *reference.names])]
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        module.stars.append(_base(module, node))


def _is_plain(node: ast.stmt) -> bool:
    return isinstance(
        node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    )


def _bound(node: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    found = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            found.append(inner.id)
        elif isinstance(inner, ast.FunctionDef | ast.ClassDef):
            found.append(inner.name)
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            found += [alias.asname or alias.name.split(".")[0] for alias in inner.names]
    return list(dict.fromkeys(found))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_type_checking(node: ast.stmt) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _base(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _aliases(module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Reference]]:
    """What an import binds, where that is of this tree."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] in PACKAGES:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or whole, Reference(whole)
                if not alias.asname and "." in alias.name:
                    module.imported.append(alias.name)
        return
    base = _base(module, node)
    if base.split(".")[0] in PACKAGES:
        for alias in node.names:
            if alias.name != "*":
                yield alias.asname or alias.name, Reference(base, (alias.name,))


# The meaning of a statement ------------------------------------------------------------------


class _Reader:
    """Walks a statement once, for its meaning and for the names that it loads."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.references: set[Reference] = set()
        self.scopes: list[dict[str, Reference | None]] = []

    def meaning(self, node: ast.AST) -> str:
        """Text of a tree: class and the fields that are not empty."""
        handler = getattr(self, f"read_{type(node).__name__}", None)
        if handler is not None:
            return handler(node)
        return self._plain(node)

    def _plain(self, node: ast.AST, skip: tuple[str, ...] = ()) -> str:
        parts = [type(node).__name__]
        for name, value in ast.iter_fields(node):
            if name in skip or name in ("ctx", "kind", "type_comment", "type_params"):
                continue
            if isinstance(value, ast.AST):
                parts.append(f"{name}={self.meaning(value)}")
            elif isinstance(value, list):
                if value:
                    parts.append(f"{name}=[{','.join(self._item(v) for v in value)}]")
            elif value is not None:
                parts.append(f"{name}={value!r}")
        return f"({' '.join(parts)})"

    def _item(self, value: object) -> str:
        return self.meaning(value) if isinstance(value, ast.AST) else repr(value)

    def _body(self, body: list[ast.stmt]) -> str:
        """A block without docstring and without what is only said."""
        return ";".join(
            self.meaning(node) for node in body if not _is_docstring(node) and not _is_said(node)
        )

    # Scopes

    def read_FunctionDef(self, node: ast.FunctionDef) -> str:
        parts = [self.meaning(decorator) for decorator in node.decorator_list]
        parts += self._defaults(node.args)
        self.scopes.append(self._locals(node))
        body = self._body(node.body)
        self.scopes.pop()
        return f"(def {node.name} {_parameters(node.args)} {parts} {body})"

    read_AsyncFunctionDef = read_FunctionDef

    def read_Lambda(self, node: ast.Lambda) -> str:
        parts = self._defaults(node.args)
        self.scopes.append(self._locals(node))
        body = self.meaning(node.body)
        self.scopes.pop()
        return f"(lambda {_parameters(node.args)} {parts} {body})"

    def _defaults(self, arguments: ast.arguments) -> list[str]:
        values = [*arguments.defaults, *arguments.kw_defaults]
        return ["" if value is None else self.meaning(value) for value in values]

    def read_ClassDef(self, node: ast.ClassDef) -> str:
        outside = [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]
        parts = [self.meaning(part) for part in outside]
        parts += [str(keyword.arg) for keyword in node.keywords]
        # Names of a class body are seen in the body itself, not in the methods: not a scope here,
        # at the price of a reference too many where a field has the name of a definition.
        body = ";".join(
            self._field(inner) if isinstance(inner, ast.AnnAssign) else self.meaning(inner)
            for inner in node.body
            if not _is_docstring(inner)
        )
        return f"(class {node.name} {parts} {body})"

    def _field(self, node: ast.AnnAssign) -> str:
        """A field of a class: its annotation is text (a dataclass reads ClassVar off it)."""
        value = self.meaning(node.value) if node.value else ""
        return f"(field {ast.unparse(node.target)} {ast.unparse(node.annotation)} {value})"

    def _comprehension(self, node: ast.AST) -> str:
        targets = [generator.target for generator in node.generators]  # type: ignore[attr-defined]
        bound = [n for target in targets for n in ast.walk(target) if _is_store(n)]
        self.scopes.append({n.id: None for n in bound})  # type: ignore[attr-defined]
        text = self._plain(node)
        self.scopes.pop()
        return text

    read_ListComp = read_SetComp = read_DictComp = read_GeneratorExp = _comprehension

    def _locals(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    ) -> dict[str, Reference | None]:
        """Names bound in a function itself; imports of this tree keep what they refer to."""
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [a for a in (arguments.vararg, arguments.kwarg) if a]
        found: dict[str, Reference | None] = {a.arg: None for a in named}
        outer: set[str] = set()
        for inner in _of_the_scope(node):
            if isinstance(inner, ast.Global):
                outer.update(inner.names)
            elif isinstance(inner, ast.Import | ast.ImportFrom):
                found.update(dict(_aliases(self.module, inner)))
            else:
                found.update(dict.fromkeys(_names_bound_by(inner)))
        return {name: target for name, target in found.items() if name not in outer}

    # Names

    def read_Name(self, node: ast.Name) -> str:
        self._load(node.id, [])
        return node.id

    def read_Attribute(self, node: ast.Attribute) -> str:
        chain: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._load(inner.id, chain)
            return ".".join([inner.id, *chain])
        return f"{self.meaning(inner)}.{'.'.join(chain)}"

    def _load(self, name: str, chain: list[str]) -> None:
        for scope in reversed(self.scopes):
            if name in scope:
                target = scope[name]
                break
        else:
            if name in self.module.imports and name not in self.module.definitions:
                target = self.module.imports[name]
            elif name in self.module.definitions:
                target = Reference(self.module.name, (name,))
            elif self.module.stars:
                self.references.update(Reference(star) for star in self.module.stars)
                return
            else:
                return
        if target is not None:
            self.references.add(Reference(target.module, (*target.names, *chain)))

    def read_ImportFrom(self, node: ast.Import | ast.ImportFrom) -> str:
        # Inside a function an import counts where its names are loaded, and the module runs all
        # the same. In a try or an if at the top of a module it is what the names are bound to.
        for _, reference in _aliases(self.module, node):
            names = ("__name__",) if self.scopes else reference.names
            self.references.add(Reference(reference.module, names))
        return ""

    read_Import = read_ImportFrom

    # What cannot change a number

    def read_Raise(self, node: ast.Raise) -> str:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return f"(raise {self.meaning(raised) if raised else ''})"

    def read_Assert(self, node: ast.Assert) -> str:
        return f"(assert {self.meaning(node.test)})"

    def read_AnnAssign(self, node: ast.AnnAssign) -> str:
        if node.value is None:
            return ""
        return f"(Assign targets=[{self.meaning(node.target)}] value={self.meaning(node.value)})"

    def read_Call(self, node: ast.Call) -> str:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "progress" and node.args:
            return f"(progress {self.meaning(node.func)} {self.meaning(node.args[0])})"
        return self._plain(node)

    def read_If(self, node: ast.If) -> str:
        return "" if _is_type_checking(node) else self._blocks(node)

    def _blocks(self, node: ast.AST) -> str:
        parts = [type(node).__name__]
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                parts.append(f"{name}=[{self._body(value)}]")
            elif isinstance(value, list):
                parts.append(f"{name}=[{','.join(self._item(v) for v in value)}]")
            elif isinstance(value, ast.AST):
                parts.append(f"{name}={self.meaning(value)}")
            elif value is not None and name != "type_comment":
                parts.append(f"{name}={value!r}")
        return f"({' '.join(parts)})"

    read_For = read_While = read_With = read_Try = read_ExceptHandler = _blocks


def _of_the_scope(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function's body, without the insides of the scopes in it."""
    todo: list[ast.AST] = [] if isinstance(function, ast.Lambda) else list(function.body)  # type: ignore[attr-defined]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.ClassDef | _SCOPES | _COMPREHENSIONS):
            todo += ast.iter_child_nodes(node)


def _names_bound_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Lambda | _COMPREHENSIONS):
        # A walrus inside binds outside.
        return [n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    return [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []


def _is_store(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _is_said(node: ast.stmt) -> bool:
    """A call of a logger (``log.info(...)``, ``job.log.warning(...)``), or a note of what is read.

    The latter is ``items.only(...)`` and the like of `repro.data.items`.
    """
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    receiver = ast.unparse(call.func.value)
    if receiver == "items" and call.func.attr in _NOTES:
        return True
    return call.func.attr in _LEVELS and receiver.split(".")[-1] in ("log", "logger")


def _parameters(arguments: ast.arguments) -> str:
    """Names and kinds of parameters, without their annotations."""
    groups = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
    named = ["/".join(a.arg for a in group) for group in groups]
    starred = [a.arg if a else "" for a in (arguments.vararg, arguments.kwarg)]
    return "|".join(named + starred)


# Memory: the text of a source never has to be read twice ---------------------------------------


def _index_path() -> Path:
    return work_root() / "plan" / "definitions.json"


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _sealed(key: str, content: dict[str, Any]) -> list[str]:
    """What is kept of a module under a key: JSON, after the hash of both."""
    text = json.dumps(content)
    return [_hash(f"{key} {text}".encode()), text]


@functools.cache
def _index() -> dict[str, list[str]]:
    """What earlier processes read, by module and hash of its text; without what is damaged."""
    path = _index_path()
    if not path.exists():
        return {}
    try:
        kept = documents.read_json(path, dict)
    except ReproError:  # it is written anew
        return {}
    modules = kept.get("modules")
    if kept.get("reader") != _reader() or not isinstance(modules, dict):
        return {}
    return {key: entry for key, entry in modules.items() if _is_whole(key, entry)}


def _is_whole(key: str, entry: Any) -> bool:
    if not isinstance(entry, list) or list(map(type, entry)) != [str, str]:
        return False
    return _hash(f"{key} {entry[1]}".encode()) == entry[0]


@functools.cache
def _reader() -> str:
    """Hash of this file: another reader of sources forgets what the last one read."""
    return _hash(Path(__file__).read_bytes())


def _keep() -> None:
    # Without a place to keep it, the next process reads the sources again.
    with contextlib.suppress(ReproError):
        content = {"reader": _reader(), "modules": _index()}
        store.write_text(_index_path(), json.dumps(content))


def _dumped(module: Module) -> dict[str, Any]:
    return {
        "package": module.package,
        "definitions": {
            n: [d.digest, sorted(d.references), d.on_device] for n, d in module.definitions.items()
        },
        "imports": module.imports,
        "imported": sorted(set(module.imported)),
        "stars": module.stars,
    }


def _restored(name: str, kept: dict[str, Any]) -> Module:
    def reference(pair: Sequence[Any]) -> Reference:
        return Reference(pair[0], tuple(pair[1]))

    return Module(
        name,
        kept["package"],
        {
            n: Definition(digest, frozenset(map(reference, references)), on_device)
            for n, (digest, references, on_device) in kept["definitions"].items()
        },
        {alias: reference(pair) for alias, pair in kept["imports"].items()},
        kept["imported"],
        kept["stars"],
    )
