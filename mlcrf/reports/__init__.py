"""Tables, pictures and pages of results; functions return text or write files, and never print."""
