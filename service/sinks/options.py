"""Where results go, as the command line says it: each address becomes one frozen description, or one line of error."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from cfg.errors import UserError, nearest
from service.sinks.registers import COUNT

MQTT_PASSWORD, WEBHOOK_TOKEN = "TANDEM_MQTT_PASSWORD", "TANDEM_WEBHOOK_TOKEN"  # environment: command lines are seen by all
MQTT_FORM = "mqtt[s]://[user:password@]host[:port]/topic[?qos=1]"
MODBUS_FORM = "host[:port][/unit][?register=N]"
WEBHOOK_FORM = "http[s]://host/path"
LONGEST_TOPIC = 65535  # bytes
Options = TypeVar("Options")


@dataclass(frozen=True)
class MqttOptions:
    """An MQTT broker and the topic that takes the results.

    Attributes:
        qos: 0 at most once, 1 at least once, 2 exactly once between us and the broker.
        version: of the protocol, 5 or 3 (3.1.1).
        tls: whether the connection is encrypted and the broker's certificate checked, against `ca` where that is given.
    """

    host: str
    port: int
    topic: str
    user: str = ""
    password: str = field(default="", repr=False)
    qos: int = 1
    version: int = 5
    tls: bool = False
    ca: str = ""

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return f"mqtt{'s' * self.tls}://{_host(self.host)}:{self.port}/{self.topic}"

    @property
    def identity(self) -> str:
        """What its backlog is for."""
        return self.shown


@dataclass(frozen=True)
class ModbusOptions:
    """A Modbus TCP server, such as a PLC, its unit, and the first of the holding registers that take the latest result."""

    host: str
    port: int = 502
    unit: int = 1
    register: int = 0

    @property
    def shown(self) -> str:
        """The address as people know it."""
        return f"modbus://{_host(self.host)}:{self.port}/{self.unit}?register={self.register}"


@dataclass(frozen=True)
class WebhookOptions:
    """A URL that takes each result as a JSON POST, and the bearer token that goes with it."""

    url: str = field(repr=False)
    token: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The address without user, password and query: these often hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def identity(self) -> str:
        """What its backlog is for: with the query, without user and password."""
        return f"{self.shown}?{urlsplit(self.url).query}"


@dataclass(frozen=True)
class SinkOptions:
    """All sinks of a service, and the most bytes on disk that the backlog of each may take."""

    mqtt: tuple[MqttOptions, ...] = ()
    modbus: tuple[ModbusOptions, ...] = ()
    webhook: tuple[WebhookOptions, ...] = ()
    backlog_bytes: int = 256 * 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--mqtt``, ``--modbus``, ``--webhook`` (each may be given several times) and ``--backlog`` to a command line."""
    add = parser.add_argument
    add("--mqtt", action="append", default=[], metavar="URL", help=f"publish each result: {MQTT_FORM}; mqtts is TLS; the password "
        f"can be given in the variable {MQTT_PASSWORD}")  # fmt: skip
    add("--modbus", action="append", default=[], metavar="ADDRESS", help="write the latest result into a PLC's holding registers: "
        f"{MODBUS_FORM}")  # fmt: skip
    add("--webhook", action="append", default=[], metavar="URL", help=f"POST each result as JSON: {WEBHOOK_FORM}; a bearer token can "
        f"be given in the variable {WEBHOOK_TOKEN}")  # fmt: skip
    add("--backlog", type=int, default=256, metavar="MIB", help="most disk space for the results that one sink still has to "
        "deliver (default %(default)s)")  # fmt: skip


def read_options(arguments: argparse.Namespace) -> SinkOptions:
    """Read what `add_arguments` added. Raises `UserError`."""
    if arguments.backlog < 1:
        raise UserError(f"--backlog {arguments.backlog}: expected at least 1 MiB; the usual is 256")
    return SinkOptions(
        _each("--mqtt", arguments.mqtt, read_mqtt),
        _each("--modbus", arguments.modbus, read_modbus),
        _each("--webhook", arguments.webhook, read_webhook),
        arguments.backlog * 2**20,
    )


def read_mqtt(text: str) -> MqttOptions:
    """Read the address of a broker. Raises `UserError`, without the password."""
    parts, fail = _split("--mqtt", text, MQTT_FORM, ("mqtt", "mqtts"))
    tls = parts.scheme == "mqtts"
    topic = unquote(parts.path.removeprefix("/"))
    if not topic:
        raise fail("an address without a topic; add one, such as /line1/results")
    if {"+", "#", "\0"} & set(topic) or parts.fragment or text.endswith("#") or len(topic.encode()) > LONGEST_TOPIC:
        raise fail("a topic to publish to with + or # in it, or a too long one; name one topic")
    query = _query(parts, ("qos", "version", "ca"), fail)
    ca = query.get("ca", "")
    if ca and not (tls and Path(ca).is_file()):
        raise fail(f"ca={ca}: it needs mqtts:// and a file that is there")
    return MqttOptions(
        host=parts.hostname or "",
        port=_port(parts, fail) or (8883 if tls else 1883),
        topic=topic,
        user=unquote(parts.username or ""),
        password=unquote(parts.password) if parts.password is not None else os.environ.get(MQTT_PASSWORD, ""),
        qos=_number("qos", query, 1, range(3), fail),
        version=_number("version", query, 5, (3, 5), fail),
        tls=tls,
        ca=ca,
    )


def read_modbus(text: str) -> ModbusOptions:
    """Read the address of a Modbus server. Raises `UserError`."""
    address = text if text.startswith("modbus://") or "://" in text else f"modbus://{text}"
    parts, fail = _split("--modbus", address, MODBUS_FORM, ("modbus",))
    unit = {"unit": parts.path.strip("/")} if parts.path.strip("/") else {}
    query = _query(parts, ("register",), fail)
    register = _number("register", query, 0, range(65536), fail)
    if register + COUNT > 65536:
        raise fail(f"register={register}: {COUNT} registers are written, and the last one is 65535; use {65536 - COUNT} or less")
    return ModbusOptions(parts.hostname or "", _port(parts, fail) or 502, _number("unit", unit, 1, range(256), fail), register)


def read_webhook(text: str) -> WebhookOptions:
    """Read the address of a webhook. Raises `UserError`, without the password."""
    parts, fail = _split("--webhook", text, WEBHOOK_FORM, ("http", "https"))
    _port(parts, fail)
    return WebhookOptions(text, os.environ.get(WEBHOOK_TOKEN, ""))


Fail = Callable[[str], UserError]


def _each(option: str, texts: Collection[str], read: Callable[[str], Options]) -> tuple[Options, ...]:
    found = tuple(map(read, texts))
    if len(set(found)) < len(found):
        raise UserError(f"{option}: expected each address once, got one twice; leave one out")
    return found


def _split(option: str, text: str, form: str, schemes: tuple[str, ...]) -> tuple[SplitResult, Fail]:
    """Take an address apart; also return what makes an error about it."""
    masked = re.sub(r"(?<=://).*@", "", text)

    def fail(came: str) -> UserError:
        return UserError(f"{option} {masked}: expected {form}, got {came}")

    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise fail(f"no address ({error})") from None
    if parts.scheme not in schemes:
        raise fail(f"'{parts.scheme or text.split('/')[0]}'{nearest(parts.scheme, schemes)}")
    if not parts.hostname:
        raise fail("no host")
    if not parts.hostname.isprintable() or " " in parts.hostname:
        raise fail(f"the host {parts.hostname!r}, which has a blank in it")
    return parts, fail


def _port(parts: SplitResult, fail: Fail) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise fail("a port outside 1 to 65535, or a user or password whose /, @, ? or # is not written as %2F, %40, %3F or %23")
    return port


def _query(parts: SplitResult, known: tuple[str, ...], fail: Fail) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for name, _ in pairs:
        if name not in known:
            raise fail(f"the option '{name}'; there is {', '.join(known)}{nearest(name, known)}")
    return dict(pairs)


def _number(name: str, given: dict[str, str], default: int, allowed: Collection[int], fail: Fail) -> int:
    text = given.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number not in allowed:
        raise fail(f"{name}={text}; it is {min(allowed)} to {max(allowed)}" if len(allowed) > 2 else
                   f"{name}={text}; it is {' or '.join(map(str, allowed))}")  # fmt: skip
    return number


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
