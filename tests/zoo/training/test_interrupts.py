"""What must not be interrupted is not, and is interrupted right after."""

import signal
import threading

import pytest

from blox.zoo.training.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def interruptible():
    """Interrupts raise: a shell starts what runs in the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_takes_effect_after_the_block():
    done = []

    def work():
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is handler


def test_without_an_interrupt_nothing_happens_and_errors_pass():
    handler = signal.getsignal(signal.SIGINT)
    with interrupts_held():
        pass
    with pytest.raises(ValueError, match='wrong'), interrupts_held():
        raise ValueError('wrong')
    assert signal.getsignal(signal.SIGINT) is handler


def test_in_another_thread_signals_are_left_alone():
    found = []

    def work():
        with interrupts_held():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_who_ignores_interrupts_goes_on_to():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
