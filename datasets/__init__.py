"""Where samples come from: one file per source. No Ray, no Torch; bytes and text in, rows out."""
