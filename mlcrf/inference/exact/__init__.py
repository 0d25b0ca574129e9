"""Sums over all label sets: two halves of the labels, or a junction tree."""
