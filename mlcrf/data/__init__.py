"""From a table, a folder or an archive of annotations to one `Manifest`."""
