"""Pictures tagged on a cluster of Ray, with the very code that tags them without."""

from mlcrf.cluster.predicting import predict_on
from mlcrf.cluster.worker import Job

__all__ = ["Job", "predict_on"]
