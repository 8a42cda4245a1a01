"""Shared fixtures: a tiny checkpoint, its scorer, and one local Ray cluster for the whole run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports ray: no token in the home folder, no statistics, no chatter; and its
# processes, which would stand behind all others, are waited for. And no test asks a hub on the
# network for a model.
os.environ.update(
    HF_HUB_OFFLINE="1",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",
    RAY_SERVE_LOG_TO_STDERR="0",
)

import pytest
import torch
from chaos.neighbour import busy_neighbour
from checkpoints import make_checkpoint
from hypothesis import settings

from polar_ray.config import ScorerConfig
from polar_ray.scorer import Scorer

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter. It asks when a function is defined, its own ones too, so
    # before anything imports triton, as torch's counter of operations does.
    os.environ["TRITON_INTERPRET"] = "1"

# No test of this project judges by the clock.
settings.register_profile("polar_ray", deadline=None)
settings.load_profile("polar_ray")

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"


def needs_ray(item: pytest.Item) -> bool:
    """Whether a test uses the one local cluster."""
    return item.get_closest_marker("ray") is not None


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups when its own turn comes
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs Ray comes first, as it takes longest; of several processes (`-n 2`) one has it
    all, with the one cluster. Of the rest one has a file, with what its tests share."""
    items.sort(key=lambda item: not needs_ray(item))
    for item in items:
        group = "ray" if needs_ray(item) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ray ends with the last test that needs it: an idle cluster takes a tenth of the machine."""
    if needs_ray(item) and (nextitem is None or not needs_ray(nextitem)):
        stop_cluster()


def stop_cluster() -> None:
    """Ends the local cluster of this run, if there is one."""
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The suites that are asked for say at the end what they saw."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, line in report.user_properties if report.when == "call" else ():
            if name == "figure":
                terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keeps a line for the end of the run."""
    node = request.node
    return lambda line: node.user_properties.append(("figure", f"{node.name}: {line}"))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test leaves anything in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _neighbour() -> Iterator[None]:
    """CHAOS_NEIGHBOUR=1: nothing that is run may depend on having the machine for itself."""
    if os.environ.get("CHAOS_NEIGHBOUR") != "1":
        yield
        return
    with busy_neighbour():
        yield


def pytest_report_header() -> list[str]:
    """What the figures of a run must be read beside."""
    return ["beside processes that want every core"] * (os.environ.get("CHAOS_NEIGHBOUR") == "1")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden numbers and tiny checkpoints that the project carries."""
    return GOLDEN


@pytest.fixture(scope="session")
def internlm2_tokenizer_dir() -> Path:
    """InternLM2's real tokenizer, which is not part of this project."""
    folder = SHARED / "tokenizer"
    if not folder.is_dir():
        pytest.skip("InternLM2's tokenizer is not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory with random weights and a tokenizer.json."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", seed=1)


@pytest.fixture(scope="session")
def scorer(tiny_dir: Path) -> Scorer:
    """A scorer of `tiny_dir`."""
    return Scorer(ScorerConfig(model=str(tiny_dir), max_tokens=256))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The one local Ray cluster of a test run; its resources are only names."""
    import ray
    from ray import serve

    from polar_ray.pool.http.port import free_port

    ray.init(
        address="local",  # or it would join a cluster that somebody else has started here
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300_000_000,
        namespace="serve",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    yield
    stop_cluster()
