"""Compare two models on the same patients: python -m jaxseg.compare DIR_A DIR_B [--output DIR].

Each DIR is the folder of a run, for its test patients, or any folder that an evaluation wrote
scores.json and patients.csv to. Prints the difference of the means, B minus A, with its 95 %
interval over patients, and on how many patients each is better. The patients must be the same
people with the same images.

  --output DIR     write comparison.json and comparison.png there
  --region NAME    compare this region; default the only or first one

Exit code 0, or 2 with one line on what to mend.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxseg.config import Evaluation, command_line
from jaxseg.errors import UserError
from jaxseg.evaluation.comparison import (
    check_comparable,
    compare,
    format_comparison,
    headline,
    read_scores,
)
from jaxseg.machine.files import make_folder, replace_bytes, write_json
from jaxseg.scoring import comparison_figure


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, given = command_line.parse(argv, __doc__, text=("output", "region"))
    if len(given) != 2:
        raise UserError(f"which two? Give DIR_A DIR_B (see --help); given: {len(given)}")
    a, b = (read_scores(Path(folder).expanduser(), options.region) for folder in given)
    check_comparable(a, b)
    comparison = compare(a, b, Evaluation().bootstrap_samples)
    print(format_comparison(comparison), flush=True)
    if options.output is None:
        print("--output DIR keeps this as comparison.json, with a figure")
        return
    output = Path(options.output).expanduser()
    make_folder(output)
    write_json(output / "comparison.json", comparison)
    title = f"{headline(comparison)}\nA: {a.folder}\nB: {b.folder}"
    image = comparison_figure.dice_of_pairs(comparison, title)
    replace_bytes(output / "comparison.png", image)
    print(f"numbers  {output / 'comparison.json'}\nfigure   {output / 'comparison.png'}")


if __name__ == "__main__":
    command_line.run(main)
