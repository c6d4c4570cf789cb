"""Heat maps: what in an image a detector answers to. `cells` reads any head, each map has a file, `pictures` draws and saves."""
