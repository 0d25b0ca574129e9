"""Prediction on a Ray cluster, with the same code as without.

The entry point is `predicting.predict_parts`. Its process does not load torch; the workers do.
"""
