import os
import signal
import threading

import pytest

from diffmae_video.engine.interrupts import Interrupts


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_at_once_outside_and_at_the_end_inside_held(number):
    reached = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            with interrupts.held():
                with interrupts.held():
                    send(number)
                    reached.append("inner")
                reached.append("outer")
            reached.append("after")
        assert reached == ["inner", "outer"] and interrupts.signal_number == number
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        send(number)
        reached.append("never")
    assert reached == ["inner", "outer"]


def test_a_second_signal_does_not_wait_where_patience_is_limited():
    reached = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        with interrupts.held(patience=1):
            send(signal.SIGINT)
            reached.append("first")
            send(signal.SIGINT)
            reached.append("second")
    assert reached == ["first"]


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_what_a_scheduler_sends_counts_once_however_often_it_comes(number, deferred):
    reached = []
    with Interrupts(deferred) as interrupts:
        try:
            with interrupts.held(patience=1):
                for repeated in (number, number, signal.SIGTERM):
                    send(repeated)
                    reached.append(repeated)
        except KeyboardInterrupt:
            reached.append("raised at the end")
        assert reached == [number, number, signal.SIGTERM, *([] if deferred else ["raised at the end"])]
        assert interrupts.signal_number == number


def test_impatience_does_not_disturb_the_end():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
            send(0)
        interrupts.end()
        send(signal.SIGINT)
        assert interrupts.signal_number == signal.SIGTERM


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_inside_held_is_not_replaced():
    with Interrupts() as interrupts, pytest.raises(ValueError):
        with interrupts.held():
            send(signal.SIGINT)
            raise ValueError


def test_other_threads_can_use_it():
    seen = []

    def work():
        with Interrupts() as interrupts, interrupts.held():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen


def test_a_forked_child_ignores_ctrl_c_and_ends_on_sigterm():
    with Interrupts():
        child = os.fork()
        if child == 0:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
