"""What every test shares: no network, clean engines, profiles of random tests."""

from __future__ import annotations

import os

# Before anything that would read them is imported: a test never reaches for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "soak", max_examples=2_000, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="torch device for the tests of kernels, flat index and encoders")


def pytest_configure(config):
    settings.load_profile("default")
    # `@triton.jit` reads this once, where it stands: without a card its kernels run in Triton's interpreter or not at all. Set here,
    # before any test module is imported, and not with the variables above, because --device decides.
    if config.getoption("--device") == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device(request):
    """The torch device under test; "cpu" unless --device says otherwise."""
    return request.config.getoption("--device")


@pytest.fixture
def client():
    """A fresh ephemeral client, which may reset."""
    from chroma_gpu import EphemeralClient, Settings

    made = EphemeralClient(Settings(allow_reset=True))
    made.reset()
    yield made
    made.clear_system_cache()


@pytest.fixture
def open_client(tmp_path):
    """Opens persistent clients on one path; closes whatever is open at the end."""
    from chroma_gpu import PersistentClient, Settings
    from chroma_gpu.api.client import Client

    yield lambda **given: PersistentClient(tmp_path / "data", Settings(allow_reset=True, **given))
    Client.clear_system_cache()
