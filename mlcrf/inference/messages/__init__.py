"""Message passing: the update that methods share, and spanning trees."""
