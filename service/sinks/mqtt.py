"""Results to an MQTT broker, with paho-mqtt. One client for each connection: what waits is in our backlog, not in the client."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from service.sinks.delivery import Unavailable
from service.sinks.options import MqttOptions

CONNECT, ANSWER = 5.0, 10.0  # seconds for the connection, and for the broker's answer to it and to each result
KEEPALIVE = 15  # seconds; a broker that vanished is noticed after one and a half of them
FAILED = 0x80  # reason codes from here on are failures
VERSIONS = {3: MQTTProtocolVersion.MQTTv311, 5: MQTTProtocolVersion.MQTTv5}


class MqttTransport:
    """Publishes each result on one topic, and ``online`` or ``offline`` (retained; the broker's last will) on ``TOPIC/status``."""

    batch = 20  # in flight; brokers take them in order

    def __init__(self, options: MqttOptions) -> None:
        self.options = options
        self._connection: _Connection | None = None

    def check(self) -> None:
        """Connect where there is no connection. Raises `Unavailable`."""
        self._connected()

    def _connected(self) -> _Connection:
        if self._connection and self._connection.lost:
            reason = self._connection.lost
            self.close()
            raise Unavailable(reason)
        if not self._connection:
            self._connection = _Connection(self.options)
        return self._connection

    def deliver(self, bodies: Sequence[bytes]) -> Iterator[None]:
        """Publish results; yield for each as the broker confirms it (QoS 0: as it was sent)."""
        connection = self._connected()
        try:
            sent = [connection.publish(body) for body in bodies]
            for message in sent:
                connection.await_answer(message)
                yield
        except Unavailable:
            self.close()
            raise

    def close(self) -> None:
        """Say ``offline`` and let go of the connection."""
        connection, self._connection = self._connection, None
        if connection:
            connection.close()


class _Connection:
    """A connection that the broker has accepted. Raises `Unavailable`.

    Attributes:
        lost: why there is none any more, empty while there is.
    """

    def __init__(self, options: MqttOptions) -> None:
        self.options = options
        self.lost = ""
        self._answered = Event()
        self._refusals: dict[int, str] = {}
        self._client = self._make_client()
        try:
            self._client.connect(options.host, options.port, KEEPALIVE)
        except (OSError, ValueError) as error:
            raise Unavailable(f"no connection ({_reason(error)})") from None
        self._client.loop_start()
        if not self._answered.wait(ANSWER) or self.lost:
            reason = self.lost or "the broker does not answer"
            self.close()
            raise Unavailable(reason)
        self._say("online")

    def publish(self, body: bytes) -> paho.MQTTMessageInfo:
        """Hand a result to the client."""
        message = self._client.publish(self.options.topic, body, self.options.qos)
        if message.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Unavailable(self.lost or f"connection lost ({paho.error_string(message.rc).lower().rstrip('.')})")
        return message

    def await_answer(self, message: paho.MQTTMessageInfo) -> None:
        """Wait until the broker has taken a result."""
        deadline = time.monotonic() + ANSWER
        while not message.is_published():
            if self.lost or time.monotonic() > deadline:
                raise Unavailable(self.lost or f"the broker did not confirm a result in {ANSWER:g} s")
            message.wait_for_publish(0.1)
        if refusal := self._refusals.pop(message.mid, ""):
            raise Unavailable(f"the broker refuses results on this topic ({refusal})")

    def close(self) -> None:
        """Say so and disconnect."""
        if not self.lost and self._client.is_connected():
            self._say("offline")
            self._client.disconnect()
        self._client.loop_stop()

    def _make_client(self) -> paho.Client:
        options = self.options
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=VERSIONS[options.version], reconnect_on_failure=False)
        client.connect_timeout = CONNECT
        client.max_inflight_messages_set(MqttTransport.batch)
        if options.user:
            client.username_pw_set(options.user, options.password or None)
        if options.tls:
            client.tls_set_context(ssl.create_default_context(cafile=options.ca or None))
        client.will_set(f"{options.topic}/status", "offline", qos=min(1, options.qos), retain=True)
        client.on_connect, client.on_disconnect, client.on_publish = self._on_connect, self._on_disconnect, self._on_publish
        return client

    def _say(self, status: str) -> None:
        told = self._client.publish(f"{self.options.topic}/status", status, qos=min(1, self.options.qos), retain=True)
        if status == "offline" and told.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            told.wait_for_publish(1.0)

    # Called by the client's thread.
    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            hint = "; with ?version=3 it is spoken to in MQTT 3.1.1" if "rotocol" in str(code) else ""
            self.lost = f"the broker refuses the connection ({str(code).lower()}){hint}"
        self._answered.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self.lost = self.lost or f"connection lost ({str(code).lower()})"
        self._answered.set()

    def _on_publish(self, client: Any, data: Any, number: int, code: Any, properties: Any) -> None:
        if code.value >= FAILED:
            self._refusals[number] = str(code).lower()


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(getattr(error, "strerror", None) or error).lower() or type(error).__name__
