import subprocess
import sys

import pytest
import yaml

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import fingerprint
from repro.suite.cards import library, schemas
from repro.suite.cards.models import ModelRef


def edit(root, file, change):
    path = root / "methods" / "toy" / file
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    library.forget()


def first(content):
    """The first check of the toy."""
    return content["claims"]["smaller"]["checks"][0]


def test_parameters_are_resolved_in_order(toy):
    method = library.load("toy")
    assert method.arm_params("smoke", "ours") == {"steps": [4, 8], "gain": 1.0}
    assert method.arm_params("small", "base") == {"steps": [4], "gain": 3.0}
    assert method.model_params("small", "toy", "net") == {"width": 3, "lr": 1e-3}


def test_arms_models_and_seeds(toy):
    method = library.load("toy")
    assert list(method.arms("small")) == ["ours", "base"]
    assert method.seeds("smoke", "ours") == [0, 1, 2] and method.seeds("smoke", "exact") == [0]
    assert [ref.seed for ref in method.models("small")] == [0, 1, 2, 3]
    assert list(method.checks("small")) == ["smaller"]


def test_a_scale_replaces_models_and_data(toy):
    edit(
        toy,
        "experiment.yaml",
        lambda c: (
            c["arms"]["ours"].update(data=["fashion-mnist"]),
            c["scales"]["smoke"].update(replace={"fashion-mnist": "digits", "net": None}),
        ),
    )
    method = library.load("toy")
    assert method.arm("smoke", "ours").data == ["digits"]
    assert method.arm_models("smoke", "ours", 0) == []
    assert method.arm("small", "ours").data == ["fashion-mnist"]
    assert [ref.name for ref in method.arm_models("small", "ours", 0)] == ["net"]


def with_student(content, per_seed=True):
    """A model that is trained from another one, and an arm that loads only that."""
    content["models"]["student"] = {
        "train": "methods.toy.arms:distil",
        "models": ["net"],
        "per_seed": per_seed,
    }
    content["arms"]["ours"]["models"] = ["student"]


def prints(method, model):
    run = fingerprint.of_run(method, "smoke", "ours", 1)
    return fingerprint.of_model(method, "smoke", model), run


def test_models_are_trained_after_those_they_are_trained_from(toy):
    edit(toy, "experiment.yaml", with_student)
    method = library.load("toy")
    student = ModelRef("toy", "student", 1)
    assert method.model_models("smoke", student) == [ModelRef("toy", "net", 1)]
    assert method.in_order("smoke", [student]) == [ModelRef("toy", "net", 1), student]
    before = (
        fingerprint.of_model(method, "smoke", student),
        fingerprint.of_run(method, "smoke", "ours", 1),
    )
    edit(toy, "experiment.yaml", lambda c: c["models"]["net"]["params"].update(lr=2e-3))
    method = library.load("toy")
    after = (
        fingerprint.of_model(method, "smoke", student),
        fingerprint.of_run(method, "smoke", "ours", 1),
    )
    assert before[0] != after[0] and before[1] != after[1]


def test_models_of_another_method(toy):
    """An arm may load what another method trains: at that method's preset, under its name."""
    folder = toy / "methods" / "other"
    folder.mkdir()
    for file in ("paper.yaml", "experiment.yaml", "checks.yaml"):
        text = (toy / "methods" / "toy" / file).read_text().replace("toy", "other")
        (folder / file).write_text(text.replace("models: [net]", "models: [toy/net]"))
    library.forget()
    other, own = library.load("other"), library.load("toy")
    assert other.arm_models("small", "ours", 2) == [ModelRef("toy", "net", 2)]
    ref = ModelRef("toy", "net", 2)
    assert fingerprint.of_model(other, "small", ref) == fingerprint.of_model(own, "small", ref)
    edit(toy, "experiment.yaml", lambda c: c["models"]["net"].update(models=["other/net"]))
    other = folder / "experiment.yaml"
    other.write_text(other.read_text().replace("per_seed", "models: [toy/net], per_seed"))
    with pytest.raises(ReproError, match="needs itself: net -> other/net -> net"):
        library.load("toy")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "paper.yaml",
            lambda c: c.update(titel="x"),
            r"unknown key `titel` \(did you mean `title`",
        ),
        ("paper.yaml", lambda c: c.pop("year"), "paper.yaml: year: is missing"),
        ("paper.yaml", lambda c: c.update(year="soon"), "year.*valid integer.*'soon'"),
        ("paper.yaml", lambda c: c["claims"][0].update(evidence="hearsay"), "claims.0.evidence"),
        ("paper.yaml", lambda c: c["claims"][0].update(wher="x"), r"claims.0.wher.*`where`"),
        ("paper.yaml", lambda c: c["tables"][0].update(rows=[[1]]), "has 1 cells, expected 2"),
        ("paper.yaml", lambda c: c["claims"].append(c["claims"][0]), "`smaller` stands twice"),
        (
            "checks.yaml",
            lambda c: c["claims"].update(smalle=c["claims"].pop("smaller")),
            "claims: unknown claim `smalle` .did you mean `smaller`",
        ),
        (
            "checks.yaml",
            lambda c: c["claims"].update(fast={"findings": [{"text": "t"}]}),
            "claims: unknown claim `fast`",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="loss[our] < 1"),
            "claims.smaller.checks.0.expect: unknown arm `our` .did you mean `ours`",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="los[ours] < 1"),
            "unknown measurement `los`",
        ),
        ("checks.yaml", lambda c: first(c).update(expect="loss[ours]"), "comparison"),
        (
            "checks.yaml",
            lambda c: c["claims"]["identity"]["checks"][0].update(id="smaller"),
            "claims.identity.checks.0.id: `smaller` stands twice",
        ),
        ("checks.yaml", lambda c: first(c).pop("id"), "claims.smaller.checks.0.id: is missing"),
        (
            "checks.yaml",
            lambda c: first(c).update(teir="exact"),
            "unknown key `teir` .did you mean `tier`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["smoke"]["params"].update(step=1),
            "scales.smoke.params: unknown parameter `step` .did you mean `steps`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"]["arms"]["base"].update(gian=1),
            "unknown parameter `gian`",
        ),
        (
            "experiment.yaml",
            lambda c: c["arms"]["ours"].update(models=["ne"]),
            "unknown model `ne`",
        ),
        ("experiment.yaml", lambda c: c["arms"]["ours"].update(data=["mnits"]), "unknown dataset"),
        ("experiment.yaml", lambda c: c["arms"]["ours"].update(run="nonsense"), "arms.ours.run"),
        ("experiment.yaml", lambda c: c["scales"].update(tiny={}), "scales.tiny"),
        (
            "experiment.yaml",
            lambda c: c["scales"]["smoke"].update(replace={"digts": "digits"}),
            "scales.smoke.replace: unknown dataset or model `digts`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"].update(without={"arms": ["exat"]}),
            "scales.small.without.arms: unknown arm `exat` .did you mean `exact`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"].update(without={"arms": ["official-*"]}),
            r"scales.small.without.arms: unknown arm `official-\*`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"].update(without={"figures": ["quality"]}),
            "scales.small.without.figures: unknown figure `quality`",
        ),
        ("experiment.yaml", lambda c: c["arms"]["exact"].update(models=["net"]), "deterministic"),
        (
            "experiment.yaml",
            lambda c: with_student(c, per_seed=False),
            "models.student: is trained once from `net`, which is trained per seed",
        ),
        (
            "experiment.yaml",
            lambda c: (with_student(c), c["models"]["net"].update(models=["student"])),
            "models.net.models: needs itself: net -> student -> net",
        ),
        (
            "experiment.yaml",
            lambda c: c["models"]["net"].update(models=["nte"]),
            "models.net.models: unknown model `nte`",
        ),
    ],
)
def test_mistakes_are_named(toy, file, change, message):
    edit(toy, file, change)
    with pytest.raises(ReproError, match=message) as caught:
        library.load("toy")
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)


def test_missing_parameter_names_its_place(toy):
    edit(toy, "experiment.yaml", lambda c: c["scales"]["small"].pop("params"))
    with pytest.raises(ReproError, match=r"toy/net: parameter `width` .* scales.small.params"):
        library.load("toy").model_params("small", "toy", "net")


def test_yaml_errors_are_one_line(toy):
    path = toy / "methods" / "toy" / "paper.yaml"
    path.write_text("slug: [toy\n")
    library.forget()
    with pytest.raises(ReproError, match="paper.yaml line .*not valid YAML"):
        library.load("toy")
    path.write_text("slug: toy\nslug: toy\n")
    with pytest.raises(ReproError, match="`slug` stands twice"):
        library.load("toy")


def test_unknown_method_suggests(toy):
    with pytest.raises(ReproError, match="did you mean `toy`"):
        library.load("toi")


@pytest.mark.parametrize("slug", library.slugs())
def test_every_card_of_the_suite(slug):
    method = library.load(slug)
    assert {"smoke", "small"} <= set(method.experiment.scales)
    for scale in method.experiment.scales:
        for arm in method.arms(scale):
            method.arm_params(scale, arm)
            for seed in method.seeds(scale, arm):
                assert fingerprint.of_run(method, scale, arm, seed)
    for claim, check in method.expected.each():
        assert len(check.why) > 10, f"{claim}: {check.id}: a threshold needs its reason"
    unsure = {claim.id for claim in method.paper.claims if claim.evidence == "unsure"}
    for claim, _ in method.expected.each():
        assert claim not in unsure, f"{claim} is unverified and must not be judged"


@pytest.mark.parametrize("kind", schemas.SCHEMAS)
def test_schemas_for_editors_are_current(kind):
    path = ROOT / "workflow" / "schemas" / f"{kind}.schema.yaml"
    assert path.read_text() == schemas.schema(kind), "run `repro schemas`"
    assert yaml.safe_load(path.read_text())["additionalProperties"] is False


def test_reading_all_cards_imports_no_torch():
    code = (
        "import sys; from repro.suite.cards import library;"
        "[m.models('smoke') for m in library.load_all()];"
        "sys.exit(bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
