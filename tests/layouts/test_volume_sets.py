"""Volume sets as people have them: every naming is found, told apart by person, and completed."""

import json
import re

import pytest
from fake_data import write_folders
from fake_volume_sets import NEW, OLD, write_brats, write_case, write_msd, write_nnunet

from jaxseg.config import Config, Dataset
from jaxseg.config.settings import from_dict, to_json
from jaxseg.errors import UserError
from jaxseg.layouts import brats, kinds
from jaxseg.layouts.cases import Case, person
from jaxseg.layouts.detect import detect
from jaxseg.layouts.kinds import kind_of, told_by_files
from jaxseg.layouts.names import looks_like, sequence_of
from jaxseg.scans.files import list_files

NESTED_2021 = ("whole_tumour=1,2,4", "tumour_core=1,4", "enhancing_tumour=4")
NESTED_2023 = ("whole_tumour=1,2,3", "tumour_core=1,3", "enhancing_tumour=3")


def find(source, name, **settings) -> tuple[Dataset, dict[str, Case], list[str]]:
    """Return the completed settings, cases and problems, as `prepare` finds them."""
    config = told_by_files(Dataset(name=name, source=str(source), **settings))
    problems = []
    names = list(list_files(source).stamps)
    return config, kind_of(config).find(names, config, problems), problems


@pytest.mark.parametrize("kind", [".nii.gz", ".nii"])
@pytest.mark.parametrize("one_folder", [False, True])
@pytest.mark.parametrize(
    "case, suffixes, mask, group, regions",
    [
        ("Brats17_TCIA_105_1", OLD, "_seg", "Brats17_TCIA_105", NESTED_2021),
        ("Brats18_CBICA_AAB_1", OLD, "_seg", "Brats18_CBICA_AAB", NESTED_2021),
        ("BraTS19_2013_10_1", OLD, "_seg", "BraTS19_2013_10", NESTED_2021),
        ("BraTS20_Training_001", OLD, "_seg", "BraTS20_Training_001", NESTED_2021),
        ("BraTS2021_00006", OLD, "_seg", "BraTS2021_00006", NESTED_2021),
        ("BraTS-GLI-00001-000", NEW, "-seg", "BraTS-GLI-00001", NESTED_2023),
        ("BraTS-MET-00630-001", NEW, "-seg", "BraTS-MET-00630", NESTED_2023),
        (
            "UCSF-PDGM-0431_FU001d",
            ("_T1", "_T1c", "_T2", "_FLAIR"),
            "_tumor_segmentation",
            "UCSF-PDGM-0431",
            NESTED_2021,
        ),
        (
            "UPENN-GBM-00001_11",
            ("_T1", "_T1GD", "_T2", "_FLAIR"),
            "_segm",
            "UPENN-GBM-00001",
            NESTED_2021,
        ),
    ],
)
def test_brats_of_every_year(tmp_path, case, suffixes, mask, group, regions, one_folder, kind):
    folder = tmp_path if one_folder else tmp_path / "Training" / case
    write_case(folder, case, suffixes, mask, kind=kind)
    (folder / "survival_info.csv").write_text("x")
    config, cases, problems = find(tmp_path, "brats")
    inside = "" if one_folder else f"Training/{case}/"
    images = tuple(f"{inside}{case}{suffix}{kind}" for suffix in suffixes)
    assert cases == {case: Case(images, f"{inside}{case}{mask}{kind}", group)} and not problems
    assert config.channel_names == ("t1", "t1c", "t2", "flair") and config.regions == regions
    assert config.shown_channel(4) == 3  # the FLAIR
    assert detect(list_files(tmp_path)).name == "brats"


def test_brats_2015_is_named_by_its_folders(tmp_path):
    for time in (1, 13):
        folder = tmp_path / f"HGG/brats_tcia_pat118_{time:04d}"
        names = [f"VSD.Brain.XX.O.MR_{s}.{time}7" for s in ("T1", "T1c", "T2", "Flair")]
        for name in names:
            write_case(folder / name, "", (name,), "no", values=())
            (folder / name / "no.nii.gz").unlink()
        mask = f"VSD.Brain_3more.XX.O.OT.{time}8"
        write_case(folder / mask, "", (), mask, values=(1, 2, 3, 4))
    config, cases, problems = find(tmp_path, "brats")
    assert not problems
    assert {c.group for c in cases.values()} == {"brats_tcia_pat118"} and len(cases) == 2
    assert "T1c" in next(iter(cases.values())).images[1]
    assert config.regions[1] == "tumour_core=1,3,4:1"


def test_time_points_are_one_person():
    ids = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"]
    assert [person(i) for i in ids] == ["BraTS-GLI-00001"] * 2 + ["BraTS-GLI-00002"]
    assert person("PatientID_0003_Timepoint_1") == "PatientID_0003"
    assert person("sub-01_ses-2") == "sub-01"
    assert person("a/b") == "a/b" and person("BRATS_001") == "BRATS_001"


def test_a_pattern_tells_the_person(tmp_path):
    write_brats(tmp_path, 2)
    _, cases, _ = find(tmp_path, "brats", patient_regex=r"(BraTS20)")
    assert {c.group for c in cases.values()} == {"BraTS20"}
    for regex, why in (("x(y)", "does not match case"), ("B", "needs a group"), ("(", "missing")):
        with pytest.raises(UserError, match=f"patient_regex=.*{why}"):
            find(tmp_path, "brats", patient_regex=regex)


def test_missing_and_double_sequences_are_named(tmp_path):
    write_brats(tmp_path, 4)
    first, second, third, fourth = (tmp_path / f"BraTS20_Training_00{n}" for n in (1, 2, 3, 4))
    (first / f"{first.name}_t1ce.nii.gz").unlink()
    (second / f"{second.name}_seg.nii.gz").unlink()
    (third / f"{third.name}_t2.nii.gz").rename(third / f"{third.name}_t2w.nii")
    (third / f"{third.name}_t2.nii.gz").write_bytes(
        (third / f"{third.name}_t1.nii.gz").read_bytes()
    )
    for suffix in OLD:
        (fourth / f"{fourth.name}{suffix}.nii.gz").unlink()
    _, cases, problems = find(tmp_path, "brats")
    assert set(cases) == {third.name}
    one, two, four = (f"patient {p.name} ({p.name}/{p.name}" for p in (first, second, fourth))
    assert sorted(problems) == sorted(
        [
            f"{one}_flair.nii.gz): no file of t1c",
            f"{two}_flair.nii.gz): no label file",
            f"{four}_seg.nii.gz): a label file without images",
            f"{third.name}/{third.name}_t2w.nii: a second t2 of {third.name} beside "
            f"{third.name}/{third.name}_t2.nii.gz",
        ]
    )
    # Without the sequence that one lacks it is a case like others.
    _, cases, _ = find(tmp_path, "brats", channel_names=("flair", "t1"))
    assert first.name in cases
    assert [sequence_of(n)[1] for n in cases[first.name].images] == ["flair", "t1"]
    with pytest.raises(
        UserError, match="no sequence 't9' of brats; choose from t1, t1c, t2, flair"
    ):
        find(tmp_path, "brats", channel_names=("t9",))


def test_the_label_file_of_another_name_in_brats_2020(tmp_path):
    write_brats(tmp_path, 2)
    folder = tmp_path / "BraTS20_Training_001"
    (folder / "BraTS20_Training_001_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    _, cases, problems = find(tmp_path, "brats")
    assert not problems
    assert cases[folder.name].mask == "BraTS20_Training_001/W39_1998.09.19_Segm.nii.gz"


def test_nothing_that_is_no_sequence_is_taken_for_one():
    for name in (
        "UCSF-PDGM-0004_T1_bias.nii.gz",
        "UCSF-PDGM-0004_brain_segmentation.nii.gz",
        "a/brainmask.nii.gz",
        "a/silver_simple.nii.gz",
        "a/t1.mgz",
        "a/t1.png",
    ):
        assert sequence_of(name) == ("", ""), name


def test_brats_without_files_of_its_names(tmp_path):
    (tmp_path / "VSD.Brain.XX.O.MR_Flair.1.mgz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no files named as BraTS.*1 .mgz file.*not read"):
        find(tmp_path, "brats")


TASK01 = ("edema", "non-enhancing tumor", "enhancing tumour")


def test_the_decathlon(tmp_path):
    write_msd(tmp_path / "Task01_BrainTumour", TASK01)
    config, cases, problems = find(tmp_path, "msd")
    root = "Task01_BrainTumour/"
    assert not problems and cases == {
        f"BRATS_00{n}": Case(
            (f"{root}imagesTr/BRATS_00{n}.nii.gz",),
            f"{root}labelsTr/BRATS_00{n}.nii.gz",
            f"BRATS_00{n}",
        )
        for n in range(2)
    }
    assert config.channel_names == ("FLAIR", "T1w", "T1gd", "T2w")
    assert config.regions == ("whole_tumour=1,2,3", "tumour_core=2,3", "enhancing_tumour=3")
    plain, _, _ = find(tmp_path, "msd", labels="plain")
    assert plain.regions == ("edema=1", "non-enhancing_tumor=2", "enhancing_tumour=3")
    assert detect(list_files(tmp_path)).name == "msd"
    (tmp_path / root / "labelsTr/BRATS_001.nii.gz").unlink()
    _, cases, problems = find(tmp_path, "msd")
    assert len(cases) == 1
    assert problems == [f"patient BRATS_001 ({root}imagesTr/BRATS_001.nii.gz): no label file"]


def test_other_tasks_of_the_decathlon_have_a_region_for_each_label(tmp_path):
    write_msd(tmp_path, ("anterior", "posterior", "other"))
    assert find(tmp_path, "msd")[0].regions == ("anterior=1", "posterior=2", "other=3")


V1 = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "b", "2": "a"}}
V2 = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enh": [3]},
    "regions_class_order": [1, 2, 3],
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize(
    "content, regions",
    [
        (V1, ("b=1", "a=2")),
        (V2 | {"labels": {"background": 0, "x": 2, "y": 1}}, ("y=1", "x=2")),
        (V2, ("whole_tumor=1,2,3:1", "core=2,3:2", "enh=3:3")),
        (
            {k: V2[k] for k in ("channel_names", "labels")},
            ("whole_tumor=1,2,3", "core=2,3", "enh=3"),
        ),
    ],
)
def test_nnunet_of_both_versions(tmp_path, content, regions):
    write_nnunet(tmp_path, content, (1, 2, 3))
    config, cases, problems = find(tmp_path, "nnunet")
    assert not problems and config.channel_names == ("T1", "FLAIR") and config.regions == regions
    assert cases["case_1"] == Case(
        ("imagesTr/case_1_0000.nii.gz", "imagesTr/case_1_0001.nii.gz"),
        "labelsTr/case_1.nii.gz",
        "case_1",
    )
    assert detect(list_files(tmp_path)).name == "nnunet"


@pytest.mark.parametrize(
    "change, why",
    [
        # The trap met in the wild: oedema (2) would be written as 1, necrosis as 2.
        (
            {"labels": {"background": 0, "wt": [1, 2, 3], "tc": [1, 3], "et": [3]}},
            r"order \[1, 2, 3\] writes wt \[1, 2, 3\] as 1, .* must be \[2, 1, 3\]",
        ),
        ({"regions_class_order": [1, 2]}, "give a label for each of 3 regions"),
        (
            {"labels": {"et": [3], "wt": [1, 2, 3], "tc": [1, 3]}, "regions_class_order": None},
            r"region et: labels of its own \[\].*outer before the inner: \('wt=1,2,3', 'tc=1,3'",
        ),
        (
            {"labels": {"a": [1, 2], "b": [4]}, "regions_class_order": None},
            r"a: .* \[1, 2\], not one",
        ),
        ({"labels": {"a": 1, "ignore": 2}}, "to be ignored"),
        ({"labels": {"background": 0}}, "nothing but background"),
        ({"labels": {"a": 300}}, "whole numbers in 0..255"),
        ({"labels": {"a": "x"}}, "whole numbers in 0..255"),
        ({"labels": None}, "has no 'labels'"),
        ({"channel_names": {"1": "T1"}}, "number the channels from 0 on"),
        ({"file_ending": ".mgz"}, "file_ending '.mgz'; convert to .nii.gz"),
        ({"dataset": {}}, "lists files by 'dataset'"),
    ],
)
def test_what_a_dataset_json_says_wrong_is_told(tmp_path, change, why):
    write_nnunet(tmp_path, {k: v for k, v in (V2 | change).items() if v is not None}, (1, 2, 3))
    with pytest.raises(UserError, match=why):
        find(tmp_path, "nnunet")


def test_dataset_json_that_is_broken_missing_or_there_twice(tmp_path):
    write_nnunet(tmp_path / "a", V2, (1, 2, 3))
    (tmp_path / "a/dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset.json: cannot be read \(Expecting"):
        find(tmp_path, "nnunet")
    write_nnunet(tmp_path / "b", V2, (1, 2, 3))
    with pytest.raises(UserError, match="several data sets .*a/dataset.json, b/dataset.json"):
        find(tmp_path, "nnunet")
    for name in "ab":
        (tmp_path / name / "dataset.json").unlink()
    with pytest.raises(UserError, match="no dataset.json beside imagesTr/"):
        find(tmp_path, "msd")


def test_nnunet_names_channels_that_are_too_many_missing_or_unnumbered(tmp_path):
    write_nnunet(tmp_path, V2, (1, 2, 3), count=3)
    images = tmp_path / "imagesTr"
    (images / "case_0_0001.nii.gz").unlink()
    (images / "case_1_0000.nii.gz").rename(images / "case_1_0002.nii.gz")
    (images / "case_2_0001.nii.gz").rename(images / "other.nii.gz")
    _, cases, problems = find(tmp_path, "nnunet")
    assert not cases and problems == [
        "imagesTr/case_1_0002.nii.gz: channel 0002, but dataset.json has 2",
        "imagesTr/other.nii.gz: no number of a channel at the end, as in CASE_0000.nii.gz",
        "patient case_0 (imagesTr/case_0_0000.nii.gz): no file of channel 0001",
        "patient case_1 (imagesTr/case_1_0001.nii.gz): no file of channel 0000",
        "patient case_2 (imagesTr/case_2_0000.nii.gz): no file of channel 0001",
    ]


TREE = {
    "channel_files": ("flair={patient}/{patient}_flair.nii.gz", "t1={patient}/{patient}_t1.nii.gz"),
    "mask_file": "{patient}/{patient}_seg.nii.gz",
}


def test_any_tree_by_patterns(tmp_path):
    write_brats(tmp_path, 2)
    config, cases, problems = find(tmp_path, "nifti", **TREE, labels="brats2021")
    assert config.channel_names == ("flair", "t1") and config.regions == NESTED_2021
    case = "BraTS20_Training_002"
    assert not problems and cases[case] == Case(
        (f"{case}/{case}_flair.nii.gz", f"{case}/{case}_t1.nii.gz"),
        f"{case}/{case}_seg.nii.gz",
        case,
    )
    (tmp_path / case / f"{case}_t1.nii.gz").rename(tmp_path / case / f"{case}_t1.nhdr")
    mixed = TREE | {
        "channel_files": (
            "flair={patient}/{patient}_flair.nii.gz",
            "t1={patient}/{patient}_t1.nhdr",
        )
    }
    _, cases, _ = find(tmp_path, "nifti", **mixed)
    assert cases[case].images[1] == f"{case}/{case}_t1.nhdr"
    _, cases, problems = find(tmp_path, "nifti", **TREE)
    assert problems == [f"patient {case} ({case}/{case}_flair.nii.gz): no file of t1"]


@pytest.mark.parametrize(
    "change, why",
    [
        (
            {"channel_files": ()},
            "nifti needs patterns of its files: --config.dataset.channel_files",
        ),
        ({"mask_file": None}, "nifti needs patterns of its files"),
        (
            {"mask_file": "{patient}.nii"},
            "mask_file: no volume's file matches {patient}.nii among 10",
        ),
        (
            {"channel_files": ("t1=x{patient}.nii",)},
            "channel_files: .*this looks like BraTS: --config",
        ),
    ],
)
def test_patterns_that_find_nothing(tmp_path, change, why):
    write_brats(tmp_path, 2)
    with pytest.raises(UserError, match=why):
        find(tmp_path, "nifti", **(TREE | change))


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"name": "lgg_mri", "labels": "brats2021"}, "labels='brats2021': only of volumes"),
        ({"name": "brats", "labels": "brats2020"}, "choose one of"),
        ({"name": "brats", "regions": ("a=1,b",)}, "give each as NAME=LABEL"),
        ({"name": "brats", "regions": ("a=0,1",)}, "must lie in 1..255"),
        ({"name": "brats", "regions": ("a=256",)}, "must lie in 1..255"),
        ({"name": "brats", "regions": ("a=1", "A=2")}, "a name of its own"),
        ({"name": "brats", "regions": ("a=1",), "labels": "any"}, "not both"),
        ({"name": "brats", "channel_files": ("t1={patient}",)}, "only of nifti"),
        ({"name": "nifti", "channel_files": ("t1=a.nii",)}, "with {patient}"),
        ({"name": "nifti", "channel_files": ("t1={patient}.nii",) * 2}, "each channel once"),
        ({"name": "nifti", "mask_file": "a.nii"}, "needs {patient}"),
        ({**TREE, "name": "nifti", "channel_names": ("x",)}, "names them already"),
    ],
)
def test_settings_are_checked(settings, why):
    with pytest.raises(UserError, match=re.escape(why)):
        Dataset(**settings)


def test_regions_that_cannot_be_written_are_refused_with_the_remedy():
    config = Dataset(name="brats", regions=("et=4", "wt=1,2,4", "tc=1,4"))
    with pytest.raises(
        UserError, match=r"outer before the inner: \('wt=1,2,4', 'tc=1,4', 'et=4'\)"
    ):
        kind_of(config)
    with pytest.raises(UserError, match=r"labels of its own \[1, 2\], not one, .*say which"):
        kind_of(Dataset(name="brats", regions=("wt=1,2,4", "et=4")))
    assert kind_of(Dataset(name="brats", regions=("wt=1,2,4:2", "et=4"))).region_names == (
        "wt",
        "et",
    )


def test_a_run_knows_channels_and_regions_without_its_source(tmp_path, monkeypatch):
    write_nnunet(tmp_path, V2, (1, 2, 3))
    config = told_by_files(Dataset(name="nnunet", source=str(tmp_path)))
    kept = from_dict(json.loads(to_json(Config(dataset=config)))).dataset
    assert kept == config
    monkeypatch.setattr(kinds, "list_source", None)  # would fail
    assert told_by_files(kept) == kept
    assert kind_of(kept).channels == ("T1", "FLAIR")
    assert kind_of(kept).region_names == ("whole_tumor", "core", "enh")


def test_folders_say_what_they_look_like(tmp_path):
    write_brats(tmp_path / "a", 1)
    names = list(list_files(tmp_path).stamps)
    assert "this looks like BraTS: --config.dataset.name=brats trains on them" in looks_like(names)
    assert "nnunet or msd" in looks_like(["imagesTr/a_0000.nii.gz", "dataset.json"])
    assert "--config.dataset.name=nifti" in looks_like(["a/x.nii.gz"])
    write_folders(tmp_path / "slices")
    assert detect(list_files(tmp_path / "slices")).name == "image_folder"
    assert brats.count(["a/x.nii.gz", "a/t1.nii"]) == (0, 0)
    with pytest.raises(UserError, match="this looks like BraTS"):
        find(tmp_path / "a", "image_folder")
