"""``repro job``: one node of the DAG, as Snakemake calls it.

Arguments stand by position in the order of the folders that a job makes; what a rule wrote once
stays its command, for Snakemake runs a job again whose command changed.
"""

from __future__ import annotations

import typer

from repro.errors import ReproError, nearest
from repro.places import work_root, writable
from repro.suite import judging
from repro.suite import run as runner
from repro.suite.cards import library
from repro.suite.cards.models import ModelRef
from repro.suite.commands.arguments import method_of, options_of
from repro.suite.words import ZOO

node = typer.Typer(help="One node of the DAG (what Snakemake calls).", rich_markup_mode=None)


@node.command("data")
def node_data(name: str, retrain: bool = False) -> None:
    writable(work_root() / "data", "make the folder writable or set REPRO_WORK to another one")
    runner.prepare_data(name, work_root())


@node.command("official")
def node_official(name: str, retrain: bool = False) -> None:
    writable(work_root() / "data", "make the folder writable or set REPRO_WORK to another one")
    runner.prepare_official(name, work_root())


def _owner(name: str) -> str:
    if name != ZOO:
        method_of(name)
    return name


@node.command("model")
def node_model(scale: str, owner: str, model: str, seed: int, retrain: bool = False) -> None:
    options = options_of(scale, retrain)
    refs = options.plan.models_of(_owner(owner))
    ref = ModelRef(owner, model, seed)
    if ref not in refs:
        names = sorted({f"{ref.name}/{ref.seed}" for ref in refs}) or ["none"]
        raise ReproError(
            f"{owner} has no model `{model}` with seed {seed} at scale {scale}"
            f"{nearest(f'{model}/{seed}', names)}; it has {', '.join(names)}"
        )
    runner.run_model(library.owner(owner), ref, options)


@node.command("arm")
def node_arm(scale: str, method: str, arm: str, retrain: bool = False) -> None:
    runner.run_arm(method_of(method), arm, options_of(scale, retrain))


@node.command("models")
def node_models(scale: str, owner: str, retrain: bool = False) -> None:
    runner.run_models(_owner(owner), options_of(scale, retrain))


@node.command("arms")
def node_arms(scale: str, method: str, retrain: bool = False) -> None:
    runner.run_arms(method_of(method), options_of(scale, retrain))


@node.command("verdict")
def node_verdict(scale: str, method: str, retrain: bool = False) -> None:
    judging.judge(method_of(method), options_of(scale, retrain))


@node.command("report")
def node_report(scale: str, method: str, retrain: bool = False) -> None:
    from repro.suite import reporting

    reporting.report_method(method_of(method), options_of(scale, retrain))


@node.command("page")
def node_page(scale: str, retrain: bool = False) -> None:
    from repro.suite import reporting

    reporting.report_scale(options_of(scale, retrain), require_all=True)
