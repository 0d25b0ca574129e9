"""Formats of tables, one a module."""
