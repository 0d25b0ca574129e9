"""Tests of `mlcrf.serving`."""
