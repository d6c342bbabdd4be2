"""The viewer: what is refused, the numbers that are sent, a run as `evaluate` scored it."""

import dataclasses
import graphlib
import gzip
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from fake_config import tiny_config
from fake_gallery import SHAPE, SPACING_MM, box, make_gallery, serving, volume
from fake_run import write_run

from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.evaluation import of_runs, threshold_baseline
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction import operating, trained
from jaxseg.prediction.inference import predict_patients
from jaxseg.runs import checkpoint, workdir
from jaxseg.training.state import new_state
from jaxseg.viewer import pictures, serve
from jaxseg.viewer.of_run import open_run, read_table

PAGE = Path(serve.__file__).parent / "page"


@pytest.fixture(scope="module")
def niivue(tmp_path_factory):
    script = tmp_path_factory.mktemp("niivue") / "niivue.umd.js"
    script.write_text("// a copy")
    return script


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "niivue"])
def server(request, niivue):
    with serving(make_gallery(), niivue if request.param else None) as server:
        yield server


@pytest.fixture(scope="module")
def plain():
    with serving(make_gallery()) as server:
        yield server


def get(server, path: str, hosts=("127.0.0.1:{port}",), method="GET"):
    """Return status, headers and body; the path goes out as it is given."""
    lines = [f"{method} {path.replace('{token}', server.token)} HTTP/1.1"]
    lines += [f"Host: {host.format(port=server.server_port)}" for host in hosts]
    with socket.create_connection(("127.0.0.1", server.server_port), 20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.headers, response.read()


def get_json(server, path: str):
    status, _, body = get(server, "/{token}/" + path)
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize(
    "path",
    ["/", "/patients.json", "/wrong/", "/{token}x/patients.json", "/x{token}/patients.json"]
    + ["//x/{token}/", "/./{token}/x", "/%00/", "/\xe9/", "http://127.0.0.1/{token}/", "*"],
)
def test_without_the_token_nothing_is_served(plain, path):
    status, _, body = get(plain, path)
    assert status == 403
    assert b"p10" not in body and b"<script" not in body


def test_a_part_of_the_token_is_not_the_token(plain):
    assert get(plain, f"/{plain.token[:-1]}/")[0] == 403
    assert get(plain, f"/{plain.token.swapcase()}/")[0] == 403
    assert len(plain.token) >= 32


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["127.0.0.1:{port}"], 200),
        (["localhost:{port}"], 200),
        (["evil.example:{port}"], 403),
        (["evil.example"], 403),
        (["127.0.0.1"], 403),
        (["127.0.0.1:1"], 403),
        (["127.0.0.1:{port}.evil.example"], 403),
        (["127.0.0.1:{port}", "evil.example"], 403),
        (["evil.example", "127.0.0.1:{port}"], 403),
        ([""], 403),
        ([], 403),
    ],
)
def test_only_this_machine_may_be_named_as_host(plain, hosts, status):
    assert get(plain, "/{token}/", hosts)[0] == status


@pytest.mark.parametrize(
    "path",
    [
        *("../pyproject.toml", "../../pyproject.toml", "..", "../view.py", "./viewer.js"),
        *("%2e%2e/view.py", "%2e%2e%2fview.py", "..%2fview.py", "..%5cview.py", "..\\view.py"),
        *("%252e%252e/view.py", "..;/view.py", "viewer.js/../../view.py", "%c0%ae%c0%ae/view.py"),
        *("/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd", "C:\\a"),
        *("viewer.py", "viewer", "viewer/", "viewer.js%00", "viewer.js?x", "index.html"),
        *("patient", "patient/", "patient/0", "patient/0/", "patient/3/scan.json"),
        *("patient/-1/scan.json", "patient/0x0/scan.json", "patient/\xb2/scan.json"),
        *(
            "patient/" + "9" * 5000 + "/scan.json",
            "patient/0/scan.json/",
            "patient/0/../0/scan.json",
        ),
        *("patient/0/image-0/0/6", "patient/0/image-0/1/8", "patient/0/image-0/2/10"),
        *("patient/0/image-0/3/0", "patient/0/image-0/0/-1", "patient/0/image-2/0/0"),
        *("patient/0/image/0/0", "patient/0/mask/0/0", "patient/0/truth-0/0/0", "niivue.umd.js"),
        *("patient/0/image-0/0/999999999999", "patient/0/truth.nii", "patient/9/truth.nii.gz"),
    ],
)
def test_what_is_not_shown_is_not_there(server, path):
    status, _, body = get(server, "/{token}/" + path)
    assert (status, body) == (404, b"not found")


def test_3d_is_served_only_when_asked_for(server, niivue):
    expected = 200 if server.RequestHandlerClass.niivue else 404
    assert get(server, "/{token}/niivue.js")[0] == expected
    assert get(server, "/{token}/patient/0/truth.nii.gz")[0] == expected
    assert get_json(server, "patients.json")["niivue"] == (expected == 200)
    if expected == 200:
        assert get(server, "/{token}/niivue.js")[2] == niivue.read_bytes()


@pytest.mark.parametrize(
    "path", ["/{token}/", "/{token}/nothing", "/wrong/", "/{token}/viewer.css"]
)
def test_every_answer_forbids_to_keep_embed_and_read_it_elsewhere(server, path):
    _, headers, _ = get(server, path)
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    loose = bool(server.RequestHandlerClass.niivue)
    assert policy["script-src"] == ("'self' 'wasm-unsafe-eval'" if loose else "'self'")
    assert policy["connect-src"] == ("'self' blob: data:" if loose else "'self'")
    assert policy["style-src"] == "'self'"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD"])
def test_the_page_can_only_be_read(plain, method):
    assert get(plain, "/{token}/", method=method)[0] == 501


def test_the_server_listens_on_this_machine_only(plain):
    assert plain.socket.getsockname()[0] == "127.0.0.1"
    elsewhere = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {"127.0.0.2", *elsewhere} - {"127.0.0.1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, plain.server_port), 2).close()


def test_every_server_has_another_token(plain):
    with serve.make_server(make_gallery(), 0) as other:
        assert other.token != plain.token
        assert serve.address(other) == f"http://127.0.0.1:{other.server_port}/{other.token}/"


def test_a_port_in_use_is_an_error_of_one_line(plain):
    with pytest.raises(UserError, match="--port .*in use.*try another"):
        serve.make_server(make_gallery(), plain.server_port)


def test_the_page_and_its_files_are_served_and_belong_to_the_package(plain):
    names = {path.name for path in PAGE.iterdir()}
    for name in names - {"index.html"}:
        status, headers, body = get(plain, "/{token}/" + name)
        assert (status, body) == (200, (PAGE / name).read_bytes())
        assert headers["Content-Type"].startswith(("text/", "image/svg+xml"))
    assert get(plain, "/{token}/")[2] == (PAGE / "index.html").read_bytes()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["jaxseg.viewer"]
    assert names == {path.name for pattern in patterns for path in PAGE.parent.glob(pattern)}


def test_the_page_names_no_other_server():
    for path in PAGE.iterdir():
        addresses = set(re.findall(r"\w+://[^\s\"'`)]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name  # a name, never fetched


def test_the_scripts_import_each_other_one_way():
    imports = {
        path.name: re.findall(r'^import .* from "\./(.+)";$', path.read_text(), re.MULTILINE)
        for path in PAGE.glob("*.js")
    }
    order = list(graphlib.TopologicalSorter(imports).static_order())  # CycleError: it does not
    assert sorted(order) == sorted(imports) and order[-1] == "viewer.js"


def test_the_help_lists_every_key():
    script = (PAGE / "controls.js").read_text()
    table = script[script.index("const KEYS") : script.index("const BUTTONS")]
    keys = re.findall(r'"?([^\s"]+?)"?: (?:\(\) =>|\w+,)', table)
    page = (PAGE / "index.html").read_text()
    names = {"ArrowUp": "&uarr;", "ArrowDown": "&darr;", "PageUp": "Page&nbsp;&uarr;"}
    names |= {"PageDown": "Page&nbsp;&darr;", "Escape": "Esc", "=": "+"}
    assert len(keys) > 30
    for key in keys:
        assert f"<kbd>{names.get(key, key)}</kbd>" in page, key


def plane(server, patient, layer, axis, index, dtype=np.uint8):
    status, _, body = get(server, f"/{{token}}/patient/{patient}/{layer}/{axis}/{index}")
    assert status == 200, body
    shape = [size for i, size in enumerate(SHAPE) if i != axis]
    return np.frombuffer(body, dtype).reshape(shape)


def test_planes_hold_the_voxels_that_their_axis_says(plain):
    # The intensity of voxel (z, y, x) is 100 z + 10 y + x.
    axial = plane(plain, 0, "image-0", 0, 2, "<u2")
    assert axial[0, 0] == 200 and axial[7, 9] == 279
    coronal = plane(plain, 0, "image-0", 1, 4, "<u2")
    assert coronal[0, 0] == 540 and coronal[5, 0] == 40 and coronal[5, 9] == 49  # last slice on top
    sagittal = plane(plain, 0, "image-0", 2, 9, "<u2")
    assert sagittal[0, 0] == 509 and sagittal[5, 0] == 9 and sagittal[5, 7] == 79
    assert plane(plain, 0, "image-1", 0, 2, "<u2")[7, 9] == 558
    truth = plane(plain, 0, "truth", 1, 3)
    assert truth.sum() == 8 and truth[2:4, 3:7].all()  # slices 2 and 3 of 6, from above
    assert plane(plain, 0, "prediction", 0, 4).sum() == 12
    assert set(plane(plain, 0, "probability-0", 0, 3).ravel()) == {51, 204}  # 255 x 0.2 and 0.8


@pytest.mark.parametrize(
    ("values", "offset", "step"),
    [
        (np.array([-7, 3, 60000], np.int32), -7, 1),
        (np.array([0, 255], np.uint8), 0, 1),
        (np.array([5, 5], np.uint16), 5, 1),
        (np.array([2.5, 2.5], np.float32), 2.5, 1),
        (np.array([-1.0, 0.3, 2.0], np.float32), -1, 3 / 65535),
        (np.array([0, 131070], np.int32), 0, 2),
    ],
)
def test_intensities_come_back_from_the_numbers_sent(values, offset, step):
    (channel,) = pictures.make_scan(values.reshape(1, 1, -1, 1), None, ()).channels
    assert channel.numbers.dtype == "<u2"
    assert (channel.offset, channel.step) == pytest.approx((offset, step))
    back = channel.offset + channel.step * channel.numbers.ravel().astype(np.float64)
    np.testing.assert_allclose(back, values, atol=step / 2 if step != 1 else 0)


def test_the_description_of_a_scan(plain):
    flat, solid = (get_json(plain, f"patient/{n}/scan.json") for n in (0, 1))
    assert flat["shape"] == list(SHAPE)
    assert (flat["num_planes"], flat["spacing_mm"], flat["oriented"]) == (1, [], False)
    assert (solid["num_planes"], solid["spacing_mm"]) == (3, list(SPACING_MM))
    first = flat["channels"][0]
    assert (first["offset"], first["step"], first["most"]) == (0, 1, 579)
    assert 0 < first["low"] < first["high"] < 579
    # The truth is slices 2 and 3, rows 2 to 4, columns 3 to 6.
    areas = [[[0, 0, 12, 12, 0, 0], [0, 0, 8, 8, 8, 0, 0, 0], [0, 0, 0, 6, 6, 6, 6, 0, 0, 0]]]
    assert flat["truth"] == areas
    predicted = get_json(plain, "patient/0/prediction.json")
    assert predicted["areas"][0][0] == [0, 0, 12, 12, 12, 0] and predicted["probability"]


def test_one_slice_has_no_planes_across():
    scan = pictures.make_scan(volume((1, 8, 10)), None, SPACING_MM)
    assert scan.num_planes == 1


def test_a_layer_that_a_patient_lacks_is_not_there():
    scan = pictures.make_scan(volume(), None, ())
    prediction = pictures.make_prediction(box(0, 0, 0)[..., None], None)
    gallery = make_gallery(scan=lambda _: scan, predict=lambda _: prediction)
    with serving(gallery) as server:
        assert get_json(server, "patient/0/scan.json")["truth"] is None
        assert not get_json(server, "patient/0/prediction.json")["probability"]
        for layer in ("truth", "probability-0"):
            assert get(server, f"/{{token}}/patient/0/{layer}/0/0")[0] == 404


def test_a_failure_reaches_the_page_in_words(plain):
    status, headers, body = get(plain, "/{token}/patient/2/prediction.json")
    assert (status, body) == (500, b"the scan cannot be read")
    assert headers["Content-Type"].startswith("text/plain")


def test_volumes_of_few_patients_are_kept_and_made_once():
    calls = []
    started = threading.Barrier(8)

    def make(patient):
        calls.append(patient)
        time.sleep(0.02)  # the others ask meanwhile
        return [patient]

    kept = pictures.remember(make)

    def ask():
        started.wait()
        kept(0)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [0]
    for patient in [*range(pictures.KEPT_PATIENTS + 1), 0]:
        assert kept(patient) == [patient]
    assert calls == [0, 1, 2, 3, 4, 0]


def test_a_volume_as_nifti():
    image = volume() / 7  # no integers: a slope
    scan = pictures.make_scan(image.astype(np.float32), None, SPACING_MM)
    channel = scan.channels[0]
    data = gzip.decompress(pictures.nifti(scan, "image-0", channel.numbers))
    assert struct.unpack_from("<i", data) == (348,)
    assert struct.unpack_from("<4h", data, 40) == (3, 10, 8, 6)
    assert struct.unpack_from("<4f", data, 76) == (1, 2, 1, 3)  # columns, rows, slices
    slope, intercept = struct.unpack_from("<2f", data, 112)
    assert (slope, intercept) == pytest.approx((channel.step, channel.offset))
    affine = np.array(struct.unpack_from("<12f", data, 280)).reshape(3, 4)
    # Columns run to the left (-R), rows to the back (-A), slices up (S); the middle is at 0.
    np.testing.assert_allclose(affine[:, :3], [[-2, 0, 0], [0, -1, 0], [0, 0, 3]])
    np.testing.assert_allclose(affine @ [4.5, 3.5, 2.5, 1], 0, atol=1e-6)
    assert data[344:348] == b"n+1\0" and data[123] == 2
    numbers = np.frombuffer(data, "<u2", offset=352).reshape(SHAPE)
    np.testing.assert_allclose(intercept + slope * numbers, image[..., 0], atol=slope)
    mask = gzip.decompress(pictures.nifti(scan, "truth", box(1, 2, 3)[..., None]))
    assert struct.unpack_from("<2h", mask, 70) == (2, 8) and mask[352 + 80 + 2 * 10 + 3] == 1
    assert sum(mask[352:]) == 1 and len(mask) == 352 + 480


def test_nibabel_reads_the_volume_alike():
    nibabel = pytest.importorskip("nibabel")
    scan = pictures.make_scan(volume(), None, SPACING_MM)
    data = pictures.nifti(scan, "image-0", scan.channels[0].numbers)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, volume()[..., 0])
    assert image.header.get_zooms() == (2, 1, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A scored run with the weights it began with, known voxel size and a point of its own."""
    folder = tmp_path_factory.mktemp("viewed")
    run, config = folder / "run", tiny_config(folder / "cache")
    dataset = dataclasses.replace(config.dataset, spacing_mm=(5.0, 1.0, 2.0))
    config = dataclasses.replace(config, dataset=dataset)
    prepared = prepare(config.dataset)
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(run, config, prepared, splits)
    state = new_state(config, prepared.num_channels, make_mesh())
    with checkpoint.open_checkpoints(run) as checkpoints:
        checkpoint.save(checkpoints, 2, state._replace(step=np.int32(2)), 0.5)
    (case,) = predict_patients(trained.predictor(trained.load(run)), prepared, splits["test"])
    threshold = float(np.quantile(case.probability, 0.9))
    point = operating.OperatingPoint(threshold, 2000.0, "mm3", 1.5)
    operating.write(run, ["tumour"], [{"point": point._asdict()}])
    threshold_baseline.find_baselines(run, prepared, splits["train"])
    of_runs.score_run(run, "test", None, None)
    return run


def test_a_run_is_shown_as_it_was_scored(run):
    gallery = open_run(run, "test", None)
    (row,), scan, prediction = gallery.rows, gallery.scan(0), gallery.predict(0)
    (score,) = read_table(run / "evaluation/test/patients.csv").values()
    assert row.patient == score["patient"] == "phantom_005"
    assert 0 < prediction.mask.sum() == int(score["predicted_voxels"])
    assert scan.truth.sum() == int(score["truth_voxels"])
    assert (scan.truth & prediction.mask).sum() == int(score["overlap_voxels"])
    (region,) = row.regions
    assert region.dice == float(score["dice"]) and region.hd95.endswith(" mm")
    assert gallery.volume_unit == "ml"
    assert gallery.channels == ("T1", "FLAIR", "T1C") and gallery.channel == 1
    assert region.volume == pytest.approx(scan.truth.sum() * 10 / 1000)  # voxels of 10 mm3
    assert dict(region.facts)["Dice"] == f"{region.dice:.3f}"
    least = np.floor(255 * gallery.thresholds[0])
    assert (prediction.probability >= least)[prediction.mask].all()
    assert scan.num_planes == 3 and gallery.channel == 1
    assert gallery.notes == ("Predictions of the best weights, step 2.",)


def test_a_table_of_regions_is_read_by_region(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("patient,dice,region\na,0.9,whole\na,0.5,core\nb,0.8,whole\n")
    assert read_table(path, "core") == {"a": {"patient": "a", "dice": "0.5", "region": "core"}}
    assert {name: row["dice"] for name, row in read_table(path).items()} == {"a": "0.9", "b": "0.8"}
    path.write_text("patient,dice\na,0.9\n")  # of before there were regions
    assert read_table(path, "tumour")["a"]["dice"] == "0.9"


def test_all_regions_of_a_run_are_shown_as_they_were_scored(tmp_path):
    config = tiny_config(tmp_path / "cache")
    dataset = dataclasses.replace(config.dataset, name="brain_phantom_regions")
    model = dataclasses.replace(config.model, num_classes=3)
    config = dataclasses.replace(config, dataset=dataset, model=model)
    points = [operating.OperatingPoint(threshold=t) for t in (0.4, 0.5, 0.6)]
    run = write_run(tmp_path / "run", config, points[0])
    names = workdir.region_names(run)
    operating.write(run, names, [{"point": point._asdict()} for point in points])
    before = open_run(run, "test", None)
    assert before.thresholds == (0.4, 0.5, 0.6) and before.regions == names
    (row,) = before.rows
    assert [region.volume for region in row.regions] == [None] * 3  # only known of all together
    assert row.regions[1].facts[0][0] == "truth, all regions"
    threshold_baseline.find_baselines(run, *prepared_train(config))
    of_runs.score_run(run, "test", None, None)
    gallery = open_run(run, "test", None)
    (row,), scan, prediction = gallery.rows, gallery.scan(0), gallery.predict(0)
    for k, name in enumerate(names):
        (score,) = read_table(run / "evaluation/test/patients.csv", name).values()
        assert row.regions[k].dice == float(score["dice"])
        assert row.regions[k].volume == scan.truth[..., k].sum() == int(score["truth_voxels"])
        assert prediction.mask[..., k].sum() == int(score["predicted_voxels"])
    assert scan.truth[..., 2].sum() < scan.truth[..., 0].sum()


def prepared_train(config):
    prepared = prepare(config.dataset)
    return prepared, split_patients(prepared.patients, config.split)["train"]


def test_what_is_not_an_honest_score_is_said(run):
    gallery = open_run(run, "train", None)
    assert [row.regions[0].dice for row in gallery.rows] == [None] * 4
    assert "Not scored yet: run python -m jaxseg.evaluate." in gallery.notes
    assert "These patients took part in the training: not an honest score." in gallery.notes
    assert "not an honest score" in open_run(run, "all", None).notes[-1]


def test_scores_of_other_weights_are_not_passed_off_as_theirs(run, tmp_path):
    scores = run / "evaluation/test/scores.json"
    text = scores.read_text()
    try:
        scores.write_text(text.replace('"step": 2', '"step": 1'))
        notes = open_run(run, "test", None).notes
    finally:
        scores.write_text(text)
    assert notes[1] == "The scores are of another state of the run: run jaxseg.evaluate again."


def program(*arguments) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "jaxseg.view", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_the_program_serves_until_ctrl_c(run):
    with program("--workdir", run, "--no-browser") as process:
        line = process.stdout.readline()
        found = re.fullmatch(r"1 patient at http://127\.0\.0\.1:(\d+)/([\w-]+)/\n", line)
        assert found, line + process.stderr.read()
        assert process.stdout.readline() == "Ctrl-C ends\n"
        address = f"http://127.0.0.1:{found[1]}/{found[2]}/patients.json"
        with urllib.request.urlopen(address) as response:
            assert json.load(response)["patients"][0]["regions"][0]["dice"] is not None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (out, err, process.returncode) == ("", "interrupted\n", 130)


WRONG = """
import sys
from jaxseg import view
from jaxseg.errors import UserError

for line in sys.stdin.read().splitlines():
    try:
        view.main(line.split())
    except UserError as error:
        print(error)
"""


def test_wrong_arguments_are_one_line(tmp_path):
    cases = [
        ("", "what shall be shown? Give --workdir DIR (see --help)"),
        ("--workdir nowhere", "--workdir nowhere: no run here (no config.json)"),
        (
            "--workdir x --source y --split all",
            "--source takes all its patients; leave --split out",
        ),
        ("--workdir x --niivue no.js", "--niivue no.js: no such script; see --help"),
        ("--workdir x --port 70000", "--port 70000: must lie in 0..65535"),
        ("--workdir x --split other", "--split: invalid choice: 'other'"),
        ("--workdir x a.nii --split all", "--split and --source are for the training data"),
        ("--workdir x --predictions y", "which scans? Give the INPUT of predict too"),
        ("--workdir nowhere a.nii", "--workdir nowhere: no run here (no config.json)"),
        ("--wokdir x", "--wokdir: no such flag; did you mean --workdir?"),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", WRONG],
        input="\n".join(arguments for arguments, _ in cases),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases), done.stdout + done.stderr
    for (_, message), line in zip(cases, lines, strict=True):
        assert message in line
