"""Data sets: a table, a folder or an archive of annotations becomes one `Manifest`."""
