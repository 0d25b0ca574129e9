"""Files beside images: XMP sidecars and tag files."""
