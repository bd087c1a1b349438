"""Signals that wait for the end of a step."""

import signal

import pytest

from common.command import Terminated
from training.interrupt import interrupts_deferred


def terminate(number, frame):
    raise Terminated


@pytest.fixture(autouse=True)
def handlers():
    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number, raised", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_for_the_end_of_the_block(number, raised):
    reached = False
    with pytest.raises(raised) as caught, interrupts_deferred():
        signal.raise_signal(number)
        reached = True
    assert reached and caught.type is raised


def test_a_second_signal_does_not_wait():
    reached = False
    with pytest.raises(Terminated), interrupts_deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        reached = True
    assert not reached


def test_a_signal_comes_before_the_error_that_it_brought_about():
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():
        signal.raise_signal(signal.SIGINT)  # Ctrl-C reaches the compiler too, which then fails
        raise RuntimeError("compilation failed")


def test_the_handlers_are_those_from_before():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_deferred():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before and signal.getsignal(signal.SIGTERM) is terminate
