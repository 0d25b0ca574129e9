"""Data sets: `readers.read_dataset` reads any layout to one `manifest.Manifest`.

To add a layout: a file in `readers/`, and its `Reader` in `readers.READERS`. To add a table format:
a suffix and a case in `table_files.py`.
"""
