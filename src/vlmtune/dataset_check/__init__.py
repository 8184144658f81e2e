"""Every row of a dataset read before a GPU is rented: findings, leakage, near-duplicates, a page."""
