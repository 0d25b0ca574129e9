"""The tagger as a service: pictures in by HTTP, label sets out as JSON."""
