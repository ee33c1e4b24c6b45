"""The ADM U-Net: released layout, what leaving blocks out does, and the order of attention."""

import pytest
import torch

from repro.errors import ReproError
from repro.metrics.cost import count_macs, count_parameters
from repro.nets import adm

SMALL = adm.ADMConfig(16, 32, (1, 2), 1, (8,), head=32, new_order=True, classes=5)


def network(config=SMALL, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = adm.ADMUNet(config).eval()
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.1) if p.ndim > 1 else None
    return made


def inputs(n=2):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 16, 16, generator=g), torch.tensor([5, 800])[:n], torch.arange(n)


@pytest.mark.parametrize(
    "config, params, tensors, blocks",
    [(adm.IMAGENET_64, 295_904_454, 541, (36, 22)), (adm.LSUN_256, 552_814_086, 566, (42, 16))],
)
def test_released_sizes(config, params, tensors, blocks):
    with torch.device("meta"):
        net = adm.ADMUNet(config)
    assert count_parameters(net) == params
    assert len(net.state_dict()) == tensors
    kinds = [hasattr(net.get_submodule(name), "qkv") for name in net.block_names]
    assert (kinds.count(False), kinds.count(True)) == blocks


def test_released_layout():
    with torch.device("meta"):
        state = adm.ADMUNet(adm.IMAGENET_64).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["time_embed.0.weight"] == (768, 192)
    assert shapes["label_emb.weight"] == (1000, 768)
    assert shapes["input_blocks.0.0.weight"] == (192, 3, 3, 3)
    assert shapes["input_blocks.1.0.in_layers.2.weight"] == (192, 192, 3, 3)
    assert shapes["input_blocks.5.0.emb_layers.1.weight"] == (2 * 384, 768)
    assert shapes["input_blocks.5.1.qkv.weight"] == (3 * 384, 384, 1)
    assert shapes["output_blocks.0.0.skip_connection.weight"] == (768, 1536, 1, 1)
    assert shapes["output_blocks.0.0.out_layers.3.weight"] == (768, 768, 3, 3)
    assert shapes["out.2.weight"] == (6, 192, 3, 3)


def test_macs_of_blocks_are_what_leaving_them_out_saves():
    net = network()
    total, savings = adm.block_macs(net)
    x, t, y = adm.example_inputs(SMALL)
    assert total == count_macs(net, x, t, y).total
    for block, saving in enumerate(savings):
        assert total - saving == count_macs(net, x, t, y, skip={block}).total
    everything = range(len(savings))
    assert total - sum(savings) == count_macs(net, x, t, y, skip=everything).total


@torch.no_grad()
def test_every_block_matters_and_shapes_stay():
    net = network()
    x, t, y = inputs()
    full = net(x, t, y)
    assert full.shape == (2, 6, 16, 16)
    for block in range(len(net.block_names)):
        out = net(x, t, y, skip={block})
        assert out.shape == full.shape and (out - full).abs().max() > 1e-4, net.block_names[block]


@torch.no_grad()
def test_left_out_block_is_its_shortcut():
    net = network()
    x, t, y = inputs()
    name = net.block_names[3]
    block = net.get_submodule(name)
    seen = {}
    block.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    net(x, t, y)
    assert not torch.equal(seen["out"], block.shortcut(seen["x"]))
    seen.clear()
    net(x, t, y, skip={3})
    assert not seen  # it never ran


@torch.no_grad()
def test_orders_of_attention_differ_by_a_permutation_of_rows():
    new = adm.AttentionBlock(64, adm.ADMConfig(8, 64, (1,), 1, (8,), head=32, new_order=True))
    old = adm.AttentionBlock(64, adm.ADMConfig(8, 64, (1,), 1, (8,), head=32, new_order=False))
    g = torch.Generator().manual_seed(0)
    for p in new.parameters():
        p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    state = new.state_dict()
    rows = torch.arange(192).reshape(3, 2, 32).transpose(0, 1).flatten()
    for name in ("qkv.weight", "qkv.bias"):
        state[name] = state[name][rows]
    old.load_state_dict(state)
    x = torch.randn(2, 64, 4, 4, generator=g)
    torch.testing.assert_close(new(x), old(x))
    old.load_state_dict(new.state_dict())
    assert not torch.allclose(new(x), old(x))


@torch.no_grad()
def test_attention_is_that_of_torch():
    block = adm.AttentionBlock(64, adm.ADMConfig(8, 64, (1,), 1, (8,), head=32, new_order=True))
    g = torch.Generator().manual_seed(0)
    for p in block.parameters():
        p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    x = torch.randn(2, 64, 4, 4, generator=g)
    qkv = block.qkv(block.norm(x.flatten(2))).reshape(2, 3, 2, 32, 16).transpose(-1, -2)
    h = torch.nn.functional.scaled_dot_product_attention(*qkv.unbind(1))
    expected = x.flatten(2) + block.proj_out(h.transpose(-1, -2).reshape(2, 64, 16))
    torch.testing.assert_close(block(x).flatten(2), expected)


def test_embedding_has_cosines_first():
    e = adm.timestep_embedding(torch.tensor([0, 3]), 8)
    assert e[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert float(e[1, 5]) == pytest.approx(torch.sin(torch.tensor(3 * 1e4**-0.25)).item())


def test_mistakes_are_named():
    net = network()
    x, t, y = inputs()
    with pytest.raises(ReproError, match="labels"):
        net(x, t)
    with pytest.raises(ReproError, match="no block 99"):
        net(x, t, y, skip={99})
    with pytest.raises(ReproError, match="multiple"):
        adm.AttentionBlock(48, adm.ADMConfig(8, 48, (1,), 1, (8,), head=32))
