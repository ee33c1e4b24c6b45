"""Networks of the paper and of the experiment, and the published layout of checkpoints."""

import numpy as np
import pytest
import torch

from methods.superdiff import method as sd
from methods.superdiff import networks, official, structure
from repro.diffusion.schedules import alphas_cumprod, linear_betas
from repro.errors import ReproError
from repro.metrics.cost import count_parameters
from repro.nets.unet import AttentionBlock, UNet

SMALL = dict(channels=32, mult=(1, 2), blocks=1, resolution=8, attention=(8, 4), groups=8)


def small(classes=None, seed=0):
    torch.manual_seed(seed)
    return networks.ScoreUNet(classes=classes, **SMALL)


def exported(network, field="params_ema"):
    """The arrays that a Flax checkpoint of this network holds."""
    back = {
        "convolution": lambda v: v.permute(2, 3, 1, 0),
        "transpose": lambda v: v.T,
        "pointwise": lambda v: v[:, :, 0, 0].T,
        "as is": lambda v: v,
    }
    state = network.state_dict()
    return {
        f"{field}/{name}" if field else name: back[how](state[own]).contiguous().numpy()
        for name, (own, how) in official.layout(network).items()
    }


def test_true_sizes():
    with torch.device("meta"):
        plain, conditional = networks.cifar_network(), networks.cifar_network(10)
    assert count_parameters(plain) == 36_009_987
    assert count_parameters(conditional) == 36_015_107
    assert sum(isinstance(m, AttentionBlock) for m in plain.modules()) == 7
    names = official.layout(plain)
    assert {n.split("/")[0] for n in names if n.startswith("Res")} == {
        f"ResnetBlockDDPM_{i}" for i in range(22)
    }
    assert {own for own, _ in names.values()} == set(plain.state_dict())


def test_operations_of_the_true_network():
    found = structure.flop_counts()
    assert found["lean product"] / found["forward"] == pytest.approx(2.02, abs=0.01)
    assert found["product"] / found["forward"] == pytest.approx(3.0, abs=0.01)
    with torch.device("meta"):
        macs = networks.edge_aware_macs(
            networks.cifar_network().eval(), torch.zeros(1, 3, 32, 32), torch.zeros(1)
        )
    assert 2 * macs / 11.36e9 == pytest.approx(1, abs=0.005)
    assert [structure.calls_per_step(r) for r in ("or", "and", "hutchinson")] == [2, 2, 4]


def test_edges_of_one_convolution():
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(2, 5, 3, padding=1)

        def forward(self, x, t):
            return self.layer(x)

    macs = networks.edge_aware_macs(One(), torch.zeros(1, 2, 8, 8), torch.zeros(1))
    assert macs == 2 * 5 * (3 * 8 - 2) ** 2


def test_lean_product_is_the_product():
    network = small().eval()
    x = torch.randn(2, 3, 8, 8)
    model = structure.as_model(network)
    plain = sd.hutchinson(model, x, 0.4, torch.ones_like(x))
    lean = sd.hutchinson(structure.as_model(networks.lean(network)), x, 0.4, torch.ones_like(x))
    for a, c in zip(plain, lean, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)


def test_labels_go_with_a_conditional_network_only():
    x, t, y = torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.tensor([0, 3])
    assert small(10)(x, t, y).shape == x.shape
    for network, label in ((small(), y), (small(10), None)):
        with pytest.raises(ValueError, match="labels"):
            network(x, t, label)


def test_matched_step_has_the_ratio_of_the_zoo():
    abar = alphas_cumprod(linear_betas()).numpy()
    for n in (0, 17, 500, 980):
        ratio = np.sqrt((1 - abar[n]) / abar[n])
        ts = np.linspace(1e-4, 1, 200_001)
        t = ts[np.argmin(np.abs(ts / np.exp(sd.log_alpha(ts)) - ratio))]
        assert networks.matched_step(t) == pytest.approx(n, abs=0.2)
    assert networks.matched_step(0.0) == 0 and 980 < networks.matched_step(1.0) < 999


def test_schedule_matched_feeds_the_zoo_its_own_states():
    seen = {}

    class Spy(UNet):
        def forward(self, x, t, y=None):
            seen.update(x=x, t=t, y=y)
            return x

    wrapped = networks.ScheduleMatched(
        Spy(resolution=8, in_channels=1, channels=8, mult=(1,), blocks=1, groups=4),
        torch.tensor([3, 4]),
    )
    x, t = torch.ones(2, 1, 8, 8), torch.tensor([0.2, 0.9], dtype=torch.float64)
    out = wrapped(x, t)
    scale = 1 / torch.sqrt(torch.exp(2 * sd.log_alpha(t)) + t**2)
    torch.testing.assert_close(seen["x"][:, 0, 0, 0].double(), scale, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out, -seen["x"])
    assert seen["t"].numpy() == pytest.approx(networks.matched_step(t.numpy()), rel=1e-5)
    assert seen["y"].tolist() == [3, 4]


def test_mlp_keeps_the_shape_and_starts_at_zero():
    network = networks.ResidualMLP(64, width=16, blocks=2)
    x = torch.randn(3, 1, 8, 8)
    assert network(x, 0.5).shape == x.shape and network(x, 0.5).abs().max() == 0


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("field", ["params_ema", ""])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_checkpoint_round_trip(tmp_path, classes, field, suffix):
    source, target = small(classes), small(classes, seed=1)
    path = tmp_path / f"chkpt5{suffix}"
    arrays = exported(source, field)
    if suffix == ".npz":
        arrays |= {"step": np.array(5)} if field else {}
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file({name.replace("/", "."): value for name, value in arrays.items()}, path)
    loaded = official.load_checkpoint(path, target)
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert not loaded.training


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.pop("Conv_0/kernel"), "lacks `Conv_0/kernel`"),
        (lambda a: a.update(Conv_7=np.zeros(1)), "holds `Conv_7`"),
        (
            lambda a: a.update({"Dense_0/kernel": np.zeros((3, 3), np.float32)}),
            "expected .32, 128.",
        ),
        (lambda a: a.update({"Conv_0/kernel": np.zeros(3, np.float32)}), "expected .3, 3, 3, 32."),
        (lambda a: a["GroupNorm_0/scale"].fill(np.nan), "NaN"),
    ],
)
def test_foreign_checkpoints_are_refused(tmp_path, spoil, message):
    arrays = {n: v.copy() for n, v in exported(small(), "").items()}
    spoil(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ReproError, match=message):
        official.load_checkpoint(tmp_path / "x.npz", small())


def test_the_last_step_never_stands_in_for_the_averages(tmp_path):
    source, path = small(), tmp_path / "chkpt5.npz"
    np.savez(path, step=np.array(5), **exported(source, "model_params"))
    with pytest.raises(ReproError, match="no averaged weights .`params_ema`.*with ema=False"):
        official.load_checkpoint(path, small(seed=1))
    loaded = official.load_checkpoint(path, small(seed=1), ema=False)
    assert torch.equal(loaded.conv_in.weight, source.conv_in.weight)
    np.savez(path, **exported(source, "params_ema"))
    with pytest.raises(ReproError, match="has no `model_params`"):
        official.load_checkpoint(path, small(seed=1), ema=False)


def test_an_orbax_folder_is_to_be_exported(tmp_path):
    with pytest.raises(ReproError, match="is a folder.*exported to .safetensors or .npz"):
        official.load_checkpoint(tmp_path)


def test_splits_of_the_release():
    labels = np.array([0, 7, 4, 5, 9, 3])
    assert official.split(labels, "a").tolist() == [0, 2, 5]
    assert official.split(labels, "b").tolist() == [1, 3, 4]
    assert official.split(labels, "second").tolist() == [3, 4, 5]
    with pytest.raises(ReproError, match="no split"):
        official.split(labels, "c")
