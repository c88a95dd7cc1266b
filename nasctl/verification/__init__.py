"""Layer 4: finalists of a search again: fresh seeds, test split, latency; what became of them."""
