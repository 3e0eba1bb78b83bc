import datetime
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from local.errors import LocalError
from local.paths import ROOT
from local.servers import certificates


@pytest.fixture(autouse=True)
def _own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(certificates, "_HOME", tmp_path)
    monkeypatch.setattr(certificates, "CA_FILE", tmp_path / "ca.crt")
    certificates._authority.cache_clear()
    yield
    certificates._authority.cache_clear()


def kept(name: str = "server") -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificates.path(name).read_bytes())


def test_a_kept_certificate_stays_until_something_about_it_changes() -> None:
    certificates.keep("server", "a", hosts=["localhost", "127.0.0.1"])
    first = kept()
    certificates.keep("server", "a", hosts=["127.0.0.1", "localhost"])
    assert kept() == first
    certificates.keep("server", "a", hosts=["localhost"])
    second = kept()
    certificates.keep("server", "b", hosts=["localhost"])
    assert len({first, second, kept()}) == 3


def test_a_kept_certificate_is_made_anew_a_month_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    certificates.keep("server", "a")
    first = kept()
    monkeypatch.setattr(certificates, "_RENEW_BEFORE", datetime.timedelta(days=366))
    certificates.keep("server", "a")
    assert kept() != first


def test_a_certificate_of_another_authority_is_made_anew(tmp_path: Path) -> None:
    certificates.keep("server", "a")
    first = kept()
    certificates.CA_FILE.unlink()
    certificates._authority.cache_clear()
    certificates.keep("server", "a")
    assert kept() != first


def test_one_file_serves_as_certificate_and_as_key() -> None:
    certificates.keep("server", "a", hosts=["localhost"])
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificates.path("server"))


def test_a_key_of_another_authority_is_told(tmp_path: Path) -> None:
    certificates.ca_certificate()
    other = certificates.issue("other")[1]
    (tmp_path / "ca.key").write_text(other)
    certificates._authority.cache_clear()
    with pytest.raises(LocalError, match="does not belong to"):
        certificates.ca_certificate()


def test_processes_that_begin_at_once_agree_on_the_authority(tmp_path: Path) -> None:
    ask = [sys.executable, "-c", "from local.servers import certificates as c; print(c.ca_certificate())"]
    environment = {"AGENT_PLATFORM_DATA": str(tmp_path)}
    asked = [
        subprocess.Popen(ask, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = {process.communicate()[0] for process in asked}
    assert len(answers) == 1
    assert "BEGIN CERTIFICATE" in answers.pop()
