"""Where Hydra reads configurations: its own sources, less three of their faults.

* A key that holds text keeps what a file says (`yaml_text`).
* A byte order mark does not hide a file's `# @package` line.
* The schemas (`model/model_schema`, ...) can be named in a defaults list, but are no options to choose or to list.

A file that cannot be read is told by its name.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource

from wattcount.config.schema import RunConfig
from wattcount.config.schema_types import GROUP_SCHEMAS, Kind, kind_of
from wattcount.config.yaml_text import load_yaml, read_yaml
from wattcount.errors import NotStartedError

# Hydra's search for plugins executes their modules once more and so defines every class anew.
Plugins.instance()

from importlib import resources  # noqa: E402

from hydra._internal.core_plugins import (  # noqa: E402
    file_config_source,
    importlib_resources_config_source,
    structured_config_source,
)
from hydra._internal.sources_registry import SourcesRegistry  # noqa: E402

# The classes have the names of Hydra's own: under another one, Hydra would refuse to register its own beside them.


class FileConfigSource(file_config_source.FileConfigSource):
    """`file://FOLDER`."""

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not file.is_file():
            raise ConfigLoadError(f"Config not found : {file}")
        return _result(self, config_path, read_yaml(file), str(file))


class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """`pkg://PACKAGE`."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        file = resources.files(self.path).joinpath(name)
        if not file.is_file():
            raise ConfigLoadError(f"Config not found : {name}")
        return _result(self, config_path, file.read_bytes().decode("utf-8-sig"), name)


class StructuredConfigSource(structured_config_source.StructuredConfigSource):
    """`structured://`, the schemas."""

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        schemas = GROUP_SCHEMAS.get(config_path.strip("/"), {})
        return [name for name in super().list(config_path, results_filter) if name not in schemas]


def _result(source: ConfigSource, config_path: str, text: str, name: str) -> ConfigResult:
    try:
        header = ConfigSource._get_header_dict(text[:512])
    except ValueError:
        raise NotStartedError(
            f"{name}: a line that begins with # @ must be: # @package PACKAGE, as in # @package _global_"
        ) from None
    config = load_yaml(text, _kind(config_path, header["package"]), name)
    return ConfigResult(config=config, path=source.full_path(), provider=source.provider, header=header)


def _kind(config_path: str, package: str | None) -> Kind:
    """The type of what a file describes: of its package, which is its group where its header names none."""
    group = config_path.rpartition("/")[0].replace("/", ".")
    where = package if package is not None else group
    where = where.replace("_group_", group).removeprefix("_global_").strip(".")
    return kind_of(where) if where else RunConfig


def register() -> None:
    """Makes Hydra use these sources; may be called more than once."""
    types = SourcesRegistry.instance().types
    for source in (FileConfigSource, ImportlibResourcesConfigSource, StructuredConfigSource):
        types[source.scheme()] = source
