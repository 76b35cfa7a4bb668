"""The installed product against plain pytest: what "the same" means, executable."""
