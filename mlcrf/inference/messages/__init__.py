"""Belief propagation: arcs, the update, and bounds."""
