import subprocess
import sys

import pytest
import yaml

from repro.coordinates import outside
from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import fingerprint, records
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


def table(**changes):
    return {"id": "losses", "title": "T", "measurements": ["loss"], **changes}


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


def references(method, scale, check):
    return [str(r) for r in method.checks(scale)[check].parsed.references()]


def test_checks_follow_from_what_is_measured(toy):
    edit(toy, "checks.yaml", lambda c: first(c).update(expect="loss[ours, steps=8] < 2"))
    method = library.load("toy")
    assert list(method.checks("smoke")) == ["smaller", "identity"]
    assert list(method.checks("small")) == []


def test_wildcards_mean_what_is_measured_at_the_scale(toy):
    edit(toy, "checks.yaml", lambda c: first(c).update(expect="max(loss[ours, steps=*]) < 2"))
    method = library.load("toy")
    assert references(method, "smoke", "smaller") == ["loss[ours, steps=4]", "loss[ours, steps=8]"]
    assert references(method, "small", "smaller") == ["loss[ours, steps=4]"]
    assert method.checks("smoke")["smaller"].expect == "max(loss[ours, steps=*]) < 2"


@pytest.mark.parametrize(
    ("without", "left"),
    [
        ({}, ["smaller", "identity"]),
        ({"arms": ["b*"]}, ["identity"]),
        ({"measurements": ["error"]}, ["smaller"]),
        ({"tiers": ["exact"]}, ["smaller"]),
        ({"checks": ["s*"]}, ["identity"]),
    ],
)
def test_what_a_scale_leaves_out(toy, without, left):
    edit(
        toy,
        "experiment.yaml",
        lambda c: (
            c["scales"]["smoke"].update(without=without),
            c["scales"]["small"].update(without={}),
        ),
    )
    method = library.load("toy")
    assert list(method.checks("smoke")) == left
    assert ("error" in method.declared("smoke", "exact")) == ("measurements" not in without)


def test_coordinates_that_follow_from_parameters(toy):
    places = [
        {"arms": ["ours"], "steps": "$steps", "nfe": "2 * $steps"},
        [{"arms": "base", "steps": [4, "all"]}, {"arms": "base", "of": True}],
        {"width": "$gain"},
    ]
    edit(
        toy,
        "experiment.yaml",
        lambda c: (
            c["measurements"]["loss"].update(at=places),
            c["arms"]["base"]["params"].pop("gain"),
            c["scales"]["small"].pop("arms"),
        ),
    )
    edit(toy, "checks.yaml", lambda c: first(c).update(expect="loss[base, of=true] < 1"))
    method = library.load("toy")

    def at(scale, arm):
        return [{k: list(v) for k, v in g.items()} for g in method.declared(scale, arm)["loss"]]

    assert at("smoke", "ours") == [{"steps": ["4", "8"], "nfe": ["8", "16"]}, {"width": ["1"]}]
    assert at("small", "ours") == [{"steps": ["4"], "nfe": ["8"]}, {"width": ["1"]}]
    assert at("small", "base") == [{"steps": ["4", "all"]}, {"of": ["true"]}]
    assert "loss" not in method.declared("smoke", "exact")


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


def test_the_zoo_owns_its_models_as_a_method_does():
    """And each finds those of the others."""
    radd, zoo = library.load("radd"), library.owner("zoo")
    assert (radd.slug, zoo.slug) == ("radd", "zoo") and radd.others("zoo").slug == "zoo"
    ref = ModelRef("zoo", "digits-classifier", 0)
    for owner in (radd, zoo):
        assert owner.model("small", ref.owner, ref.name).data == ["digits"]
        assert owner.model_models("small", ref, retrain=True) == []
        assert owner.model_params("small", ref.owner, ref.name)["dataset"] == "digits"
    assert zoo.model_card("radd", "radd-dse") == radd.own_models["radd-dse"]
    with pytest.raises(ReproError, match="no method `rad`"):
        library.owner("rad")


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
        (
            "checks.yaml",
            lambda c: first(c).update(expect="loss[ours, steps=5] < 1"),
            r"claims.smaller.checks.0.expect: `loss\[ours, steps=5\]`: unknown steps `5`",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="loss[ours, stpes=4] < 1"),
            "unknown coordinate `stpes` .did you mean `steps`",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="loss[ours] < 1"),
            "has the coordinates steps, not none",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="error[ours] < 1"),
            "`ours` does not measure `error` at any scale",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="max(loss[ours, steps=9*]) < 1"),
            r"`loss\[ours, steps=9\*\]`: unknown steps `9\*`",
        ),
        (
            "checks.yaml",
            lambda c: first(c).update(expect="loss[ours, steps=*] < 1"),
            "stands only directly inside min, max or mean",
        ),
        (
            "experiment.yaml",
            lambda c: (
                c["scales"]["smoke"].update(without={"arms": ["ours"]}),
                c["scales"]["small"].update(without={"arms": ["base"]}),
            ),
            "checks.yaml: claims.smaller.checks.0.expect: .* nowhere made together",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["smoke"].update(without={"checks": ["identity"]}),
            "checks.yaml: claims.identity.checks.0.expect: .* every preset leaves it out",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["smoke"].update(without={"measurements": ["error"]}),
            "checks.yaml: .*`error.exact.`: every preset leaves out `exact` or `error`",
        ),
        (
            "experiment.yaml",
            lambda c: c["measurements"]["loss"].update(at={"arms": ["our"], "steps": 4}),
            "measurements.loss.at.0.arms: unknown arm `our` .did you mean `ours`",
        ),
        (
            "experiment.yaml",
            lambda c: c["measurements"]["loss"].update(at={"steps": "$stpes"}),
            "measurements.loss.at.0: unknown parameter `stpes` .did you mean `steps`",
        ),
        (
            "experiment.yaml",
            lambda c: c["measurements"]["loss"].update(at={"steps": [{"a": 1}]}),
            "measurements.loss.at.0.steps",
        ),
        (
            "experiment.yaml",
            lambda c: (
                c["arms"]["ours"]["params"].update(steps=[[4, 8]]),
                c["scales"]["smoke"]["params"].pop("steps"),
            ),
            r"measurements.loss.at: `\$steps` needs a value or a list of values, found \[\[4, 8",
        ),
        (
            "experiment.yaml",
            lambda c: c.update(tables=[table(at={"step": 4})]),
            "tables.0.at: unknown coordinate `step` .did you mean `steps`",
        ),
        (
            "experiment.yaml",
            lambda c: c.update(tables=[table(at={"steps": 16})]),
            "tables.0.at: unknown steps `16`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"].update(without={"checks": ["samller*"]}),
            r"scales.small.without.checks: unknown check `samller\*`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"].update(without={"measurements": ["los"]}),
            "scales.small.without.measurements: unknown measurement `los`",
        ),
        (
            "experiment.yaml",
            lambda c: c["scales"]["small"].update(without={"tiers": ["reduce"]}),
            "scales.small.without.tiers.0: .*'reduced'",
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
    assert file in str(caught.value) or ".yaml: " in message


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


def test_all_that_was_published_is_declared():
    """Coordinates of the committed results: none that a card of today does not declare."""
    count = 0
    for path in (ROOT / "results").glob("*/*/runs.csv"):
        scale, method = path.parent.parent.name, library.load(path.parent.name)
        for record in records.read_runs(path.parent, scale):
            declared = method.declared(scale, record["arm"])
            for item in record["measurements"]:
                why = outside(item["at"], declared[item["name"]])
                assert why == "", (method.slug, record["arm"], item)
                count += 1
    assert count > 10_000


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
