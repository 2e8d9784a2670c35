"""Whom a client believes: only the CA certificate that it was given, or whose SHA-256 it was given.

Called by `transport`, and by the agent before it enrols.
Invariant: nothing secret is sent over an unverified connection.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from nubila.client.answers import ConnectionFailed

PATH = "/internal/v1/ca"
MAX_BYTES = 1 << 16


class WrongCa(ConnectionFailed):
    """The server's CA is not the one that the join token names."""

    slug = "wrong-ca"
    fix = "Check the address; if it is right, somebody is in between, or the token belongs to another installation."


def fetch_ca(base_url: str, sha256: str, *, timeout_s: float = 10.0) -> str:
    """The PEM of the installation's CA, believed because the SHA-256 of its DER is the one in the join token."""
    url = urlsplit(base_url)
    if url.scheme != "https" or not url.hostname:
        raise ValueError("a base URL looks like https://HOST:PORT")
    conn = http.client.HTTPSConnection(url.hostname, url.port, timeout=timeout_s, context=_unverified())
    try:
        conn.request("GET", url.path.rstrip("/") + PATH, headers={"Accept": "application/json"})
        answer = conn.getresponse()
        body = answer.read(MAX_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as e:
        raise ConnectionFailed(base_url, f"the CA could not be fetched: {e}", may_have_arrived=False) from None
    finally:
        conn.close()
    if answer.status != 200:
        raise ConnectionFailed(base_url, f"GET {PATH} answered with status {answer.status}", may_have_arrived=False)
    pem = _pem(body)
    if pem is None or not hmac.compare_digest(_fingerprint(pem), sha256.lower()):
        raise WrongCa(base_url, "its CA certificate is not the one that was expected", may_have_arrived=False)
    return pem


def context(
    scheme: str, host: str, ca: Path | str | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext | None:
    """The TLS context that trusts `ca` alone; None for plain http, which is allowed on loopback only."""
    if scheme == "http":
        if not _is_loopback(host):
            raise ValueError("plain http is for loopback addresses only; use https")
        return None
    if ca is None:
        raise ValueError("https needs the installation's CA certificate, which is the only one trusted")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks host names, requires a certificate, trusts nobody yet
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if isinstance(ca, str) and "-----BEGIN" in ca:
        made.load_verify_locations(cadata=ca)
    else:
        made.load_verify_locations(cafile=str(ca))
    if certificate is not None:
        made.load_cert_chain(str(certificate), str(key) if key is not None else None)
    return made


def _unverified() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def _pem(body: str) -> str | None:
    """One certificate, from PEM text or from JSON {"ca_pem"}, written anew so that nothing else comes with it."""
    if body.lstrip().startswith("{"):
        try:
            body = str(json.loads(body).get("ca_pem", ""))
        except ValueError:
            return None
    begin, end = body.find("-----BEGIN CERTIFICATE-----"), body.find("-----END CERTIFICATE-----")
    if begin < 0 or end < begin:
        return None
    try:
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(body[begin : end + 25]))
    except ValueError:
        return None


def _fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
