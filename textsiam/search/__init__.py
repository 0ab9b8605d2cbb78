"""Finding duplicates: all pairs above a threshold, their clusters, and the best documents for a query."""
