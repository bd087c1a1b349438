"""Signals that wait for the end of a step."""

import os
import signal
import time

import pytest

from common.interrupt import TERMINATING, Terminated, interrupts_deferred, raise_on_termination


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in TERMINATING}
    raise_on_termination()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "number, raised",
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGUSR1, Terminated)],
)
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


def test_in_a_brief_block_all_wait_and_the_first_one_counts():
    reached = False
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_deferred(brief=True):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        reached = True
    assert reached and caught.type is KeyboardInterrupt


def test_a_signal_comes_before_the_error_that_it_brought_about():
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():
        signal.raise_signal(signal.SIGINT)  # Ctrl-C reaches the compiler too, which then fails
        raise RuntimeError("compilation failed")


def test_the_handlers_are_those_from_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interrupts_deferred():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_forked_process_can_be_ended_meanwhile():
    with interrupts_deferred():
        child = os.fork()
        if not child:
            time.sleep(5)
            os._exit(0)
        time.sleep(0.3)  # Python's own work behind a fork comes first
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 143)])
def test_each_signal_has_the_status_that_shells_give_it(number, status):
    with pytest.raises(Terminated) as caught:
        signal.raise_signal(number)
    assert caught.value.status == status


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise_on_termination()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with interrupts_deferred():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
