"""Keywords in XMP and IPTC, read and merged in memory.

`mlcrf.prediction.photo_files.sidecars` writes the files.
"""
