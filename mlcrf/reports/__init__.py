"""Everything that draws or tabulates; returns, never prints."""
