from __future__ import annotations

import json
import sys

from wattcount.run.facts import host_facts, versions


def test_the_host_is_described_in_plain_json() -> None:
    facts = json.loads(json.dumps(host_facts()))
    assert facts["hostname"]
    assert facts["memory_bytes"] > 2**28
    assert 1 <= facts["cpu_usable"] <= facts["cpu_count"]
    assert facts["python"] == ".".join(str(part) for part in sys.version_info[:3])


def test_versions_of_what_is_installed_without_importing_it() -> None:
    found = versions(["numpy", "no-such-package-at-all"])
    assert found.keys() == {"wattcount", "python", "numpy", "pyarrow"}
    assert found["numpy"] == __import__("numpy").__version__
