"""`croissant.json`: what a data set holds, as Croissant 1.1, which search engines and loaders of data sets read."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from wattcount.dataset import rows
from wattcount.dataset.version import RESULTS, Version

CROISSANT = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
LICENCES = {"CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/"}
"""URLs of licences that Croissant's readers know better than the SPDX identifier."""
DESCRIPTION = (
    "Energy of LLM inference, a row for each run: what was run on which GPU under which load, energy with its 95 % uncertainty, power, throughput, "
    "latency, and whether the run can be believed. Results of wattcount have a record of raw sensor readings behind them, from which every figure was computed again."
)
_TYPES = {pa.string(): "sc:Text", pa.float64(): "sc:Float", pa.int64(): "sc:Integer"}
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification asks for."""
COLLECTED = (
    "Each run's GPU sensors are read by NVML while an engine serves a load that a seed determines. The energy comes from the GPU's own counter; a validator computes "
    "every figure again from the raw readings and holds them against the rules that physics, the load and the sensors set."
)
"""How the data came about, for `rai:dataCollection`."""
LIMITS = (
    "The absolute gain of a GPU's energy sensor is unknown to a few per cent and part of the stated uncertainty; energy of the rest of the machine is not in it. "
    "Hosts differ: starts of one setting scatter by 1 to 6 %. Imported results have the uncertainty that their source states, often none."
)
"""What the data cannot tell, for `rai:dataLimitations`. The scatter is that of `result.host_part.START_SCATTER`."""


def croissant(version: Version, url: str, licences: list[str]) -> bytes:
    """The content of `croissant.json` of a version.

    url        where the data set is published, or relative to the file
    licences   SPDX identifiers of its rows' licences
    """
    made = version.changes[0].date
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": version.name,
        "description": DESCRIPTION,
        "url": url,
        "license": [LICENCES.get(item, f"https://spdx.org/licenses/{item}") for item in licences],
        "version": f"{version.number}.0.0",
        "datePublished": made,
        "dateModified": version.changes[-1].date,
        "creator": {"@type": "sc:Organization", "name": "wattcount and those who submitted to it"},
        "citeAs": ", ".join(
            [
                version.name,
                f"version {version.number}",
                version.changes[-1].date,
                *([version.url] if version.url else []),
            ]
        ),
        "isLiveDataset": True,
        "keywords": ["energy", "LLM inference", "GPU power", "benchmark"],
        "rai:dataCollection": COLLECTED,
        "rai:dataLimitations": LIMITS,
        "distribution": _distribution(version),
        "recordSet": [_record_set()],
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _distribution(version: Version) -> list[dict[str, Any]]:
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{facts.num_bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": facts.sha256,
        }
        for name, facts in version.of(RESULTS).items()
    ]
    together = {
        "@type": "cr:FileSet",
        "@id": "parquet",
        "name": "parquet",
        "description": "The rows of all submissions.",
        "encodingFormat": "application/x-parquet",
        "includes": f"{RESULTS}/*.parquet",
    }
    return [*files, together]


def _record_set() -> dict[str, Any]:
    fields = []
    described = rows.describe()
    for item in rows.schema():
        is_list = pa.types.is_list(item.type)
        kind = item.type.value_type if is_list else item.type
        unit, text = described[item.name]
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"results/{item.name}",
            "name": item.name,
            "description": f"{text} [{unit}]" if unit not in ("", "1") else text,
            "dataType": _TYPES[kind],
            "source": {"fileSet": {"@id": "parquet"}, "extract": {"column": item.name}},
        }
        if is_list:
            field |= {"isArray": True, "arrayShape": "-1"}
        fields.append(field)
    return {
        "@type": "cr:RecordSet",
        "@id": "results",
        "name": "results",
        "description": "A row for each run.",
        "key": {"@id": f"results/{rows.ID}"},
        "field": fields,
    }
