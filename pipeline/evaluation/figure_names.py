"""How the figures of an evaluation are named, on a terminal and on a page."""

from __future__ import annotations

# Of shares of rows or of one: the name, and a short one where a line has little space.
FIGURES: dict[str, tuple[str, str]] = {
    "accuracy": ("accuracy of the answers", "accuracy"),
    "coverage": ("share of rows with an answer", "coverage"),
    "accuracy_abstained_wrong": ("accuracy, abstained rows wrong", "accuracy, abstained wrong"),
    "first_level_accuracy": ("accuracy of the first level", "accuracy of the first level"),
    "macro_f1": ("macro-F1", "macro-F1"),
    "ece": ("expected calibration error (ECE)", "ECE"),
    "adaptive_ece": ("ECE, bins of equal size", "ECE, bins of equal size"),
    "brier": ("Brier score", "Brier score"),
    "log_loss": ("log-loss", "log-loss"),
    "coverage_at_5_percent": ("coverage at 5 % error", "coverage at 5 % error"),
    "coverage_at_1_percent": ("coverage at 1 % error", "coverage at 1 % error"),
}
# Rows that are left out, and why.
GOLD_COUNTS = (
    ("errors", "have an error"),
    ("without_gold", "have no gold label"),
    ("unknown_gold", "have a gold label that is none of the job's labels"),
    ("repeated_row_keys", "have the key of an earlier row"),
)
