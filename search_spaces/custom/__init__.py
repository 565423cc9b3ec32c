"""A user's own spaces: decisions and a build function, choice blocks, a list of architectures."""
