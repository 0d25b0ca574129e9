"""Pixels to features: networks (`registry`), engines that run them, and a cache of features."""
