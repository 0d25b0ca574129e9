"""Review: people confirm tags on a page; their answers go to a database and update other tags."""
