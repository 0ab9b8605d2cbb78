"""How the twin learns: losses, batches, and one visible Accelerate loop."""
