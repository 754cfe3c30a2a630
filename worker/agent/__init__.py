"""One process on every host of a cluster over several machines: it starts and ends the workers there."""
