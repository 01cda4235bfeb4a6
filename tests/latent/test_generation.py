"""Where walks begin, and that every image is the stop that its row of the table names."""

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.data.store import window_of
from stylemed.errors import BadInput
from stylemed.latent import Codes, Direction
from stylemed.latent.generation import images_of_class, random_styles, some_codes
from stylemed.networks import Generator
from stylemed.provenance import Provenance
from stylemed.training.run import export, load_generator

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    torch.manual_seed(0)
    made = Generator(resolution=16, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=8)
    made.w_avg.normal_()
    file = tmp_path_factory.mktemp("g") / "generator.safetensors"
    export(file, made, {"provenance": {"frame": "body"}})
    return load_generator(file)[0]


@pytest.fixture
def codes():
    """Ten slices of four patients: 4 of a, 3 of b, 2 of c, 1 of d; d is test."""
    patient = list("aaaabbbccd")
    table = pd.DataFrame({"case": patient, "patient": patient, "z": range(10), "liver_px": 9, "tumor_px": 0})
    table = table.assign(tumor_known=1, split=["test" if p == "d" else "train" for p in patient])
    return Codes(table, np.random.default_rng(0).standard_normal((10, 6, 16)))


def direction(step=2.0, **of):
    vector = np.eye(16, dtype=np.float32)[3]
    return Direction(vector, 0.5, step, "tumor", info={"provenance": Provenance(kind="direction", **of).to_dict()})


def test_random_styles_are_those_of_their_seed(generator):
    styles = random_styles(generator, 3, psi=0.5, seed=7)
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(7))
    wanted = generator.w_avg + 0.5 * (generator.mapping(z) - generator.w_avg)
    torch.testing.assert_close(styles, wanted[:, None].expand(-1, 6, -1))
    assert not styles.requires_grad and not torch.equal(styles, random_styles(generator, 3, psi=0.5, seed=8))


def test_codes_are_of_different_patients_as_long_as_there_are_any(generator, codes):
    three = some_codes(codes, 3, generator, split="train")
    assert sorted(three.table["patient"]) == ["a", "b", "c"]
    seven = some_codes(codes, 7, generator, split="train", seed=1)
    assert set(seven.table["patient"][:3]) == {"a", "b", "c"} and len(set(seven.table["z"])) == 7
    assert set(seven.table["split"]) == {"train"}
    with pytest.raises(BadInput, match="x.codes holds 9 slices of the split train; 10 are asked for"):
        some_codes(codes, 10, generator, split="train", names=("g", "x.codes"))
    narrow = Codes(codes.table, codes.w_plus[:, :4])
    with pytest.raises(BadInput, match="x.codes was made for another generator"):
        some_codes(narrow, 2, generator, names=("g", "x.codes"))


def test_every_image_is_the_stop_of_its_row(generator, codes):
    found = direction()
    images, table = images_of_class(generator, found, [-1.0, 0.0, 2.5], 2, codes=codes, split="train")
    assert images.shape == (2, 3, 1, 16, 16) and table["step"].tolist() == [-1.0, 0.0, 2.5] * 2
    assert table["file"].is_unique and table["file"][2] == "0000_step+2.5.png"
    rows = some_codes(codes, 2, generator, split="train")
    for image, row in zip(images.flatten(0, 1), table.itertuples(), strict=True):
        at = int(row.file[:4])
        moved = torch.as_tensor(rows.w_plus[at]).clone()
        moved[:, 3] += row.step * found.step
        with torch.no_grad():
            torch.testing.assert_close(image[None], generator.synthesis(moved[None]))
        assert row.score == pytest.approx(found.score(moved.numpy()), abs=1e-5)
        assert row.source == f"{rows.table['case'][at]} z {rows.table['z'][at]}"
    drawn, table = images_of_class(generator, found, [0.0], 2, psi=0.7, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(drawn[:, 0], generator.synthesis(random_styles(generator, 2, 0.7, 3)))
    assert table["source"].tolist() == ["random 3/0", "random 3/1"]


def test_what_does_not_belong_together_is_refused_by_name(generator):
    names = ("g", "d", "c")
    with pytest.raises(BadInput, match="g and d do not belong together: the frame is body .* and image"):
        images_of_class(generator, direction(frame="image"), [0.0], 1, names=names)
    with pytest.raises(BadInput, match="d was found in another latent space than that of g"):
        images_of_class(generator, Direction(np.ones(8, np.float32), 0.0, 1.0, "tumor"), [0.0], 1, names=names)
    with pytest.raises(BadInput, match="not all different"):  # one file for two rows
        images_of_class(generator, direction(), [1.0, 2.0, 1.0], 1, names=names)


def test_the_window_is_that_of_the_images():
    assert window_of({}) is None
    window = window_of({"windows": {"CT": {"lo": -100, "hi": 250}, "MR": {"lo": 0, "hi": 900}}})
    assert (window.lo, window.hi) == (-100, 250)
