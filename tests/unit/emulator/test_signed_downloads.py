from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

from airflow_provider_d1.emulator.server import Emulator

CORPUS = Path(__file__).parents[2] / "data" / "corpus"
FULL = (CORPUS / "nasty_full.sql").read_bytes()


@pytest.fixture(autouse=True)
def _written_as_the_corpus(api) -> None:
    api.emulator.faults.old_newlines = True


def xml(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/xml"
    return answer.status_code, ET.fromstring(answer.text).findtext("Code")


def test_the_whole_dump(api) -> None:
    answer = api.plain.get(api.signed_url("shop"))
    assert answer.content == FULL
    assert answer.headers["content-length"] == str(len(FULL))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].strip('"')
    (entry,) = api.emulator.downloads
    assert (entry.status, entry.range, entry.authorization, entry.sent) == (200, None, False, len(FULL))
    assert "?" not in entry.path


@pytest.mark.parametrize(
    ("header", "begin", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, len(FULL)),
        ("bytes=-5", len(FULL) - 5, len(FULL)),
        (f"bytes={len(FULL) - 1}-{len(FULL) + 99}", len(FULL) - 1, len(FULL)),
    ],
)
def test_ranges(api, header: str, begin: int, end: int) -> None:
    answer = api.plain.get(api.signed_url("shop"), headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(FULL)}"
    assert answer.content == FULL[begin:end]


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "lines=0-1", "bytes=-", "bytes=9-3"])
def test_other_ranges_are_ignored(api, header: str) -> None:
    assert api.plain.get(api.signed_url("small"), headers={"Range": header}).status_code == 200


def test_a_range_behind_the_end(api) -> None:
    url = api.signed_url("shop")
    assert xml(api.plain.get(url, headers={"Range": f"bytes={len(FULL)}-"})) == (416, "InvalidRange")


def test_conditions(api) -> None:
    url = api.signed_url("small")
    etag = api.plain.get(url).headers["etag"]
    part = {"Range": "bytes=5-"}
    assert api.plain.get(url, headers={**part, "If-Range": etag}).status_code == 206
    assert api.plain.get(url, headers={**part, "If-Range": '"other"'}).status_code == 200
    assert api.plain.get(url, headers={**part, "If-Match": etag}).status_code == 206
    assert xml(api.plain.get(url, headers={**part, "If-Match": '"other"'})) == (412, "PreconditionFailed")


def test_refusals(api) -> None:
    url = api.signed_url("small")
    assert xml(api.plain.get(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=9999"))) == (403, "SignatureDoesNotMatch")
    assert xml(api.plain.get(url.split("?")[0])) == (400, "InvalidArgument")
    assert xml(api.plain.get(url, headers={"Authorization": "Bearer x"})) == (400, "InvalidArgument")
    assert api.plain.head(url).status_code == 403
    assert [entry.authorization for entry in api.emulator.downloads] == [False, False, True, False]


def test_expiry(api) -> None:
    api.emulator.faults.url_seconds = 0
    assert xml(api.plain.get(api.signed_url("small"))) == (403, "ExpiredRequest")
    api.emulator.faults.set({"url_seconds": 3600, "expired_urls": 1})
    url = api.signed_url("small")
    assert xml(api.plain.get(url)) == (403, "ExpiredRequest")
    assert api.plain.get(url).status_code == 200


def test_errors(api) -> None:
    api.emulator.faults.download_errors = 1
    url = api.signed_url("small")
    assert xml(api.plain.get(url)) == (500, "InternalError")
    assert api.plain.get(url).status_code == 200


def read_until_cut(api, url: str, **headers: str) -> bytes:
    got = b""
    with api.plain.stream("GET", url, headers=headers) as answer:
        try:
            for piece in answer.iter_raw():
                got += piece
        except httpx.RemoteProtocolError:
            return got
    raise AssertionError("the download was not cut")


def test_cut_downloads(api) -> None:
    url = api.signed_url("shop")
    api.emulator.faults.set({"cut_downloads": 2, "cut_download_at": 1_500_000})
    assert read_until_cut(api, url) == FULL[:1_500_000]
    assert read_until_cut(api, url, Range="bytes=1000000-") == FULL[1_000_000:2_500_000]
    assert api.plain.get(url).content == FULL
    assert [entry.sent for entry in api.emulator.downloads] == [1_500_000, 1_500_000, len(FULL)]


def test_a_cut_before_the_first_byte_and_one_in_the_middle(api) -> None:
    url = api.signed_url("shop")
    api.emulator.faults.set({"cut_downloads": 1, "cut_download_at": 0})
    assert read_until_cut(api, url) == b""
    api.emulator.faults.set({"cut_downloads": 1, "cut_download_at": -1})
    assert read_until_cut(api, url) == FULL[: len(FULL) // 2]


def test_no_range(api) -> None:
    api.emulator.faults.no_range = True
    answer = api.plain.get(api.signed_url("small"), headers={"Range": "bytes=5-"})
    assert answer.status_code == 200
    assert "accept-ranges" not in answer.headers


def test_no_content_length(api) -> None:
    api.emulator.faults.no_content_length = True
    url = api.signed_url("shop")
    answer = api.plain.get(url)
    assert "content-length" not in answer.headers
    assert answer.content == FULL
    api.emulator.faults.cut_downloads = 1
    assert read_until_cut(api, url) == FULL[: len(FULL) // 2]


def test_a_wrong_content_length(api) -> None:
    url = api.signed_url("shop")
    api.emulator.faults.content_length_off = 10
    assert read_until_cut(api, url) == FULL
    api.emulator.faults.content_length_off = -10
    answer = api.plain.get(url)
    assert answer.headers["content-length"] == str(len(FULL) - 10)
    assert answer.content == FULL[:-10]


def test_a_range_from_another_place(api) -> None:
    api.emulator.faults.range_offset_off = -3
    answer = api.plain.get(api.signed_url("shop"), headers={"Range": "bytes=10-19"})
    assert answer.headers["content-range"] == f"bytes 7-19/{len(FULL)}"
    assert answer.content == FULL[7:20]


def test_another_etag_each_time(api) -> None:
    api.emulator.faults.changed_etag = True
    url = api.signed_url("small")
    assert api.plain.get(url).headers["etag"] != api.plain.get(url).headers["etag"]


def test_another_body_the_second_time(api) -> None:
    api.emulator.faults.changed_body = True
    url = api.signed_url("shop")
    first = api.plain.get(url)
    second = api.plain.get(url)
    assert first.content == FULL
    assert len(second.content) == len(FULL)
    assert second.content != FULL
    assert second.headers["etag"] != first.headers["etag"]


def test_pace(api) -> None:
    api.emulator.faults.download_pace = len(FULL) * 10
    with api.plain.stream("GET", api.signed_url("shop")) as answer:
        assert len([len(piece) for piece in answer.iter_raw() if piece]) >= 2
        assert answer.num_bytes_downloaded == len(FULL)


def test_a_ready_dump(tmp_path: Path) -> None:
    ready = tmp_path / "ready.sql"
    ready.write_bytes(b"-- any bytes at all\n" * 200_000)
    with Emulator(databases={"a": "CREATE TABLE t(a)"}, dumps={"a": ready, "b": ready}) as emulator:
        headers = {"Authorization": f"Bearer {emulator.token}"}
        with httpx.Client(base_url=emulator.url, headers=headers) as http:
            for name in ("a", "b"):
                path = f"/accounts/{emulator.account_id}/d1/database/{emulator.database_id(name)}/export"
                started = http.post(path, json={"output_format": "polling"}).json()["result"]
                poll = {"output_format": "polling", "current_bookmark": started["at_bookmark"]}
                url = http.post(path, json=poll).json()["result"]["result"]["signed_url"]
                assert httpx.get(url).content == ready.read_bytes()
                assert httpx.get(url, headers={"Range": "bytes=3999990-"}).content == b"es at all\n"
    assert ready.exists()


def test_a_ready_dump_that_is_gone(tmp_path: Path) -> None:
    faults = {"complete_at_start": True}
    with Emulator(dumps={"a": tmp_path / "missing.sql"}, faults=faults) as emulator:
        path = f"{emulator.url}/accounts/{emulator.account_id}/d1/database/{emulator.database_id('a')}/export"
        headers = {"Authorization": f"Bearer {emulator.token}"}
        failed = httpx.post(path, json={"output_format": "polling"}, headers=headers).json()["result"]
    assert failed["success"] is False
    assert "missing.sql" in failed["error"]
