"""The command line: ``python -m repro`` (or ``.venv/bin/repro``).

A command ends in one line on standard error where it fails; `repro.suite.ending` has the statuses.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from repro import __version__, store
from repro.display import Output
from repro.errors import ReproError
from repro.places import ROOT, work_root, writable
from repro.suite import completion, ending, judging, looks, records
from repro.suite import run as runner
from repro.suite.cards import library, schemas
from repro.suite.cards.method import Method
from repro.suite.commands.arguments import (
    JsonOption,
    PaperArgument,
    PapersArgument,
    ScaleOption,
    say,
)
from repro.suite.commands.arguments import method_of as _paper
from repro.suite.commands.arguments import options_of as _options
from repro.suite.commands.cite import cite
from repro.suite.commands.claims import claims
from repro.suite.commands.doctor import doctor
from repro.suite.commands.exchange import bring, export, machines
from repro.suite.commands.fetch import fetch
from repro.suite.commands.measure import measure
from repro.suite.commands.nodes import node
from repro.suite.export import models
from repro.suite.export import papers as facts
from repro.suite.plan import methods_at, scale_config
from repro.suite.words import VERDICTS

if TYPE_CHECKING:
    from repro.suite.report import inputs

# Drawing and tabulating import seconds of libraries: the commands that do so import them.
app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is text too
    help="Reruns the claims of diffusion-model papers and says which of them hold.",
)
app.add_typer(node, name="job", hidden=True)
out = Output()

app.command()(claims)
app.command()(cite)
app.command()(doctor)
app.command()(fetch)
app.command()(measure)
app.command()(export)
app.command("import")(bring)
app.command()(machines)


def _version(asked: bool) -> None:
    if asked:
        print(f"repro {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="print it", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Reruns the claims of diffusion-model papers and says which of them hold."""


def main() -> None:
    """Run the command line and end the process with its status."""
    sys.exit(ending.status_of(command))


def command() -> int:
    """The status of the command that the arguments of the process name."""
    group = typer.main.get_command(app)
    group._main_shell_completion({}, "repro")  # ends here where a shell asks
    try:
        with group.make_context("repro", sys.argv[1:] or ["--help"]) as context:
            status = group.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return status if isinstance(status, int) else 0


@app.command("list")
def list_methods(as_json: JsonOption = False) -> None:
    """Every paper in scope with its claims and presets."""
    if as_json:
        say(facts.listed())
        return
    table = Table("method", "paper", "field", "claims", "checks", "arms", "scales")
    for slug in library.slugs():
        method = library.load(slug)
        experiment = method.experiment
        table.add_row(
            slug,
            f"{method.paper.short} ({method.paper.venue} {method.paper.year})",
            method.paper.field,
            str(len(method.paper.claims)),
            str(len(list(method.expected.each()))),
            str(len(experiment.arms)),
            " ".join(experiment.scales),
        )
    out.print(table)


@app.command()
def show(paper: PaperArgument, as_json: JsonOption = False) -> None:
    """A paper's facts, claims, experiment, and the data that it uses."""
    method = _paper(paper)
    if as_json:
        say(facts.shown(method))
        return
    card = method.paper
    out.print(Text(card.short, "bold") + f"  {card.citation()}")
    if card.repository:
        out.print(f"code: {card.repository.url} at {card.repository.commit}")
    out.print(f"licence: {card.licence.model_dump(exclude_none=True)}")
    out.print(f"\n{card.summary}\n")
    for table in (_claims_of_paper(method), _arms(method), _checks(method), _datasets(method)):
        out.print(table)
    out.print(f"official weights and data: `repro fetch {paper} --dry-run` lists them")


def _claims_of_paper(method: Method) -> Table:
    table = Table("claim", "statement", "paper", "where", "evidence", title="Claims")
    for claim in method.paper.claims:
        value = "" if claim.method is None else f"{claim.method} {claim.unit}"
        evidence = "unverified" if claim.evidence == "unsure" else claim.evidence
        table.add_row(claim.id, claim.statement, value, claim.where, evidence)
    return table


def _arms(method: Method) -> Table:
    table = Table("arm", "what", "baseline", "scales", title="Arms")
    for name, arm in method.experiment.arms.items():
        scales = [s for s in method.experiment.scales if name in method.arms(s)]
        table.add_row(name, arm.title, "yes" if arm.baseline else "", " ".join(scales))
    return table


def _checks(method: Method) -> Table:
    table = Table("claim", "tier", "expected", "why", title="Checks")
    for claim, check in method.expected.each():
        table.add_row(claim, check.tier, check.expect, check.why)
    return table


def _datasets(method: Method) -> Table:
    from repro.data import catalogue

    table = Table("dataset", "licence", "citation", "here", title="Data")
    for name in facts.datasets(method):
        info, here = catalogue.info(name), "yes" if catalogue.is_cached(name) else "no"
        table.add_row(name, info.licence, info.citation, here)
    return table


@app.command()
def run(
    paper: PaperArgument,
    scale: ScaleOption = "smoke",
    arm: Annotated[
        list[str] | None,
        typer.Option(help="only this arm (repeatable)", autocompletion=completion.arms),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="only this seed (repeatable)", autocompletion=completion.seeds),
    ] = None,
    retrain: Annotated[bool, typer.Option(help="train the shipped base models anew")] = False,
    force: Annotated[bool, typer.Option(help="run even what is up to date")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, against the scale")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="a measured profile (CSV), where the method takes one")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="the profile's YAML")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="folder for the results")] = None,
) -> None:
    """Run a method's jobs in dependency order in this process, without Snakemake."""
    loaded = _paper(paper)
    if profile is not None:
        _run_profile(loaded, profile, config, output)
        return
    for name, given in {"--config": config, "--out": output}.items():
        if given is not None:
            raise ReproError(f"{name} goes with --profile; give the CSV of a profile, or leave it")
    options = _options(scale, retrain, force=force, device=device)
    runner.run_method(loaded, options, arm, seed)
    if arm is None and seed is None:
        judged = judging.judge(loaded, options)
        while told := looks.extend(loaded, scale, options.work, judged):
            _tell(told)
            runner.run_method(loaded, options)
            judged = judging.judge(loaded, options)
        for check in judged["checks"]:
            line = f"{check['verdict']}: {check['id']}, {check['observed']}"
            out.print(line)
        from repro.suite import reporting

        reporting.report_method(loaded, options, judged)
        out.print(f"verdicts: {options.base / 'verdicts' / (paper + '.json')}")
        out.print(f"tables:   {options.base / 'report' / 'tables' / paper}")
        out.print(f"figures:  {options.base / 'report' / 'figures' / paper}")


def _tell(lines: list[str]) -> None:
    for line in lines:
        out.print(line)


@app.command()
def seeds(scale: ScaleOption, papers: PapersArgument = None) -> None:
    """Give open checks further seeds, as the scale allows; 1 where nothing is asked for.

    Judged are the runs here and, where not all are here, the committed ones.
    """
    from repro.suite.results import publish as publishing

    options = _options(scale)
    chosen = [_paper(slug) for slug in papers] if papers else methods_at(scale)
    told = []
    for method in chosen:
        judged = publishing.verdicts(method, options, ROOT / "results")
        told += looks.extend(method, scale, options.work, judged)
    _tell(told)
    if not told:
        raise typer.Exit(1)
    out.print(f"run `make {scale}` or `repro run` to run them")


def _run_profile(method: Method, profile: Path, config: Path | None, output: Path | None) -> None:
    if method.experiment.profile is None:
        takers = [m.slug for m in library.load_all() if m.experiment.profile]
        raise ReproError(f"{method.slug} takes no --profile; {', '.join(takers)} does")
    if not os.path.isfile(profile):
        raise ReproError(f"no file `{profile}`; name the CSV of the profile")
    target = output or work_root() / "profiles" / profile.stem
    writable(target, "give another folder with --out")
    runner.function(method.experiment.profile)(profile, config, target)


@app.command()
def report(
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale",
            "-s",
            help="default: all that are committed",
            autocompletion=completion.scales,
        ),
    ] = None,
    work: Annotated[bool, typer.Option("--work", help="of the runs here, not committed")] = False,
) -> None:
    """Make the site of the committed results, of all scales or of one, or of the runs here."""
    from repro.suite import reporting

    if scale is None:
        if work:
            raise ReproError("--work needs the scale of the runs, as in `--scale small --work`")
        print_page(reporting.report_all(ROOT / "results", work_root()))
        return
    options = _options(scale)
    if work or not records.committed(ROOT / "results" / scale):
        path = reporting.report_scale(options, require_all=False)
    else:
        path = reporting.report_committed(options, ROOT / "results")
    print_page(path)


def print_page(path: Path) -> None:
    out.print(f"page: {path.resolve().as_uri()}")


@app.command()
def ledger(
    scale: ScaleOption,
    claims: Annotated[bool, typer.Option("--claims", help="every claim with its reason")] = False,
) -> None:
    """What a scale came to, a line a method: of the runs here, or else of what is committed."""
    from repro.suite import reporting
    from repro.suite.report import inputs

    scale_config(scale)  # names a scale that there is not
    options = runner.Options(scale)
    source: inputs.Source = inputs.Work(scale, options.base)
    page = reporting.index_of_work(options)
    if not source.slugs():
        source = inputs.Committed(scale, ROOT / "results" / scale)
        page = reporting.index_of_committed(options)
        if not page.is_file() and reporting.index_of_all(work_root()).is_file():
            page = reporting.index_of_all(work_root())
    reports = inputs.load_all(source)
    if not reports:
        raise ReproError(f"no verdicts at scale {scale}; run `make {scale}` first")
    out.print(_claims(scale, reports) if claims else _lines(scale, reports))
    if scale == "smoke":
        out.print("Smoke scale exercises the code; it is not evidence.")
    if page.is_file():
        print_page(page)
    else:
        out.print(f"page: none yet; `repro report --scale {scale}` makes it")


def _lines(scale: str, reports: list[inputs.Report]) -> Table:
    from repro.suite.report import summary
    from repro.suite.report.formatting import seconds

    verdicts = [] if scale == "smoke" else list(VERDICTS)
    table = Table("method", title=f"Scale {scale}")
    table.add_column("exact and structural checks", justify="right")
    table.add_column("failed", overflow="fold")
    for column in (*verdicts, "time"):
        table.add_column(column, justify="right")
    judged = {report.paper.slug for report in reports}
    for line in summary.lines(reports):
        if line.name == "all":
            for method in methods_at(scale):
                if method.slug not in judged:
                    table.add_row(method.slug, Text("not judged", "red"))
            table.add_section()
        table.add_row(
            line.name,
            f"{line.passed} of {line.certain}" if line.certain else "",
            Text(str(len(line.failed)), "red")
            if line.name == "all" and line.failed
            else ", ".join(line.failed),
            *(str(line.counts.get(verdict, "")) for verdict in verdicts),
            seconds(line.seconds),
        )
    return table


def _claims(scale: str, reports: list[inputs.Report]) -> Table:
    colours = {"reproduced": "green", "contradicted": "red", "inconclusive": "yellow"}
    table = Table(title=f"Claims, scale {scale}")
    for column in ("claim", "verdict", "tier", "why"):
        table.add_column(column, overflow="fold")
    for report in reports:
        table.add_section()
        table.add_row(Text(report.paper.slug, "bold"))
        for claim in report.claims.values():
            verdict = Text(claim["verdict"], colours.get(claim["verdict"], "dim"))
            table.add_row(claim["id"], verdict, claim["tier"], claim["reason"])
    return table


@app.command()
def check(
    results: Annotated[Path, typer.Option(help="committed results")] = ROOT / "results",
    as_json: JsonOption = False,
) -> None:
    """Hold the committed results against cards and code; derive again all that follows."""
    from repro.suite.results import check as checking

    differences = checking.check(results)
    if as_json:
        say(
            models.Checked(
                format="repro-check",
                version=1,
                results=str(results),
                ok=not differences,
                differences=differences,
            )
        )
    else:
        for line in differences:
            print(line, file=sys.stderr)
    if differences:
        raise typer.Exit(1)
    if not as_json:
        print(f"{results}: every file follows from its runs, and every run from the code of today")


@app.command()
def audit(
    papers: PapersArgument = None,
    quick: Annotated[bool, typer.Option("--quick", help="a few cases of each kind")] = False,
    scale: ScaleOption = "small",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="faults at once")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep the table (of a whole audit alone)")
    ] = False,
) -> None:
    """Put the judge on trial: records tampered with, faults planted in a copy of the tree."""
    from repro.suite.audit import planting, table

    scale_config(scale)
    methods = [_paper(slug) for slug in papers] if papers else library.load_all()
    if keep and (papers or quick):
        raise ReproError("--keep is for the whole audit; leave out papers and --quick")
    found = [method for method in methods if scale in method.experiment.scales]
    planted = planting.faults(papers or (), quick)
    tampered = table.of_records(found, scale, quick, table.results())
    outcomes = []
    for one in planting.outcomes(planted, jobs, "missed" if quick else "all"):
        outcomes.append(one)
        told = one.judge or one.tests or "nobody"
        out.print(Text(f"{len(outcomes)} of {len(planted)}: {one.fault.id}, noticed by {told}"))
    content = {"records": tampered, "faults": table.of_faults(outcomes)}
    out.print(Text(table.markdown(content)))
    if keep:
        table.write(content)


@app.command()
def publish(scale: ScaleOption, papers: PapersArgument = None) -> None:
    """Put methods of a scale into results/<scale>/, run by run; no other method is touched."""
    from repro.suite.results import publish as publishing

    for name in papers or []:
        _paper(name)
    for line in publishing.publish(runner.Options(scale), ROOT / "results", papers or []):
        out.print(line)
    out.print(f"published to {ROOT / 'results' / scale}; look at it, then commit it")


@app.command()
def carry(
    paper: PaperArgument,
    scale: ScaleOption,
    arm: Annotated[
        str,
        typer.Option(
            help="a cheap arm to rerun and compare bit for bit", autocompletion=completion.arms
        ),
    ],
    reason: Annotated[str, typer.Option(help="why a change of the code left the numbers alone")],
    seed: Annotated[int | None, typer.Option(help="default: the arm's first")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--except",
            help="leave this arm stale (repeatable)",
            autocompletion=completion.arms,
        ),
    ] = None,
) -> None:
    """Declare that committed results are those of today's code, after rerunning one arm of them."""
    from repro.suite.results import carry as carrying

    count = carrying.carry(_paper(paper), scale, ROOT / "results", arm, reason, seed, without or [])
    out.print(f"{paper}: {count} runs and models declared; look at carried.csv, then commit it")


@app.command()
def unpublish(paper: PaperArgument, scale: ScaleOption) -> None:
    """Remove a method's results from results/<scale>/."""
    from repro.suite.results import publish as publishing

    scale_config(scale)
    for line in publishing.unpublish(scale, paper, ROOT / "results"):
        out.print(line)
    out.print(f"removed {ROOT / 'results' / scale / paper}")


@app.command()
def data(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="default: list them", autocompletion=completion.datasets),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="every dataset")] = False,
    verify: Annotated[bool, typer.Option(help="all that are here")] = False,
) -> None:
    """Fetch datasets by name and verify them, or list what there is and what is here."""
    from repro.data import catalogue

    chosen = catalogue.names() if all_ else names or []
    for name in chosen:
        catalogue.info(name)  # names one that there is not, before any is fetched
    if not chosen and not verify:
        out.print(_table_of_datasets(catalogue.names()))
        return
    for name in chosen or filter(catalogue.is_cached, catalogue.names()):
        facts = catalogue.prepare(name)  # reads what is here, and makes anew what is damaged
        out.print(f"{name}: {facts['source']}, content {str(facts['content_sha256'])[:12]}")


def _table_of_datasets(names: list[str]) -> Table:
    from repro.data import catalogue

    table = Table(title="Data")
    table.add_column("dataset", no_wrap=True)
    for heading in ("title", "licence", "size", "here"):
        table.add_column(heading)
    for name in names:
        info, here = catalogue.info(name), "yes" if catalogue.is_cached(name) else "no"
        table.add_row(name, info.title, info.licence, f"{info.megabytes:g} MB", here)
    return table


@app.command()
def new(slug: str) -> None:
    """Make a folder for one more paper that runs and passes the tests as it is."""
    from repro.suite import scaffold

    for path in scaffold.create(slug, ROOT):
        out.print(f"made {path.relative_to(ROOT)}")
    out.print(scaffold.next_steps(slug))


@app.command("schemas")
def write_schemas() -> None:
    """Write what follows from classes and metadata: JSON schemas, docs/json.md, codemeta.json."""
    from repro.suite.export import codemeta, documentation

    texts = {
        ROOT / "workflow" / "schemas" / f"{kind}.schema.yaml": schemas.schema(kind)
        for kind in schemas.SCHEMAS
    }
    texts[documentation.PAGE] = documentation.page()
    texts[ROOT / codemeta.NAME] = codemeta.text()
    for path, text in texts.items():
        store.write_text(path, text)
        out.print(f"wrote {path.relative_to(ROOT)}")
