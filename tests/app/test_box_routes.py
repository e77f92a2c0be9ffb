"""A click becomes a box, and nothing else."""

import pytest


def test_a_click_gets_a_box_around_it_and_no_score(client, image):
    answer = client.post("/v1/box", json={"image": image, "x": 40, "y": 80})
    assert answer.status_code == 200
    assert set(answer.json()) == {"box"}
    x0, y0, x1, y1 = answer.json()["box"]
    assert 0 <= x0 < 40 < x1
    assert 0 <= y0 < 80 < y1


@pytest.mark.parametrize("place", [{"x": -1, "y": 5}, {"x": 5, "y": 1e5}, {"x": "a", "y": 5}, {"x": 5}], ids=str)
def test_a_click_beside_the_image_is_refused_in_one_line(client, image, place):
    answer = client.post("/v1/box", json={"image": image} | place)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["detail"]


def test_an_image_that_is_not_there_is_a_404(client):
    assert client.post("/v1/box", json={"image": "0" * 24, "x": 1, "y": 1}).status_code == 404
