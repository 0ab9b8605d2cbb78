"""Finding duplicates and nearest neighbours, clusters, look-up of new questions, galleries."""
