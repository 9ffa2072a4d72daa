"""The card class of the scaleX40: fit its public kernels, and predict its expert layers: python benchmarks/card.py DIR

DIR holds the tables `hygon_bw1100_kernels.csv`, `hygon_fmoe_aiter.csv` and `megamoe_dcu.csv`. The script prints

- the numbers that the rows give, with the error of the fit and the error of rows that were left out of it,
- the error of the expert layers with dispatch and combine, for both calibrations of the catalog.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenworks.calibrate.kernels.hygon_fit import fit_card, layer_errors
from tokenworks.specs.calibration import load_calibration


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    _, fitted = fit_card(folder, load_calibration("datasheet"))
    print("Mean |log(predicted / measured)|: in the fit, and left out")
    for one in fitted:
        values = ", ".join(f"{field} {value:.3g}" for field, value in one.values.items())
        print(f"{one.operation}: {one.rows} rows, {one.error:.2f}, {one.left_out_error:.2f}: {values}")
    for name in ("serving", "datasheet"):
        for title, skew in (("skew of the calibration", None), ("equally popular experts", 0.0)):
            print(f"Expert layers, calibration {name}, {title}: predicted / measured - 1")
            for layer, errors in layer_errors(folder, load_calibration(name), skew).items():
                print(f"  {layer}: " + ", ".join(f"{tokens}: {100 * error:+.0f} %" for tokens, error in errors.items()))


if __name__ == "__main__":
    main()
