"""How results leave: to an MQTT broker, a PLC's registers (Modbus), a web server. Each sink has a thread of its own.

`add_arguments` and `read_options` are for a command line, `open_sinks` for the service.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cfg.errors import UserError
from cfg.whole_files import replace_file
from service.sinks.options import ModbusOptions, MqttOptions, SinkOptions, WebhookOptions, add_arguments, read_options
from service.telling import Teller

if TYPE_CHECKING:
    from service.sinks.delivery import Delivery, Transport
    from service.sinks.modbus import ModbusSink

__all__ = ["SinkOptions", "add_arguments", "open_sinks", "read_options"]


def open_sinks(options: SinkOptions, folder: Path) -> list[Delivery | ModbusSink]:
    """Start the sinks. One that cannot be reached says so, and tries again.

    Args:
        options: which.
        folder: of their backlogs, one folder for each address; made where it is missing.

    Raises:
        UserError: a package is missing, or the folder cannot be used.
    """
    opened: list[Delivery | ModbusSink] = []
    try:
        for mqtt in options.mqtt:
            opened.append(_delivery(mqtt, _transport(mqtt), folder, options.backlog_bytes))
        for webhook in options.webhook:
            opened.append(_delivery(webhook, _transport(webhook), folder, options.backlog_bytes))
        for modbus in options.modbus:
            opened.append(_modbus(modbus))
    except BaseException:
        for sink in opened:
            sink.close(0.0)
        raise
    _tell_left_behind(folder, [sink.backlog.folder for sink in opened if hasattr(sink, "backlog")])
    return opened


def _transport(options: MqttOptions | WebhookOptions) -> Transport:
    try:
        if isinstance(options, MqttOptions):
            from service.sinks.mqtt import MqttTransport

            return MqttTransport(options)
        from service.sinks.webhook import WebhookTransport

        return WebhookTransport(options)
    except ImportError as error:
        raise _missing("--mqtt" if isinstance(options, MqttOptions) else "--webhook", error) from None


def _modbus(options: ModbusOptions) -> ModbusSink:
    try:
        from service.sinks.modbus import ModbusSink
    except ImportError as error:
        raise _missing("--modbus", error) from None
    return ModbusSink(options, Teller(options.shown))


def _missing(option: str, error: ImportError) -> UserError:
    return UserError(f"{option}: expected the package {error.name}, it is not installed; pip install -r requirements-sinks.txt")


def _delivery(options: MqttOptions | WebhookOptions, transport: Transport, folder: Path, limit: int) -> Delivery:
    from service.sinks.backlog import Backlog
    from service.sinks.delivery import Delivery

    teller = Teller(options.shown)
    own = folder / hashlib.sha256(options.identity.encode()).hexdigest()[:16]
    backlog = Backlog(own, limit, teller)
    with suppress(UserError):  # for people only: a full disk does without
        replace_file(own / "address", f"{options.shown}\n".encode())
    if backlog.waiting:
        teller.change(f"{backlog.waiting} results of an earlier run wait, and are sent first")
    return Delivery(options.shown, transport, backlog, teller)


def _tell_left_behind(folder: Path, used: list[Path]) -> None:
    """Say where results may wait for an address that is not given any more."""
    for address in sorted(folder.glob("*/address")):
        if address.parent not in used and any(address.parent.glob("*.log")):
            where = address.read_text(encoding="utf-8", errors="replace").strip()
            Teller(where).change(f"not given this time; its backlog is {address.parent}: give it again, or delete that")
