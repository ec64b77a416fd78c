# Python 2.7: the Autobahn test suite as a peer that speaks the protocol of wsmsgbroker.
#
# Autobahn's cases expect an echo. A broker echoes only messages that a client sends to itself, as JSON, so this
# script puts the payload of each text message of a case into the JSON of an action, and takes it out of the
# answer. Frame boundaries, chops, control frames and violations of a case remain as they are.
#
#   python2.7 peer.py server URL OUTDIR CASES EXCLUDED    runs the cases against a broker
#   python2.7 peer.py client URL OUTDIR CASES EXCLUDED    listens for a client that sends each message back

import json
import re
import sys

from autobahn.websocket.protocol import WebSocketProtocol
from autobahntestsuite import choosereactor  # noqa: must come before the reactor
from autobahntestsuite import fuzzing
from autobahntestsuite.fuzzing import FuzzingProtocol
from twisted.internet import reactor

subject, url, outdir, cases, excluded = sys.argv[1:]
tests_server = subject == 'server'

ID = 'autobahn'
HELLO = '{"action":"register","id":"%s"}' if tests_server else '{"action":"registered","id":"%s"}'
BEFORE = '{"action":"%s","message":"' % ('send' if tests_server else 'message')
AFTER = '","%s":"%s"}' % ('dest' if tests_server else 'from', ID)


def escape(payload):
    return re.sub(r'[\x00-\x1f"\\]', lambda found: '\\u%04x' % ord(found.group()), payload)


def send_hello(self):
    WebSocketProtocol.sendFrame(self, opcode=1, payload=HELLO % ID)


def on_open(self):
    self.in_text = False
    self.is_registered = False
    if not self.runCase:
        FuzzingProtocol.onOpen(self)
    elif tests_server:
        send_hello(self)


def on_message(self, payload, binary):
    if self.runCase and not self.is_registered:
        # The registration of the client, or its confirmation by the broker.
        if not tests_server:
            send_hello(self)
        self.is_registered = True
        FuzzingProtocol.onOpen(self)
        return
    if self.runCase and not binary:
        payload = json.loads(payload)['message'].encode('utf-8')
    FuzzingProtocol.onMessage(self, payload, binary)


def send_frame(self, opcode, payload='', fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
    is_text = opcode == 1 or (opcode == 0 and self.in_text)
    if self.runCase and self.is_registered and is_text and rsv == 0:
        if payload_len is not None:
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
            payload_len = None
        payload = (BEFORE if opcode == 1 else '') + escape(payload) + (AFTER if fin else '')
        self.in_text = not fin
    WebSocketProtocol.sendFrame(self, opcode, payload, fin, rsv, mask, payload_len, chopsize, sync)


def begin_message_frame(self, length):
    # Only text messages are sent in parts.
    if self.in_text:
        WebSocketProtocol.beginMessageFrame(self, length)
    else:
        self.in_text = True
        WebSocketProtocol.beginMessageFrame(self, len(BEFORE) + length)
        self.sendMessageFrameData(BEFORE)


for protocol in (fuzzing.FuzzingClientProtocol, fuzzing.FuzzingServerProtocol):
    protocol.onOpen = on_open
    protocol.onMessage = on_message
    protocol.sendFrame = send_frame
    protocol.beginMessageFrame = begin_message_frame

spec = {
    'outdir': outdir,
    'cases': cases.split(','),
    'exclude-cases': excluded.split(','),
    'exclude-agent-cases': {},
}
if tests_server:
    spec['servers'] = [{'agent': 'wsmsgbroker', 'url': url}]
    fuzzing.startClient(spec)
else:
    spec['url'] = url
    fuzzing.startServer(spec, None)
reactor.run()
