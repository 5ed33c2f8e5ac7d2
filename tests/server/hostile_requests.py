"""Requests that somebody could send: {name: (the bytes on the wire, status of the answer)}; @@@@@ is the port of a listener.

The status 0 stands for a connection that is closed without an answer, or one of 4xx: whichever comes first.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib

from tests.server.hostile_pictures import PNG

MULTIPART = "multipart/form-data; boundary=b0undary"
JSON = "application/json"
IMAGE = base64.b64encode(PNG).decode()
URL = "http://127.0.0.1:@@@@@/a.png"


def post(kind: str | None, body: bytes, *headers: str, path: str = "/v1/predict") -> bytes:
    """A whole request."""
    typed = [] if kind is None else [f"Content-Type: {kind}"]
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Connection: close", f"Content-Length: {len(body)}", *typed, *headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


def part(name: str | bytes, value: bytes, filename: str | bytes | None = None, *headers: bytes) -> bytes:
    """A part of a form."""
    name, given = (text.encode() if isinstance(text, str) else text for text in (name, "" if filename is None else filename))
    head = b'Content-Disposition: form-data; name="' + name + b'"' + (b"" if filename is None else b'; filename="' + given + b'"')
    return b"\r\n".join([b"--b0undary", head, *headers, b"", value]) + b"\r\n"


GOOD = part("files", PNG, "a.png")
END = b"--b0undary--\r\n"


def form(*parts: bytes) -> bytes:
    """A form with a good picture and these parts."""
    return post(MULTIPART, GOOD + b"".join(parts) + END)


def field(name: str, value: str | bytes) -> bytes:
    return form(part(name, value.encode() if isinstance(value, str) else value))


def named(filename: str | bytes) -> bytes:
    """A good picture under a name."""
    return post(MULTIPART, part("files", PNG, filename) + END)


def js(text: str | bytes, *headers: str) -> bytes:
    return post(JSON, text.encode() if isinstance(text, str) else text, *headers)


def jsf(fields: str) -> bytes:
    """A JSON request with a good picture and these fields, as text."""
    return js(f'{{"images": ["{IMAGE}"], {fields}}}')


def raw(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([*lines, b"", b""]) + body


POST = (b"POST /v1/predict HTTP/1.1", b"Host: a", b"Content-Type: application/json")
GET = (b"GET /healthz HTTP/1.1", b"Host: a", b"Connection: close")
CHUNKED = (*POST, b"Transfer-Encoding: chunked")


def get(target: bytes, method: bytes = b"GET") -> bytes:
    return raw(method + b" " + target + b" HTTP/1.1", b"Host: a", b"Connection: close")


FIELDS: dict[str, tuple[bytes, int]] = {
    **{
        f"threshold {value or 'empty'}"[:40]: (field("threshold", value), 422)
        for value in ("1.5", "-0.1", "nan", "NaN", "inf", "1e999", "-Infinity", "", "0x1", "half", "1" * 4000, "0,5", "[0.5]")
    },
    **{f"seed {value}"[:40]: (field("seed", value), 422)
       for value in ("-1", "1e400", "9" * 4000, "0.5", str(2**64), "\u0661x", "true")},
    **{f"adapt {value}": (field("adapt", value), 422) for value in ("perhaps", "2", "[]", "null")},
    "threshold twice": (form(part("threshold", b"0.1"), part("threshold", b"0.2")), 422),
    "class name empty": (field("class_name", ""), 422),
    "class name of spaces": (field("class_name", "   "), 422),
    "class name of 201": (field("class_name", "x" * 201), 422),
    "class name of 1,000,000": (field("class_name", "x" * 1_000_000), 413),
    "class name with a line end": (field("class_name", "nut\r\nX-Evil: 1"), 422),
    "class name with NUL": (field("class_name", "nut\0"), 422),
    "class name with ESC": (field("class_name", "\x1b[31mnut"), 422),
    "class name latin-1": (field("class_name", b"caf\xe9"), 422),
    "class name half a surrogate": (field("class_name", b"\xed\xa0\x80"), 422),
    "class name right to left": (field("class_name", "\u202etun"), 422),
    "class name {}": (field("class_name", "{}"), 200),
    "class name {class}": (field("class_name", "{class} {0} {__class__}"), 200),
    "class name %s": (field("class_name", "%s %n %(x)s"), 200),
    "class name sql": (field("class_name", "'; DROP TABLE nuts; --"), 200),
    "class name html": (field("class_name", "<script>alert(1)</script>"), 200),
    "class name ../": (field("class_name", "../../../etc/passwd"), 200),
    "class name emoji": (field("class_name", "🔩"), 200),
    "class name longer than a prompt": (field("class_name", "🔩" * 50), 422),
    "class name template": (field("class_name", "{{ 7*7 }} ${jndi:ldap://127.0.0.1:@@@@@/a}"), 200),
    "domain unknown": (field("domain", "space"), 422),
    "defects 17": (field("defects", ",".join(map(str, range(17)))), 422),
    "defects of commas": (field("defects", "," * 4000), 200),
    "defect with control characters": (field("defects", "a\x07b"), 422),
    "return unknown": (field("return", "everything"), 422),
    "return 9 times": (field("return", ",".join(["map"] * 9)), 422),
    "map format unknown": (field("map_format", "exe"), 422),
    "model unknown": (field("model", "other"), 422),
    "model is a path": (field("model", "../../../etc/passwd"), 422),
    "model is a URL": (field("model", "http://127.0.0.1:@@@@@/m.onnx"), 422),
    "field for a URL": (field("image_url", URL), 422),
    "field __class__": (field("__class__", "x"), 422),
    "field without a name": (form(part("", b"x")), 422),
    "field name of 5,000": (field("n" * 5000, "x"), 400),
    "field name latin-1": (form(part(b"caf\xe9", b"x")), 422),
    "files as text": (field("files", "as text"), 422),
    "a URL as file": (post(MULTIPART, part("files", URL.encode(), "a.png") + END), 415),
    "file in another field": (form(part("picture", b"x", "a.png")), 422),
    "65 fields": (form(*[part(f"f{index}", b"x") for index in range(65)]), 400),
    "10,000 tiny fields": (form(*[part("defects", b"x")] * 10_000), 400),
    "10,000 tiny files": (form(*[part("files", b"", "a.png")] * 10_000), 413),
    "17 images": (form(*[GOOD] * 16), 413),
    # --- file names: words in the answer, never paths
    "file ../": (named("../../../etc/evil.png"), 200),
    "file absolute": (named("/etc/cron.d/evil"), 200),
    "file NUL": (named(b"a\0.png"), 200),
    "file windows device": (named("CON"), 200),
    "file windows path": (named("C:\\\\Windows\\\\evil.png"), 200),
    "file UNC": (named("\\\\\\\\127.0.0.1\\\\share\\\\a.png"), 200),
    "file empty name": (named(""), 200),
    "file dot dot": (named(".."), 200),
    "file 3 kB name": (named("x" * 3000), 200),
    "file 10 kB name": (named("x" * 10_000), 400),
    "file right to left": (named("gnp.\u202eexe"), 200),
    "file escape sequences": (named(b"\x1b]0;evil\x07.png"), 200),
    "file line end in the name": (named("a.png\r\nX-Evil: 1"), 200),
    "file encoded line end": (named("a%0d%0aX-Evil: 1.png"), 200),
    "file latin-1 name": (named(b"\xff\xfe.png"), 422),
    "file pipe": (named("| touch evil"), 200),
    "file html name": (named("<img src=x onerror=alert(1)>.png"), 200),
    "file URL name": (named(URL), 200),
}  # fmt: skip

PLAIN_JSON = json.dumps({"images": [IMAGE]})
BODIES: dict[str, tuple[bytes, int]] = {
    "no content type": (post(None, b"x"), 415),
    "text/plain": (post("text/plain", b"x"), 415),
    "urlencoded": (post("application/x-www-form-urlencoded", b"files=x"), 415),
    "image/png": (post("image/png", PNG), 415),
    "multipart/mixed": (post("multipart/mixed; boundary=b0undary", GOOD + END), 415),
    "content type of 60 kB": (post("a/" + "b" * 60_000, b"x"), 415),
    "content type twice": (post(JSON, PLAIN_JSON.encode(), f"Content-Type: {MULTIPART}"), 200),
    "boundary missing": (post("multipart/form-data", GOOD + END), 400),
    "boundary empty": (post('multipart/form-data; boundary=""', GOOD + END), 400),
    "boundary of 300": (post(f"multipart/form-data; boundary={'b' * 300}", b"x"), 400),
    "boundary wrong": (post("multipart/form-data; boundary=other", GOOD + END), 400),
    "boundary with line ends": (post('multipart/form-data; boundary="a\tb"', GOOD + END), 400),
    "form empty": (post(MULTIPART, b""), 400),
    "form of an end alone": (post(MULTIPART, END), 422),
    "form without an end": (post(MULTIPART, GOOD), 400),
    "form cut in a head": (post(MULTIPART, GOOD[:30]), 400),
    "form cut in a file": (post(MULTIPART, GOOD[:200]), 400),
    "form of pixels": (post(MULTIPART, PNG), 400),
    "form in a form": (
        form(part("files", b"--in\r\n\r\nx\r\n--in--", "a.png", b"Content-Type: multipart/mixed; boundary=in")), 415),
    "part without a head": (form(b"--b0undary\r\n\r\nx\r\n"), 422),
    "part of 5,000 heads": (form(b"--b0undary\r\n" + b"X: y\r\n" * 5000 + b"\r\n\r\n"), 400),
    "part head of 100 kB": (form(b"--b0undary\r\nX: " + b"y" * 100_000 + b"\r\n\r\n\r\n"), 400),
    "part head without a colon": (form(b"--b0undary\r\nnothing\r\n\r\n\r\n"), 400),
    "part in base64": (post(MULTIPART, part("files", IMAGE.encode(), "a.png", b"Content-Transfer-Encoding: base64") + END), 415),
    "form of line ends": (post(MULTIPART, b"\r\n" * 50_000), 400),
    "form of boundaries": (post(MULTIPART, b"--b0undary\r\n" * 20_000), 400),
    "gzip, said": (js(gzip.compress(PLAIN_JSON.encode()), "Content-Encoding: gzip"), 415),
    "gzip bomb, said": (js(gzip.compress(bytes(30_000_000)), "Content-Encoding: gzip"), 415),
    "deflate, said": (js(zlib.compress(PLAIN_JSON.encode()), "Content-Encoding: deflate"), 415),
    "brotli, said": (js(b"\x8b", "Content-Encoding: br"), 415),
    "gzip, not said": (js(gzip.compress(PLAIN_JSON.encode())), 400),
    "gzip of a form, not said": (post(MULTIPART, gzip.compress(GOOD + END)), 400),
    "json empty": (js(b""), 400),
    "json open": (js(b"{"), 400),
    "json list": (js(b"[]"), 422),
    "json null": (js(b"null"), 422),
    "json text": (js(b'"images"'), 422),
    "json NaN alone": (js(b"NaN"), 422),
    "json byte order mark": (js(b"\xef\xbb\xbf" + PLAIN_JSON.encode()), 400),
    "json utf-16": (js(PLAIN_JSON.encode("utf-16")), 400),
    "json utf-32": (js(PLAIN_JSON.encode("utf-32")), 400),
    "json latin-1": (js(b'{"images": ["\xe9"]}'), 400),
    "json two values": (js(PLAIN_JSON * 2), 400),
    "json comment": (js(PLAIN_JSON + "// x"), 400),
    "json trailing comma": (js(PLAIN_JSON[:-1] + ",}"), 400),
    "json 100,000 lists deep": (js(b"[" * 100_000), 400),
    "json 100,000 objects deep": (js(b'{"a":' * 100_000), 400),
    "json depth in an unknown field": (jsf('"x": ' + "[" * 150 + "]" * 150), 422),
    "json 100,000 unknown fields": (jsf(", ".join(f'"f{n}": 1' for n in range(100_000))), 422),
    "json image twice": (jsf(f'"images": ["{URL}"]'), 422),
    "json images {}": (js(b'{"images": {}}'), 422),
    "json no images": (js(b'{"images": []}'), 422),
    "json images is a text": (js(f'{{"images": "{IMAGE}"}}'), 422),
    "json image is a number": (js(b'{"images": [1]}'), 422),
    "json image is a list": (js(b'{"images": [[1, 2]]}'), 422),
    "json image is null": (js(b'{"images": [null]}'), 422),
    "json 17 images": (js(json.dumps({"images": ["aGk="] * 17})), 413),
    "json 300,000 images": (js(json.dumps({"images": ["aGk="] * 300_000})), 413),
    "json NaN array for an image": (js(b'{"images": [[NaN, NaN], [NaN, NaN]]}'), 422),
    "json Infinity in an image": (js(b'{"images": [Infinity]}'), 422),
    **{
        f"json image is {name}": (js(json.dumps({"images": [text]})), status)
        for name, text, status in (
            ("no base64", "!", 422), ("base64 without padding", "aGk", 422), ("base64 of words", "aGk=", 415), ("empty", "", 415),
            ("base64 with line ends", IMAGE[:60] + "\n" + IMAGE[60:], 422), ("padding alone", "====", 422),
            ("url-safe base64", "_-_-", 422), ("not ASCII", "\uff41\uff27\uff4b\uff1d", 422),
            ("base64 after its end", "aGk=aGk=", 422),
            ("a data URL", f"data:image/png;base64,{IMAGE}", 422), ("an http URL", URL, 422),
            ("an https URL", URL.replace("http", "https"), 422), ("a file URL", "file:///etc/passwd", 422),
            ("an ftp URL", URL.replace("http", "ftp"), 422), ("a path", "/etc/passwd", 422),
            ("a UNC path", r"\\127.0.0.1\a", 422),
        )
    },
    **{
        f"json {fields[:40]}": (jsf(fields), 422)
        for fields in (
            '"threshold": NaN', '"threshold": Infinity', '"threshold": 1e999', '"threshold": "0.5"', '"threshold": true',
            '"threshold": [0.5]', '"seed": 1e3', '"seed": -1', '"seed": 9007199254740993', '"seed": "0"', '"seed": null',
            '"adapt": "true"', '"adapt": 1', '"class_name": 5', '"class_name": ["nut"]', '"class_name": {"a": 1}',
            '"defects": "scratch"',
            '"defects": [""]', '"defects": [null]', '"return": "map"', '"return": ["exe"]', '"returns": ["map"]', '"model": ""',
            '"map_format": null', '"files": ["a.png"]', '"image_url": "http://127.0.0.1:@@@@@/"', '"__proto__": {"adapt": true}',
            '"class_name": "\\u0000"', '"class_name": "a\\u2028b"', '"class_name": "\\u202enut"',
        )
    },
    "json seed of 5,000 digits": (jsf('"seed": ' + "9" * 5000), 400),
    "json lone surrogate": (jsf('"class_name": "\\ud800"'), 400),
    "json threshold twice": (jsf('"threshold": 7, "threshold": 0.5'), 200),
    "json class name {}": (jsf('"class_name": "{}{0}{x!r}%d"'), 200),
    "json threshold -0.0": (jsf('"threshold": -0.0'), 200),
}  # fmt: skip

HTTP: dict[str, tuple[bytes, int]] = {
    "binary": (b"\x00\x01\x02\x03\r\n\r\n", 400),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99) + b"\r\n\r\n", 400),
    "http/2 hello": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    "http/9.9": (b"GET / HTTP/9.9\r\n\r\n", 404),
    "http/0.9": (b"GET /healthz\r\n\r\n", 400),
    "host missing": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "host twice": (raw(*GET, b"Host: b"), 400),
    "path not ASCII": (get(b"/\xff"), 400),
    "path with a space": (get(b"/a b"), 400),
    "path with NUL": (get(b"/\0"), 400),
    "path encoded NUL": (get(b"/%00"), 404),
    "path half encoded": (get(b"/%f"), 404),
    "path encoded latin-1": (get(b"/%ff%fe"), 404),
    "path ../": (get(b"/../../../etc/passwd"), 404),
    "path encoded ../": (get(b"/%2e%2e/%2e%2e/etc/passwd"), 404),
    "path encoded slash": (get(b"/v1%2fno"), 404),
    "path backslash": (get(b"/v1\\..\\..\\windows\\win.ini"), 404),
    "path two slashes": (get(b"//v1/info"), 404),
    "path with a slash at the end": (get(b"/v1/info/"), 404),
    "path in capitals": (get(b"/V1/INFO"), 404),
    "path encoded line end": (get(b"/%0d%0aX-Evil:1"), 404),
    "path of 10 kB": (get(b"/" + b"a" * 10_000), 404),
    "path of 100 kB": (get(b"/" + b"a" * 100_000), 404),
    "a proxy's target": (get(b"http://127.0.0.1:@@@@@/"), 404),
    "CONNECT": (get(b"127.0.0.1:@@@@@", b"CONNECT"), 404),
    "docs": (get(b"/docs"), 404),
    "files of the package": (get(b"/static/../server/app.py"), 404),
    **{
        f"{method} predict": (get(b"/v1/predict", method.encode()), 405)
        for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW")
    },
    "POST healthz": (post(JSON, b"{}", path="/healthz"), 405),
    "POST metrics": (post(JSON, b"{}", path="/metrics"), 405),
    "method of 50 kB": (get(b"/", b"A" * 50_000), 404),
    "method with a bracket": (get(b"/", b"GE(T"), 400),
    "header of 200 kB": (raw(*GET, b"X: " + b"y" * 200_000), 0),
    "20,000 headers": (raw(*GET, *[b"X%d: y" % index for index in range(20_000)]), 0),
    "header without a colon": (raw(*GET, b"nothing"), 400),
    "header with a space in its name": (raw(*GET, b"X y: z"), 400),
    "header with NUL": (raw(*GET, b"X: \0"), 400),
    "header with a bare CR": (raw(*GET, b"X: a\rY: b"), 400),
    "header folded": (raw(*GET, b"X: a", b" b"), 200),
    "header latin-1": (raw(*GET, b"X: \xe9\xff"), 200),
    "header names a script": (raw(*GET, b"X-Request-Id: <script>"), 200),
    "header forwards": (raw(*GET, b"X-Forwarded-For: 127.0.0.1", b"X-Original-URL: /admin", b"Forwarded: host=evil"), 200),
    "upgrade to websocket": (raw(*GET[:2], b"Connection: Upgrade, close", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"), 200),
    "upgrade to h2c": (raw(*GET[:2], b"Connection: Upgrade, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), 200),
    "range": (raw(*GET, b"Range: bytes=0-99999999999"), 200),
    "length negative": (raw(*POST, b"Content-Length: -5"), 400),
    "length is a word": (raw(*POST, b"Content-Length: many"), 400),
    "length with a plus": (raw(*POST, b"Content-Length: +5", body=b"hello"), 400),
    "length in hex": (raw(*POST, b"Content-Length: 0x5", body=b"hello"), 400),
    "length of 5,000 digits": (raw(*POST, b"Content-Length: " + b"9" * 5000), 400),
    "length of 10 GB": (raw(*POST, b"Content-Length: 9999999999"), 413),
    "length twice": (raw(*POST, b"Content-Length: 1", b"Content-Length: 2", body=b"ab"), 400),
    "length as a list": (raw(*POST, b"Content-Length: 1, 2", body=b"ab"), 400),
    "length missing": (raw(*POST, b"Connection: close", body=b"{}"), 400),
    "length and chunks": (raw(*CHUNKED, b"Content-Length: 4", b"Connection: close", body=b"0\r\n\r\n"), 400),
    "encoding gzip": (raw(*POST, b"Transfer-Encoding: gzip"), 400),
    "encoding gzip, chunked": (raw(*POST, b"Transfer-Encoding: gzip, chunked"), 400),
    "encoding twice": (raw(*CHUNKED, b"Transfer-Encoding: chunked"), 400),
    "encoding unreadable": (raw(*POST, b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "encoding in http/1.0": (raw(b"POST /v1/predict HTTP/1.0", *CHUNKED[1:], body=b"0\r\n\r\n"), 0),
    "chunk of no number": (raw(*CHUNKED, body=b"xyz\r\n{}\r\n0\r\n\r\n"), 400),
    "chunk negative": (raw(*CHUNKED, body=b"-1\r\n{}\r\n0\r\n\r\n"), 400),
    "chunk of 2^80": (raw(*CHUNKED, body=b"fffffffffffffffffffff\r\n{}\r\n0\r\n\r\n"), 400),
    "chunk longer than said": (raw(*CHUNKED, body=b"1\r\n{}{}{}\r\n0\r\n\r\n"), 400),
    "chunk extension of 100 kB": (raw(*CHUNKED, body=b"1;" + b"x" * 100_000 + b"\r\n{\r\n0\r\n\r\n"), 0),
    "chunks, then rubbish": (raw(*CHUNKED, body=b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n"), 400),
    "100,000 chunks of one byte": (raw(*CHUNKED, b"Connection: close", body=b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n"), 400),
    "5 MB in chunks": (raw(*CHUNKED, body=(b"80000\r\n" + b" " * 0x80000 + b"\r\n") * 10), 0),
    "5 MB": (js(b" " * 5_000_000), 0),
    "a request in a request": (
        raw(*POST, b"Content-Length: 2", b"Connection: close", body=b"{}" + raw(b"GET /v1/info HTTP/1.1", b"Host: a")), 422),
    "a second request that is none": (raw(b"GET /nowhere HTTP/1.1", b"Host: a", body=b"\0\0\r\n\r\n"), 404),
    "100 requests at once": (raw(b"GET /nowhere HTTP/1.1", b"Host: a") * 100 + get(b"/nowhere"), 404),
    "line ends before": (b"\r\n\r\n\r\n" + get(b"/nowhere"), 0),
    "expect 100": (raw(*POST, b"Expect: 100-continue", b"Content-Length: 9999999999"), 413),
    "expect something else": (raw(*GET, b"Expect: the-unexpected"), 200),
    "head that does not end": (b"GET /healthz HTTP/1.1\r\nHo", 0),
    "head of nothing": (b"", 0),
    "body that does not come": (raw(*POST, b"Content-Length: 99"), 408),
    "body that stops": (raw(*POST, b"Content-Length: 99", body=b"{"), 408),
    "chunks that stop": (raw(*CHUNKED, body=b"5\r\n{"), 408),
    "form that stops": (post(MULTIPART, GOOD + END)[:-9], 408),
}  # fmt: skip
