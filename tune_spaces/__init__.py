"""Search spaces: one per file, naming plan fields by their dotted path."""
