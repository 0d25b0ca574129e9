"""Choices of the user; imports nothing heavy, so that `mlcrf --help` is instant."""

from enum import StrEnum


class Structure(StrEnum):
    """Label pairs that have a coupling."""

    AUTO = "auto"
    INDEPENDENT = "independent"
    FULL = "full"
    TREE = "tree"
    SPARSE = "sparse"
    FILE = "file"
    LATENT = "latent"


class Pairwise(StrEnum):
    """Couplings that are the same for all images, or vary."""

    CONSTANT = "constant"
    CONDITIONAL = "conditional"


class RawPairs(StrEnum):
    """Images that a RAW file and the JPEG of the same name beside it are: the JPEG, or both."""

    ONE = "one"
    BOTH = "both"


class SidecarName(StrEnum):
    """Name of a new sidecar of photo.jpg."""

    FULL = "photo.jpg.xmp"
    STEM = "photo.xmp"


class Reduction(StrEnum):
    """The losses of a batch: their mean over images, their sum, or one for each image."""

    MEAN = "mean"
    SUM = "sum"
    NONE = "none"


class Precision(StrEnum):
    """Precision of a network in training; its weights are kept in float32.

    FLOAT64 is for comparisons: steps on any number of processes are then the same to many digits.
    """

    AUTO = "auto"
    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ObjectiveName(StrEnum):
    """Loss that is minimised."""

    AUTO = "auto"
    INDEPENDENT = "independent"
    PSEUDO_LIKELIHOOD = "pseudo-likelihood"
    EXACT_LIKELIHOOD = "exact-likelihood"
    UNROLLED_MEAN_FIELD = "unrolled-mean-field"
    CONTRASTIVE_DIVERGENCE = "contrastive-divergence"
    BLENDED_CONVEX_BP = "blended-convex-bp"


class Schedule(StrEnum):
    """Parameters that change while couplings are learned: all, or only couplings and biases.

    STACKED learns couplings and biases on log-odds of the baseline for images that it did not see.
    """

    AUTO = "auto"
    JOINT = "joint"
    PIECEWISE = "piecewise"
    STACKED = "stacked"


class InferenceName(StrEnum):
    """Inference method."""

    AUTO = "auto"
    EXACT = "exact"
    JUNCTION_TREE = "junction-tree"
    MEAN_FIELD = "mean-field"
    PARALLEL_MEAN_FIELD = "parallel-mean-field"
    TAP = "tap"
    BETHE = "bethe"
    TREE_REWEIGHTED = "tree-reweighted"
    CONVEX_BP = "convex-bp"
    GIBBS = "gibbs"
    AIS = "ais"


class Finetune(StrEnum):
    """Part of the network that is trained with the head."""

    AUTO = "auto"  # LAST where it helps, see `mlcrf.training.network.resolve_finetune`
    NONE = "none"
    LAST = "last"  # the last stage, on activations before it
    ALL = "all"


class EngineName(StrEnum):
    """Engine that runs a frozen network, in float32 unless the name says otherwise."""

    AUTO = "auto"
    OPENVINO = "openvino"
    OPENVINO_BFLOAT16 = "openvino-bfloat16"
    TORCH = "torch"
    TORCH_BFLOAT16 = "torch-bfloat16"


class GraphInference(StrEnum):
    """Inference method in an exported graph."""

    AUTO = "auto"
    EXACT = "exact"
    MEAN_FIELD = "mean-field"
    BETHE = "bethe"


class Program(StrEnum):
    """Program that predictions are written for."""

    LABEL_STUDIO = "label-studio"
    FIFTYONE = "fiftyone"


class Api(StrEnum):
    """Interface by which `mlcrf serve` is asked: its own, or that of another program."""

    MLCRF = "mlcrf"
    LABEL_STUDIO = "label-studio"
    PHOTOPRISM = "photoprism"


class Decision(StrEnum):
    """Rule by which probabilities become labels.

    With `unary = [0.2, 0.2]` and a coupling of -3 both marginals are 0.37: the threshold gives no
    label, MAP gives one.
    """

    THRESHOLD = "threshold"
    TUNED_THRESHOLD = "tuned-threshold"
    LABEL_THRESHOLDS = "label-thresholds"
    MAP = "map"
    EXPECTED_F1 = "expected-f1"
    EXPECTED_JACCARD = "expected-jaccard"
    TOP_K = "top-k"
    F1_OF_MEANS = "f1-of-means"

    @property
    def has_k(self) -> bool:
        """Return whether the rule gives every image exactly k labels."""
        return self in (Decision.TOP_K, Decision.F1_OF_MEANS)


class PrecisionOf(StrEnum):
    """Labels whose precision is promised: each on its own, or all that are written together."""

    LABEL = "label"
    ALL = "all"


MOST_RARITY = 10  # largest weight of a label's rarity for TOP_K
MOST_COST = 1e12  # sums of larger ones would lose what is small


class Order(StrEnum):
    """Order in which labels are drawn."""

    CLUSTER = "cluster"
    GIVEN = "given"


class Blank(StrEnum):
    """The meaning of a cell without a value."""

    ABSENT = "absent"
    UNKNOWN = "unknown"


class ScoredSplit(StrEnum):
    """The images of a data set that a run is scored on."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


class TrackerName(StrEnum):
    """A program that shows how training went; its value is also its package's name."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


class Oddity(StrEnum):
    """A property of a data set that is most likely a mistake; refused unless accepted."""

    NO_ABSENT = "no-absent"
    LABEL_NAMES = "label-names"
    MISSING_WORDS = "missing-words"
    COMBINATIONS = "combinations"
    SPLIT_COLUMN = "split-column"
    FEATURES = "features"
