"""Cross-entropies and their reductions: pure functions of arrays, in nats."""
