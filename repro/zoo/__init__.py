"""Networks that several methods share, trained on real data, with weights that ship."""
