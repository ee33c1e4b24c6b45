"""QuEST's tables, ranges and fine-tuning on the digits network, and the values printed for it."""

import copy

import pytest
import torch

from methods.quest import baselines, exact
from methods.quest import method as qu
from repro.errors import ReproError
from repro.quant import rounded
from repro.quant.affine import Grid
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import activation_quantisers, quantised_layers, use
from repro.quant.search import percentile_grid
from repro.suite import zoo

FINE = qu.Granularity(channels=True, tables=True)
COARSE = qu.Granularity(channels=False, tables=False)


@pytest.fixture(scope="module")
def network():
    net = zoo.build("zoo/digits-unconditional")
    net.load_state_dict(zoo.shipped("digits-unconditional")[0])
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data():
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return CalibrationSet(x, torch.tensor([800, 400, 50]).repeat_interleave(4))


@pytest.fixture(scope="module")
def fine(network, data):
    with torch.no_grad():
        return qu.quantised(network, data, 4, 4, FINE)


@pytest.fixture(scope="module")
def coarse(network, data):
    with torch.no_grad():
        return qu.quantised(network, data, 4, 8, COARSE)


@pytest.fixture(scope="module")
def taught(network, data):
    return qu.lesson(network, data)


# Printed values -----------------------------------------------------------------------------------


def test_printed_grids():
    errors = exact.grid_errors()
    assert len(errors) == 11 and max(errors.values()) < 5e-6


def test_outliers_are_clipped():
    found = exact.outliers(torch.Generator().manual_seed(0))
    assert found["outliers-ratio"] == pytest.approx(0.0836 / 0.2250, rel=0.05)
    assert max(found["outliers-clipping"], found["outliers-covering"]) < 0.05
    assert 0 < found["outliers-left"] < 0.2


def test_theorem_for_a_quadratic_loss():
    errors = exact.theorem_errors(torch.Generator().manual_seed(1))
    assert set(errors) == {"theorem-1", "theorem-7", "theorem-100"} and max(errors.values()) < 1e-10


def test_tuned_weights():
    assert max(exact.tuned_weight_errors().values()) < 1e-7


# Tables -------------------------------------------------------------------------------------------


def test_tables_change_at_every_tenth_step():
    assert exact.lookup_error(200, 20) == 0
    clock = qu.Clock(torch.arange(200).flip(0)[::10])
    found = [clock.look_up(t) for t in (500, 199, 190, 189, 180, 179, 0)]
    assert found == [0, 0, 0, 1, 1, 2, 19]


def test_a_mixed_batch_is_refused(fine, data):
    with pytest.raises(ReproError, match="one step at a time"):
        fine(data.x[2:6], data.t[2:6])


def test_tables_are_those_of_the_step(network, fine, data):
    """Each entry is the grid that a network calibrated on that step alone has."""
    name = "mid.block_1.conv1.activations.0"
    table = activation_quantisers(fine)[name].grids[4]
    assert isinstance(table, qu.GridTable) and len(table.grids) == 3
    for entry, index in enumerate(qu.entries_of(data)):
        part = CalibrationSet(data.x[index], data.t[index])
        with torch.no_grad():
            alone = qu.quantised(network, part, 4, 4, qu.Granularity(True, False))
        assert torch.equal(
            table.grids[entry].delta, activation_quantisers(alone)[name].grids[4].delta
        )
    with torch.no_grad():
        fine(data.x[:2], data.t[:2])
        assert table.now is table.grids[0]
        fine(data.x[-2:], data.t[-2:])
        assert table.now is table.grids[2] and table.delta is table.grids[2].delta


def test_shapes_and_widths_of_activation_grids(fine, coarse):
    found = activation_quantisers(fine)
    shapes = {n: tuple(q.grids[q.bits].delta.shape) for n, q in found.items()}
    assert shapes["mid.block_1.conv1.activations.0"] == (1, 64, 1, 1)
    assert shapes["mid.block_1.temb_proj.activations.0"] == (1, 128)
    assert shapes["mid.attn_1.quantised_attend.q"] == (1, 1, 64)
    assert shapes["mid.attn_1.quantised_attend.w"] == ()
    assert {n for n, q in found.items() if q.bits == 8} == {
        "conv_in.activations.0", "conv_out.activations.0", "mid.attn_1.quantised_attend.w",
    }  # fmt: skip
    assert all(layer.weight_bits == 4 for layer in quantised_layers(fine).values())
    assert all(q.grids[q.bits].delta.ndim == 0 for q in activation_quantisers(coarse).values())


def test_ranges_hold_zero_and_meet_constant_channels():
    x = torch.stack([torch.full((6,), 0.7), torch.full((6,), -0.2), torch.zeros(6)])
    grid = percentile_grid(x, 4, channel_wise=True)
    assert torch.allclose(grid(x), x, atol=1e-6)
    assert grid.zero_point.flatten().tolist() == [0, 15, 0]
    assert torch.allclose(grid.delta.flatten()[:2], torch.tensor([0.7 / 15, 0.2 / 15]))


def test_time_embedding_is_exact_at_calibration_steps_only(network, fine, data):
    plain = use(copy.deepcopy(fine), activations=False)
    labels = qu.labels_of(data)
    assert qu.embedding_error(fine, plain, data.x[:3], labels) < 1e-10
    assert qu.embedding_error(fine, plain, data.x[:3], labels - 30) > 1e-3
    in_float = qu.without_time(copy.deepcopy(fine))
    assert qu.embedding_error(in_float, network, data.x[:3], labels - 30) == 0


# Fine-tuning --------------------------------------------------------------------------------------


def test_what_stands_in(network):
    assert len(qu.matching(network, qu.TLA)) == 8
    assert qu.matching(network, qu.CMA) == [f"mid.attn_1.{n}" for n in "qkv"]


def test_all_but_the_selected_tensors_stay(network, data):
    with torch.no_grad():
        found = exact.frozen(network, data)
    assert found == {
        "changed-outside": 0, "changed-grids": 0, "same-inside": 0, "changed-function": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("stage", "rate"), [("tla", 30.0), ("cma", 1.0)])
def test_tuning_lowers_its_loss(coarse, data, taught, stage, rate):
    state, network = rounded.export(coarse), copy.deepcopy(coarse)

    def loss():
        at_rest = copy.deepcopy(network)
        with qu.Tuner(at_rest, taught, state, stage, qu.RELEASED, rate=0) as tuner:
            return tuner.step(torch.arange(len(data)))

    before = loss()
    losses = qu.tune(
        network, taught, state, stage, qu.RELEASED, 12, batch=4, passes=2, rate=rate,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(losses) == 12 and loss() < 0.99 * before
    assert not any(p.requires_grad for p in network.parameters())


def test_loss_is_the_sum_of_both_terms(coarse, data, taught):
    index = torch.arange(4)
    state = rounded.export(coarse)
    values = {}
    for local, overall in ((1, 0), (0, 1), (1, None), (3, 2)):
        how = qu.Configuration(qu.Losses(local, overall), qu.Losses(0, 1))
        with qu.Tuner(copy.deepcopy(coarse), taught, state, "tla", how, rate=0) as tuner:
            values[local, overall] = tuner.step(index)
    layers, output = values[1, 0], values[0, 1]
    assert values[1, None] == pytest.approx(layers + 8 * output, rel=1e-4)
    assert values[3, 2] == pytest.approx(3 * layers + 2 * output, rel=1e-4)
    with torch.no_grad():
        expected = (coarse(data.x[:4], data.t[:4]) - taught.eps[:4]).square().mean()
    assert output == pytest.approx(float(expected), rel=1e-4)


def test_full_fine_tuning_tunes_all_weights_and_the_same_steps(coarse, taught):
    state = rounded.export(coarse)
    few, all_ = (
        qu.Tuner(copy.deepcopy(coarse), taught, state, "cma", how) for how in (qu.RELEASED, qu.FULL)
    )
    assert len(all_.tuned) == 39 and len(few.tuned) == 3 and not all_.frozen
    assert len(all_.steps) == len(few.steps)


def test_order_of_visits(data):
    def times(iterations=6, **options):
        generator = torch.Generator().manual_seed(0)
        return [
            (entry, [data.t[i].tolist() for i in indices])
            for entry, indices in qu.visits(data, iterations, 2, generator=generator, **options)
        ]

    each = [(entry, [[t, t]] * 2) for entry, t in enumerate((800, 400, 50))]
    assert times(passes=1) == each
    assert times(passes=2) == [(entry, batches[:1]) for entry, batches in each] * 2
    assert [len(batches) for _, batches in times(4, passes=1)] == [1, 1, 2]
    assert sum(len(batches) for _, batches in times(4, passes=3)) == 4
    [(entry, batches)] = times(passes=1, mixed=True)
    assert entry is None and len(batches) == 6 and any(a != b for a, b in batches)


def test_samples_of_a_visit_are_taken_in_turn(data):
    generator = torch.Generator().manual_seed(0)
    _, (first, second, third, _) = next(qu.visits(data, 12, 2, 1, generator))
    assert sorted([*first.tolist(), *second.tolist()]) == [0, 1, 2, 3]
    assert torch.equal(first, third)


def test_every_visit_has_a_fresh_optimiser_of_its_steps(network, fine, data):
    taught, state = qu.lesson(network, data), rounded.export(fine)
    copied = copy.deepcopy(fine)
    with qu.Tuner(copied, taught, state, "cma", qu.RELEASED) as tuner:
        tuner.visit(1)
        kept = tuner.step_optimiser, tuner.weight_optimiser
        assert len(tuner.now) == len(tuner.tables)
        assert all(step is table[1] for step, table in zip(tuner.now, tuner.tables, strict=True))
        tuner.step(qu.entries_of(data)[1])
        assert kept[0].state and kept[1].state
        tuner.visit(1)
        assert tuner.step_optimiser is not kept[0] and not tuner.step_optimiser.state
        assert tuner.weight_optimiser is kept[1]


def test_baseline_learns_every_table(network, fine, data):
    learned = copy.deepcopy(fine)
    baselines.learn_steps(
        learned, network, data, 6, lr=1e-3, batch=4, generator=torch.Generator().manual_seed(0)
    )
    name = "up.0.block.1.conv2.activations.0"
    before, after = (activation_quantisers(n)[name].grids[4] for n in (fine, learned))
    assert isinstance(after, qu.GridTable) and all(isinstance(g, Grid) for g in after.grids)
    assert all(
        not torch.equal(a.delta, b.delta) for a, b in zip(before.grids, after.grids, strict=True)
    )


def test_input_ranges(coarse, data):
    found = qu.input_ranges(coarse, data)
    low, high, deviation = found["conv_in"]
    assert (low, high) == (float(data.x.min()), float(data.x.max()))
    assert deviation == pytest.approx(float(data.x.std(correction=0)), rel=1e-5)


def test_a_network_without_either_layer_is_refused(data):
    with pytest.raises(ReproError, match="neither"):
        qu.lesson(torch.nn.Conv2d(1, 1, 1), data)
