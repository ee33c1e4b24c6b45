"""What a job asks for is what it refuses to run without, and both are of the card and its code."""

import re
import textwrap

import pytest
import yaml

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import definitions, needs, records, run
from repro.suite.cards import library
from repro.suite.plan import Plan, methods_at, scale_config
from repro.suite.words import SCALES

PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"


def an(gpu=False, seconds=None, megabytes=None, threads=1, otherwise=(60, 8000)):
    return needs.Needs(gpu, threads, False, seconds, megabytes, otherwise)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


# The GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_request_and_requirement_agree(scale, monkeypatch):
    """For every arm and model of every method: a GPU is asked for exactly where one is demanded."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    plan, options = Plan(scale), run.Options(scale)
    for method in methods_at(scale):
        for arm in method.arms(scale):
            device = run.device_for(options, needs.arm_uses_gpu(method, scale, arm))
            assert needs.of_arm(plan, method, arm).gpu == (device == "cuda"), arm
        for ref in plan.models_of_arms(method, method.arms(scale)):
            device = run.device_for(options, needs.model_uses_gpu(plan, ref))
            assert needs.of_model(plan, ref).gpu == (device == "cuda"), ref
    if scale_config(scale)["device"] == "cpu":
        assert not any(
            needs.of_arm(plan, m, arm).gpu for m in methods_at(scale) for arm in m.arms(scale)
        )


def test_identities_counts_and_what_never_reads_the_device_are_on_the_cpu():
    for method in methods_at("gpu"):
        for name, arm in method.arms("gpu").items():
            on_gpu = needs.of_arm(Plan("gpu"), method, name).gpu
            if name in ("exact", "structure") or not definitions.uses_device(arm.run):
                assert not on_gpu, f"{method.slug}/{name}"
    assert not any(
        needs.of_arm(Plan("gpu"), library.load("diffusion-couple"), arm).gpu
        for arm in library.load("diffusion-couple").arms("gpu")
    )
    radd = library.load("radd")
    assert needs.of_arm(Plan("gpu"), radd, "radd-dse").gpu
    assert needs.of_arm(Plan("gpu"), radd, "latency").gpu


def test_no_card_asks_for_a_gpu_that_its_code_does_not_use():
    for method in library.load_all():
        for name, arm in method.experiment.arms.items():
            assert not arm.gpu or definitions.uses_device(arm.run), f"{method.slug}/{name}"
        for name, model in method.experiment.models.items():
            assert not model.gpu or definitions.uses_device(model.train), f"{method.slug}/{name}"


def test_shipped_weights_need_no_gpu_but_their_training_does():
    refs = [ref for ref in Plan("gpu").models_of("zoo") if Plan("gpu").card(ref).shipped]
    assert refs
    for ref in refs:
        assert not needs.of_model(Plan("gpu"), ref).gpu
        assert needs.of_model(Plan("gpu", retrain=True), ref).gpu


@pytest.fixture
def toy_on_gpu(toy):
    """The toy at the scale gpu: `ours` reads the device, `base` and `exact` do not."""
    (toy / "methods" / "toy" / "arms.py").write_text(
        textwrap.dedent(
            """
            def train(job):
                return {}

            class Kept:
                def __init__(self, job):
                    self.job = job

                def device(self):
                    return self.job.device

            def ours(job):
                return Kept(job)

            def run(job):
                device = "cpu"
                return device

            def exact(job):
                job.measure("error", float(job.device.type == "cuda"))
            """
        )
    )
    path = toy / "methods" / "toy" / "experiment.yaml"
    text = path.read_text().replace(
        'ours: {run: "methods.toy.arms:run"', 'ours: {run: "methods.toy.arms:ours"'
    )
    path.write_text(text + "  gpu: {seeds: 2, params: {width: 2}}\n")
    return path


def needs_gpu(name, scale="gpu"):
    library.forget()
    return needs.of_arm(Plan(scale), library.load("toy"), name).gpu


def test_a_card_that_says_nothing_is_as_its_code(toy_on_gpu):
    assert needs_gpu("ours") and not needs_gpu("base")
    assert not needs_gpu("exact")  # it reads the device, and an exact check alone reads it
    assert not needs_gpu("ours", "small")


def test_a_card_has_the_last_word(toy_on_gpu):
    text = toy_on_gpu.read_text()
    text = text.replace(':ours"', ':ours", gpu: false').replace(':exact"', ':exact", gpu: true')
    toy_on_gpu.write_text(text)
    assert not needs_gpu("ours") and needs_gpu("exact")


def test_a_latency_arm_measures_on_the_gpu_whatever_reads_it(toy_on_gpu):
    toy_on_gpu.write_text(toy_on_gpu.read_text().replace(':exact"', ':exact", machine: true'))
    assert needs_gpu("exact")


def test_arms_without_a_gpu_run_at_the_scale_gpu(toy_on_gpu, no_gpu, tmp_path):
    """The requirement, as a job meets it; and a person hears before anything is computed."""
    library.forget()
    options = run.Options("gpu", work=tmp_path / "work")
    (folder,) = run.run_arm(library.load("toy"), "exact", options)
    record = records.read_record(folder / "record.json")
    assert [m["value"] for m in record["measurements"]] == [0.0]
    assert "CUDA" not in record["device"]
    run.run_method(library.load("toy"), options, ["exact"])
    with pytest.raises(ReproError, match=r"toy/ours at scale gpu needs a CUDA GPU"):
        run.run_arm(library.load("toy"), "ours", options, [0])
    with pytest.raises(ReproError, match=r"1 of its 3 arms need none: `--arm exact`"):
        run.run_method(library.load("toy"), options)
    # a person who asks for the device gives it to what uses one
    assert run.device_for(run.Options("small", device="cuda"), gpu=False) == "cpu"


# Time and memory -----------------------------------------------------------------------------


def test_time_and_memory_are_of_the_records_and_grow():
    one = an(seconds=3600.0, megabytes=3000.0)
    assert [one.minutes(n) for n in (1, 2, 3)] == [182, 364, 728]
    assert [one.mem_mb(n) for n in (1, 2, 3)] == [5000, 10000, 20000]
    assert an(seconds=1.0).minutes() == needs.LEAST_MINUTES
    assert an(megabytes=1.0).mem_mb() == needs.LEAST_MB
    unknown = an()
    assert [unknown.minutes(n) for n in (1, 2)] == [60, 120]
    assert [unknown.mem_mb(n) for n in (1, 2)] == [8000, 16000]


def test_a_batch_asks_for_the_sum_of_times_and_the_most_of_all_else():
    both = needs.together([an(True, 600.0, 1000.0), an(False, 60.0, 3000.0, threads=2)])
    assert both == an(True, 660.0, 3000.0, threads=2)
    assert needs.together([an(seconds=60.0), an()]).seconds is None


def test_every_committed_run_would_end_within_what_it_asks_for():
    for scale in SCALES:
        plan = Plan(scale)
        costs = needs.costs(ROOT / "results" / scale)
        for method in methods_at(scale) if costs else []:
            for arm in method.arms(scale):
                cost, job = costs.get(("run", method.slug, arm)), needs.of_arm(plan, method, arm)
                if cost is not None:
                    seeds = len(method.seeds(scale, arm))
                    assert 60 * job.minutes() > 3 * seeds * cost.seconds
                    assert job.gpu or job.mem_mb() > 1.5 * cost.megabytes


HEADER = ",".join(records.RECORDS)


@pytest.mark.parametrize(
    "text",
    [b"", b"nonsense", f"{HEADER}\nx\n".encode(), HEADER[:-1].encode(), b"\0", b"\xfc"],
)
def test_a_damaged_table_says_nothing(tmp_path, text):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "records.csv").write_bytes(text)
    assert needs.costs(tmp_path) == {}


@pytest.mark.parametrize("wall", ["", "nan", "inf", "-3", "fast", "0"])
def test_a_time_that_no_machine_could_have(tmp_path, wall):
    folder = tmp_path / "toy"
    folder.mkdir()
    row = {key: "" for key in records.RECORDS} | {"method": "toy", "arm": "a", "wall_s": wall}
    (folder / "records.csv").write_text(f"{HEADER}\n{','.join(row.values())}\n")
    assert needs.costs(tmp_path) == {}


# The rules and the profile --------------------------------------------------------------------


def rules():
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    return {
        rule.split(":")[0].strip(): rule
        for rule in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]
    }


def test_every_rule_is_light_and_local_or_says_what_it_needs():
    (local,) = re.findall(r"^localrules: (.*)$", (ROOT / "Snakefile").read_text(), re.MULTILINE)
    for name, rule in rules().items():
        assert (name in local.split(", ")) != ("**asked(" in rule), name
        assert ("threads: threads_of(" in rule) == ("**asked(" in rule), name


def test_the_profile_overrides_nothing_that_is_derived():
    profile = yaml.safe_load(PROFILE.read_text())
    assert not {"set-resources", "set-threads", "default-resources"} & set(profile)
    assert profile["retries"] > 0 and profile["slurm-status-command"] == "squeue"


# The command ----------------------------------------------------------------------------------


def test_the_command_lists_every_job(capsys, monkeypatch):
    from repro.suite.commands.needs import needs as command

    monkeypatch.setenv("COLUMNS", "200")
    command("gpu", ["radd"])
    said = capsys.readouterr().out
    method = library.load("radd")
    assert all(f"run radd/{arm}" in said for arm in method.arms("gpu"))
    plan = Plan("gpu")
    refs = plan.models_of_arms(method, method.arms("gpu"))
    jobs = [needs.of_arm(plan, method, arm) for arm in method.arms("gpu")]
    jobs += [needs.of_model(plan, ref) for ref in refs]
    assert f"{len(jobs)} jobs, {sum(job.gpu for job in jobs)} with a GPU" in said
    with pytest.raises(ReproError, match="did you mean `radd`"):
        command("gpu", ["rad"])
