"""Pixels to features: networks, the engines that run them, and a cache of features."""
