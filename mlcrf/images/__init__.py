"""Images: where they are found, how they are opened and decoded to pixels."""
