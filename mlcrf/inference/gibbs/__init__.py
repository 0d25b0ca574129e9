"""Markov chains over label sets: kernels, random streams, averages and diagnostics."""
