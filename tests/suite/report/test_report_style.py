from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from repro.suite import inference
from repro.suite.report import style


def test_colours_follow_the_order_of_names():
    style.assign(["zeta", "alpha", "mid"])
    first = {arm: style.colour(arm) for arm in ("alpha", "mid", "zeta")}
    style.assign(["mid", "zeta", "alpha"])
    assert {arm: style.colour(arm) for arm in first} == first
    assert list(first.values()) == list(style.PALETTE[:3])
    assert style.colour("late") == style.PALETTE[3]


def test_arms_differ_without_colour_until_the_palette_is_used_up():
    arms = [f"arm-{i:02d}" for i in range(30)]
    style.assign(arms)
    looks = {(style.colour(a), style.marker(a), str(style.line(a))) for a in arms}
    assert len(looks) == 30
    assert len({style.marker(a) for a in arms[:10]}) == 10


def test_colours_contrast_with_white():
    def luminance(colour):
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    ratios = {colour: 1.05 / (luminance(colour) + 0.05) for colour in style.PALETTE}
    assert min(ratios.values()) > 2.0, ratios


def test_context_leaves_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    with style.context():
        assert matplotlib.rcParams["axes.grid"]
    assert dict(matplotlib.rcParams) == before


def test_band_over_seeds():
    values = np.array([[1.0, 5.0, 3.0], [2.0, np.nan, 4.0]])
    centre, low, high = style.band(values)
    assert centre.tolist() == [3.0, 3.0]
    assert low.tolist() == [1.0, 2.0]
    assert high.tolist() == [5.0, 4.0]
    mean, low, high = style.band(np.tile([0.0, 1.0, 2.0, 3.0], (2, 1)), "interval")
    assert mean.tolist() == [1.5, 1.5]
    half = inference.evidence([0.0, 1.0, 2.0, 3.0]).half_width
    assert np.allclose([mean - low, high - mean], half) and half > 2
    with pytest.raises(ValueError, match="n_x, n_seeds"):
        style.band(np.zeros(3))
    with pytest.raises(ValueError, match="unknown band"):
        style.band(values, "std")


def test_curve_draws_a_band_only_over_several_seeds():
    style.assign(["a"])
    _, ax = style.subplots()
    style.curve(ax, [1, 2], np.array([[1.0, 2.0], [3.0, 5.0]]), "a", label="A")
    assert ax.lines[0].get_ydata().tolist() == [1.5, 4.0]
    assert len(ax.collections) == 1
    style.curve(ax, [1, 2], np.array([1.0, 2.0]), "a")
    assert len(ax.collections) == 1
    style.legend(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["A", "a"]


def test_image_grid_places_images_row_by_row():
    images = np.zeros((5, 6, 8), np.uint8)
    images[3] = 255
    figure = style.image_grid(images, 2, 3, row_labels=["r0", "r1"], col_labels=["a", "b", "c"])
    assert len(figure.axes) == 5
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert [float(a.max()) for a in shown] == [0, 0, 0, 1, 0]
    boxes = [ax.get_position() for ax in figure.axes]
    assert boxes[3].x0 == pytest.approx(boxes[0].x0)
    assert boxes[3].y1 < boxes[0].y0
    width, height = figure.get_size_inches()
    pixel = (boxes[0].width * width / 8, boxes[0].height * height / 6)
    assert pixel[0] == pytest.approx(pixel[1], rel=0.02)


@pytest.mark.parametrize(
    "shape", [(2, 4, 4), (2, 4, 4, 1), (2, 4, 4, 3), (2, 1, 4, 4), (2, 3, 4, 4)]
)
def test_image_grid_accepts_every_layout(shape):
    figure = style.image_grid(np.full(shape, 0.5), 1, 2)
    assert figure.axes[0].images[0].get_array().shape == (4, 4, 3)


def test_image_grid_refuses_what_it_cannot_place():
    with pytest.raises(ValueError, match="5 images do not fit 2 rows of 2"):
        style.image_grid(np.zeros((5, 4, 4)), 2, 2)
    with pytest.raises(ValueError, match="images have shape"):
        style.image_grid(np.zeros((2, 4, 4, 2)), 1, 2)


def test_figures_are_the_same_bytes_twice():
    def draw():
        style.assign(["a", "b"])
        figure, ax = style.subplots()
        style.trade_off(ax, np.array([1.0, 2.0]), np.array([3.0, 1.0]), "a", annotate=[8, 16])
        style.bars(ax, ["a", "b"], [np.array([1.0, 2.0]), np.array([2.0])])
        style.reference(ax, 1.5, "threshold")
        style.ticks(ax, [1, 2, 4])
        out = io.BytesIO()
        with style.context():
            figure.savefig(out, format="svg", metadata={"Date": None})
        return out.getvalue()

    assert draw() == draw()
