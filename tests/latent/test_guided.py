"""An edit that a labeller guides, with the released networks."""

import numpy as np
import pytest
import torch

from stylemed import pretrained
from stylemed.errors import BadInput
from stylemed.latent.generation import random_styles
from stylemed.latent.guided import guided_edit, local_edit
from stylemed.latent.mixing import synthesize

PER_UNIT = 200.0


@pytest.mark.slow
def test_a_tumor_where_it_was_asked_for_and_little_else():
    generator, labeller = pretrained.generator("phantom-64")[0], pretrained.labeller("phantom-64")
    w_plus = random_styles(generator, 40, 1.0, 3).numpy().copy()
    told = labeller.findings(synthesize(generator, w_plus)).table
    free = (told["tumor"] == 0) & (told["tumor_px"] == 0) & (told["liver_px"] > 300)
    some = w_plus[free.to_numpy()][:3]
    before = synthesize(generator, some)
    options = dict(per_unit=PER_UNIT, steps=40, seed=1, progress=False)
    added = guided_edit(generator, labeller, some, 1, **options)
    after = synthesize(generator, added.w_plus)
    found = labeller.findings(after)
    assert found.table["tumor"].all()
    assert ((found.masks == 3) & added.asked).sum() > 0.5 * added.asked.sum()
    change = np.abs(np.asarray(after - before))[:, 0] * PER_UNIT
    darker = np.asarray(before - after)[:, 0][added.asked].mean() * PER_UNIT
    assert darker > 10 and change.mean() < 10  # HU
    # and back again
    gone = guided_edit(generator, labeller, added.w_plus, 0, **options)
    assert (labeller.findings(synthesize(generator, gone.w_plus)).table["tumor"] == 0).all()


@pytest.mark.slow
def test_bad_input_is_refused():
    generator, labeller = pretrained.generator("phantom-64")[0], pretrained.labeller("phantom-64")
    w_plus = torch.zeros(2, generator.num_layers, generator.latent_size)
    with pytest.raises(BadInput, match="only measures"):
        guided_edit(generator, pretrained.judge("phantom-64"), w_plus, 1, per_unit=PER_UNIT)
    for places in ([(3, 4)], [(3, 4), (64, 2)]):
        with pytest.raises(BadInput, match="places must be 2 centres"):
            guided_edit(generator, labeller, w_plus, 1, per_unit=PER_UNIT, places=places)


def test_a_local_edit_changes_the_place_alone():
    stream = torch.Generator().manual_seed(0)
    slices, before = torch.rand(2, 2, 1, 16, 16, generator=stream) - 0.5
    asked = np.zeros((2, 16, 16), bool)
    asked[0, 4:7, 5:8] = True
    made = local_edit(slices, before, before - 0.3, asked)
    assert torch.equal(made[1], slices[1]) and torch.allclose(made[0, 0, 4:7, 5:8], slices[0, 0, 4:7, 5:8] - 0.3)
    away = (made - slices)[0, 0]
    assert (away[10:] == 0).all() and (away[:, 11:] == 0).all() and -0.3 < away[1, 6] < 0  # soft at its edge
