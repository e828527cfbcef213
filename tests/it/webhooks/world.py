"""The rest of the world of a network namespace in which every address leads here.

Answers names as told (a list of answers for each, the last of which is repeated), accepts
whatever connects, and writes down the address that was connected to.
"""

import gzip
import itertools
import json
import socket
import struct
import sys
import threading
import time

zones = json.load(open(sys.argv[1]))
accepted = open(sys.argv[2], "a", buffering=1)
asked = {}

TYPES = {1: "A", 28: "AAAA"}


def encode(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(owner, kind, data):
    return encode(owner) + struct.pack("!HHIH", kind, 1, 0, len(data)) + data


def answer(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += query[at] + 1
    question = query[12 : at + 5]
    number = struct.unpack("!H", question[-4:-2])[0]
    kind = TYPES.get(number)
    name = ".".join(labels)
    known = zones.get(name)
    found = []
    while "CNAME" in zones.get(name, {}) and len(found) < 8:
        target = zones[name]["CNAME"]
        found.append(record(name, 5, encode(target)))
        name = target
    answers = zones.get(name, {}).get(kind, [[]])
    turn = asked.get((name, kind), 0)
    asked[name, kind] = turn + 1
    for address in answers[min(turn, len(answers) - 1)]:
        family = socket.AF_INET if kind == "A" else socket.AF_INET6
        found.append(record(name, number, socket.inet_pton(family, address)))
    flags = 0x8180 if known else 0x8183
    header = query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
    return header + question + b"".join(found)


def names():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.53", 53))
    print("names", flush=True)
    while True:
        query, sender = server.recvfrom(512)
        server.sendto(answer(query), sender)


def receive(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(4096)
        if not chunk:
            return
        data += chunk
    path = data.split(b" ")[1].decode()
    head = "HTTP/1.1 200 OK\r\n"
    if path.startswith("/redirect/"):
        location = "http://169.254.169.254/latest/meta-data/"
        status = path.removeprefix("/redirect/")
        head = f"HTTP/1.1 {status} Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        connection.sendall(head.encode())
    elif path == "/refresh":
        head += "refresh: 0; url=http://169.254.169.254/\r\ncontent-type: text/html\r\n"
        body = '<meta http-equiv="refresh" content="0; url=http://169.254.169.254/">'
        head += f"content-length: {len(body)}\r\n\r\n{body}"
        connection.sendall(head.encode())
    elif path == "/silent":
        time.sleep(60)
    elif path == "/banner":
        connection.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
    elif path == "/close":
        return
    elif path == "/two-lengths":
        connection.sendall(head.encode() + b"content-length: 2\r\ncontent-length: 5\r\n\r\nhello")
    elif path == "/huge-chunk":
        head += "transfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\nx"
        connection.sendall(head.encode())
    elif path == "/many-headers":
        connection.sendall(head.encode() + b"x-more: x\r\n" * 500 + b"content-length: 0\r\n\r\n")
    elif path == "/status-999":
        connection.sendall(b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n")
    elif path == "/slow-head":
        for character in itertools.chain(head, itertools.repeat("x")):
            connection.sendall(character.encode())
            time.sleep(0.2)
    elif path == "/slow-body":
        connection.sendall(head.encode() + b"content-length: 1000000\r\n\r\n")
        while True:
            connection.sendall(b".")
            time.sleep(0.2)
    elif path == "/endless-head":
        connection.sendall(head.encode())
        while True:
            connection.sendall(b"x-more: " + b"x" * 1000 + b"\r\n")
    elif path == "/endless-body":
        connection.sendall(head.encode() + b"\r\n")
        while True:
            connection.sendall(b"endless " * 1000)
    elif path == "/endless-chunks":
        connection.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"3e8\r\n" + b"c" * 1000 + b"\r\n")
    elif path == "/bomb":
        body = gzip.compress(b"\0" * 100_000_000)
        head += f"content-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
    elif path.startswith("/continue/"):
        status = path.removeprefix("/continue/")
        while True:
            connection.sendall(f"HTTP/1.1 {status} Wait\r\n\r\n".encode())
            time.sleep(0.01)
    else:
        connection.sendall(head.encode() + b"content-length: 2\r\n\r\nok")


def serve(connection):
    with connection:
        try:
            receive(connection)
        except OSError:
            pass


def listen(port):
    server = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=500
    )
    print("port", flush=True)
    while True:
        connection, _ = server.accept()
        address = connection.getsockname()[0].removeprefix("::ffff:")
        accepted.write(f"{address} {port}\n")
        threading.Thread(target=serve, args=[connection], daemon=True).start()


threading.Thread(target=names, daemon=True).start()
for port in (80, 443, 8080):
    threading.Thread(target=listen, args=[port], daemon=True).start()
threading.Event().wait()
