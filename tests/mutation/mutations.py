"""The protections, each with the one change that switches it off and the tests that should notice."""

from __future__ import annotations

from dataclasses import dataclass

CLOUDFLARE = "airflow_provider_d1/cloudflare"
STAGING = "airflow_provider_d1/staging"


@dataclass(frozen=True)
class Mutation:
    """``old`` stands exactly once in ``file`` and becomes ``new``; at least one of ``tests`` must fail then."""

    protection: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "the deadline ends an export",
        f"{CLOUDFLARE}/export.py",
        "left = self.request.deadline - clock.time()",
        "left = 1e9",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "a lost export is started again",
        f"{CLOUDFLARE}/export_steps.py",
        "if state.restarts >= rules.max_restarts:",
        "if state.restarts >= 0:",
        ("tests/unit/cloudflare/test_export_steps.py",),
    ),
    Mutation(
        "restarts are limited",
        f"{CLOUDFLARE}/export_steps.py",
        "if state.restarts >= rules.max_restarts:",
        "if state.restarts >= 10**9:",
        ("tests/unit/cloudflare/test_export_steps.py",),
    ),
    Mutation(
        "an unanswered start is not repeated within a second",
        f"{CLOUDFLARE}/export_steps.py",
        "gap = min(2.0 * RESTART_GAP * 2 ** min(state.unclear, 10), MAX_RESTART_GAP)",
        "gap = 0.1",
        ("tests/unit/cloudflare/test_export_steps.py",),
    ),
    Mutation(
        "no poll is awaited until D1 has cancelled the export",
        f"{CLOUDFLARE}/export.py",
        "POLL_TIMEOUT = 9.5",
        "POLL_TIMEOUT = 60.0",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "the failure inside an answer that says success",
        f"{CLOUDFLARE}/export_protocol.py",
        'if result.get("success") is False or inner or status == "error":',
        "if False:",
        ("tests/unit/cloudflare/test_export_protocol.py",),
    ),
    Mutation(
        "the signed URL leaves the process sealed only",
        f"{CLOUDFLARE}/seal.py",
        "box = AESGCM(_key(token, salt)).encrypt(nonce, url.encode(), head.encode())",
        "box = url.encode()",
        ("tests/unit/cloudflare/test_seal.py", "tests/unit/cloudflare/test_no_leaks.py"),
    ),
    Mutation(
        "a sealed URL past its hour is refused",
        f"{CLOUDFLARE}/seal.py",
        "if (now or datetime.now(UTC)) >= expiry:",
        "if False:",
        ("tests/unit/cloudflare/test_seal.py",),
    ),
    Mutation(
        "the download is held against the announced length",
        f"{CLOUDFLARE}/download.py",
        "if not problem and self.content_length in (None, self._position):",
        "if not problem:",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "without an ETag the last bytes prove that it is the same dump",
        f"{CLOUDFLARE}/download.py",
        "return again == self._last",
        "return True",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a 206 with another offset is not taken",
        f"{CLOUDFLARE}/download.py",
        "if found is None or int(found[1]) != begin:",
        "if found is None:",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a dump that changed between two attempts is noticed",
        f"{CLOUDFLARE}/download.py",
        "if self._position and again.digest() != self._hash.digest():",
        "if False:",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a signed URL is opened over https only",
        f"{CLOUDFLARE}/signed_url.py",
        "if not allowed_scheme(parts):",
        "if False:",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "redirects of the API are not followed",
        f"{CLOUDFLARE}/transport.py",
        '"follow_redirects": False,',
        '"follow_redirects": True,',
        ("tests/unit/cloudflare/test_clients.py", "tests/unit/cloudflare/test_no_leaks.py"),
    ),
    Mutation(
        "answers are bounded before they are parsed",
        f"{CLOUDFLARE}/transport.py",
        "if len(body) > bound:",
        "if False:",
        ("tests/unit/cloudflare/test_clients.py", "tests/unit/cloudflare/test_no_leaks.py"),
    ),
    Mutation(
        "httpx's own log lines are dropped",
        f"{CLOUDFLARE}/quiet.py",
        "return not _ours.get()",
        "return True",
        ("tests/unit/cloudflare/test_clients.py", "tests/unit/cloudflare/test_no_leaks.py"),
    ),
    Mutation(
        "an export waits for room in the budget",
        f"{CLOUDFLARE}/budget.py",
        "if place == 0 and wait <= 0 and self._has_room(now, ticket):",
        "if wait <= 0:",
        ("tests/unit/cloudflare/test_budget.py",),
    ),
    Mutation(
        "the look at the database before the export",
        f"{CLOUDFLARE}/export.py",
        "options, skipped = preflight.decide(request.options, schema, request.on_virtual_table)",
        "options, skipped = request.options, ()",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "the look at the tables after the export",
        f"{CLOUDFLARE}/export.py",
        "        if options.tables is not None:\n            await run.look_again(options)\n",
        "",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "what no retry can mend is not retried",
        "airflow_provider_d1/operators/failures.py",
        "if error.retryable:",
        "if True:",
        ("tests/unit/operators/test_export_operator.py",),
    ),
    Mutation(
        "stored sizes are compared before the manifest",
        f"{STAGING}/run.py",
        "        self._verify()\n",
        "",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "a failed run takes its files with it",
        f"{STAGING}/pipeline.py",
        "        run.rollback()\n",
        "",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "nothing is overwritten before the manifest stands",
        f"{STAGING}/run.py",
        'self._token = f"-d1x{secrets.token_hex(4)}" if before else ""',
        'self._token = ""; self._before = frozenset()',
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the parts of a killed run are removed",
        f"{STAGING}/run.py",
        "if key in named or _WITH_TOKEN.fullmatch(key):",
        "if key in named:",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the temporary folder of a killed run is removed",
        f"{STAGING}/work_folder.py",
        "    _remove_abandoned(place)\n",
        "",
        ("tests/unit/staging/test_work_folder.py",),
    ),
    Mutation(
        "a triggerer that takes over counts as a restart",
        "airflow_provider_d1/triggers/runs.py",
        "await XCom.aset(KEY, before + 1, **place)",
        "pass",
        ("tests/unit/triggers/test_trigger_runs.py",),
    ),
    Mutation(
        "calls wait for room in the budget",
        f"{CLOUDFLARE}/budget.py",
        "if wait <= 0 and not priority and not self._fits(now, 1, self._running, _CALL_RESERVE):",
        "if False:",
        ("tests/unit/cloudflare/test_budget.py",),
    ),
    Mutation(
        "a refusal closes the token for everybody",
        f"{CLOUDFLARE}/budget.py",
        "self._blocked_until = max(self._blocked_until, now + wait)",
        "pass",
        ("tests/unit/cloudflare/test_budget.py",),
    ),
    Mutation(
        "the token is sent by https only",
        f"{CLOUDFLARE}/credentials.py",
        "if not allowed_scheme(url):",
        "if False:",
        ("tests/unit/cloudflare/test_credentials.py",),
    ),
    Mutation(
        "the API's certificate is verified",
        f"{CLOUDFLARE}/transport.py",
        '"verify": ssl_context(),',
        '"verify": False,',
        ("tests/unit/cloudflare/test_no_leaks.py", "tests/unit/cloudflare/test_clients.py"),
    ),
    Mutation(
        "the dump's server's certificate is verified",
        f"{CLOUDFLARE}/signed_url.py",
        "HTTPSHandler(context=ssl_context())",
        "HTTPSHandler(context=ssl._create_unverified_context())",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a redirect of a download never leaves https",
        f"{CLOUDFLARE}/signed_url.py",
        'if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":',
        "if False:",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a redirect of a download is checked like the URL itself",
        f"{CLOUDFLARE}/signed_url.py",
        "    check_url(target)\n",
        "",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "an echoed token reaches no error",
        f"{CLOUDFLARE}/transport.py",
        'clean = bytes(body).replace(secret, b"***") if secret in body else bytes(body)',
        "clean = bytes(body)",
        ("tests/unit/cloudflare/test_clients.py", "tests/unit/cloudflare/test_no_leaks.py"),
    ),
    Mutation(
        "compressed answers are refused",
        f"{CLOUDFLARE}/transport.py",
        'if response.headers.get("content-encoding", "identity") != "identity":',
        "if False:",
        ("tests/unit/cloudflare/test_clients.py",),
    ),
    Mutation(
        "an answer that trickles is cut off",
        f"{CLOUDFLARE}/transport.py",
        "async with asyncio.timeout(total):",
        "async with asyncio.timeout(None):",
        ("tests/unit/cloudflare/test_transport.py",),
    ),
    Mutation(
        "… for a thread too",
        f"{CLOUDFLARE}/transport.py",
        "if time.monotonic() > end:",
        "if False:",
        ("tests/unit/cloudflare/test_transport.py",),
    ),
    Mutation(
        "secrets are masked",
        "airflow_provider_d1/hooks/masking.py",
        "        mask_secret(secret)\n",
        "        pass\n",
        ("tests/unit/hooks/test_hook.py",),
    ),
    Mutation(
        "the text of a foreign exception stays out of the event",
        "airflow_provider_d1/triggers/events.py",
        'message = f"The trigger failed with an unexpected {name}; its log tells where."',
        "message = str(error)",
        ("tests/unit/triggers",),
    ),
    Mutation(
        "a finished export is kept for a retry",
        "airflow_provider_d1/transfers/staging.py",
        "        finished.put(export)\n",
        "",
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "what was kept is deleted when it is staged",
        "airflow_provider_d1/transfers/staging.py",
        "        finished.forget()\n        return result\n",
        "        return result\n",
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "a cleared task exports again",
        "airflow_provider_d1/transfers/resume.py",
        '"max_tries": getattr(ti, "max_tries", None)',
        '"max_tries": None',
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "a first run leaves a mark until it is done",
        f"{STAGING}/run.py",
        "if not self._before:",
        "if False:",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the manifest comes last: nothing old goes before it stands",
        f"{STAGING}/run.py",
        "        self._put_manifest(dumps(manifest))\n",
        "        self.sink.delete(sorted(stale))\n        self._put_manifest(dumps(manifest))\n",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the manifest comes last: it lists what has been verified",
        f"{STAGING}/pipeline.py",
        "        run.begin(dump_files(options, source))\n",
        "        run.begin(dump_files(options, source))\n        run._put_manifest(b'{}')\n",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "names from a dump become safe names of files",
        f"{STAGING}/names.py",
        "return f\"{stem or 'table'}-{digest}\"",
        "return name",
        ("tests/unit/staging/test_names.py",),
    ),
    Mutation(
        "no file is written outside its folder",
        f"{STAGING}/sinks.py",
        'if not key or ".." in Path(key).parts or Path(key).is_absolute():',
        "if False:",
        ("tests/unit/staging/test_folder_sink.py",),
    ),
    Mutation(
        "a statement has a largest length",
        "airflow_provider_d1/dump/reader.py",
        "if len(self._buffer) > MAX_STATEMENT:",
        "if False:",
        ("tests/unit/staging/test_command_line.py",),
    ),
)
