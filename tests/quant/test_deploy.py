"""What int8 kernels compute is what the simulation computes."""

import copy
import importlib.util
import sys
from functools import partial

import pytest
import torch
from torch import nn

from repro.diffusion import samplers, schedules
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.quant import deploy, gpu
from repro.quant.calibration import record, uniform_grid
from repro.quant.layers import (
    Recipe,
    activation_quantisers,
    calibrate,
    quantise,
    quantised_layers,
    shortcut_splits,
    use,
)
from repro.quant.ranges import RunningRange, minmax_grid
from repro.suite import zoo

needs_packages = pytest.mark.skipif(
    bool(deploy.missing()),
    reason=f"not installed: {', '.join(deploy.missing())} (the group 'deploy')",
)

symmetric = partial(minmax_grid, symmetric=True, channel_wise=True)


def recipe(weight_bits=8, activation_bits=(8,), weight_grid=symmetric, **options):
    return Recipe(
        weight_bits, activation_bits, weight_grid, lambda widths: RunningRange(), **options
    )


def calibrated(network, inputs, *arguments, **options):
    return calibrate(quantise(network, recipe(*arguments, **options)), [inputs])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    network = UNet(resolution=8, in_channels=1, channels=32, mult=(1, 2), blocks=1, attention=(4,))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 10, 500, 999])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The network of the zoo, its copy at W8A8 (W7A8 where 8 bits saturate), the file of that, and
    states that it meets.
    """
    name = "fashion-mnist-unconditional"
    network = zoo.build(name)
    network.load_state_dict(zoo.shipped(name)[0])
    network.eval().requires_grad_(False)
    abar = schedules.alphas_cumprod(schedules.linear_betas())
    timesteps = schedules.timesteps_uniform(1000, 5)
    noise = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    met = record(network, lambda eps: samplers.ddim(eps, noise, timesteps, abar))
    batches = uniform_grid(met, 5, 8).batches(40)
    bits = 8 if deploy.wide_sums() else 7
    quantised = calibrate(quantise(network, recipe(bits)), batches)
    path = tmp_path_factory.mktemp("deployed") / "w8a8.onnx"
    deploy.export(quantised, path, (met.x[0, :1], met.t[:1]))
    return network, quantised, path, met


@needs_packages
def test_one_layer_gives_the_same_codes_except_at_ties(tmp_path):
    # A layer that passes its input on shows its codes. x/δ reaches 128 and has an error of
    # 2^-24 of itself, so about 2 · 128 · 2^-24 = 1.5e-5 of the values, at most, are too near the
    # middle between two codes to tell which of them they take.
    identity = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(identity[0].weight)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 1, 64, 64, generator=generator)
    quantised = calibrate(quantise(identity.requires_grad_(False), recipe()), [(x,)])
    run = deploy.Deployed(deploy.export(quantised, tmp_path / "one.onnx", (x,)))
    (quantiser,) = activation_quantisers(quantised).values()
    moved = ((run(x) - quantised(x)) / quantiser.grids[8].delta).abs()
    assert (moved > 0.01).float().mean() < 2e-5
    assert moved.max() < 1.01  # and then to the next code


@needs_packages
@pytest.mark.slow
def test_the_trained_network_computes_what_its_simulation_computes(trained):
    # Until a code flips, only the order of float sums differs: 1e-5 is a hundred roundings. A
    # flipped code is a step of the quantiser at one place, and makes more of them flip in later
    # layers; what comes of that is bounded by what rounding everything did.
    network, quantised, path, met = trained
    run = deploy.Deployed(path)
    for k in range(len(met.t)):
        x, t = met.x[k], met.t[k].expand(len(met.x[k]))
        simulated, computed, exact = quantised(x, t), run(x, t), network(x, t)
        apart = [relative(a, b) for a, b in zip(computed, simulated, strict=True)]
        assert min(apart) < 1e-5
        assert relative(computed, simulated) < 0.5 * relative(simulated, exact)
        assert abs(relative(computed, exact) / relative(simulated, exact) - 1) < 0.1


@needs_packages
@pytest.mark.slow
def test_every_layer_runs_on_int8_and_the_weights_are_stored_so(trained):
    network, quantised, path, met = trained
    kernels = deploy.Deployed(path).kernels()
    layers = quantised_layers(quantised)
    assert set(kind for _, kind in kernels) == {"u8"}
    assert sum(kernels.values()) == len(layers) == 53
    codes = sum(layer.layer.weight.numel() for layer in layers.values())
    rest = sum(p.numel() for p in network.parameters()) - codes
    size = path.stat().st_size
    assert codes + 4 * rest < size < codes + 4 * rest + 250_000  # scales and the graph


@needs_packages
def test_split_layers_and_attention_at_any_batch_size_and_thread_count(small, inputs, tmp_path):
    options = dict(splits=shortcut_splits(small), attention_bits=(8, 8))
    quantised = calibrated(small, inputs, 8 if deploy.wide_sums() else 7, **options)
    path = deploy.export(quantised, tmp_path / "small.onnx", inputs)
    for threads in (1, None):
        run = deploy.Deployed(path, threads)
        assert run.threads == (threads or deploy.all_threads())
        for batch in (1, 3):
            arguments = [v[:batch] for v in inputs]
            assert relative(run(*arguments), quantised(*arguments)) < 0.02


@needs_packages
def test_another_reader_of_the_file_finds_the_same_network(tmp_path):
    """The reference implementation of ONNX, on a convolution and a linear layer."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(128, 5)
    ).requires_grad_(False)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    quantised = calibrate(quantise(network, recipe()), [(x,)])
    path = deploy.export(quantised, tmp_path / "two.onnx", (x,))
    (read,) = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})
    assert relative(torch.from_numpy(read), quantised(x)) < 1e-5
    stored = {i.name: i for i in onnx.load(path).graph.initializer}
    for name, layer in quantised_layers(quantised).items():
        codes = onnx.numpy_helper.to_array(stored[f"{name}.weights.0.codes"])
        assert codes.dtype == "int8"
        expected = layer.weight_grids[0].codes(layer.layer.weight)
        assert torch.equal(torch.from_numpy(codes.copy()).float(), expected)


@needs_packages
def test_learned_roundings_are_written_as_they_are(tmp_path):
    network = nn.Sequential(nn.Linear(16, 8, bias=False)).requires_grad_(False)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    quantised = calibrate(quantise(network, recipe(7)), [(x,)])
    layer = quantised[0]
    layer.roundings = [torch.floor]
    layer.refresh()
    run = deploy.Deployed(deploy.export(quantised, tmp_path / "floor.onnx", (x,)))
    assert relative(run(x), quantised(x)) < 1e-3


@needs_packages
def test_the_float_file_is_the_plain_network(small, inputs, tmp_path):
    path = deploy.export_float(small, tmp_path / "float.onnx", inputs)
    content = path.read_bytes()
    assert b"site-packages" not in content and b".py" not in content  # no path of the machine
    assert relative(deploy.Deployed(path)(*inputs), small(*inputs)) < 1e-5
    assert set(kind for _, kind in deploy.Deployed(path).kernels()) == {"f32"}
    assert 1e-5 < relative(deploy.bfloat16(small)(*inputs), small(*inputs)) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n, i: n, "no quantised layer"),
        (lambda n, i: quantise(n, recipe()), "not quantised; run calibrate"),
        (lambda n, i: calibrated(n, i, 8, ()), "no quantised activations"),
        (lambda n, i: calibrated(n, i, 8, (4,)), "have 4 bits and the kernels 8"),
        (lambda n, i: calibrated(n, i, side="output"), "quantises its output"),
        (
            lambda n, i: calibrated(n, i, weight_grid=partial(minmax_grid)),
            "not symmetric",
        ),
        (
            lambda n, i: calibrated(n, i, weight_grid=partial(minmax_grid, symmetric=True)),
            "no step per output channel",
        ),
        (lambda n, i: use(calibrated(n, i), weights=False), "not symmetric"),
        (lambda n, i: use(calibrated(n, i), activations=False), "not quantised"),
    ],
)
def test_what_no_int8_kernel_computes_is_refused(small, inputs, tmp_path, make, message):
    with pytest.raises(ReproError, match=message):
        deploy.export(make(small, inputs), tmp_path / "no.onnx", inputs)
    assert not (tmp_path / "no.onnx").exists()


@pytest.mark.parametrize(
    ("content", "wrong"),
    [(b"", "is empty"), (b"<html>", "is a web page"), (b"\x08\x0a\x12 garbage", "is truncated")],
)
def test_a_damaged_file_is_named(tmp_path, content, wrong):
    pytest.importorskip("openvino")
    path = tmp_path / "network.onnx"
    path.write_bytes(content)
    with pytest.raises(ReproError, match=f"network.onnx: {wrong}.*; .*export"):
        deploy.Deployed(path)(torch.zeros(1, 1, 8, 8))


def test_a_missing_package_or_file_is_named(small, inputs, tmp_path, monkeypatch):
    with pytest.raises(ReproError, match="is missing; put a network|needs the package 'openvino'"):
        deploy.Deployed(tmp_path / "nothing.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ReproError, match="needs the package 'onnx'; run: pip install"):
        deploy.export_float(small, tmp_path / "no.onnx", inputs)
    with pytest.raises(ReproError, match="needs the package 'openvino'"):
        deploy.Deployed(tmp_path / "nothing.onnx")


@pytest.mark.parametrize(
    ("flags", "wide"),
    [
        ("flags : avx2 avx512_vnni", True),
        ("flags : avx2 avx512bw", False),
        ("Features : i8mm", True),
    ],
)
def test_processors_that_saturate_are_known_by_their_flags(flags, wide, monkeypatch):
    monkeypatch.setattr(
        deploy.Path, "read_text", lambda self, **options: f"processor : 0\n{flags}\n"
    )
    assert deploy.wide_sums() is wide


def test_exporting_leaves_the_network_as_it_was(small, inputs):
    quantised = calibrated(small, inputs)
    before = quantised(*inputs)
    deploy.lowered(quantised)
    assert torch.equal(quantised(*inputs), before)


def test_gpu_kernels_are_refused_without_their_gpu(monkeypatch):
    with pytest.raises(ReproError, match="choose int4 or float8"):
        gpu.on_gpu(nn.Linear(16, 16), "int3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ReproError, match="need a GPU of compute capability 8.9"):
        gpu.on_gpu(nn.Linear(16, 16), "float8")


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("torchao") is None,
    reason="needs a CUDA GPU and torchao (the group 'deploy-gpu')",
)
@pytest.mark.parametrize(("kind", "tolerance"), [("int4", 0.2), ("float8", 0.08)])
def test_gpu_kernels_compute_roughly_the_layer(kind, tolerance):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1024, 256), nn.SiLU(), nn.Linear(256, 64))
    x = torch.randn(32, 1024)
    converted = gpu.on_gpu(copy.deepcopy(network), kind)
    assert relative(converted(x.cuda()).cpu(), network(x)) < tolerance
