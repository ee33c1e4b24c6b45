"""The site: an index of all claims, and a page a paper."""
