"""What a user can choose from; imports nothing heavy, so that `mlcrf --help` is instant."""

from enum import StrEnum


class Structure(StrEnum):
    """Which label pairs have a coupling."""

    INDEPENDENT = "independent"
    FULL = "full"
    TREE = "tree"
    SPARSE = "sparse"
    FILE = "file"
    LATENT = "latent"


class Pairwise(StrEnum):
    """Whether couplings are the same for all images."""

    CONSTANT = "constant"
    CONDITIONAL = "conditional"


class Precision(StrEnum):
    """What a network that is trained computes in; its weights are kept in float32 in any case.

    FLOAT64 is for comparisons: steps on any number of processes are then the same to many digits.
    """

    AUTO = "auto"
    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ObjectiveName(StrEnum):
    """What is minimised."""

    AUTO = "auto"
    INDEPENDENT = "independent"
    PSEUDO_LIKELIHOOD = "pseudo-likelihood"
    EXACT_LIKELIHOOD = "exact-likelihood"
    UNROLLED_MEAN_FIELD = "unrolled-mean-field"
    CONTRASTIVE_DIVERGENCE = "contrastive-divergence"
    BLENDED_CONVEX_BP = "blended-convex-bp"


class Schedule(StrEnum):
    """What moves while couplings are learned."""

    JOINT = "joint"
    PIECEWISE = "piecewise"


class InferenceName(StrEnum):
    """How label sets are inferred."""

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
    """How much of the network is trained with the head."""

    NONE = "none"
    ALL = "all"


class EngineName(StrEnum):
    """Engine that runs a frozen network, in float32 unless the name says otherwise."""

    AUTO = "auto"
    OPENVINO = "openvino"
    OPENVINO_BFLOAT16 = "openvino-bfloat16"
    TORCH = "torch"
    TORCH_BFLOAT16 = "torch-bfloat16"


class GraphInference(StrEnum):
    """What computes the marginals in an exported graph."""

    AUTO = "auto"
    EXACT = "exact"
    MEAN_FIELD = "mean-field"
    BETHE = "bethe"


class Program(StrEnum):
    """Which other program predictions are written for."""

    LABEL_STUDIO = "label-studio"
    FIFTYONE = "fiftyone"


class Decision(StrEnum):
    """How a label set is chosen.

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


class Order(StrEnum):
    """In which order labels are drawn."""

    CLUSTER = "cluster"
    GIVEN = "given"
