"""Quantizers side by side: variants of a codec trained alike, measured from their bundles, and one table of them.

    plan -> runs (train, export) -> figures, costs -> rows (CSV) -> table (words by rules) -> report (HTML)

`job` does all of it.
"""
