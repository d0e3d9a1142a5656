"""Croissant metadata of an exported mixture (MLCommons, mlcommons.org/croissant/1.0): ``croissant.json``.

Files with their hashes, licences of the sources, and the columns of each split as a record set, read from the Parquet
schemas, so that what it says of a column is what the file holds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Artifact
from rm_workflow.keys import file_sha256

FILE = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
PARQUET = "application/x-parquet"
# The terms that Croissant 1.0 asks for, by its specification.
CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
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


def write(folder: Path, mixture: Artifact, licences: Mapping[str, str]) -> None:
    """Write ``croissant.json`` beside the Parquet files of an exported mixture.

    Args:
        mixture: the artifact that was exported; its version names the data set.
        licences: of each source, as the catalogue states them.
    """
    files = sorted(folder.glob("*.parquet"))
    told = ", ".join(f"{source} ({licence})" for source, licence in licences.items())
    metadata = {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": mixture.asset,
        "description": f"Preference data that rm_workflow exported from {mixture.id}. Sources: {told}.",
        "license": sorted(set(licences.values())),
        "citeAs": mixture.id,
        "version": f"0.0.0+{mixture.version[:12]}",
        "datePublished": mixture.manifest["created"],
        "distribution": [_file_object(file) for file in files],
        "recordSet": [_record_set(file) for file in files],
    }
    (folder / FILE).write_text(json.dumps(metadata, indent=1, sort_keys=True) + "\n", "utf-8")


def _file_object(file: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.stat().st_size} B",
        "encodingFormat": PARQUET,
        "sha256": file_sha256(file),
    }


def _record_set(file: Path) -> dict[str, Any]:
    schema = pq.read_schema(file)
    return {
        "@type": "cr:RecordSet",
        "@id": file.stem,
        "name": file.stem,
        "description": f"{pq.read_metadata(file).num_rows:,} rows of the {file.stem} split",
        "field": [_field(f"{file.stem}/{column.name}", file, column) for column in schema],
    }


def _field(name: str, file: Path, column: pa.Field) -> dict[str, Any]:
    is_list = pa.types.is_list(column.type)
    inner = column.type.value_type if is_list else column.type
    field: dict[str, Any] = {"@type": "cr:Field", "@id": name, "name": name.rpartition("/")[2]}
    if is_list:
        field["repeated"] = True
    if pa.types.is_struct(inner):
        return field | {"subField": [_sub_field(name, file, column.name, part) for part in inner]}
    return field | {"dataType": _data_type(inner), "source": _source(file, column.name)}


def _sub_field(name: str, file: Path, column: str, part: pa.Field) -> dict[str, Any]:
    source = _source(file, column) | {"transform": {"jsonPath": part.name}}
    return {
        "@type": "cr:Field",
        "@id": f"{name}/{part.name}",
        "name": part.name,
        "dataType": _data_type(part.type),
        "source": source,
    }


def _source(file: Path, column: str) -> dict[str, Any]:
    return {"fileObject": {"@id": file.name}, "extract": {"column": column}}


def _data_type(of: pa.DataType) -> str:
    return "sc:Float" if pa.types.is_floating(of) else "sc:Text"
