"""``repro needs``: what the jobs of a scale ask of a machine or a cluster."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from repro.display import Output
from repro.suite import needs as declared
from repro.suite.cards.method import Method
from repro.suite.commands.arguments import PapersArgument, ScaleOption, method_of
from repro.suite.plan import Plan, methods_at, scale_config


def needs(scale: ScaleOption = "small", papers: PapersArgument = None) -> None:
    """What each job of a scale asks for: GPU, cores, minutes and memory at its first attempt.

    For example: repro needs radd --scale gpu
    """
    scale_config(scale)  # names a scale that there is not
    table = Table(title=f"Jobs of scale {scale}")
    table.add_column("job", overflow="fold")
    for column in ("GPU", "cores", "minutes", "MB", "by"):
        table.add_column(column, justify="left" if column == "by" else "right")
    plan, count, on_gpu, hours = Plan(scale), 0, 0, 0.0
    for method in [method_of(slug) for slug in papers] if papers else methods_at(scale):
        for name, job in _jobs(plan, plan.planned(method)):
            cores = "all of a node" if job.machine else str(job.threads)
            by = f"scale {scale}" if job.seconds is None else "records"
            gpu = "1" if job.gpu else ""
            table.add_row(name, gpu, cores, str(job.minutes()), str(job.mem_mb()), by)
            count, on_gpu = count + 1, on_gpu + job.gpu
            hours += job.minutes() / 60
        table.add_section()
    out = Output()
    out.print(table)
    out.print(f"{count} jobs, {on_gpu} with a GPU; their time limits come to {hours:.0f} hours")


def _jobs(plan: Plan, method: Method) -> Iterator[tuple[str, declared.Needs]]:
    """Models, then arms."""
    refs = plan.models_of_arms(method, method.arms(plan.scale))
    for ref in method.in_order(plan.scale, refs):
        yield f"model {ref.owner}/{ref.name}/{ref.seed}", declared.of_model(plan, ref)
    for name in method.arms(plan.scale):
        yield f"run {method.slug}/{name}", declared.of_arm(plan, method, name)
