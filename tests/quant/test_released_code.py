"""Units and attention products of latent networks, and learning, as the released code has them.

Golden numbers: the released quantisation code (github.com/Xiuyu-Li/q-diffusion, commit 715783d) run
on its own networks at published size (units, `QuantModel` with activations off, walked as
`recon_model` does), on the operands of `operands` below (`QuantQKMatMul`, `QuantSMVMatMul`,
`cross_attn_forward` with four-bit operands), and on two layers (`layer_reconstruction`). No code of
it is here.
"""

import math
from collections import Counter

import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.nets import ldm
from repro.nets.edm import SongUNet
from repro.nets.unet import UNet
from repro.quant import rounded
from repro.quant.layers import QuantisedAttention, activation_quantisers, calibrate, quantise
from repro.quant.reconstruction import reconstruct_weights, units

UNITS = {  # all, residual blocks, attention or transformer blocks, single layers
    "bedroom": (48, 22, 16, 10),
    "church": (60, 35, 21, 4),
    "cin256": (80, 22, 16, 42),
    "sd-v1": (80, 22, 16, 42),
}
PLACES = {
    "bedroom": ["input_blocks.5.1", "input_blocks.6.0.op", "input_blocks.7.0", "input_blocks.7.1"],
    "church": ["input_blocks.4.1", "input_blocks.5.0", "input_blocks.5.1", "input_blocks.6.0"],
    "cin256": ["input_blocks.4.1.proj_out", "input_blocks.5.0", "input_blocks.5.1.proj_in",
               "input_blocks.5.1.transformer_blocks.0"],
    "sd-v1": ["input_blocks.2.1.transformer_blocks.0", "input_blocks.2.1.proj_out",
              "input_blocks.3.0.op", "input_blocks.4.0"],
}  # fmt: skip
"""Units 10 to 13 in the order in which they are learned."""

STEPS = {  # of q, k, v and the softmax matrix; the latter has zero-point 0 and codes from 0
    "max": (0.15107198, 0.20199151, 0.14285715, 0.00291942),
    "mse": (0.14087434, 0.18844572, 0.13325779, 0.00300455),
}
OUTPUTS = {  # of head 1, token 2, and of head 0, token 5
    "max": (-0.040872, -0.266084, -0.097175, 0.210615, -0.043374, 0.447505, 0.434577, -0.196018),
    "mse": (-0.049247, -0.218607, -0.09489, 0.210599, -0.044442, 0.502476, 0.373954, -0.174966),
}
CROSS_STEPS = {8: 0.00313411, 16: 1.219498e-05}
CROSS = {  # token 2, both heads
    8: (-0.768428, -0.358739, 0.238881, 0.770517, 0.508249, -0.145751, -0.712884, -0.925873),
    16: (-0.769169, -0.359084, 0.239188, 0.771353, 0.506224, -0.145486, -0.710429, -0.922483),
}


def wave(shape, frequency, size):
    flat = torch.sin(torch.arange(math.prod(shape), dtype=torch.float32) * frequency) * size
    return flat.reshape(shape)


def operands():
    sizes = ((0.37, 1.5), (0.73, 2.0), (1.19, 1.0))
    return [wave((1, 2, 6, 4), *size) for size in sizes]


def products(block, scale, softmax_bits, *tensors):
    """Output and quantisers of the products of a block, initialised by the same forward pass."""
    style = rounded.attention_style(block, scale)
    made = QuantisedAttention(rounded.first_batch(scale), 4, softmax_bits, style)
    found = activation_quantisers(made)
    calibrate(made, [tensors], in_turn=True)
    with torch.no_grad():
        return made(*tensors), {n: q.grids[q.bits] for n, q in found.items()}


@pytest.mark.parametrize("name", list(UNITS))
def test_units_of_published_latent_networks(name):
    with torch.device("meta"):
        network = ldm.LatentUNet(ldm.CONFIGS[name])
    found = units(network)
    kinds = Counter(type(unit) for unit in found.values())
    attention = kinds[ldm.AttentionBlock] + kinds[ldm.TransformerBlock]
    residual = kinds[ldm.ResBlock]
    assert (len(found), residual, attention, len(found) - residual - attention) == UNITS[name]
    assert list(found)[9:13] == PLACES[name]
    assert list(found)[:3] == ["time_embed.0", "time_embed.2", "input_blocks.0.0"]
    assert list(found)[-1] == "out.2"


@pytest.mark.parametrize("scale", ["max", "mse"])
def test_products_of_unconditional_attention(scale):
    output, grids = products(ldm.AttentionBlock(8, 2, groups=4), scale, 8, *operands())
    assert [float(grids[n].delta) for n in "qkvw"] == pytest.approx(STEPS[scale], rel=1e-5)
    zero = 0 if scale == "max" else 7
    assert [float(grids[n].zero_point) for n in "qkvw"] == [zero] * 3 + [0]
    assert (grids["w"].lo, grids["w"].hi) == (0, 255)
    found = [*output[0, 1, 2].tolist(), *output[0, 0, 5].tolist()]
    assert found == pytest.approx(OUTPUTS[scale], abs=2e-5)


@pytest.mark.parametrize("softmax", [8, 16])
def test_products_of_a_transformer_block(softmax):
    x, context = wave((1, 6, 8), 0.37, 1.5), wave((1, 5, 8), 0.73, 2.0)
    tensors = (x, context, 0.5 * context.flip(-1))
    heads = [t.unflatten(-1, (2, 4)).transpose(1, 2) for t in tensors]
    output, grids = products(ldm.CrossAttention(8, 2, None, 0.0), "mse", softmax, *heads)
    expected = (0.19922641, 0.2665025, 0.13325125, CROSS_STEPS[softmax])
    assert [float(grids[n].delta) for n in "qkvw"] == pytest.approx(expected, rel=1e-5)
    assert [float(grids[n].zero_point) for n in "qkvw"] == [7, 7, 7, 0]
    assert output.transpose(1, 2).flatten(2)[0, 2].tolist() == pytest.approx(
        CROSS[softmax], abs=2e-5
    )


def test_attention_of_the_pixel_network_is_quantised_alike(monkeypatch):
    """The softmax matrix has the same rule as the other operands, and nothing is scaled."""
    torch.manual_seed(0)
    network = UNet(resolution=8, in_channels=1, channels=8, mult=(1,), blocks=1, groups=4,
                   attention=(8,))  # fmt: skip
    for scale, low in (("max", -128), ("mse", 0)):
        copy = quantise(network.eval(), rounded.recipe(network, 4, 8, scale=scale))
        made = [m for m in copy.modules() if isinstance(m, QuantisedAttention)]
        assert made and not any(m.scaled for m in made)
        softmax = made[0].w.observer
        softmax.update(torch.rand(3, 3))
        assert softmax.grid(8).lo == low


def test_networks_of_unknown_blocks_are_refused_in_one_line():
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

    network = nn.Sequential(nn.Conv2d(2, 2, 1), Bottleneck())
    with pytest.raises(ReproError, match="no block type is known") as caught:
        units(network)
    assert "\n" not in str(caught.value)
    assert list(units(network, ())) == ["0", "1.one", "1.two"]
    assert list(units(network, (Bottleneck,))) == ["0", "1"]
    assert list(units(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2)))) == ["0", "1"]


def test_the_edm_networks_are_refused():
    with torch.device("meta"):
        network = SongUNet(resolution=8, channels=32, mult=(1,), blocks=1, attention=())
    with pytest.raises(ReproError, match="UNetBlock"):
        units(network)


# Learning of roundings ----------------------------------------------------------------------------

ALPHAS = {  # after 60 iterations on all samples: nine of the first layer, all of the second
    "max": (
        (-2.3979, -2.20742, -0.38697, -1.99591, -0.56077, -0.15175, -0.26417, 0.61405, -0.38124),
        (-2.3979, 1.82689, 1.83734, 1.9719, -0.65723, 1.96101),
    ),
    "mse": (
        (-2.3979, -1.75821, -0.1188, -1.78785, -0.6955, -0.41169, -0.46457, 0.63894, -0.16141),
        (-2.3979, 1.84831, 1.83734, 1.9719, -0.6734, 1.9827),
    ),
}
HARD = {  # outputs of the last sample after the cut
    "max": (-0.13129, 0.48783, 1.52289, 1.51334, 0.59325, -0.05453),
    "mse": (-0.12433, 0.45723, 1.4962, 1.5159, 0.61659, -0.05351),
}


@pytest.mark.parametrize("scale", ["max", "mse"])
def test_roundings_are_learned_as_released(scale):
    """`layer_reconstruction` of the released code, layer after layer, inputs quantised so far.

    4 bits, λ = 0.01, β from 20 to 2, a fifth of warm-up, Adam at 1e-3, batches of all samples.
    """

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.two(nn.functional.silu(self.one(x)))

    network = Two().requires_grad_(False)
    network.one.weight.copy_(wave((3, 2, 3, 3), 0.91, 0.4))
    network.one.bias.copy_(wave((3,), 0.5, 0.1))
    network.two.weight.copy_(wave((2, 3, 1, 1), 1.7, 0.8))
    network.two.bias.zero_()
    x = wave((8, 2, 5, 5), 0.77, 1.3)
    copy = quantise(network, rounded.recipe(network, 4, weight_scale=scale, split=False))
    generator = torch.Generator().manual_seed(0)
    alphas = reconstruct_weights(
        copy, network, (x,), 60, generator=generator, lr=1e-3, batch=8, faithful=True
    )
    for name, expected in zip(("one", "two"), ALPHAS[scale], strict=True):
        found = alphas[name][0].flatten()[: len(expected)].tolist()
        assert found == pytest.approx(expected, abs=3e-4)
    with torch.no_grad():
        assert copy(x)[7].flatten()[:6].tolist() == pytest.approx(HARD[scale], abs=3e-5)
