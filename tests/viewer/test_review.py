"""Lesions, other thresholds and bits of the regions, by hand-made volumes."""

import contextlib
import http.client
import json

import numpy as np
import pytest
from fake_gallery import SPACING_MM, box, make_gallery, serving, volume

from jaxseg.errors import TrainingFailed
from jaxseg.viewer import pictures, serve
from jaxseg.viewer.pictures import make_prediction, make_scan
from jaxseg.viewer.review import lesions, preview


def gallery_of(truth, masks, probability=None, **changes):
    """Return a gallery of one scan; masks [D, H, W, K]."""
    scan = make_scan(volume(), truth, SPACING_MM, voxel_mm3=6.0)
    prediction = make_prediction(masks, probability)
    names = tuple(f"region_{k}" for k in range(masks.shape[-1]))
    known = {"regions": names} | changes
    return make_gallery(scan=lambda _: scan, **{"predict": lambda _: prediction} | known)


def test_a_plane_of_masks_has_a_bit_for_each_region():
    masks = np.zeros((6, 8, 10, 10), bool)
    masks[2, 3, 4, [0, 2, 9]] = True
    masks[2, 7, 9, 8] = True
    plane = np.frombuffer(pictures.plane_bytes(masks, 0, 2), np.uint8).reshape(8, 10, 2)
    assert plane[3, 4].tolist() == [0b101, 0b10] and plane[7, 9].tolist() == [0, 1]
    assert plane.sum() == 5 + 2 + 1
    across = np.frombuffer(pictures.plane_bytes(masks, 1, 3), np.uint8).reshape(6, 10, 2)
    assert across[3, 4].tolist() == [0b101, 0b10]  # slice 2 of 6, from above
    assert len(pictures.plane_bytes(masks[..., :8], 0, 2)) == 80  # eight fit in a byte


def test_lesions_are_those_of_truth_and_prediction_together_the_largest_first():
    one = np.s_[:2]
    truth = box(one, slice(0, 2), slice(0, 3)) | box(5, 7, slice(6, 10))  # 12, and 4 missed
    mask = box(1, slice(1, 3), slice(2, 5)) | box(5, 0, slice(0, 2))  # 6, and 2 invented
    empty = np.zeros_like(truth)
    gallery = gallery_of(np.stack([truth, empty], -1), np.stack([mask, empty], -1))
    found = lesions(gallery, 0, 0)["lesions"]
    assert [(f["voxels"], f["truth"], f["prediction"]) for f in found] == [
        (17, 12, 6),  # they share a voxel
        (4, 4, 0),
        (2, 0, 2),
    ]
    assert found[1]["position"] in ([5, 7, 7], [5, 7, 8]) and found[2]["position"][:2] == [5, 0]
    for lesion in found:  # never beside it, though the centre of a bent lesion may be
        assert (truth | mask)[tuple(lesion["position"])]
    assert lesions(gallery, 0, 1) == {"lesions": []}
    with pytest.raises(LookupError):
        lesions(gallery, 0, 2)


def test_the_position_of_a_lesion_is_nearest_to_its_centre_in_mm():
    # The mean of (0,0,0), (0,0,3), (0,3,3) x (3, 1, 2) mm and others lies off the lesion.
    bent = box(0, 0, slice(0, 4)) | box(0, slice(0, 4), 3)
    (found,) = lesions(gallery_of(None, bent[..., None]), 0, 0)["lesions"]
    at = np.argwhere(bent) * SPACING_MM
    nearest = np.linalg.norm(at - at.mean(0), axis=1)
    chosen = np.linalg.norm(np.array(found["position"]) * SPACING_MM - at.mean(0))
    assert chosen == pytest.approx(nearest.min()) and found["truth"] is None


def test_where_nothing_can_be_predicted_the_lesions_are_those_of_the_truth():
    def fail(_):
        raise TrainingFailed("it cannot be predicted")

    truth = box(2, slice(2, 4), 3)[..., None]
    (found,) = lesions(gallery_of(truth, truth, predict=fail), 0, 0)["lesions"]
    assert (found["truth"], found["prediction"]) == (2, None)
    with pytest.raises(TrainingFailed):
        lesions(gallery_of(None, truth, predict=fail), 0, 0)


def test_another_threshold_is_scored_over_the_volume():
    truth = box(slice(2, 4), slice(2, 5), slice(3, 7))  # 24 voxels
    probability = np.zeros((*truth.shape, 2), np.float32)
    probability[..., 1][truth] = 0.6
    probability[3, 2:5, 4:8, 1] = 0.31  # 12, of these 9 in the truth
    masks = probability > 0.5
    gallery = gallery_of(np.stack([~truth, truth], -1), masks, probability)
    high, low = preview(gallery, 0, 1, 50), preview(gallery, 0, 1, 30)
    assert high["dice"] == pytest.approx(2 * 15 / (15 + 24))
    assert low["dice"] == pytest.approx(2 * 24 / (27 + 24))
    assert high["areas"] == pictures.areas(masks[..., 1]) and sum(low["areas"][0]) == 27
    assert preview(gallery_of(None, masks, probability), 0, 1, 50)["dice"] is None
    for region, percent in ((2, 50), (1, 0), (1, 100)):
        with pytest.raises(LookupError):
            preview(gallery, 0, region, percent)
    with pytest.raises(LookupError):
        preview(gallery_of(None, masks), 0, 0, 50)


def test_the_page_gets_them_and_nothing_beside():
    probability = np.full((6, 8, 10, 1), 0.71, np.float32)
    truth = box(2, slice(2, 4), 3)[..., None]
    gallery = gallery_of(truth, truth, probability)
    with serving(gallery) as server:

        def get(path):
            connection = http.client.HTTPConnection(serve.HOST, server.server_port)
            with contextlib.closing(connection):
                connection.request("GET", f"/{server.token}/patient/0/{path}")
                response = connection.getresponse()
                return response.status, response.read()

        status, body = get("lesions-0.json")
        assert status == 200 and json.loads(body)["lesions"][0]["voxels"] == 2
        status, body = get("preview-0/70.json")
        assert status == 200 and json.loads(body)["dice"] == pytest.approx(2 * 2 / 482)
        for path in ("lesions-1.json", "lesions--1.json", "preview-0/0.json", "preview-1/50.json"):
            assert get(path) == (404, b"not found"), path
        for path in ("preview-0/100.json", "preview-0/5e1.json", "probability-1/0/0"):
            assert get(path) == (404, b"not found"), path
