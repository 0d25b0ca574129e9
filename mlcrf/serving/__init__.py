"""The tagger as an HTTP service: images in, label sets out as JSON."""
