"""A user's profile: what comes out, and one line for every mistake that goes in."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from methods.diffusion_couple import profile, smoothing, systems
from methods.diffusion_couple.forward import intrinsic_from_ratio
from methods.diffusion_couple.method import Profile, constant_volume, ideal_volume, matano_plane
from repro.errors import ReproError

SETTINGS = {
    "t_s": 360000, "T_C": 900, "N_left": 0.0, "N_right": 1.0,
    "V_A": 6.59, "V_B": 8.86, "V_m": {"w": 0.4},
}  # fmt: skip


def write(folder: Path, x, N, settings=None, header="x_um,N_B") -> Path:
    path = folder / "couple.csv"
    rows = [f"{a:.6f},{b:.6f}" for a, b in zip(x, N, strict=True)]
    path.write_text("\n".join(["# electron microprobe", header, *rows]), encoding="utf-8")
    (folder / "couple.yaml").write_text(yaml.safe_dump(settings or SETTINGS), encoding="utf-8")
    return path


def measured(noise=0.001, mirrored=False):
    couple = systems.ni_pd_like(0.4)
    x, N = couple.points(61, noise * np.random.default_rng(5).standard_normal(61))
    return couple, (1e6 * (-x[::-1] if mirrored else x)), (N[::-1] if mirrored else N)


def analysed(path: Path) -> profile.Analysis:
    x, N, _ = profile.read_points(path)
    return profile.analyse(x, N, profile.read_config(path.with_suffix(".yaml")))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_measured_profile_gives_all_outputs(tmp_path, capsys, mirrored):
    couple, x, N = measured(mirrored=mirrored)
    sign = -1 if mirrored else 1
    settings = SETTINGS | {"x_K_um": sign * couple.x_K * 1e6}
    if mirrored:
        settings |= {"N_left": 1.0, "N_right": 0.0}
    path = write(tmp_path, x, N, settings)
    out = tmp_path / "out"
    profile.profile_cli(path, None, out)
    table = pd.read_csv(out / "couple.csv")
    assert list(table.columns[:4]) == ["N", "D_wagner", "D_wagner_low", "D_wagner_high"]
    truth = couple.D(table.N.to_numpy())
    inner = (table.N > 0.1) & (table.N < 0.9)
    assert np.mean(np.abs(table.D_wagner / truth - 1)[inner]) < 0.02
    inside = (table.D_wagner_low <= table.D_wagner) & (table.D_wagner <= table.D_wagner_high)
    assert inside[inner].mean() > 0.9
    assert (table.D_denbroeder_CB / table.D_wagner)[inner].mean() == pytest.approx(1.018, abs=2e-3)
    assert {"D_denbroeder_CA_low", "D_const_high"} <= set(table.columns)
    text = (out / "couple.md").read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    assert "Kirkendall plane" in text and "not available" in text
    assert ("mirrored" in text) == mirrored
    assert (out / "couple.png").read_bytes().startswith(b"\x89PNG")
    # the intrinsic coefficients are the planted ones, whichever way the profile runs
    found = analysed(path)
    N_K = np.interp(couple.x_K, couple.profile.x, couple.profile.N)
    D_A, D_B = intrinsic_from_ratio(couple.D(N_K), N_K, couple.V, couple.ratio)
    assert found.intrinsic["van Loo"][0].value == pytest.approx(D_A, rel=0.02)
    assert found.intrinsic["van Loo"][1].value == pytest.approx(D_B, rel=0.02)
    plane = found.planes["Matano plane, constant volume"]
    assert plane.low < plane.value < plane.high
    assert found.fit[0][0] < found.fit[0][-1]


def test_ideal_volume_makes_the_families_one(tmp_path):
    _, x, N = measured()
    path = write(tmp_path, x, N, SETTINGS | {"V_m": {"w": 0.0}})
    found = analysed(path)
    for name in ("D_denbroeder_CB", "D_denbroeder_CA"):
        assert max(found.differences[name]) < 1e-9
    assert found.differences["D_const"][0] > 0.01


def test_volume_table_equals_its_excess_parameter(tmp_path):
    N = np.linspace(0, 1, 201)
    V = 6.59 * (1 - N) + 8.86 * N + 0.4 * N * (1 - N)
    rows = [[float(a), float(b)] for a, b in zip(N, V, strict=True)]
    config = profile.Config(**SETTINGS | {"V_m": {"table": rows}})
    np.testing.assert_allclose(config.volume()(N), V * 1e-6)


def layers(folder, mirrored=False, solubility=0.0):
    couple = systems.cu_sn_like()
    edges = 100 + np.concatenate([[0], np.cumsum(couple.dx)]) * 1e6
    x = np.linspace(60, 160, 201)
    N = np.select([x < edges[0], x < edges[1], x < edges[2]], couple.N[:3], 1.0)
    # a little B dissolved in A near the first interface
    N = np.where(x < edges[0], solubility * np.exp((x - edges[0]) / 8), N)
    names = ["Cu3Sn", "Cu6Sn5"]
    cards = [
        {"name": n, "N": float(c), "V_m": float(v * 1e6), "thickness_um": float(d * 1e6),
         "sd_um": 0.1, "x_left_um": float(e)}
        for n, c, v, d, e in zip(
            names, couple.N[1:3], couple.V[1:3], couple.dx, edges[:2], strict=True
        )
    ]  # fmt: skip
    settings = {
        "t_s": couple.t, "T_C": 200, "N_left": 0.0, "N_right": 1.0, "V_A": 7.12, "V_B": 16.24,
        "layers": cards,
    }  # fmt: skip
    if mirrored:
        x, N = -x[::-1], N[::-1]
        for card in cards:
            card["x_left_um"] = -card["x_left_um"] - card["thickness_um"]
        settings |= {"N_left": 1.0, "N_right": 0.0, "layers": cards[::-1]}
    return couple, write(folder, x, N, settings)


@pytest.mark.parametrize("mirrored", [False, True])
def test_line_compounds_give_integrated_coefficients(tmp_path, mirrored):
    couple, path = layers(tmp_path, mirrored)
    profile.profile_cli(path, None, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "couple_layers.csv").set_index("layer")
    np.testing.assert_allclose(table.loc[["Cu3Sn", "Cu6Sn5"], "D_int_N"], couple.D_int, rtol=1e-4)
    np.testing.assert_allclose(table["D_int_N_profile"], table["D_int_N"], rtol=1e-4)
    assert (table.D_int_N_low < table.D_int_N).all() and (table.D_int_N < table.D_int_N_high).all()
    assert (table.D_int_CA < 0).all()
    assert not (tmp_path / "out" / "couple.csv").exists()
    assert "D(N) has no meaning" in (tmp_path / "out" / "couple.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "couple.png").exists()


def test_solubility_beside_the_layers_counts(tmp_path):
    _, path = layers(tmp_path, solubility=0.05)
    profile.profile_cli(path, None, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "couple_layers.csv")
    assert (table.D_int_N_profile > 1.01 * table.D_int_N).all()


BAD_SETTINGS = [
    ({"t_s": -1}, r"couple\.yaml: t_s: .*expected 1 to 1e\+10; seconds"),
    ({"t_s": "long"}, r"couple\.yaml: t_s: .*number"),
    ({"V_A": 6.59e-6}, r"couple\.yaml: V_A: .*m3/mol"),
    ({"N_right": 45}, r"couple\.yaml: N_right: .*divide % by 100"),
    ({"N_right": 0.0}, r"couple\.yaml.*N_left equals N_right"),
    ({"V_m": {}}, r"couple\.yaml: V_m: .*either `w`"),
    ({"V_m": {"table": [[0.5, 7], [0.2, 8]]}}, r"couple\.yaml: V_m: .*N rising"),
    ({"x_k_um": 3}, r"couple\.yaml: x_k_um: unknown key.*x_K_um"),
    (
        {"layers": [{"name": "b", "N": 0.5, "V_m": 9, "thickness_um": 3},
                    {"name": "c", "N": 0.4, "V_m": 9, "thickness_um": 3}]},
        r"couple\.yaml.*left to right",
    ),
]  # fmt: skip


@pytest.mark.parametrize("change, message", BAD_SETTINGS, ids=lambda v: str(v)[:24])
def test_mistakes_in_the_configuration_are_named(tmp_path, change, message):
    _, x, N = measured()
    path = write(tmp_path, x, N, SETTINGS | change)
    with pytest.raises(ReproError, match=message) as caught:
        profile.profile_cli(path, None, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_configuration_says_what_to_write(tmp_path):
    _, x, N = measured()
    path = write(tmp_path, x, N)
    path.with_suffix(".yaml").unlink()
    with pytest.raises(ReproError, match=r"couple\.yaml is missing.*--config"):
        profile.profile_cli(path, None, tmp_path / "out")


def _replace(index, x=None, N=None):
    def change(xs, Ns):
        xs, Ns = xs.copy(), Ns.copy()
        if x is not None:
            xs[index] = x
        if N is not None:
            Ns[index] = N
        return xs, Ns

    return change


BAD_POINTS = [
    (_replace(4, N=np.nan), "line 7: `nan` is no number under N_B"),
    (_replace(7, x=-1e4), "line 10: x_um = -10000 is out of order"),
    (lambda x, N: (x[:5], N[:5]), "has 5 points.*measure more"),
    (lambda x, N: (x, 100 * N), "divide at.% by 100"),
    (lambda x, N: (x, N[::-1]), "swap N_left and N_right"),
    (lambda x, N: (np.arange(20001), np.linspace(0, 1, 20001)), "average neighbours"),
    (lambda x, N: (x, np.where(x > 0, 1.0, 0.0)), "cannot be fitted.*needs five"),
]


@pytest.mark.parametrize("change, message", BAD_POINTS, ids=[m for _, m in BAD_POINTS])
def test_mistakes_in_the_points_are_named(tmp_path, change, message):
    _, x, N = measured()
    path = write(tmp_path, *change(x, N))
    with pytest.raises(ReproError, match=message) as caught:
        profile.profile_cli(path, None, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_missing_file_and_column_are_named(tmp_path):
    _, x, N = measured()
    path = write(tmp_path, x, N, header="x_um,X")
    with pytest.raises(ReproError, match="no column `N_B`"):
        profile.profile_cli(path, None, tmp_path / "out")
    path.unlink()
    with pytest.raises(ReproError, match=r"couple\.csv: cannot be read \(No such file"):
        profile.profile_cli(path, None, tmp_path / "out")


def test_a_marker_outside_the_profile_and_a_cut_profile_are_told(tmp_path):
    _, x, N = measured()
    path = write(tmp_path, x, N, SETTINGS | {"x_K_um": 1e6})
    with pytest.raises(ReproError, match="x_K_um = 1e\\+06 lies outside the profile"):
        profile.profile_cli(path, None, tmp_path / "out")
    path = write(tmp_path, x[15:], N[15:])
    found = analysed(path)
    assert any("left end" in odd and "continu" in odd for odd in found.odd)


def test_positions_may_fall_if_all_of_them_do(tmp_path):
    _, x, N = measured()
    up = profile.read_points(write(tmp_path, x, N))[:2]
    down = profile.read_points(write(tmp_path, x[::-1], N[::-1]))[:2]
    np.testing.assert_array_equal(up, down)


@pytest.mark.skipif(
    "REPRO_TIZR_CSV" not in os.environ, reason="needs the Ti-Zr profile: set REPRO_TIZR_CSV to it"
)
def test_titanium_zirconium_profile():
    """Ti-Zr, 1000 C, 100 h, 55 points, from the pydiffusion example (Chen et al. 2019)."""
    x, N, _ = profile.read_points(Path(os.environ["REPRO_TIZR_CSV"]))
    assert len(x) == 55
    raw = Profile(x, N, np.gradient(N, x), 0.0, 1.0)
    D = 1e13 * constant_volume(raw, 3.6e5)
    at = [22, 27, 31, 34, 36, 39, 41, 44, 46]
    known = [4.794, 4.434, 3.864, 3.795, 3.447, 2.996, 2.775, 1.963, 1.476]
    np.testing.assert_allclose(D[at], known, atol=6e-4)
    spline = smoothing.fit(x, N, 0.0, 1.0)
    smooth = spline.profile(spline.grid())
    assert 1e6 * matano_plane(smooth, ideal_volume(1, 1)) == pytest.approx(1755.1, abs=0.3)
    # the published forward-simulation analysis, constant volume
    simulated = [4.678, 4.370, 4.061, 3.753, 3.451, 3.092, 2.577, 1.994, 1.432]
    found = np.interp(np.arange(1, 10) / 10, smooth.N, 1e13 * constant_volume(smooth, 3.6e5))
    np.testing.assert_allclose(found, simulated, rtol=0.05)
    settings = {"t_s": 3.6e5, "T_C": 1000, "N_left": 0, "N_right": 1, "V_A": 10.64, "V_B": 14.02}
    ideal = profile.analyse(x, N, profile.Config(**settings))
    assert max(ideal.differences["D_denbroeder_CB"]) < 1e-9
    bent = profile.analyse(x, N, profile.Config(**settings, V_m={"w": 0.3}))
    ratio = (bent.table.D_denbroeder_CB / bent.table.D_wagner - 1).to_numpy()
    low = (bent.table.N > 0.1) & (bent.table.N < 0.6)
    assert 0.0065 < ratio[low].min() and ratio[low].max() < 0.0095
    assert np.interp(0.885, bent.table.N, ratio) == pytest.approx(0.003, abs=7e-4)
