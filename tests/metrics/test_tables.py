"""The counters against published tables, on the networks of the papers (shapes alone)."""

import pytest
import torch

from repro.metrics import cost
from repro.nets.transformer import Config, Transformer
from repro.nets.unet import UNet


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return UNet()


@pytest.fixture(scope="module")
def unet_macs(unet):
    return cost.count_macs(unet, torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))


def test_parameters_and_sizes_of_the_cifar10_unet(unet):
    assert cost.count_parameters(unet) == 35_746_307
    assert cost.quantisable_weights(unet) == 35_691_264
    sizes = [cost.model_size_bytes(unet, bits) / 1e6 for bits in (32, 8, 4)]
    assert sizes == pytest.approx([142.99, 35.75, 17.87], abs=0.005)
    honest = [cost.model_size_bytes(unet, bits, honest=True) / 1e6 for bits in (8, 4)]
    assert honest == pytest.approx([35.91, 18.07], abs=0.005)


def test_macs_of_the_cifar10_unet(unet_macs):
    found = [v / 1e9 for v in (unet_macs.conv, unet_macs.linear, unet_macs.attention)]
    assert found == pytest.approx([6.05107, 0.00288, 0.16790], abs=5e-6)
    assert unet_macs.total / 1e9 == pytest.approx(6.22186, abs=5e-6)


@pytest.mark.parametrize(
    ("w", "a", "ours", "printed"),
    [
        (32, 32, 6582.7, 6597),
        (8, 32, 2289.6, 2294),
        (4, 32, 1144.8, 1147),
        (8, 8, 796.4, 798),
        (4, 8, 398.2, 399),
    ],
)
def test_bops_of_the_cifar10_unet(unet_macs, w, a, ours, printed):
    found = cost.bops(unet_macs.total, w, a) / 1e9
    assert found == pytest.approx(ours, abs=0.05)
    # the printed table counts norms and activations too
    assert found == pytest.approx(printed, rel=0.0025)


def test_macs_of_the_small_radd_transformer():
    with torch.device("meta"):
        network = Transformer(Config(vocab=50_257, d=768, blocks=12, heads=12))
    macs = cost.count_macs(network, torch.zeros(1, 1024, dtype=torch.long))
    assert macs.linear / 1e9 == pytest.approx(86.97 + 39.52, abs=0.02)  # blocks and head
    assert macs.attention / 1e9 == pytest.approx(19.33, abs=0.01)
    assert macs.total / 1e9 == pytest.approx(145.8, abs=0.05)
