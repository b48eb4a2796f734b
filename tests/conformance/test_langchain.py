"""LangChain's standard integration tests, through ChatOpenAI, with the default model answering."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conformance.judges import judge
from tests.conformance.serving import serving
from tests.model.text_data import default_model

pytestmark = pytest.mark.conformance

SUITE = Path(__file__).with_name("langchain_suite.py")


def test_standard_tests_pass(tmp_path: Path) -> None:
    program = judge("langchain", "pytest")
    report = tmp_path / "report.xml"
    with serving(
        default_model(), "--served-model-name", "other", "--max-model-len", "4096"
    ) as address:
        done = subprocess.run(
            [
                # None of the settings of this project's own tests: another pytest, other plugins.
                *(program, "-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider"),
                # ChatOpenAI keeps its connections beyond a test, so the event loop has to stay.
                *("-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"),
                *("-o", "asyncio_default_fixture_loop_scope=session"),
                *("--tb=short", "-q", f"--junitxml={report}", str(SUITE)),
            ],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "STOKER_ADDRESS": address},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cases = ElementTree.parse(report).findall(".//testcase")
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert len(cases) - len(skipped) >= 41
