"""Two processes that share a batch compute what one process computes."""

import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
from made_up import TINY, Blobs

from stylemed.errors import BadInput
from stylemed.training import Run, gan_config, load_generator, train_gan
from stylemed.training.distributed import Team, join_team, own_device
from stylemed.training.gan import GanTrainer

# 8² and 16², so that there is something to fade; R1 at every step; two groups of the minibatch standard deviation.
OPTIONS = {**TINY, "batch_default": 8, "start_resolution": 8, "stable_kimg": 0.08, "fade_kimg": 0.08, "r1_interval": 1}


def together(work, *arguments, world=2):
    """Run `work(*arguments)` in `world` processes of one gloo group; waits for them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_in_team, args=(work, rank, world, port, arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world


def _in_team(work, rank, world, port, arguments):
    torch.set_num_threads(1)
    told = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    work(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def one_step(nimg: int) -> dict[str, torch.Tensor]:
    """Gradients of both networks, w_avg and r_t after one step from `nimg`; learning rate 0, so that G meets the same D."""
    config = gan_config("smoke", 16, **OPTIONS, learning_rate_default=0.0)
    trainer = GanTrainer(Blobs(), config, seed=0, team=join_team(torch.device("cpu")))
    trainer.nimg = nimg
    trainer.step()
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    found = {f"{k} {n}": p.grad for k, net in networks.items() for n, p in net.named_parameters() if p.grad is not None}
    return found | {
        "w_avg": trainer.generator.w_avg,
        "signs": torch.tensor(trainer.signs),
        "r1": torch.tensor(trainer.last_r1),
    }


def save_steps(file):
    found = {lod: one_step(nimg) for lod, nimg in (("0.5", 120), ("0", 200))}
    if os.environ["RANK"] == "0":
        torch.save(found, file)


def train(folder, *stops):
    for kimg in stops:
        run = train_gan(Blobs(), folder, "smoke", kimg=kimg, progress=False, **OPTIONS)
    return run.log()


def train_in_parts_and_at_once(folder):
    train(folder / "parts", 0.08, 0.16)
    train(folder / "at once", 0.16)


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    together(save_steps, tmp_path / "two.pt")
    two = torch.load(tmp_path / "two.pt")
    for lod, nimg in (("0.5", 120), ("0", 200)):
        one = one_step(nimg)
        assert one.keys() == two[lod].keys() and len(one) > 40
        for network in ("g ", "d "):
            # Against the whole gradient: some parameters, such as a bias before a normalisation, have none of their own.
            whole = torch.cat([value.flatten() for name, value in one.items() if name.startswith(network)]).norm()
            for name in filter(lambda name, start=network: name.startswith(start), one):
                assert (one[name] - two[lod][name]).norm() <= 1e-5 * whole, (lod, name)
        for name in ("w_avg", "signs", "r1"):
            assert torch.allclose(one[name], two[lod][name], rtol=1e-5, atol=1e-7), (lod, name)


@pytest.mark.slow
def test_two_processes_train_one_run_and_resume_it(tmp_path):
    together(train_in_parts_and_at_once, tmp_path)
    alone = train(tmp_path / "alone", 0.16)
    a, b = (load_generator(tmp_path / name)[0].state_dict() for name in ("parts", "at once"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    # Rounding differs between one process and two, and Adam makes steps of it; the curves stay together at first.
    both = Run(tmp_path / "at once").log()
    for column in ("loss_d", "loss_g", "real_score", "r1"):
        away = (both[column] - alone[column]).abs()
        assert away[0] < 2e-3 and away.max() < 0.2  # after ten steps; the gradients of one agree to 1e-5, above


def test_batch_that_cannot_be_shared_is_refused():
    Team(0, 2).check_batch(8, 4, 64)
    with pytest.raises(BadInput, match="multiple of 8, or fewer processes"):
        Team(0, 2).check_batch(4, 4, 512)
    Team(0, 1).check_batch(4, 4, 512)


def test_a_device_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device(None) == own_device("cpu") == "cpu"
    with pytest.raises(BadInput, match="no device abacus; give cpu, cuda or cuda:N"):
        own_device("abacus")
    with pytest.raises(BadInput, match="finds no GPU here, so cuda:1 cannot be used"):
        own_device("cuda:1")
