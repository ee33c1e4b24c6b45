"""The plan that the rules and the command line share, and the marks that make a job run again."""

import re
import subprocess
import sys

import pytest

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import definitions
from repro.suite.cards import library
from repro.suite.plan import Plan, mark, methods_at, scale_config


def test_a_mark_moves_only_when_its_content_does(tmp_path):
    path = tmp_path / "plan" / "x.json"
    mark(path, {"b": 1, "a": 2})
    stamp = path.stat().st_mtime_ns
    mark(path, {"a": 2, "b": 1})
    assert path.stat().st_mtime_ns == stamp
    mark(path, {"a": 3})
    assert path.stat().st_mtime_ns > stamp


def test_models_of_owners_are_those_of_the_arms():
    plan = Plan("smoke")
    wanted = set()
    for method in methods_at("smoke"):
        refs = method.in_order("smoke", plan.models_of_arms(method, method.arms("smoke")))
        wanted.update(refs)
        assert set(plan.shared_arms(method)) <= set(method.arms("smoke"))
        for ref in refs:
            assert all(refs.index(earlier) < refs.index(ref) for earlier in plan.before(ref))
    owners = {ref.owner for ref in wanted}
    assert {ref for owner in owners for ref in plan.models_of(owner)} == wanted


def test_shipped_models_need_no_data():
    plan = Plan("small")
    refs = [ref for ref in plan.models_of("zoo") if plan.card(ref).shipped]
    assert refs and plan.data_of_models(refs) == []
    assert Plan("small", retrain=True).data_of_models(refs)


def test_unknown_scale_suggests():
    with pytest.raises(ReproError, match="no scale `smal` .did you mean `small`"):
        scale_config("smal")


def test_every_rule_has_a_log():
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            assert "    log:" in rule and "| tee -- {log:q}" in rule, (
                f"{path.name}: {rule.split(':')[0]}"
            )


def test_what_computes_looks_nothing_up_by_text():
    """A function found by its name as text would be no part of any fingerprint."""
    allowed = {
        # the dataset's own entry is part of the fingerprint
        "repro/data/catalogue.py",
        # foreign packages that may be absent
        "repro/quant/deploy.py",
    }
    pattern = re.compile(
        r"import_module\(|__import__|globals\(\)|__subclasses__|singledispatch|get_type_hints|"
        r"\bexec\(|(?<![.\w])eval\(|^def __getattr__|import \*",
        re.MULTILINE,
    )
    found = {
        str(path.relative_to(ROOT))
        for package in definitions.PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "suite" not in path.parts and pattern.search(path.read_text())
    }
    assert found <= allowed


def test_packages_are_empty():
    """A facade would hide from which module a name comes."""
    for path in (ROOT / "repro").rglob("__init__.py"):
        text = re.sub(r'^""".*?"""', "", path.read_text(), flags=re.DOTALL).strip()
        assert not text or path == ROOT / "repro" / "__init__.py", path


def test_every_function_of_a_card_is_there():
    for method in library.load_all():
        named = [arm.run for arm in method.experiment.arms.values()]
        named += [model.train for model in method.experiment.models.values()]
        named += [figure.run for figure in method.experiment.figures]
        for function in dict.fromkeys(named):
            assert definitions.closure([function], remarks=())


@pytest.mark.parametrize("module", ["cli", "judging", "run", "plan", "results.check"])
def test_what_every_job_imports_is_light(module):
    """Judging and listing start at once: what draws, tabulates or computes is imported there."""
    code = (
        f"import sys, repro.suite.{module};"
        "print(*sorted({'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    heavy = {"results.check": "matplotlib pandas"}.get(module, "")
    assert done.returncode == 0 and done.stdout.strip() == heavy, done.stdout + done.stderr
