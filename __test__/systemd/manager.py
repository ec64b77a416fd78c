"""A service manager that speaks the protocol of systemd.

Its argument is JSON with these members, all but `command` optional:

- `sockets`: listening sockets for the service, each `{"kind": "tcp" | "unix" | "udp" | "unbound", "path", "host", "name"}`
- `command`: program and arguments of the service
- `env`: further environment variables of the service
- `pid`: value of LISTEN_PID instead of the service's own
- `abstract`: true if the notification socket is not a file

It opens the sockets, and prints a line of JSON for each thing that happens: `{"addresses": [...]}` at the start,
`{"started": pid}`, `{"notified": {...}}`, `{"exited": code}`. Its input is a command per line: `start`, or the name of a
signal for the service, which is killed at the end of the input. The service writes to the error output of this program.
"""

import json
import os
import selectors
import signal
import socket
import sys
import tempfile

options = json.loads(sys.argv[1])


def report(**event):
    print(json.dumps(event), flush=True)


def open_socket(kind, path=None, host="127.0.0.1", **_):
    if kind == "unbound":
        return socket.socket()
    if kind == "udp":
        opened = socket.socket(type=socket.SOCK_DGRAM)
    else:
        opened = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    # "@" stands for the NUL at the beginning of a name that is not a file.
    opened.bind(path.replace("@", "\0") if path else (host, 0))
    if kind != "udp":
        opened.listen()
    return opened


def start(sockets, address):
    names = [each.get("name", "broker") for each in options.get("sockets", [])]
    pid = os.fork()
    if pid > 0:
        report(started=pid)
        return pid
    try:
        env = {**os.environ, "NOTIFY_SOCKET": address, **options.get("env", {})}
        if sockets:
            env["LISTEN_PID"] = str(options.get("pid", os.getpid()))
            env["LISTEN_FDS"] = str(len(sockets))
            env["LISTEN_FDNAMES"] = ":".join(names)
        # Copies with high numbers, so that none is overwritten.
        copies = [os.dup2(each.fileno(), 100 + n) for n, each in enumerate(sockets)]
        os.dup2(2, 1)
        for n, copy in enumerate(copies):
            os.dup2(copy, 3 + n)
            os.close(copy)
        command = options["command"]
        os.execvpe(command[0], command, env)
    finally:
        os._exit(127)


def main():
    sockets = [open_socket(**each) for each in options.get("sockets", [])]
    folder = tempfile.TemporaryDirectory()
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = "@wsmsgbroker-%d" % os.getpid() if options.get("abstract") else folder.name + "/notify"
    notified.bind(address.replace("@", "\0"))
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    for each in (notified, woken, sys.stdin.buffer.raw):
        selector.register(each, selectors.EVENT_READ)
    report(addresses=[each.getsockname() for each in sockets if each.family == socket.AF_INET])
    service = None
    while True:
        for key, _ in selector.select():
            if key.fileobj is notified:
                lines = notified.recv(65536).decode().split("\n")
                report(notified=dict(line.split("=", 1) for line in lines))
            elif key.fileobj is woken:
                woken.recv(1024)
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid > 0:
                    service = None
                    report(exited=os.waitstatus_to_exitcode(status))
            else:
                commands = os.read(0, 65536).decode().split()
                if not commands:
                    if service:
                        os.kill(service, signal.SIGKILL)
                    return
                for command in commands:
                    if command == "start":
                        service = start(sockets, address)
                    else:
                        os.kill(service, signal.Signals[command])


main()
