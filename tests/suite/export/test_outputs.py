"""What commands print for other programs: one object that its schema describes, and no torch."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

import repro
from repro import display
from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import cli
from repro.suite.cards import library
from repro.suite.export import citation, claims, codemeta, documentation, models
from repro.suite.results import check as checking


def call(monkeypatch, capsys, *words):
    """Status and standard output of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["repro", *words])
    capsys.readouterr()
    status = cli.command()
    return status, capsys.readouterr().out


def parsed(command, text):
    """The object that a command printed, held against its committed schema."""
    assert text.isascii() and "\x1b" not in text and text.endswith("}\n")
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the output"))
    path = ROOT / "workflow" / "schemas" / f"repro-{command}.schema.yaml"
    jsonschema.validate(found, yaml.safe_load(path.read_text()))
    assert found["format"] == f"repro-{command}" and found["version"] == 1
    return found


def test_list(monkeypatch, capsys):
    status, text = call(monkeypatch, capsys, "list", "--json")
    papers = parsed("list", text)["papers"]
    assert status == 0 and [paper["slug"] for paper in papers] == library.slugs()
    radd = next(paper for paper in papers if paper["slug"] == "radd")
    assert radd["claims"] == len(library.load("radd").paper.claims)


def test_show(monkeypatch, capsys):
    status, text = call(monkeypatch, capsys, "show", "radd", "--json")
    found, method = parsed("show", text), library.load("radd")
    assert status == 0 and found["title"] == method.paper.title
    assert [c["id"] for c in found["claims"]] == [c.id for c in method.paper.claims]
    assert {c["id"] for c in found["checks"] if "small" in c["scales"]} == {*method.checks("small")}
    assert {d["name"] for d in found["data"]} == {
        name for arm in method.experiment.arms.values() for name in arm.data
    } | {name for model in method.experiment.models.values() for name in model.data}


def test_doctor(monkeypatch, capsys):
    status, text = call(monkeypatch, capsys, "doctor", "--json")
    found = parsed("doctor", text)
    assert status == 0 and found["suite"] == repro.__version__ and found["torch"]
    monkeypatch.setenv("COLUMNS", "300")
    _, told = call(monkeypatch, capsys, "doctor")
    with pytest.raises(ValueError):
        json.loads(told)
    assert all(one["name"] in told for key in ("clients", "data", "official") for one in found[key])


@pytest.mark.parametrize(("differences", "status"), [([], 0), (["small: stale run: ü"], 1)])
def test_check(differences, status, monkeypatch, capsys):
    monkeypatch.setattr(checking, "check", lambda results: differences)
    ended, text = call(monkeypatch, capsys, "check", "--json")
    found = parsed("check", text)
    assert ended == status and found["differences"] == differences and found["ok"] == (not status)


def test_cite(monkeypatch, capsys):
    status, text = call(monkeypatch, capsys, "cite", "radd", "--json")
    found = parsed("cite", text)
    assert status == 0 and [paper["slug"] for paper in found["papers"]] == ["radd"]
    _, entries = call(monkeypatch, capsys, "cite", "radd")
    assert entries == f"{found['suite']['bibtex']}\n\n{found['papers'][0]['bibtex']}\n"


def test_the_version(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "--version") == (0, f"repro {repro.__version__}\n")


@pytest.mark.parametrize(
    "words",
    [("--version",), ("list",), ("list", "--json"), ("show", "radd", "--json"), ("cite", "radd")],
)
def test_reading_cards_imports_no_torch(words):
    code = (
        "import sys; sys.argv = ['repro', *sys.argv[1:]]; from repro.suite import cli; "
        "assert cli.command() == 0; assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# Arguments --------------------------------------------------------------------------------------


def test_a_scale_in_the_place_of_a_paper_is_explained():
    with pytest.raises(ReproError, match="no method `small`; give a scale as `--scale`"):
        cli.show("small")


def test_every_command_takes_papers_by_position_and_scales_by_name():
    import typer

    for name, command in typer.main.get_command(cli.app).commands.items():
        if command.hidden:
            continue
        for parameter in command.params:
            by_place = parameter.param_type_name == "argument"
            of_papers, of_files = (
                ("paper", "papers", "names", "slug"),
                ("images", "archive", "source"),
            )
            assert by_place == (parameter.name in of_papers + of_files), name
            if not by_place and parameter.name == "scale":
                assert parameter.opts == ["--scale", "-s"], name


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cla", {"claims"}),
        ("show ra", {"radd"}),
        ("publish radd ra", set()),
        ("run radd --scale sm", {"smoke", "small"}),
        ("run diffusion-couple --scale p", set()),
        ("run radd --arm ex", {"exact"}),
        ("carry radd --scale small --arm ex", {"exact"}),
        ("run radd --scale small --seed 0", {"0"}),
        ("run radd --arm static-w4a", set()),
        ("data fashion", {"fashion-mnist"}),
        ("claims --kind th", {"theorem"}),
        ("claims --verdict unt", {"untested"}),
        ("cite comparisons/st", {"comparisons/steps"}),
        ("cite radd/theorem-1", {"radd/theorem-1"}),
    ],
)
def test_a_shell_completes(words, offered, monkeypatch, capsys):
    monkeypatch.setenv("_REPRO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"repro {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit) as end:
        cli.command()
    assert not end.value.code
    found = set(capsys.readouterr().out.split())
    assert {one for one in found if not one.startswith("theorem-1-")} == offered


def test_a_mistake_in_a_card_offers_nothing(monkeypatch, capsys):
    def fails(*_):
        raise ReproError("a mistake")

    monkeypatch.setattr(library, "slugs", fails)
    monkeypatch.setenv("_REPRO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "repro show r")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        cli.command()
    shown = capsys.readouterr()
    assert shown.out.strip() == "" and shown.err == ""


# Citations --------------------------------------------------------------------------------------


def test_the_versions_of_the_suite_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = citation.suite()
    assert own.version == project["version"] == repro.__version__
    assert own.license == project["license"]


def test_codemeta_agrees_with_citation_and_project():
    text = (ROOT / codemeta.NAME).read_text()
    assert text == codemeta.text(), "run `repro schemas`"
    found, own = json.loads(text), citation.suite()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert found["@context"] == "https://w3id.org/codemeta/3.0"
    assert (found["name"], found["version"]) == (own.title, project["version"])
    assert [author["name"] for author in found["author"]] == [str(a) for a in own.authors]
    assert found["softwareRequirements"] == project["dependencies"]
    assert {Path(one["contentUrl"]).name for one in found["supportingData"]["distribution"]} == {
        *claims.FILES
    }


def test_the_entry_of_the_suite_names_people_and_organisations(tmp_path, monkeypatch):
    (tmp_path / "CITATION.cff").write_text(
        "cff-version: 1.2.0\nmessage: m\ntitle: A & B\nversion: 2.0.1\nlicense: MIT\n"
        "date-released: '2026-03-04'\ndoi: 10.1/x\nauthors:\n"
        "- {given-names: Ada, family-names: Example}\n- {name: The Makers}\n"
    )
    monkeypatch.setattr(citation, "CFF", tmp_path / "CITATION.cff")
    assert citation.suite().bibtex() == (
        "@software{repro,\n  title = {{A \\& B}},\n  author = {Ada Example and {The Makers}},\n"
        "  version = {2.0.1},\n  year = {2026},\n  doi = {10.1/x},\n  note = {Licence: MIT}\n}"
    )
    assert [codemeta._author(author)["@type"] for author in citation.suite().authors] == [
        "Person",
        "Organization",
    ]


def test_papers_of_claims_and_comparisons():
    steps = citation.of("comparisons/steps")
    assert len(steps) > 1 and {*steps} <= {*library.slugs()}
    assert citation.of("radd/theorem-1") == ["radd"]
    assert [paper.slug for paper in citation.cite(["radd", "radd/theorem-1"]).papers] == ["radd"]
    assert len(citation.cite().papers) == len(library.slugs())


def test_a_claim_cites_the_papers_whose_models_it_measures():
    method = library.load("quest")
    foreign = {
        (claim, model.partition("/")[0])
        for scale in method.experiment.scales
        for check in method.checks(scale).values()
        for claim in [check.claim]
        for reference in check.parsed.references()
        for model in method.experiment.arms[reference.arm].models
        if "/" in model and not model.startswith("zoo/")
    }
    assert foreign
    for claim, owner in foreign:
        assert owner in citation.of(f"quest/{claim}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rad", r"nothing to cite as `rad` \(did you mean `radd`"),
        ("radd/theorm-1", r"radd has no claim `theorm-1` \(did you mean `theorem-1`"),
        ("comparisons/step", r"no comparison `step` \(did you mean `steps`"),
        ("comparisons/", "nothing to cite as"),
        ("", "nothing to cite as"),
    ],
)
def test_what_cannot_be_cited(name, said):
    with pytest.raises(ReproError, match=said):
        citation.cite([name])


# Documentation ----------------------------------------------------------------------------------


def test_the_page_has_every_key():
    text = documentation.PAGE.read_text("utf-8")
    assert text == documentation.page(), "run `repro schemas`"
    for name in [*claims.columns(), *models.PaperShown.model_fields]:
        assert f"| `{name}` " in text


def test_every_key_says_what_it_is():
    for output in models.OUTPUTS.values():
        schema = output.model_json_schema()
        for part in [schema, *schema.get("$defs", {}).values()]:
            assert all(of.get("description") for of in part["properties"].values()), part["title"]
            assert part["required"] == list(part["properties"]), part["title"]


def test_a_page_without_its_markers_is_refused(tmp_path):
    (tmp_path / "page.md").write_text(documentation.BEGIN)
    with pytest.raises(ReproError, match="lacks the markers"):
        documentation.page(tmp_path / "page.md")


def test_output_for_programs_is_not_wrapped(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(cli, "out", display.Output())
    _, text = call(monkeypatch, capsys, "list", "--json")
    assert max(map(len, text.splitlines())) > 40
