"""Readers of data sets, one format a file, each to a `Manifest`."""
