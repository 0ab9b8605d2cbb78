"""The routes: embeddings and verdicts, questions of an index."""
