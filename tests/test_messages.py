"""Every command that a text of the project names is there, with its options and targets."""

import ast
import importlib.util
import re
import shlex
import subprocess

import pytest
import typer

from repro.places import ROOT
from repro.suite import cli
from repro.suite.cards import library
from repro.suite.words import SCALES

ANY = "ANY"
"""In the place of what a message puts in."""

FILES = [
    path
    for folder in ("repro", "methods", "tools", "benchmarks", "workflow", "docs", ".")
    for pattern in ("*.py", "*.md", "*.smk", "*.yaml", "*.template", "Snakefile", "Makefile")
    for path in sorted(
        (ROOT / folder).glob(pattern) if folder == "." else (ROOT / folder).rglob(pattern)
    )
]


def texts(path):
    """What a file says: its string constants, with ANY for what f-strings put in, or all of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [text]
    found, inside = [], set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
            found.append(
                "".join(v.value if isinstance(v, ast.Constant) else ANY for v in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [] if id(node) in inside else [node.value]
    return found


def commands(text):
    """What stands in backquotes, or begins a line."""
    quoted = re.findall(r"``?([^`]+)``?", text)
    lines = [line.strip().removeprefix(".venv/bin/") for line in text.splitlines()]
    begin = re.compile(r"(repro|make|snakemake)( |$)|python3? (-m |tools/)")
    for piece in [*quoted, *filter(begin.match, lines)]:
        for part in re.split(r"&&|\|(?!\|)|;|  +#?|#|, ", piece):
            part = part.strip().removeprefix(".venv/bin/")
            if begin.match(part):
                yield part


def fault(command):
    """What of a command does not exist, or None."""
    try:
        program, *words = shlex.split(re.sub(r"<[^<>]+>|…", ANY, command))
    except ValueError:
        return f"no command: {command}"
    if program.startswith("python"):
        if words[0].startswith("tools/"):
            return None if (ROOT / words[0]).is_file() else f"no file {words[0]}"
        _, module, *words = words
        if importlib.util.find_spec(module) is None:
            return f"no module {module}"
        program = {"repro": "repro", "snakemake": "snakemake"}.get(module)
    check = {"repro": fault_of_repro, "make": fault_of_make, "snakemake": fault_of_snakemake}
    return check[program](words) if program in check else None


def placeholder(word):
    return ANY in word or re.fullmatch(r"[<\[{@].*|[A-Z_]+|\.\.\.|\S+@", word) is not None


def fault_of_repro(words):
    group = typer.main.get_command(cli.app)
    while words and hasattr(group, "commands"):
        name, *words = words
        if placeholder(name) or name.startswith("--"):
            return None
        if name not in group.commands:
            return f"no command `repro {name}`"
        group = group.commands[name]
    options = {name: one for one in group.params for name in one.opts if name[0] == "-"}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    if unknown := given - {*options, "--help"}:
        return f"no option {unknown}"
    if any(one.name == "scale" and one.required for one in group.params):
        if words and not given & {"--scale", "-s"}:
            return "no --scale"
    places = [one.nargs for one in group.params if one.param_type_name == "argument"]
    by_place = positional(words, options)
    if -1 not in places and len(by_place) > len(places):
        return f"`{by_place[len(places)]}` in no place"
    return None


def positional(words, options):
    """The words of a command that are neither an option nor the value of one."""
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            found.append(word)
        elif word in options and not options[word].is_flag and "=" not in word:
            del rest[:1]
    return found


TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def fault_of_make(words):
    for word in words:
        if placeholder(word) or "=" in word:
            continue
        if word not in TARGETS:
            return f"no target `make {word}`"
    return None


def fault_of_snakemake(words):
    slugs = set(library.slugs())
    for word in words:
        scale, _, slug = word.partition("/")
        if scale in SCALES and slug and not placeholder(slug) and slug not in slugs:
            return f"no target {word}"
        if word.startswith("workflow/") and not (ROOT / word).exists():
            return f"no folder {word}"
    return None


# English that only looks like a command: "make the folder writable" in backquotes it is not.
SENTENCES = re.compile(r"make (the|it|its|a|an|one|that|what|this|sure|them|no|room|up|for)\b")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_it_tells_to_run_exists(path):
    faults = [
        f"{command}: {found}"
        for text in texts(path)
        for command in commands(text)
        if not SENTENCES.match(command) and (found := fault(command))
    ]
    assert not faults


@pytest.mark.parametrize(
    "command",
    [
        "repro data get mnist --now",
        "repro get mnist",
        "repro run radd --scales small",
        "repro run small radd",
        "repro publish radd",
        "repro ledger --scale small radd",
        "make huge",
        "python -m repro.nothing list",
        "python tools/nothing.py",
        "snakemake small/nothing",
        "snakemake --profile workflow/profiles/nothing small",
    ],
)
def test_a_command_that_is_not_there_is_found(command):
    assert list(commands(f"text `{command}` text")) == [command]
    assert fault(command)


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [
        name
        for name, command in typer.main.get_command(cli.app).commands.items()
        if not command.hidden and f"repro {name}" not in readme and f"`{name}`" not in readme
    ]
    assert missing in ([], ["schemas"])  # that one is for those who change the cards' classes


def test_make_help_prints_every_target():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert {line.split()[0] for line in shown.splitlines()} == TARGETS
