"""The tests' own client: answers that arrive together are read one by one."""

from __future__ import annotations

import socket

import pytest

from many_models_tests.support.raw_http import RawClient

LOOPBACK = ("127.0.0.1", 0)
ANSWERS = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def test_two_answers_in_one_segment_are_both_read() -> None:
    with socket.create_server(LOOPBACK) as listener, RawClient(listener.getsockname()[1]) as client:
        service, _ = listener.accept()
        with service:
            service.sendall(ANSWERS)
            assert client.answer() == (200, b"ok")
            assert client.status() == 404
            service.sendall(b"and more")
        assert client.rest() == b"and more"


def test_an_answer_that_is_cut_off_is_an_error() -> None:
    with socket.create_server(LOOPBACK) as listener, RawClient(listener.getsockname()[1]) as client:
        service, _ = listener.accept()
        with service:
            service.sendall(ANSWERS[:39])
        with pytest.raises(ConnectionResetError):
            client.answer()


def test_a_closed_client_is_gone_for_the_service() -> None:
    with socket.create_server(LOOPBACK) as listener:
        with RawClient(listener.getsockname()[1]):
            service, _ = listener.accept()
        with service:
            assert service.recv(1) == b""
