"""The protections, each with the one change that switches it off and the tests that should notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.mutation.source_edit import Span, find, replace

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutation:
    """One protection and how to switch it off.

    ``old`` occurs exactly once in ``within`` and becomes ``new``; at least one of ``tests`` must fail then. Both are
    compared as syntax trees, so the layout of the code does not matter, and neither does the module's name.

    :param package: the folder or module below ``airflow_provider_d1`` whose modules are searched
    :param within: the function, method or class, such as ``"Class.method"``; empty for a constant of a module
    :param old: an expression, statements, or one entry of a dictionary (``"key": value``)
    :param new: what stands there instead; empty removes a statement
    """

    protection: str
    package: str
    within: str
    old: str
    new: str
    tests: tuple[str, ...]

    def places(self, root: Path = REPOSITORY) -> list[tuple[Path, Span]]:
        """Return every module and span where ``old`` occurs; there should be exactly one."""
        place = root / "airflow_provider_d1" / self.package
        modules = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        return [(module, span) for module in modules for span in find(module.read_text(), self.within, self.old)]

    def apply(self, root: Path) -> tuple[Path, str]:
        """Return the module that changes and its source with the protection switched off."""
        [(module, span)] = self.places(root)
        return module, replace(module.read_text(), span, self.new)


MUTATIONS = (
    Mutation(
        "the deadline ends an export",
        "cloudflare",
        "_Run._wait",
        "left = self.end - clock.time()",
        "left = 1e9",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "a trigger's event waits until the scheduler knows of the deferral",
        "triggers",
        "D1ExportTrigger.run",
        "self.task_instance is not None",
        "False",
        ("tests/unit/triggers/test_export_trigger.py",),
    ),
    Mutation(
        "a token rotated while the task was deferred is retried",
        "transfers",
        "D1ToStagingOperator.finish",
        "raise D1SealError(str(error), retryable=True) from error",
        "raise",
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "excluded tables stay out of an export",
        "cloudflare",
        "decide",
        "name not in unfit and name not in excluded",
        "name not in unfit",
        ("tests/unit/cloudflare/test_preflight.py",),
    ),
    Mutation(
        "execution_timeout bounds the deferred time",
        "operators",
        "D1ExportOperator._trigger",
        "deadline = min(deadline, now + self.execution_timeout.total_seconds())",
        "pass",
        ("tests/unit/operators/test_export_operator.py",),
    ),
    Mutation(
        "a lost export is started again",
        "cloudflare",
        "_after_poll",
        "state.restarts >= rules.max_restarts",
        "state.restarts >= 0",
        ("tests/unit/cloudflare/test_export_steps.py",),
    ),
    Mutation(
        "restarts are limited",
        "cloudflare",
        "_after_poll",
        "state.restarts >= rules.max_restarts",
        "state.restarts >= 10**9",
        ("tests/unit/cloudflare/test_export_steps.py",),
    ),
    Mutation(
        "an unanswered start is not repeated within a second",
        "cloudflare",
        "_after_start",
        "gap = min(2.0 * RESTART_GAP * 2 ** min(state.unclear, 10), MAX_RESTART_GAP)",
        "gap = 0.1",
        ("tests/unit/cloudflare/test_export_steps.py",),
    ),
    Mutation(
        "no poll is awaited until D1 has cancelled the export",
        "cloudflare",
        "",
        "POLL_TIMEOUT = 9.5",
        "POLL_TIMEOUT = 60.0",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "the failure inside an answer that says success",
        "cloudflare",
        "read_export",
        'result.get("success") is False or inner or status == "error"',
        "False",
        ("tests/unit/cloudflare/test_export_protocol.py",),
    ),
    Mutation(
        "the signed URL leaves the process sealed only",
        "cloudflare",
        "seal",
        "box = AESGCM(_key(token, salt)).encrypt(nonce, url.encode(), head.encode())",
        "box = url.encode()",
        (
            "tests/unit/cloudflare/test_seal.py",
            "tests/unit/cloudflare/test_no_leaks.py",
        ),
    ),
    Mutation(
        "a sealed URL past its hour is refused",
        "cloudflare",
        "unseal",
        "(now or datetime.now(UTC)) >= expiry",
        "False",
        ("tests/unit/cloudflare/test_seal.py",),
    ),
    Mutation(
        "the download is held against the announced length",
        "cloudflare",
        "Download._after_silence",
        "not problem and self.content_length in (None, self._position)",
        "not problem",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "without an ETag the last bytes prove that it is the same dump",
        "cloudflare",
        "Download._continues",
        "return again == self._last",
        "return True",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a 206 with another offset is not taken",
        "cloudflare",
        "Download._continues",
        "found is None or int(found[1]) != begin",
        "found is None",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a dump that changed between two attempts is noticed",
        "cloudflare",
        "Download._begins",
        "self._position and again.digest() != self._hash.digest()",
        "False",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a signed URL is opened over https only",
        "cloudflare",
        "check_url",
        "not allowed_scheme(parts)",
        "False",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "redirects of the API are not followed",
        "cloudflare",
        "_Shell.__init__",
        '"follow_redirects": False',
        '"follow_redirects": True',
        (
            "tests/unit/cloudflare/test_clients.py",
            "tests/unit/cloudflare/test_no_leaks.py",
        ),
    ),
    Mutation(
        "answers are bounded before they are parsed",
        "cloudflare",
        "_Shell._collect",
        "len(body) > bound",
        "False",
        (
            "tests/unit/cloudflare/test_clients.py",
            "tests/unit/cloudflare/test_no_leaks.py",
        ),
    ),
    Mutation(
        "httpx's own log lines are dropped",
        "cloudflare",
        "_NotOurs.filter",
        "return not _ours.get()",
        "return True",
        (
            "tests/unit/cloudflare/test_clients.py",
            "tests/unit/cloudflare/test_no_leaks.py",
        ),
    ),
    Mutation(
        "an export waits for room in the budget",
        "cloudflare",
        "RequestBudget.admit",
        "place == 0 and wait <= 0 and self._has_room(now, ticket)",
        "wait <= 0",
        ("tests/unit/cloudflare/test_budget.py",),
    ),
    Mutation(
        "the look at the database before the export",
        "cloudflare",
        "run_export",
        "options, skipped = preflight.decide(request, schema)",
        "options, skipped = request.options, ()",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "the look at the tables after the export",
        "cloudflare",
        "run_export",
        "if options.tables is not None:\n    await run.look_again(options)",
        "",
        ("tests/unit/cloudflare/test_export_driver.py",),
    ),
    Mutation(
        "what no retry can mend is not retried",
        "operators",
        "no_pointless_retry",
        "error.retryable",
        "True",
        ("tests/unit/operators/test_export_operator.py",),
    ),
    Mutation(
        "stored sizes are compared before the manifest",
        "staging",
        "StagingRun.commit",
        "self._verify()",
        "",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "a failed run takes its files with it",
        "staging",
        "stage",
        "run.rollback()",
        "",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "nothing is overwritten before the manifest stands",
        "staging",
        "StagingRun.__init__",
        'self._token = f"-d1x{secrets.token_hex(4)}" if before else ""',
        'self._token = ""; self._before = frozenset()',
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the parts of a killed run are removed",
        "staging",
        "StagingRun._stale_test.is_stale",
        "key in named or _WITH_TOKEN.fullmatch(key)",
        "key in named",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the temporary folder of a killed run is removed",
        "staging",
        "work_folder",
        "_remove_abandoned(place)",
        "",
        ("tests/unit/staging/test_work_folder.py",),
    ),
    Mutation(
        "a triggerer that takes over counts as a restart",
        "triggers",
        "begun_before",
        "await XCom.aset(KEY, before + 1, **place)",
        "pass",
        ("tests/unit/triggers/test_trigger_runs.py",),
    ),
    Mutation(
        "calls wait for room in the budget",
        "cloudflare",
        "RequestBudget.take",
        "wait <= 0 and not priority and not self._fits(now, 1, self._running, _CALL_RESERVE)",
        "False",
        ("tests/unit/cloudflare/test_budget.py",),
    ),
    Mutation(
        "a refusal closes the token for everybody",
        "cloudflare",
        "RequestBudget.learn",
        "self._blocked_until = max(self._blocked_until, now + wait)",
        "pass",
        ("tests/unit/cloudflare/test_budget.py",),
    ),
    Mutation(
        "the token is sent by https only",
        "cloudflare",
        "_base_url",
        "not allowed_scheme(url)",
        "False",
        ("tests/unit/cloudflare/test_credentials.py",),
    ),
    Mutation(
        "the API's certificate is verified",
        "cloudflare",
        "_Shell.__init__",
        '"verify": ssl_context()',
        '"verify": False',
        (
            "tests/unit/cloudflare/test_no_leaks.py",
            "tests/unit/cloudflare/test_clients.py",
        ),
    ),
    Mutation(
        "the dump's server's certificate is verified",
        "cloudflare",
        "open_url",
        "HTTPSHandler(context=ssl_context())",
        "HTTPSHandler(context=ssl._create_unverified_context())",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a redirect of a download never leaves https",
        "cloudflare",
        "redirected",
        'urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https"',
        "False",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "a redirect of a download is checked like the URL itself",
        "cloudflare",
        "redirected",
        "check_url(target)",
        "",
        ("tests/unit/cloudflare/test_download.py",),
    ),
    Mutation(
        "an echoed token reaches no error",
        "cloudflare",
        "_Shell._answer",
        'clean = bytes(body).replace(secret, b"***") if secret in body else bytes(body)',
        "clean = bytes(body)",
        (
            "tests/unit/cloudflare/test_clients.py",
            "tests/unit/cloudflare/test_no_leaks.py",
        ),
    ),
    Mutation(
        "compressed answers are refused",
        "cloudflare",
        "_Shell._refuse_compression",
        'response.headers.get("content-encoding", "identity") != "identity"',
        "False",
        ("tests/unit/cloudflare/test_clients.py",),
    ),
    Mutation(
        "an answer that trickles is cut off",
        "cloudflare",
        "AsyncTransport.send",
        "asyncio.timeout(total)",
        "asyncio.timeout(None)",
        ("tests/unit/cloudflare/test_transport.py",),
    ),
    Mutation(
        "… for a thread too",
        "cloudflare",
        "SyncTransport.send",
        "time.monotonic() > end",
        "False",
        ("tests/unit/cloudflare/test_transport.py",),
    ),
    Mutation(
        "a mapping's names are all used",
        "cloudflare",
        "_check_names",
        "sorted(map(str, parameters.keys() - names))",
        "[]",
        ("tests/unit/cloudflare/test_sql_parameters.py", "tests/unit/hooks/test_hook.py"),
    ),
    Mutation(
        "a text is not taken apart into parameters",
        "cloudflare",
        "sequence",
        "str | bytes",
        "bytes",
        ("tests/unit/cloudflare/test_sql_parameters.py", "tests/unit/hooks/test_hook.py"),
    ),
    Mutation(
        "a statement has as many values as markers",
        "cloudflare",
        "_values",
        "wanted != len(given)",
        "wanted > len(given)",
        ("tests/unit/cloudflare/test_sql_parameters.py", "tests/unit/hooks/test_hook.py"),
    ),
    Mutation(
        "secrets are masked",
        "hooks",
        "mask",
        "mask_secret(secret)",
        "pass",
        ("tests/unit/hooks/test_hook.py",),
    ),
    Mutation(
        "the text of a foreign exception stays out of the event",
        "triggers",
        "failure",
        'message = f"The trigger failed with an unexpected {name}; its log tells where."',
        "message = str(error)",
        ("tests/unit/triggers",),
    ),
    Mutation(
        "a finished export is kept for a retry",
        "transfers",
        "D1ToStagingOperator.finish",
        "finished.put(export)",
        "",
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "what was kept is deleted when it is staged",
        "transfers",
        "D1ToStagingOperator.finish",
        "finished.forget()\nreturn result",
        "return result",
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "a cleared task exports again",
        "transfers",
        "FinishedExport.__init__",
        '"max_tries": getattr(ti, "max_tries", None)',
        '"max_tries": None',
        ("tests/unit/transfers/test_staging_operators.py",),
    ),
    Mutation(
        "a first run leaves a mark until it is done",
        "staging",
        "StagingRun.begin",
        "not self._before",
        "False",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the manifest comes last: nothing old goes before it stands",
        "staging",
        "StagingRun.commit",
        "self._put_manifest(dumps(manifest))",
        "self.sink.delete(sorted(stale))\nself._put_manifest(dumps(manifest))",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "the manifest comes last: it lists what has been verified",
        "staging",
        "stage",
        "run.begin(dump_files(options, source))",
        "run.begin(dump_files(options, source))\nrun._put_manifest(b'{}')",
        ("tests/unit/staging/test_staging_failures.py",),
    ),
    Mutation(
        "names from a dump become safe names of files",
        "staging",
        "safe_name",
        "return f\"{stem or 'table'}-{digest}\"",
        "return name",
        ("tests/unit/staging/test_names.py",),
    ),
    Mutation(
        "no file is written outside its folder",
        "staging",
        "FolderSink._target",
        'not key or ".." in Path(key).parts or Path(key).is_absolute()',
        "False",
        ("tests/unit/staging/test_folder_sink.py",),
    ),
    Mutation(
        "a statement has a largest length",
        "dump",
        "DumpReader.feed",
        "len(self._buffer) > MAX_STATEMENT",
        "False",
        ("tests/unit/staging/test_command_line.py",),
    ),
    Mutation(
        "Postgres: what is attached to a table stays",
        "warehouses/postgres",
        "_Transaction._replace",
        "attached = self.attached(table, existing)",
        "attached = []",
        ("tests/integration/warehouses/test_postgres_kept_objects.py",),
    ),
    Mutation(
        "Postgres: what is attached during a load stays",
        "warehouses/postgres_publish",
        "_check_still_bare",
        "attached or session.relation(step.table.name) != existing",
        "False",
        ("tests/integration/warehouses/test_warehouse_readers.py",),
    ),
    Mutation(
        "Postgres: a policy hides no rows from the loader",
        "warehouses/postgres",
        "_Transaction._prepare",
        'self.run("SET LOCAL row_security = off")',
        "",
        ("tests/integration/warehouses/test_postgres_kept_objects.py",),
    ),
    Mutation(
        "Postgres: rows that come back do not set off a foreign key's action",
        "warehouses/postgres_catalog",
        "key_with_actions",
        "list(found[0][0]) if found else []",
        "[]",
        ("tests/integration/warehouses/test_postgres_kept_objects.py",),
    ),
    Mutation(
        "Postgres: a chosen type changes no value",
        "warehouses/postgres",
        "_Transaction._checked_cast",
        'f"{count} staged values would change in it" if count else None',
        "None",
        ("tests/integration/warehouses/test_postgres_kept_objects.py",),
    ),
    Mutation(
        "Postgres: rows are counted in the table that they were put into",
        "warehouses/postgres_publish",
        "_finish",
        "count != step.table.rows",
        "False",
        ("tests/integration/warehouses/test_postgres_kept_objects.py",),
    ),
    Mutation(
        "Postgres: no table is locked while another is waited for",
        "warehouses/postgres_publish",
        "_lock_out_readers",
        "order.insert(0, order.pop(number))",
        "pass",
        ("tests/integration/warehouses/test_warehouse_readers.py",),
    ),
    Mutation(
        "Postgres: an error that is not known to come again is retried",
        "warehouses/postgres_errors",
        "is_permanent",
        "state in _PERMANENT or state[:2] in _PERMANENT",
        "True",
        ("tests/integration/warehouses/test_postgres_errors.py",),
    ),
)
