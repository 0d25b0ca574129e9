"""Keywords of photos in XMP and IPTC: read, merged and written."""
