"""Units, recorded activations, and what learning does to a small network."""

from functools import partial

import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.nets.unet import AttentionBlock, ResidualBlock, UNet
from repro.quant.calibration import CalibrationSet
from repro.quant.floating import FloatGrid, float_grid
from repro.quant.layers import (
    QuantisedLayer,
    Recipe,
    activation_quantisers,
    calibrate,
    quantise,
    quantised_layers,
    shortcut_splits,
    use,
)
from repro.quant.ranges import RunningRange, minmax_grid
from repro.quant.reconstruction import (
    capture,
    iterations_by_cost,
    learn_rounding,
    learn_steps,
    reconstruct_activations,
    reconstruct_weights,
    set_rounding,
    unit_costs,
    unit_error,
    units,
)
from repro.quant.search import Sampled, search_float_grid

integer = partial(minmax_grid, channel_wise=True)
small = dict(resolution=8, in_channels=1, channels=8, mult=(1, 2), blocks=1, groups=4)


def e2m1(weight, bits):
    return float_grid(weight, 2, 1)


def network(**options):
    torch.manual_seed(0)
    made = UNet(**small, attention=(4,), **options).eval()
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def teacher():
    return network(dropout=0.1)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 1, 8, 8, generator=generator)
    return CalibrationSet(x, torch.randint(0, 1000, (48,), generator=generator))


def quantised(teacher, weight_grid=integer, activation_bits=(), **options):
    options.setdefault("splits", shortcut_splits(teacher))
    observer = options.pop("observer", lambda widths: RunningRange(symmetric=True))
    return quantise(teacher, Recipe(4, activation_bits, weight_grid, observer, **options))


def seed(number=0):
    return torch.Generator().manual_seed(number)


# Units --------------------------------------------------------------------------------------------


def test_units_of_the_published_network():
    with torch.device("meta"):
        published = UNet()
    found = units(published)
    kinds = [type(unit) for unit in found.values()]
    assert len(found) == 38
    assert kinds.count(ResidualBlock) == 22 and kinds.count(AttentionBlock) == 6
    names = list(found)
    assert names[:3] == ["temb.dense.0", "temb.dense.1", "conv_in"]
    assert names.index("up.0.block.0") < names.index("up.3.block.0")  # registered, not run, first
    assert names[-1] == "conv_out"


def test_units_of_a_quantised_copy_have_the_same_names(teacher):
    copy = quantised(teacher)
    assert list(units(copy)) == list(units(teacher))
    assert list(units(copy, ())) == list(quantised_layers(copy))


# Recording ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [5, 48])
def test_capture_keeps_what_every_unit_sees(teacher, data, batch):
    found = units(teacher)
    caught = capture(teacher, list(found), data, batch=batch)
    block = caught["up.0.block.0"]
    assert [tuple(v.shape) for v in block.inputs] == [(48, 24, 8, 8), (48, 32)]
    with torch.no_grad():
        for name, cache in caught.items():
            assert torch.allclose(found[name](*cache.inputs), cache.output, atol=1e-5)
        assert torch.allclose(caught["conv_out"].output, teacher(data.x, data.t), atol=1e-5)


def test_capture_stops_early_and_leaves_no_hook(teacher, data):
    ran = []
    handle = teacher.conv_out.register_forward_hook(lambda *_: ran.append(1))
    inputs = capture(teacher, ["down.0.block.0"], data, record="inputs")
    assert inputs["down.0.block.0"].output is None
    capture(teacher, ["down.0.block.0", "conv_in"], (data.x, data.t), record="output")
    assert not ran
    teacher(data.x, data.t)
    assert ran
    handle.remove()
    assert not teacher.get_submodule("down.0.block.0")._forward_pre_hooks


def test_capture_in_half_the_memory(teacher, data):
    cache = capture(teacher, ["conv_out"], data, dtype=torch.bfloat16)["conv_out"]
    exact = capture(teacher, ["conv_out"], data)["conv_out"]
    assert cache.output.dtype == torch.bfloat16
    assert torch.allclose(cache.output.float(), exact.output, rtol=2**-8, atol=1e-6)


def test_capture_refuses_empty_sets_and_idle_modules(teacher, data):
    with pytest.raises(ReproError, match="empty"):
        capture(teacher, ["conv_in"], (data.x[:0], data.t[:0]))
    idle = nn.Sequential(nn.Conv2d(1, 1, 1))
    idle.add_module("idle", nn.ModuleList([nn.Linear(2, 2)]))
    idle.forward = lambda x: idle[0](x)
    with pytest.raises(ReproError, match="idle.0 does not run"):
        capture(idle, ["0", "idle.0"], (data.x,))


# One unit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [integer, e2m1])
@pytest.mark.parametrize("name", ["up.0.block.0", "mid.attn_1", "down.0.downsample.conv"])
def test_learned_rounding_beats_the_nearest_at_equal_scales(teacher, data, grid, name):
    copy = quantised(teacher, grid)
    unit, cache = units(copy)[name], capture(teacher, [name], data)[name]
    before = unit_error(unit, cache)
    scales = [
        g.maxval if isinstance(g, FloatGrid) else g.delta
        for layer in quantised_layers(unit).values()
        for g in layer.weight_grids
    ]
    alphas = learn_rounding(unit, cache, 120, generator=seed(), lr=2e-2, scale_aware=grid is e2m1)
    assert unit_error(unit, cache) < 0.8 * before
    for layer_name, layer in quantised_layers(unit).items():
        for g, part, w, alpha in zip(
            layer.weight_grids,
            layer.weight.split(layer.parts, 1),
            layer.layer.weight.split(layer.parts, 1),
            alphas[layer_name],
            strict=True,
        ):
            assert torch.equal(g(part), part)
            assert torch.equal(part, g(w, lambda u, a=alpha: torch.floor(u) + (a >= 0)))
            assert any((g.maxval if isinstance(g, FloatGrid) else g.delta) is s for s in scales)


def test_alphas_are_driven_to_a_decision(teacher, data):
    copy = quantised(teacher)
    unit, cache = units(copy)["mid.attn_1"], capture(teacher, ["mid.attn_1"], data)["mid.attn_1"]
    shares = []
    for weight in (0.0, 1.0):
        alphas = learn_rounding(unit, cache, 150, generator=seed(), lr=5e-2, weight=weight)
        values = torch.cat([a.flatten() for parts in alphas.values() for a in parts])
        h = torch.clamp(1.2 * torch.sigmoid(values) - 0.1, 0, 1)
        shares.append(float(((h < 0.02) | (h > 0.98)).float().mean()))
    assert shares[0] < 0.5 and shares[1] > 0.98


def ended(teacher, data, name, iterations, **options):
    copy, found = quantised(teacher), []
    unit, cache = units(copy)[name], capture(teacher, [name], data)[name]
    alphas = learn_rounding(
        unit, cache, iterations, generator=seed(), outcome=found.append, **options
    )
    return alphas, found[0], unit_error(unit, cache)


def test_learning_goes_on_until_roundings_are_decided(teacher, data):
    """80 iterations at 1e-2 leave most of them to the cut, which the loss has not seen."""
    name = "up.0.block.0"
    _, few, hard = ended(teacher, data, name, 80, lr=1e-2)
    assert few.iterations == 80 and few.hard == hard
    assert min(few.undecided.values()) > 0.5 and few.hard > 1.5 * few.soft
    alphas, enough, hard = ended(teacher, data, name, 200, lr=3e-2, until=0.01)
    total = sum(enough.weights.values())
    share = sum(enough.undecided[n] * enough.weights[n] for n in enough.weights) / total
    assert share <= 0.01 and enough.iterations in range(200, 601, 50)
    assert enough.hard == hard < 0.8 * few.hard and enough.hard < 1.05 * enough.soft
    assert enough.weights == {n: sum(a.numel() for a in parts) for n, parts in alphas.items()}
    for n, parts in alphas.items():
        h = torch.clamp(1.2 * torch.cat([a.flatten() for a in parts]).sigmoid() - 0.1, 0, 1)
        between = ((h > 0.05) & (h < 0.95)).double().mean()
        assert enough.undecided[n] == pytest.approx(float(between))


def test_what_is_decided_already_is_not_learned_longer(teacher, data):
    first, second = (
        ended(teacher, data, "conv_out", 80, lr=2e-1, weight=1.0, until=until)
        for until in (None, 0.01)
    )
    assert first[1] == second[1] and second[1].iterations == 80
    for a, b in zip(first[0][""], second[0][""], strict=True):
        assert torch.equal(a, b)


def test_costs_of_units_are_their_multiplications(teacher, data):
    names = list(units(teacher))
    costs = unit_costs(teacher, names, data)
    assert costs == unit_costs(quantised(teacher), names, data)
    assert costs["conv_out"] == 8 * 9 * 64 and costs["temb.dense.0"] == 8 * 32
    block = 24 * 8 * 9 * 64 + 32 * 8 + 8 * 8 * 9 * 64 + 24 * 8 * 64
    assert costs["up.0.block.0"] == block
    assert not any(m._forward_hooks for m in teacher.modules())


def test_cheap_units_get_more_iterations():
    costs = {"dear": 800, "middling": 395, "cheap": 4, "free": 0}  # mean 300 (less 1/4)
    assert iterations_by_cost(costs, 100) == dict.fromkeys(costs, 100)
    found = iterations_by_cost(costs, 100, 1000)
    assert found == {"dear": 100, "middling": 100, "cheap": 1000, "free": 1000}
    assert iterations_by_cost({"a": 10, "b": 2}, 100, 1000) == {"a": 100, "b": 150}
    least = sum(100 * c for c in costs.values())
    assert sum(found[n] * c for n, c in costs.items()) <= 1.5 * least


def test_order_and_iterations_reach_the_units(teacher, data):
    backwards, reports = list(units(teacher))[::-1], []
    copy = quantised(teacher)
    reconstruct_weights(
        copy, teacher, data, 2, generator=seed(), most=5, order=backwards,
        progress=lambda report, done, total: reports.append(report),
    )  # fmt: skip
    assert [r.name for r in reports] == backwards
    assert {r.name: r.iterations for r in reports} == iterations_by_cost(
        unit_costs(teacher, backwards, data), 2, 5
    )
    assert {n for r in reports for n in r.undecided} == set(quantised_layers(copy))


def test_learning_is_deterministic_and_touches_nothing_else(teacher, data):
    name, results = "up.0.block.0", []
    for faithful in (False, True, True):
        copy = quantised(teacher)
        unit, cache = units(copy)[name], capture(teacher, [name], data)[name]
        weights = {n: p.clone() for n, p in copy.named_parameters()}
        state = torch.random.get_rng_state()
        alphas = learn_rounding(unit, cache, 12, generator=seed(), faithful=faithful)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(p, weights[n]) for n, p in copy.named_parameters())
        assert not any(m.training for m in copy.modules())
        assert not any(p.requires_grad for p in copy.parameters())
        results.append(torch.cat([a.flatten() for parts in alphas.values() for a in parts]))
    assert not torch.equal(results[0], results[1])  # dropout, and no regulariser on second halves
    assert torch.equal(results[1], results[2])


def test_faithful_regulariser_skips_the_second_half(data):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(4, 3, 1)).requires_grad_(False)
    x = torch.randn(32, 4, 4, 4, generator=seed())
    cache = capture(layer, ["0"], (x,))["0"]
    cache = type(cache)(cache.inputs, torch.zeros_like(cache.output))
    moved = []
    for faithful in (False, True):
        copy = quantised(layer, splits={"0": 2})
        quantised_layers(copy)["0"].layer.weight.zero_().add_(0.3)
        quantised_layers(copy)["0"].layer.bias.zero_()
        cache.inputs[0].zero_()  # no data term
        alphas = learn_rounding(
            units(copy)["0"], cache, 20, generator=seed(), warmup=0.0, faithful=faithful
        )[""]
        start = learn_rounding(units(copy)["0"], cache, 0, generator=seed())[""]
        moved.append([not torch.equal(a, b) for a, b in zip(alphas, start, strict=True)])
    assert moved == [[True, True], [True, False]]


def test_learned_steps_lower_the_error(teacher, data):
    copy = quantised(teacher, activation_bits=(4,), attention_bits=(4, 8))
    calibrate(copy, [(data.x, data.t)])
    name = "mid.attn_1"
    unit, cache = units(copy)[name], capture(teacher, [name], data)[name]
    grids = {n: q.grids[q.bits] for n, q in activation_quantisers(unit).items()}
    assert {"quantised_attend.q", "quantised_attend.w"} <= set(grids)
    before = unit_error(unit, cache, power=2.4)
    learn_steps(unit, cache, 100, generator=seed(), lr=4e-3)
    assert unit_error(unit, cache, power=2.4) < 0.9 * before
    for n, q in activation_quantisers(unit).items():
        assert q.grids[q.bits].delta != grids[n].delta
        assert q.grids[q.bits].zero_point is grids[n].zero_point
        assert not q.grids[q.bits].delta.requires_grad


def test_sixteen_bit_softmax_is_not_learned(teacher, data):
    copy = quantised(teacher, activation_bits=(8,), attention_bits=(8, 16))
    calibrate(copy, [(data.x, data.t)])
    unit = units(copy)["mid.attn_1"]
    kept = unit.quantised_attend.w.grids[16].delta
    cache = capture(teacher, ["mid.attn_1"], data)["mid.attn_1"]
    learn_steps(unit, cache, 3, generator=seed())
    assert unit.quantised_attend.w.grids[16].delta is kept


def test_float_ranges_of_activations_are_learned(teacher, data):
    options = dict(observer=lambda widths: Sampled(search_float_grid))
    copy = calibrate(quantised(teacher, e2m1, (4,), **options), [(data.x, data.t)])
    name = "down.1.block.0"
    unit, cache = units(copy)[name], capture(teacher, [name], data)[name]
    before = unit_error(unit, cache, power=2.4)
    learn_steps(unit, cache, 60, generator=seed(), lr=4e-3)
    assert unit_error(unit, cache, power=2.4) < before
    assert all(isinstance(q.grids[4], FloatGrid) for q in activation_quantisers(unit).values())


def test_units_with_nothing_to_learn_are_refused(teacher, data):
    cache = capture(teacher, ["conv_in"], data)["conv_in"]
    with pytest.raises(ReproError, match="no quantised weight"):
        learn_rounding(teacher.conv_in, cache, 1, generator=seed())
    with pytest.raises(ReproError, match="calibrate"):
        learn_steps(quantised(teacher).conv_in, cache, 1, generator=seed())


def test_set_rounding_checks_shapes_and_can_stay_differentiable(teacher):
    layer = quantised(teacher).conv_in
    alpha = torch.ones_like(layer.layer.weight)
    set_rounding(layer, [alpha])
    with torch.no_grad():
        hard = layer.weight
        assert layer.weight is hard
    set_rounding(layer, [alpha], kind="fixed")
    layer.layer.weight.requires_grad_(True)
    fixed = layer.weight
    assert torch.equal(fixed, hard)
    fixed.sum().backward()
    assert set(layer.layer.weight.grad.unique().tolist()) <= {0.0, 1.0}
    assert layer.layer.weight.grad.sum() > 0
    with pytest.raises(ReproError, match="do not fit"):
        set_rounding(layer, [alpha[:1]])


# Networks -----------------------------------------------------------------------------------------


def output_error(copy, teacher, data):
    with torch.inference_mode():
        return float((copy(data.x, data.t) - teacher(data.x, data.t)).square().mean())


def test_whole_network(teacher, data):
    copy = quantised(teacher, activation_bits=(8,), attention_bits=(8, 8))
    nearest = output_error(use(copy, activations=False), teacher, data)
    reports = []
    alphas = reconstruct_weights(
        copy,
        teacher,
        data,
        25,
        generator=seed(),
        lr=2e-2,
        progress=lambda report, done, total: reports.append((report, done, total)),
    )
    assert set(alphas) == set(quantised_layers(copy))
    assert [report.name for report, _, _ in reports] == list(units(copy))
    assert reports[-1][1:] == (len(reports), len(reports))
    assert sum(r.after < r.before for r, _, _ in reports) > 0.8 * len(reports)
    learned = output_error(copy, teacher, data)
    assert learned < nearest

    with pytest.raises(ReproError, match="calibrate"):
        reconstruct_activations(copy, teacher, data, 1, generator=seed())
    calibrate(copy, [(data.x, data.t)])
    rough = output_error(copy, teacher, data)
    assert learned < rough
    reconstruct_activations(copy, teacher, data, 10, generator=seed())
    assert output_error(copy, teacher, data) < 1.1 * rough
    # Everything off is the original again, and the teacher was not touched.
    assert output_error(use(copy, weights=False, activations=False), teacher, data) == 0
    assert not any(isinstance(m, QuantisedLayer) for m in teacher.modules())


def test_learned_alphas_restore_the_network(teacher, data):
    copy, other = quantised(teacher), quantised(teacher)
    options = dict(generator=seed(), lr=1e-2, asym=False, memory=1 << 16, dtype=torch.bfloat16)
    alphas = reconstruct_weights(copy, teacher, data, 5, **options)
    for name, layer in quantised_layers(other).items():
        set_rounding(layer, alphas[name])
    assert output_error(copy, other, data) == 0


def test_memory_does_not_change_the_result(teacher, data):
    results = []
    for memory in (0, 1 << 30):
        copy = quantised(teacher)
        alphas = reconstruct_weights(copy, teacher, data, 3, generator=seed(), memory=memory)
        results.append(torch.cat([a.flatten() for parts in alphas.values() for a in parts]))
    assert torch.equal(*results)
