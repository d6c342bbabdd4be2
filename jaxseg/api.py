"""What `import jaxseg` offers to notebooks and other programs; see the package's docstring."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.imaging.volumes import in_its_volume
from jaxseg.layouts.detect import detect
from jaxseg.layouts.find import find_scans
from jaxseg.layouts.kinds import LGG
from jaxseg.scans.files import list_files
from jaxseg.scans.volume import Volume

if TYPE_CHECKING:
    from jaxseg.datasets.prepared import Prepared
    from jaxseg.prediction.predictor import Predictor
    from jaxseg.prediction.trained import Trained


class Prediction(NamedTuple):
    """What a run says of a volume, on the volume's own voxels.

    [D, H, W], and [D, H, W, K] where the run has several regions.
    """

    probability: np.ndarray  # float32 in 0..1, calibrated
    mask: np.ndarray  # bool


class Picture(bytes):
    """A PNG that a notebook shows by itself."""

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        return f"<PNG of {len(self)} bytes>"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, ready to predict."""

    trained: Trained
    predictor: Predictor

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of what it segments, in order of the class axis."""
        return self.trained.regions

    @property
    def patients(self) -> dict[str, list[str]]:
        """Ids of the patients of `train`, `validation` and `test`."""
        from jaxseg.machine.files import read_json

        return read_json(self.trained.run / "data.json")["patients"]

    def predict(self, volume: np.ndarray | Volume) -> Prediction:
        """Segment all slices of a patient at once, since they are normalised together.

        Args:
            volume: from `read_scan`, or [D, H, W, C] as scanned: raw intensities, the channels
                that the run was trained on.

        Raises:
            UserError: another number of channels.
        """
        from jaxseg.prediction.inference import predict_volume
        from jaxseg.prediction.operating import segment_regions

        volume = volume if isinstance(volume, Volume) else Volume(np.asarray(volume))
        given, wanted = volume.image.shape[-1], self.trained.num_channels
        if volume.image.ndim != 4 or given != wanted:
            raise UserError(f"volume {volume.image.shape}: give [slices, rows, columns, {wanted}]")
        probability = predict_volume(self.predictor, volume)
        spacing_mm = volume.spacing_mm or self.trained.config.dataset.spacing_mm
        how = self.trained.points, self.trained.kind.regions
        mask = segment_regions(probability, *how, spacing_mm, volume.affine)
        one = len(self.regions) == 1
        return (
            Prediction(probability[..., 0], mask[..., 0]) if one else Prediction(probability, mask)
        )


def read_scan(path: str | Path, patient: str | None = None) -> Volume:
    """Read a scan: NIfTI, NRRD, MetaImage, a DICOM series, slices as PNG, TIFF or JPEG.

    Masks are left out, but for a file that is given itself. A slice by itself is normalised with
    those of its patient beside it, where there are any.

    Args:
        path: a file, the folder of a patient, or a folder or zip of patients.
        patient: which one, where there are several.

    Returns:
        The volume: `image` [D, H, W, C] from below up, `spacing_mm`, `affine`, `warnings`.

    Raises:
        UserError: nothing is there, or several patients and none is named, or it cannot be read.
    """
    scans = find_scans(Path(path).expanduser(), Dataset(), masks=True)
    found = {scan.patient: scan for scan in scans}
    if patient is None and len(found) > 1:
        raise UserError(f"{path}: {len(found)} patients, say which: {', '.join([*found][:5])}, ...")
    if patient is not None and patient not in found:
        raise UserError(f"{path}: no patient {patient}; there are {', '.join([*found][:5])}, ...")
    scan = found[patient or next(iter(found))]
    if scan.around is None:
        return scan.read()
    return in_its_volume(scan.read(), scan.around.read(), scan.slices_around())


def prepare_data(source: str | Path | None = None, **settings: Any) -> Prepared:
    """Check a data set with masks and prepare it to be read at speed.

    Args:
        source: folder or zip; None: the brain phantom, which jaxseg makes itself.
        settings: of `jaxseg.config.Dataset`, by example patient_regex; `name` is told by the files.

    Returns:
        `patients`, and `volume(patient)`: the scan with its masks.

    Raises:
        UserError: what is wrong with the data, all of it.
    """
    from jaxseg.datasets.prepare import prepare

    if source is not None:
        source = str(Path(source).expanduser().absolute())
        if "name" not in settings:
            layout = detect(list_files(source, LGG.roots))
            if not layout.name:
                raise UserError(f"{source}: {layout.why}: {layout.advice}")
            settings["name"] = layout.name
    return prepare(Dataset(source=source, **settings))


def load_run(workdir: str | Path) -> Run:
    """Load a trained run with its best weights and its operating point.

    Sets this process up to compute, as the programs do; see `jaxseg.machine.start`.

    Raises:
        UserError: no run there, or no checkpoint that can be read.
    """
    from jaxseg.machine.start import start_computing
    from jaxseg.prediction import trained

    start_computing()
    found = trained.load(Path(workdir).expanduser())
    return Run(found, trained.predictor(found))


def score_masks(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...] = ()
) -> dict[str, Any]:
    """Return all measures of the scorecard for one patient.

    Args:
        prediction: [D, H, W], 0 or False is background; or one slice [H, W].
        truth: of the same shape.
        spacing_mm: (slice distance, row, column), for HD95 in mm; (): in pixels.

    Returns:
        dice, iou, sensitivity, precision, hd95, volume_error and counts, as in patients.csv; see
        `scoring.patient_score.PatientScore`.

    Raises:
        UserError: the shapes differ.
    """
    from jaxseg.scoring.patient_score import score_patient

    masks = [np.asarray(m) != 0 for m in (prediction, truth)]
    if masks[0].shape != masks[1].shape or masks[0].ndim not in (2, 3):
        shapes = " and ".join(str(m.shape) for m in masks)
        raise UserError(f"masks of shape {shapes}: give two of one shape, [D, H, W] or [H, W]")
    volumes = [m if m.ndim == 3 else m[None] for m in masks]
    scores = score_patient("", *volumes, spacing_mm)._asdict()
    kept = set(scores) - {"patient", "region", "group"}
    return {n: v for n, v in scores.items() if n in kept and not n.startswith("brats_")}


def draw_contours(
    image: np.ndarray,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    title: str = "",
) -> Picture:
    """Draw masks on the slices they affect most, whole and enlarged.

    Args:
        image: [D, H, W], one channel.
        truth: [D, H, W], green.
        prediction: [D, H, W], orange.
        title: above the picture.

    Returns:
        A PNG as bytes, which a notebook shows by itself.
    """
    from jaxseg.scoring.contours import contours

    given = {"truth": truth, "prediction": prediction}
    masks = {name: np.asarray(m) != 0 for name, m in given.items() if m is not None}
    if not masks:
        raise UserError("nothing to draw: give truth, prediction or both")
    return Picture(contours(title, np.asarray(image), masks))
