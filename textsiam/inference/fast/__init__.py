"""The fast path on a CPU: the fused BERT, int8, and exported runtimes."""
