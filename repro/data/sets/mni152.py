"""MNI152: the average T1 image of 152 heads with its grey- and white-matter maps, at 1 mm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.data import cache
from repro.data.archives import gunzip
from repro.data.containers import Volumes
from repro.data.dataset import Dataset
from repro.data.foreign import by_file_name, reason
from repro.data.images import Arrays
from repro.data.sources import File, Installed, Pip, Source, contents, members, urls
from repro.errors import ReproError

FILES = {k: f"mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz" for k in ("t1", "gm", "wm")}
PATHS = tuple(f"nilearn/datasets/data/{name}" for name in FILES.values())


def nifti(data: bytes, name: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Decode a NIfTI volume of unsigned bytes.

    Returns:
        the stored values, uint8 with axes (z, y, x) in RAS orientation, so that ``volume[k]`` is an
        axial slice with y growing to the front; and the voxel size in mm along (z, y, x).

    Raises:
        ReproError: it is damaged, or no volume of bytes.
    """
    import nibabel

    data = gunzip(data, name)
    try:
        image = nibabel.Nifti1Image.from_bytes(data)
        image = nibabel.as_closest_canonical(image)
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel's own are of no common kind
        raise ReproError(f"{name} is no whole NIfTI ({reason(error)}); fetch it again") from error
    if values.ndim != 3 or values.min() < 0 or values.max() > 255 or np.any(values % 1):
        raise ReproError(f"{name} is not a volume of bytes; fetch the version that is named")
    x, y, z = (float(v) for v in image.header.get_zooms())
    return np.ascontiguousarray(values.transpose(2, 1, 0)).astype(np.uint8), (z, y, x)


def decode(found: Mapping[str, bytes]) -> Arrays:
    """Decode the MNI152 2009a template: T1, grey-matter and white-matter maps at 1 mm.

    Returns:
        ``t1``, ``gm``, ``wm`` uint8 (z, y, x), as they are stored, and ``spacing_mm`` (3,).

    Raises:
        ReproError: a file is missing or damaged, or the volumes are not on one grid.
    """
    by_name = by_file_name(found)
    arrays: Arrays = {}
    for key, filename in FILES.items():
        if filename not in by_name:
            raise ReproError(f"{filename} is missing; put it beside the other two volumes")
        arrays[key], spacing = nifti(by_name[filename], filename)
        voxels = np.asarray(spacing, np.float64)
        if arrays[key].shape != arrays["t1"].shape or np.any(
            voxels != arrays.setdefault("spacing_mm", voxels)
        ):
            raise ReproError(
                f"{filename} has {arrays[key].shape} voxels of {spacing} mm, unlike "
                f"{FILES['t1']}; fetch the three of one version"
            )
    return arrays


def build(name: str, folder: Path) -> Volumes:
    """Return the volumes divided by 255."""
    a = cache.read_arrays(folder)
    t1, gm, wm = (a[key].astype(np.float32) / np.float32(255) for key in ("t1", "gm", "wm"))
    z, y, x = (float(v) for v in a["spacing_mm"])
    return Volumes(name, t1, gm, wm, (z, y, x))


DATASET = Dataset(
    name="mni152",
    title="MNI152 2009a template: T1, grey and white matter",
    description="three registered volumes of 189x233x197 voxels (z, y, x) at 1 mm: the average "
    "of 152 heads and its tissue maps; no split",
    licence="MNI terms: free use with the copyright notice; the copy in nilearn BSD-3-Clause",
    citation="V. Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, "
    "NeuroImage 54(1), 2011, doi:10.1016/j.neuroimage.2010.07.033",
    homepage="https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
    checksum="1ebc79702c44dc18a3622e80192fd55cb680caafc621ae21d9ac99b4839abc0e",
    sources=(
        Installed("installed nilearn", "nilearn", PATHS, lambda files: decode(contents(files))),
        Source(
            "nilearn wheel",
            (
                File(
                    "nilearn-0.13.1-py3-none-any.whl",
                    Pip("nilearn==0.13.1"),
                    "2543cea9e2b001c079b7f81d1bff3050576125eb906cf318a9992add9a63c19e",
                    10.6,
                ),
            ),
            lambda files: decode(members(files, *PATHS)),
        ),
        Source(
            "nilearn repository",
            urls(
                "mni152",
                "https://raw.githubusercontent.com/nilearn/nilearn/0.13.1/nilearn/datasets/data",
                dict.fromkeys(FILES.values(), 1.7),
            ),
            lambda files: decode(contents(files)),
        ),
    ),
    build=build,
    pip_only=True,
)
