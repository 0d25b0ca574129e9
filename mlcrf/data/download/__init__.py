"""Known data sets fetched, verified and unpacked."""
