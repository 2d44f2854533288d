"""Which network interface gloo is told to use."""

import os
import socket

import pytest

from pipeline.train import interface


def test_the_interface_of_an_address_is_found_and_of_a_foreign_one_is_not() -> None:
    loopback = interface.interface_of("127.0.0.1")
    assert loopback in {name for _, name in socket.if_nameindex()}
    assert interface.interface_of("192.0.2.1") is None  # an address of documentation


def test_one_host_uses_loopback_and_what_somebody_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interface.VARIABLE, "")
    interface.choose_interface(is_one_host=True)
    assert os.environ[interface.VARIABLE] == interface.interface_of("127.0.0.1")
    monkeypatch.setenv(interface.VARIABLE, "ib0")
    interface.choose_interface(is_one_host=True)
    assert os.environ[interface.VARIABLE] == "ib0"


def test_an_address_without_an_interface_leaves_the_choice_to_gloo(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(interface.VARIABLE, "")
    monkeypatch.setattr(interface, "LOOPBACK", "192.0.2.1")
    interface.choose_interface(is_one_host=True)
    assert os.environ[interface.VARIABLE] == ""
    assert "event=no_interface address=192.0.2.1" in caplog.text
