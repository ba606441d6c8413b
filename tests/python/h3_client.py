"""A client of HTTP/3 and WebTransport on aioquic. It takes commands as lines of JSON
from standard input and answers each with a line."""

import asyncio
import json
import struct
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.h3.connection import FrameType, H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

# The first unidirectional stream of a server, which is its control stream.
CONTROL = 3
PATIENCE = 30


class Stream:
    """What has come on one stream."""

    def __init__(self) -> None:
        self.headers = []
        self.body = b""
        self.ended = False
        self.reset = None
        self.stopped = None
        self.told = 0


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.streams = {}
        self.control = b""
        self.datagrams = []
        self.closed = None
        self.sessions_of = {}
        self.changed = asyncio.Event()

    def stream(self, number: int) -> Stream:
        return self.streams.setdefault(number, Stream())

    def quic_event_received(self, event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed = {"code": event.error_code, "reason": event.reason_phrase}
        elif isinstance(event, StreamReset):
            self.stream(event.stream_id).reset = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stream(event.stream_id).stopped = event.error_code
        elif isinstance(event, StreamDataReceived) and event.stream_id == CONTROL:
            self.control += event.data
        for heard in self.http.handle_event(event):
            if isinstance(heard, DatagramReceived):
                self.datagrams.append(heard.data.hex())
                continue
            stream = self.stream(heard.stream_id)
            if isinstance(heard, HeadersReceived):
                stream.headers.append([[k.decode(), v.decode()] for k, v in heard.headers])
            elif isinstance(heard, (DataReceived, WebTransportStreamDataReceived)):
                stream.body += heard.data
                if isinstance(heard, WebTransportStreamDataReceived):
                    self.sessions_of[heard.stream_id] = heard.session_id
            stream.ended |= getattr(heard, "stream_ended", False)
        self.changed.set()

    async def until(self, what):
        """The first answer of `what` that is not `None`."""

        async def asked():
            while True:
                self.changed.clear()
                answer = what()
                if answer is not None:
                    return answer
                if self.closed:
                    raise ConnectionError(f"closed: {self.closed}")
                await self.changed.wait()

        return await asyncio.wait_for(asked(), PATIENCE)

    # What can be asked for.

    def request(self, method="GET", path="/", headers=(), body=None, end=True, more=()):
        number = self._quic.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", "localhost:" + port)]
        head += [(":path", path), *more, *headers]
        ended = end and body is None
        self.http.send_headers(number, [(k.encode(), v.encode()) for k, v in head], ended)
        if body is not None:
            self.http.send_data(number, body.encode(), end)
        return {"stream": number}

    def data(self, stream, body="", end=False):
        self.http.send_data(stream, body.encode(), end)
        return {}

    def trailers(self, stream, headers):
        self.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in headers], True)
        return {}

    async def answer(self, stream):
        """The whole answer, or what is there of it when it breaks off."""
        state = self.stream(stream)
        await self.until(lambda: state if state.ended or state.reset is not None else None)
        return self.told(state)

    async def head(self, stream):
        state = self.stream(stream)
        await self.until(lambda: state.headers or state.reset)
        return self.told(state)

    async def text(self, stream, text):
        """Waits until the body has this text."""
        state = self.stream(stream)
        await self.until(lambda: True if text.encode() in state.body else None)
        return {}

    def told(self, state):
        heads = [dict(headers) for headers in state.headers]
        return {
            "status": int(heads[0][":status"]) if heads else None,
            "headers": heads[0] if heads else {},
            "trailers": heads[1] if len(heads) > 1 else None,
            "body": state.body.decode(errors="replace"),
            "reset": state.reset,
            "ended": state.ended,
        }

    def reset(self, stream, code):
        self._quic.reset_stream(stream, code)
        return {}

    def stop(self, stream, code):
        self._quic.stop_stream(stream, code)
        return {}

    def raw(self, bytes, unidirectional=False, end=False, stream=None):
        """Bytes on a stream, as they are."""
        number = stream
        if number is None:
            number = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self._quic.send_stream_data(number, bytearray.fromhex(bytes), end)
        return {"stream": number}

    def raw_control(self, bytes):
        """More on the client's own control stream."""
        self._quic.send_stream_data(self.http._local_control_stream_id, bytearray.fromhex(bytes))
        return {}

    async def terminated(self):
        return await self.until(lambda: self.closed)

    async def went_away(self):
        """The number in the server's GOAWAY."""
        return {"goaway": await self.until(self.goaway)}

    def goaway(self):
        buffer = Buffer(data=self.control)
        try:
            buffer.pull_uint_var()
            while True:
                kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
                frame = buffer.pull_bytes(length)
                if kind == FrameType.GOAWAY:
                    return Buffer(data=frame).pull_uint_var()
        except ValueError:
            return None

    async def settings(self):
        found = await self.until(lambda: self.http.received_settings)
        return {hex(key): value for key, value in found.items()}

    def session(self, path, headers=()):
        more = [(":protocol", "webtransport")]
        headers = [("sec-webtransport-http3-draft02", "1"), *headers]
        return self.request("CONNECT", path, headers, end=False, more=more)

    def open(self, session, pieces=False):
        """A stream of the session."""
        if pieces:
            number = self._quic.get_next_available_stream_id()
            self._quic.send_stream_data(number, b"\x40")
            return {"stream": number}
        number = self.http.create_webtransport_stream(session)
        self.mark(number, session)
        return {"stream": number}

    def mark(self, number, session):
        # What comes back on it is no frames.
        with self.http._get_or_create_stream(number) as stream:
            stream.frame_type = FrameType.WEBTRANSPORT_STREAM
            stream.session_id = session

    def finish_open(self, stream, session):
        self._quic.send_stream_data(stream, b"\x41" + encode_uint_var(session))
        self.mark(stream, session)
        return {}

    def send(self, stream, envelope, end=False):
        text = json.dumps(envelope).encode()
        self._quic.send_stream_data(stream, struct.pack(">I", len(text)) + text, end)
        return {}

    async def envelope(self, stream):
        """The next envelope on a stream."""
        state = self.stream(stream)

        def next_one():
            rest = state.body[state.told :]
            if len(rest) < 4:
                return {} if state.ended or state.reset is not None else None
            (length,) = struct.unpack(">I", rest[:4])
            if len(rest) < 4 + length:
                return None
            state.told += 4 + length
            return json.loads(rest[4 : 4 + length])

        return await self.until(next_one)

    async def stopped(self, stream):
        """The codes with which the server gave up both directions of a stream."""
        state = self.stream(stream)
        await self.until(lambda: True if state.reset is not None else None)
        return {"reset": state.reset, "stopped": state.stopped}

    def datagram(self, session, bytes):
        self.http.send_datagram(session, bytearray.fromhex(bytes))
        return {}

    async def many(self, count, body):
        """So many calls at a time; the statuses."""
        kind = [("content-type", "application/json")]
        numbers = [self.request("POST", "/call", kind, body)["stream"] for _ in range(count)]
        self.transmit()
        answers = [await self.answer(number) for number in numbers]
        return {"statuses": [answer["status"] for answer in answers]}


async def main() -> None:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        cafile=sys.argv[2],
        server_name="localhost",
        max_datagram_frame_size=65536,
    )
    if identity := sys.argv[3:]:
        configuration.load_cert_chain(*identity)
    loop = asyncio.get_running_loop()
    async with connect(
        "127.0.0.1", int(port), configuration=configuration, create_protocol=Client
    ) as client:
        await client.wait_connected()
        print(json.dumps({"connected": True}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            answer = getattr(client, command.pop("do"))(**command)
            client.transmit()
            if asyncio.iscoroutine(answer):
                answer = await answer
            print(json.dumps(answer), flush=True)
        client.close()


port = sys.argv[1]
asyncio.run(main())
