"""Download, verify and unpack known data sets."""
