"""Pictures tagged on a cluster of Ray, with the very code that tags them without.

`predicting.predict_on` is where to begin. The coordinator's process does not load
torch, nor what else workers need.
"""
