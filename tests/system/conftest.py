"""Fixtures of the system tests. They need root: network namespaces, XDP, hugepages or SLUICE_NO_HUGE=1."""

import os
import sys

import pytest

from fabric import BACKENDS, Fabric
from lab import ensure_bpffs, remove_dead_test_labs, lab_name_of_test
from sluice import Balancer

_labs = 0


def pytest_sessionstart(session):
    if os.geteuid() != 0:
        sys.exit("the system tests need root\n  try: sudo ./scripts/test.sh --only system")
    ensure_bpffs()
    remove_dead_test_labs()


def make_fabric(**options):
    """A network with nginx on all backends; its name is unique on this machine."""
    global _labs
    _labs += 1
    fabric = Fabric(lab_name_of_test(_labs), **options)
    try:
        for backend in BACKENDS:
            fabric.attach_decap(backend)
            fabric.start_nginx(backend)
    except BaseException:
        fabric.close()
        raise
    return fabric


@pytest.fixture(scope="module")
def balancer(request):
    """A running balancer with the module's CONFIG (and FABRIC options), shared by the tests of the module."""
    fabric = make_fabric(**getattr(request.module, "FABRIC", {}))
    try:
        yield Balancer(fabric, request.module.CONFIG).start()
    finally:
        fabric.close()


@pytest.fixture
def fresh_balancer(request):
    """As `balancer`, but each test has its own: for those that break it."""
    fabric = make_fabric(**getattr(request.module, "FABRIC", {}))
    try:
        yield Balancer(fabric, request.module.CONFIG).start()
    finally:
        fabric.close()


@pytest.fixture
def idle_balancer(request):
    """Configured, and nothing started."""
    fabric = make_fabric(**getattr(request.module, "FABRIC", {}))
    try:
        yield Balancer(fabric, request.module.CONFIG)
    finally:
        fabric.close()
