"""The measures of one model: their values, their titles, and what kind of measure each is."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Measures:
    """Scores of one model, without unknown targets. Chosen: see `Predictions.chosen`.

    Attributes:
        nll: mean negative log-probability of the label set of an image, in nats.
        hamming: share of wrong labels in the chosen label sets.
        wrong_per_image: mean number of wrong labels in the chosen label set.
        subset_accuracy: share of images whose MAP label set is entirely right.
        chosen_accuracy: share of images whose chosen label set is entirely right.
        example_f1, example_jaccard: mean over images of 2 |A and B| / (|A| + |B|) and of
            |A and B| / |A or B| of chosen labels A and true labels B; 1 if both are empty.
        mean_average_precision: mean over labels with a positive; NaN if there is none.
        labels_with_positives: number of labels with a positive.
        micro_f1: F1 of the chosen labels, counts summed over labels.
        macro_f1: mean F1 of the chosen labels over labels with a positive; 0 if never chosen.
        calibration_error: mean gap of probability and frequency over 15 equal bins, weighted.
        macro_precision, macro_recall: means over labels with a positive; a label that is never
            chosen has precision 0.
        f1_of_means: harmonic mean of these two; at least `macro_f1`.
        micro_precision, micro_recall: counts summed over labels.
        example_precision, example_recall: means over images; 1 if nothing is chosen and nothing
            present, 0 if only the divisor is zero.
        ranking_loss, coverage_error, label_ranking_average_precision, one_error: means over images,
            whose labels are ranked by marginal; see `rank_labels`.
        precision_at_k, recall_at_k, f1_at_k: as `macro_precision`, `macro_recall` and
            `f1_of_means`, each image having exactly its k best labels (see `Predictions.best`).
            These seven are None if not requested.
        labels_found_at_k: number of labels with a recall above 0, "N+" in image annotation.
        micro_precision_at_k, micro_recall_at_k, micro_f1_at_k: counts summed over labels.
        set_calibration_error: as `calibration_error`, of the most probable label sets: how probable
            they are, and whether all that is known of them is right. None if not given.
        cost: mean over images of the costs of their wrong and open labels. These three are None
            if not requested.
        expected_cost: mean of what the marginals say of it.
        open_labels: mean number of labels of an image that are left open.

    The measures at k are those of image annotation since Duygulu, Barnard, de Freitas and Forsyth
    (2002), Object recognition as machine translation.
    """

    nll: float
    hamming: float
    wrong_per_image: float
    subset_accuracy: float
    chosen_accuracy: float
    example_f1: float
    example_jaccard: float
    mean_average_precision: float
    labels_with_positives: int
    micro_f1: float
    macro_f1: float
    calibration_error: float
    macro_precision: float
    macro_recall: float
    f1_of_means: float
    micro_precision: float
    micro_recall: float
    example_precision: float
    example_recall: float
    ranking_loss: float
    coverage_error: float
    label_ranking_average_precision: float
    one_error: float
    precision_at_k: float | None = None
    recall_at_k: float | None = None
    f1_at_k: float | None = None
    labels_found_at_k: int | None = None
    micro_precision_at_k: float | None = None
    micro_recall_at_k: float | None = None
    micro_f1_at_k: float | None = None
    set_calibration_error: float | None = None
    cost: float | None = None
    expected_cost: float | None = None
    open_labels: float | None = None


class Description(NamedTuple):
    """Title, symbol, format and kind of a measure.

    Attributes:
        title: in tables.
        symbol: in papers on multi-label images and on image annotation, if they have one.
        factor, digits: a value is shown times this factor, with so many decimals.
        is_main: shown unless others are asked for.
        is_loss: less is better.
    """

    title: str
    symbol: str = ""
    factor: int = 100
    digits: int = 2
    is_main: bool = False
    is_loss: bool = False

    def format(self, value: float, *, signed: bool = False) -> str:
        """Format a value of the measure, or a signed difference."""
        return f"{self.factor * value:{'+' if signed else ''}.{self.digits}f}"


# in the order of tables
MEASURES = {
    "nll": Description("nll per image (nats)", "", 1, 3, is_main=True, is_loss=True),
    "wrong_per_image": Description("wrong labels per image", "", 1, 3, is_main=True, is_loss=True),
    "hamming": Description("wrong labels, %", is_main=True, is_loss=True),
    "subset_accuracy": Description("subset accuracy, % (MAP)", is_main=True),
    "chosen_accuracy": Description("label set right, %", is_main=True),
    "example_f1": Description("F1 of an image, %", "EF1", is_main=True),
    "example_jaccard": Description("Jaccard of an image, %", is_main=True),
    "mean_average_precision": Description("mAP, %", "mAP", is_main=True),
    "micro_f1": Description("micro F1, %", "OF1", is_main=True),
    "macro_f1": Description("macro F1, %", is_main=True),
    "calibration_error": Description("calibration error, %", "ECE", is_main=True, is_loss=True),
    "set_calibration_error": Description("calibration error of label sets, %", is_loss=True),
    "macro_precision": Description("mean precision of a label, %", "CP"),
    "macro_recall": Description("mean recall of a label, %", "CR"),
    "f1_of_means": Description("F1 of these means, %", "CF1"),
    "micro_precision": Description("micro precision, %", "OP"),
    "micro_recall": Description("micro recall, %", "OR"),
    "example_precision": Description("precision of an image, %", "EP"),
    "example_recall": Description("recall of an image, %", "ER"),
    "ranking_loss": Description("ranking loss, %", is_loss=True),
    "coverage_error": Description("coverage error (labels)", "", 1, 3, is_loss=True),
    "label_ranking_average_precision": Description("label ranking average precision, %", "LRAP"),
    "one_error": Description("one-error, %", is_loss=True),
    "precision_at_k": Description("mean precision at k, %", "CP@k", is_main=True),
    "recall_at_k": Description("mean recall at k, %", "CR@k", is_main=True),
    "f1_at_k": Description("F1 of the means at k, %", "CF1@k", is_main=True),
    "labels_found_at_k": Description("labels found at k", "N+", 1, 0, is_main=True),
    "micro_precision_at_k": Description("micro precision at k, %", "OP@k"),
    "micro_recall_at_k": Description("micro recall at k, %", "OR@k"),
    "micro_f1_at_k": Description("micro F1 at k, %", "OF1@k"),
    "cost": Description("cost per image", "", 1, 3, is_main=True, is_loss=True),
    "expected_cost": Description("expected cost per image", "", 1, 3, is_main=True, is_loss=True),
    "open_labels": Description("labels left open per image", "", 1, 3, is_main=True, is_loss=True),
}
COST_MEASURES = ("cost", "expected_cost", "open_labels")
SYMBOLS = {name: one.symbol for name, one in MEASURES.items() if one.symbol}
