"""Scenes whose label sets are sampled from a known CRF: what is learned meets the truth."""
