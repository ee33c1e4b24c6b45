import gzip
import json

import numpy as np
import pytest
from test_images import binary

from repro.data import official, tokens
from repro.errors import ReproError


@pytest.fixture(scope="module")
def tokenizer():
    symbols = [*(chr(c) for c in range(33, 127)), "Ġ", "Ċ"]
    return tokens.build_gpt2({s: i for i, s in enumerate(symbols)}, [])


@pytest.mark.parametrize("name", list(official.TABLE))
def test_missing_files_are_named_with_their_place(root, name):
    item = official.TABLE[name]
    with pytest.raises(ReproError) as caught:
        official.locate(name)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root / "official" / name) in message and item.obtain in message
    for pattern in item.files:
        assert pattern.replace("|", " or ") in message


def test_only_what_is_missing_is_named(tmp_path):
    (tmp_path / "ptb.train.txt").write_text("")
    with pytest.raises(ReproError, match=r": ptb\.valid\.txt, ptb\.test\.txt missing"):
        official.locate("ptb", tmp_path)
    with pytest.raises(ReproError, match="no official data set"):
        official.locate("penn")


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "wikitext2",
            ' The 12 @,@ 5 @-@ inch " gun " ( 1 @.@ 2 kg ) , it \'s here ; see : x . \n',
            ' The 12,5-inch "gun" (1.2 kg), it\'s here; see: x.\n',
        ),
        ("wikitext103", " = = Plot = = \n", " == Plot ==\n"),
        ("wikitext103", " = = = Cast = = = \n", " === Cast ===\n"),
        ("wikitext2", "dogs ' tails [ sic ] at 2 \u00b0 C", "dogs' tails [sic] at 2\u00b0C"),
        ("ptb", "<unk> does n't own N N N shares of it 's", "? doesn't own 1 1 1 shares of it's"),
        ("ptb", "the firms ' costs rose $ N or # N 1\\/2", "the firms' costs rose $1 or #1 1/2"),
        (
            "lm1b",
            'He said : " I \'m here , " ( at $ 5 ) and left ! Is it so ? Yes .',
            'He said: "I\'m here," (at $5) and left! Is it so? Yes.',
        ),
        ("lm1b", "See http : / / example.org and and / or .", "See http://example.org and and/or."),
        ("lambada", " \u201cYes,\u201d he said. \n", '\n"Yes," he said.'),
    ],
)  # fmt: skip
def test_detokenisers(name, row, expected):
    assert official.DETOKENISERS[name](row) == expected


@pytest.fixture
def corpora(tmp_path):
    """Small files in every official text layout."""
    wiki = " \n = Title = \n \n A row @-@ text . \n"
    for name in ("wikitext2", "wikitext103"):
        (tmp_path / name).mkdir()
        for split in ("train", "valid", "test"):
            (tmp_path / name / f"wiki.{split}.raw").write_text(wiki)
    (tmp_path / "ptb").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "ptb" / f"ptb.{split}.txt").write_text(f" a {split} row N \n <unk> \n")
    (tmp_path / "lambada").mkdir()
    rows = [{"text": "one"}, {"text": "two words"}]
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "lambada" / "lambada_test.jsonl").write_text(text)
    for stem, kind in (("training", "news.en-"), ("heldout", "news.en.heldout-")):
        folder = tmp_path / "lm1b" / f"{stem}-monolingual.tokenized.shuffled"
        folder.mkdir(parents=True)
        for i in (1, 0):
            (folder / f"{kind}0000{i}-of-00002").write_text(f"{stem} shard {i} .\n")
    web = tmp_path / "openwebtext"
    web.mkdir()
    (web / "b.txt").write_text("line one\nline two\n")
    (web / "a.jsonl").write_text('{"text": "first"}\n\n{"text": "second"}\n')
    (web / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "third"}\n'))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("wikitext2", "train", ["", " = Title = \n", "", " A row @-@ text . \n"]),
        ("ptb", "valid", ["a valid row N", "<unk>"]),
        ("lambada", "test", ["one", "two words"]),
        ("lm1b", "test", ["heldout shard 0 .", "heldout shard 1 ."]),
        ("lm1b", "train", ["training shard 0 .", "training shard 1 ."]),
        ("openwebtext", "train", ["first", "second", "line one\nline two\n", "third"]),
    ],
)
def test_rows(corpora, name, split, expected):
    assert list(official.text_rows(name, split, corpora / name)) == expected


def test_row_errors(corpora):
    with pytest.raises(ReproError, match="no split 'train'"):
        official.text_rows("lambada", "train", corpora / "lambada")
    (corpora / "lambada" / "lambada_test.jsonl").write_text('{"text": "one"}\n{"txt": 1}\n')
    with pytest.raises(ReproError, match=r"lambada_test\.jsonl:2 is not"):
        list(official.text_rows("lambada", "test", corpora / "lambada"))
    (corpora / "ptb" / "ptb.test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ReproError, match="not readable UTF-8"):
        list(official.text_rows("ptb", "test", corpora / "ptb"))
    with pytest.raises(ReproError, match="not a text corpus"):
        folder = corpora / "npz"
        folder.mkdir()
        (folder / "x.npz").write_bytes(b"")
        official.text_rows("lsun", "train", folder)
    with pytest.raises(ReproError, match="no zero-shot set"):
        official.zero_shot_blocks("openwebtext", None)


def test_zero_shot_blocks_count_empty_rows_and_drop_per_batch(corpora, tokenizer):
    folder = corpora / "wikitext2"
    (folder / "wiki.train.raw").write_text(" \n" * 999 + " ab \n" + " \n" * 7)
    blocks = official.zero_shot_blocks("wikitext2", tokenizer, folder, length=500)
    # batch 1: 999 lone end-of-text tokens, then " ab\n" and its own: 1 004 tokens, two blocks
    assert blocks.shape == (2, 500) and (blocks[:, :499] == tokens.GPT2_EOS).all()
    assert official.zero_shot_blocks("wikitext2", tokenizer, folder, length=5)[-1].tolist() == (
        [tokens.GPT2_EOS] * 5  # batch 2 of 7 rows: one block, two tokens dropped
    )
    assert len(official.zero_shot_blocks("wikitext2", tokenizer, folder, length=5)) == 200 + 1
    assert official.ZERO_SHOT_SPLITS["wikitext2"] == "train"  # the others are scored on test
    assert set(official.ZERO_SHOT_SPLITS) == set(official.DETOKENISERS)


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar_folder(tmp_path, inner):
    rng = np.random.default_rng(0)
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    made = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        made[name] = rng.integers(0, 256, (3, 32, 32, 3), np.uint8), rng.integers(0, 10, 3)
        (folder / f"{name}.bin").write_bytes(binary(*made[name]))
    arrays = official.cifar10_binary(tmp_path)
    np.testing.assert_array_equal(arrays["train_images"][3:6], made["data_batch_2"][0])
    np.testing.assert_array_equal(arrays["test_labels"], made["test_batch"][1])


def test_npz_layouts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "b.npz", arr_0=pixels, arr_1=np.arange(4))
    flat = pixels.transpose(0, 3, 1, 2).reshape(4, -1)
    np.savez(tmp_path / "a.npz", data=flat, labels=np.arange(1, 5), mean=np.zeros(192))
    for name in ("a.npz", "b.npz"):
        found, labels = official.npz_images(tmp_path / name)
        np.testing.assert_array_equal(found, pixels)
        assert labels.tolist() == [0, 1, 2, 3] and labels.dtype == np.int64
    np.savez(tmp_path / "c.npz", pixels)
    assert official.npz_images(tmp_path / "c.npz")[1] is None
    assert [len(batch) for batch in official.npz_folder("imagenet64", tmp_path)] == [4, 4, 4]


def test_npz_errors(tmp_path):
    path = tmp_path / "x.npz"
    for arrays, reason in (
        ({"images": np.zeros(3)}, "arr_0 is expected"),
        ({"arr_0": np.zeros((2, 8, 8, 3))}, "uint8"),
        ({"data": np.zeros((2, 100), np.uint8)}, "not a batch"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "not a batch"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ReproError, match=reason):
            official.npz_images(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ReproError, match="plain numpy file"):
        official.npz_images(path)


# --- volumes --------------------------------------------------------------------------------------


def write_slices(folder, volume, name="{}.npy"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, values in enumerate(volume):
        np.save(folder / name.format(i), values)


def test_slices_come_in_numerical_order(tmp_path):
    volume = np.random.default_rng(0).random((12, 4, 5))
    write_slices(tmp_path, volume)
    found = official.slice_stack(tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, volume.astype(np.float32))


def test_volumes_of_the_mbir_paper(root):
    rng = np.random.default_rng(0)
    base = root / "official"
    ct = rng.random((3, 256, 256))
    write_slices(base / "aapm-l067", ct, "L067_{:04d}.npy")
    np.testing.assert_array_equal(official.aapm_l067(), ct.astype(np.float32))
    mri = rng.random((2, 240, 240)) * 900
    write_slices(base / "brats-aam1", mri)
    scaled = official.brats_volume()
    assert scaled.dtype == np.float32 and scaled.max() <= 1
    np.testing.assert_allclose(scaled, mri / (mri.max() + 1e-5), rtol=1e-6)
    knee = rng.random((2, 320, 320))
    write_slices(base / "fastmri-knee", knee)
    assert official.fastmri_knee().shape == (2, 320, 320)
    np.save(base / "aapm-l067" / "3.npy", ct[0] * 2)
    with pytest.raises(ReproError, match=r"scale to \[0, 1\]"):
        official.aapm_l067()


def test_slice_errors(tmp_path):
    with pytest.raises(ReproError, match=r"no \.npy slices"):
        official.slice_stack(tmp_path)
    for values, reason in (
        (np.zeros(3), "2-D slice"),
        (np.zeros((2, 3)), "is expected"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.zeros((4, 4), complex), "2-D slice"),
        (np.array([[{}]], dtype=object), "plain numpy file"),
    ):
        np.save(tmp_path / "0.npy", values, allow_pickle=True)
        with pytest.raises(ReproError, match=reason):
            official.slice_stack(tmp_path, side=4)
    np.save(tmp_path / "0.npy", np.zeros((4, 4)))
    np.save(tmp_path / "1.npy", np.zeros((4, 5)))
    with pytest.raises(ReproError, match=r"\(4, 4\) is expected"):
        official.slice_stack(tmp_path)
    np.save(tmp_path / "a00.npy", np.zeros((4, 4)))
    with pytest.raises(ReproError, match="slice number of its own"):
        official.slice_stack(tmp_path)
