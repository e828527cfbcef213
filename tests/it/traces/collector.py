"""An OpenTelemetry collector's receiver: prints every span of every request as a line of JSON."""

import http.server
import json
import sys
import threading

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


def plain(attributes):
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in attributes
    }


def spans(request):
    for of_process in request.resource_spans:
        for of_scope in of_process.scope_spans:
            for span in of_scope.spans:
                yield {
                    "resource": plain(of_process.resource.attributes),
                    "scope": of_scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "state": span.trace_state,
                    "name": span.name,
                    "kind": span.kind,
                    "began": span.start_time_unix_nano,
                    "ended": span.end_time_unix_nano,
                    "attributes": plain(span.attributes),
                    "links": [link.span_id.hex() for link in span.links],
                    "status": span.status.code,
                    "flags": span.flags,
                }


WRITING = threading.Lock()


def write(value):
    with WRITING:
        print(json.dumps(value), flush=True)


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportTraceServiceRequest.FromString(body)
        head = {
            "path": self.path,
            "type": self.headers["content-type"],
            "authorization": self.headers["authorization"],
            "text": body.decode("latin-1"),
        }
        for span in spans(request):
            write({**span, "request": head})
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        try:
            self.wfile.write(answer)
        except BrokenPipeError:
            pass  # A process that ends does not wait for the answer.

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
write(server.server_port)
try:
    server.serve_forever()
except BrokenPipeError:
    sys.exit()
