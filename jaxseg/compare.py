"""Compare two models on the same patients: python -m jaxseg.compare DIR_A DIR_B [--output DIR].

Each DIR is the folder of a run, for its test patients, or any folder that an evaluation wrote
scores.json and patients.csv to. Prints the difference of the means, B minus A, with its 95 %
interval over patients, and on how many patients each is better. The patients must be the same
people with the same images.

  --output DIR     write comparison.json and comparison.png there
  --region NAME    compare this region alone; default all that both have, and their mean

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
    regions_of,
)
from jaxseg.evaluation.region_comparison import compare_regions, format_regions
from jaxseg.machine.files import make_folder, replace_bytes, write_json
from jaxseg.scoring import comparison_figure


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, given = command_line.parse(argv, __doc__, text=("output", "region"))
    if len(given) != 2:
        raise UserError(f"which two? Give DIR_A DIR_B (see --help); given: {len(given)}")
    folders = [Path(folder).expanduser() for folder in given]
    a, b = (read_scores(folder, options.region) for folder in folders)
    check_comparable(a, b)
    shared = [] if options.region else [r for r in regions_of(a) if r in regions_of(b)]
    samples = Evaluation().bootstrap_samples
    if len(shared) > 1:
        of_each = ([read_scores(folder, region) for region in shared] for folder in folders)
        comparison = compare_regions(*of_each, samples)
        print(format_regions(comparison), flush=True)
    else:
        comparison = compare(a, b, samples)
        print(format_comparison(comparison), flush=True)
    if options.output is None:
        print("--output DIR keeps this as comparison.json, with a figure")
        return
    output = Path(options.output).expanduser()
    make_folder(output)
    write_json(output / "comparison.json", comparison)
    print(f"numbers  {output / 'comparison.json'}")
    for i, part in enumerate(comparison.get("regions", {"": comparison}).values()):
        path = output / ("comparison.png" if i == 0 else f"comparison_{part['region']}.png")
        named = f"{part['region']}: " if "regions" in comparison else ""
        title = f"{named}{headline(part)}\nA: {a.folder}\nB: {b.folder}"
        replace_bytes(path, comparison_figure.dice_of_pairs(part, title))
        print(f"figure   {path}")


if __name__ == "__main__":
    command_line.run(main)
