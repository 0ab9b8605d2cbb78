"""What a twin is: towers, distance, head, ensembles, and the folder it is saved in."""
