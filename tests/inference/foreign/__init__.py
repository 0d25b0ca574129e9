"""Models that others have published, with their answers: `data/` holds those given by numbers.

`python -m tests.inference.foreign` prints the tables of `docs/inference.md`; with the page as its
argument it renews them there.
"""
