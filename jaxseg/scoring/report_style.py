"""What the report looks like, and what stands below its figures."""

CAPTIONS = {
    "learning_curves": "Learning curves. Green line: the evaluation whose weights were kept. The "
    "validation loss takes Dice slice by slice, so its level differs from that of training.",
    "regions": "All patients by region: each point is a patient; line and bar: mean and its 95 % "
    "interval over patients.",
    "dice_per_patient": "Dice of each patient, best first, and over the size of the tumour.",
    "operating_point": "How the operating point was chosen on the validation patients. Left and "
    "middle: their mean Dice on the native grid over the threshold and over the smallest lesion "
    "kept; the simplest choice (grey) stays unless another is better beyond luck, patient by "
    "patient. Right: the share of tumour among voxels of the same predicted probability, before "
    "and after the logits are divided by the temperature T of least negative log likelihood; on "
    "the diagonal a probability means what it says. ECE: expected calibration error in 15 bins "
    "(Guo et al., 2017). Both over the voxels in doubt on the training grid: the most likely ones, "
    "twice as many as are tumour. Over all the background any network would look calibrated.",
    "best": "The best patient. Upper row: whole slices; lower row: the same, enlarged.",
    "median": "The patient in the middle of the ranking.",
    "worst": "The worst patient.",
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; border-bottom: 1px solid #ccc; }
.research { color: #8a2b00; margin-top: .2rem; }
.headline { font-size: 1.35rem; border-left: .4rem solid #0072b2; padding: .5rem 1rem;
  background: #f1f7fb; margin: 1.5rem 0; }
.warnings { border-left: .4rem solid #e69f00; background: #fff8e8; padding: .5rem 1rem; }
.warnings p { margin: .3rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
td { white-space: nowrap; }
th { vertical-align: bottom; font-weight: 600; border-bottom: 2px solid #888; }
th:first-child, td:first-child, .text { text-align: left; }
.beside { background: #f5f5f5; }
.first td { font-weight: 700; }
.wide { overflow-x: auto; font-size: .9rem; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .95rem; }
td.lines { white-space: pre; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem 1.5rem; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""


def caption(figure: str) -> str:
    """Return what stands below a figure; of the region's, whose name ends with its own."""
    for name, text in CAPTIONS.items():
        if figure == name:
            return text
        if figure.startswith(f"{name}_"):
            return f"{figure.removeprefix(f'{name}_')}: {text[0].lower()}{text[1:]}"
    return figure.replace("_", " ")
