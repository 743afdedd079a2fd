"""Composition with Hydra: groups under `conf/`, the schema's types, users' own folders. `loader` reads what comes of it.

What Hydra and OmegaConf refuse is told in one line that names the key and says what to do (`explain`).

Importing this module registers the schemas (`model/model_schema`, `scenario/batch_schema`, ...), the
resolver `${wattcount.home:SUBPATH}` and the sweeper's name; all of it may be done more than once.

Of what Hydra reads, overrides (`KEY=VALUE`) and files, some faults are mended:

* A key that holds text keeps what was typed. Hydra's grammar reads `1e3`, `12e4567`, `1_1_1` and `TRUE` as numbers and
  booleans whatever the key, and makes text of them only afterwards: `1000.0`, `inf`, `111`, `True`. Here such a value is
  quoted, where the key's type is text, before Hydra sees it. `catalogue.load_yaml` does the same for files.
* A byte order mark does not hide a file's `# @package` line.
* The schemas (`model/model_schema`, ...) can be named in a defaults list, but are no options to choose or to list.
* A file that cannot be read is told by its name.
* Each engine that is registered is an option of the group `engine`, without a file.
* A hub id and a model's folder are options of the group `model`, without a file (`catalogue.model_named`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra._internal.grammar.functions import Functions
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.grammar.gen.OverrideLexer import (  # type: ignore[attr-defined]
    CommonTokenStream,
    InputStream,
    OverrideLexer,
)
from hydra.grammar.gen.OverrideParser import OverrideParser
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import (
    BooleanNode,
    DictConfig,
    EnumNode,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
    ValueNode,
    flag_override,
)
from omegaconf.errors import OmegaConfBaseException

from wattcount.config import paths
from wattcount.config.catalogue import (
    Kinds,
    children,
    hold_text,
    load_yaml,
    model_named,
    override_kinds,
    read_yaml,
)
from wattcount.config.cohorts import cohorts
from wattcount.config.fields import MISSING, Node
from wattcount.config.loader import GROUPS, SCENARIOS, Kind, did_you_mean, from_json, kinds, plain
from wattcount.config.packaged import conf_path
from wattcount.config.schema import ModelConfig, RunConfig
from wattcount.config.validation import validate
from wattcount.engines import registry
from wattcount.errors import NotStartedError
from wattcount.masking import concealed_argument, has_secret

# Hydra's search for plugins executes their modules once more and so defines every class anew.
Plugins.instance()

from hydra._internal.core_plugins import (  # noqa: E402
    file_config_source,
    importlib_resources_config_source,
    structured_config_source,
)
from hydra._internal.sources_registry import SourcesRegistry  # noqa: E402

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
"""Values that Hydra's grammar reads as the text that they are, without quotes."""
_NO_TEXT = ("null", "true", "false", "nan", "inf")
"""Words that Hydra's grammar reads as a value that is no text."""


def keep_text(override: str) -> str:
    """`override` with quotes round what a key of type text would lose; one that cannot be read is left alone."""
    try:
        parsed = TextParser.create().parse_override(override)
    except HydraException:
        return override  # Hydra will say what is wrong with it
    return parsed.input_line or override


class TextParser(OverridesParser):
    """Hydra's parser, which keeps the text of keys that hold text. Such an override's `input_line` has the quotes."""

    def parse_rule(self, s: str, rule_name: str) -> Any:
        """See `OverridesParser.parse_rule`; raises `HydraException`."""
        if (
            s.startswith("model=") and "~/" in s
        ):  # Hydra's grammar has no unquoted ~, and not every shell expands it
            s = re.sub(r"(?<=[=,])~(?=/)", lambda _: os.path.expanduser("~"), s)  # noqa: PTH111
        parsed = super().parse_rule(s, rule_name)
        if not isinstance(parsed, Override):
            return parsed
        kinds = override_kinds(parsed.key_or_group)
        value = parsed._value
        if isinstance(value, ChoiceSweep):
            self._keep_choices(parsed, value, kinds, s)
        elif parsed.value_type is ValueType.ELEMENT and kinds and _may_lose_text(value):
            text = _merged(kinds, value, _quoted(s, self.functions)._value)
            if text != value:
                parsed._value = text
                parsed.input_line = f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"
        return parsed

    def _keep_choices(self, parsed: Override, value: ChoiceSweep, kinds: Kinds, s: str) -> None:
        texts = value.list
        if kinds and _may_lose_text(texts):
            try:
                quoted = _quoted(s, self.functions)._value
            except HydraException:
                return  # a function that wants numbers, such as sort()
            assert isinstance(quoted, ChoiceSweep)
            texts = [_merged(kinds, *pair) for pair in zip(value.list, quoted.list, strict=True)]
        if not value.simple_form:  # Hydra's functions take the quotes off
            texts = [_quoted_again(text) for text in texts]
        if texts == value.list:
            return
        value.list = texts
        if not (value.shuffle or value.tags):
            words = ",".join(Override._get_value_element_as_str(text) for text in texts)
            words = words if value.simple_form else f"choice({words})"
            parsed.input_line = f"{parsed.get_key_element()}={words}"


def _may_lose_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_may_lose_text(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_may_lose_text(inner) for inner in value)
    return isinstance(value, bool | int | float)


def _merged(kinds: Kinds, value: Any, quoted: Any) -> Any:
    """`value`, with `quoted`'s text wherever the schema wants text."""
    if isinstance(value, dict) and isinstance(quoted, dict):
        pairs = zip(value.items(), quoted.values(), strict=True)
        return {key: _merged(children(kinds, str(key)), inner, text) for (key, inner), text in pairs}
    if isinstance(value, list) and isinstance(quoted, list):
        return [_merged(children(kinds, ""), *pair) for pair in zip(value, quoted, strict=True)]
    if not hold_text(kinds) or not isinstance(value, bool | int | float):
        return value
    return quoted if isinstance(quoted, QuotedString) else QuotedString(str(quoted), Quote.single)


def _quoted_again(value: Any) -> Any:
    """Text that would be read as something else without quotes gets them."""
    if not isinstance(value, str) or (_WORD.fullmatch(value) and value.lower() not in _NO_TEXT):
        return value
    return QuotedString(value, Quote.single)


class _QuotingVisitor(HydraOverrideVisitor):
    """Reads every number and boolean as the text that it is written with."""

    def visitPrimitive(self, ctx: Any) -> Any:  # noqa: N802 - the name that ANTLR's visitors look for
        value = super().visitPrimitive(ctx)
        if isinstance(value, bool | int | float):
            return QuotedString(ctx.getText().strip(), Quote.single)
        return value


def _quoted(override: str, functions: Functions) -> Override:
    """An override that Hydra's parser has read without an error, with all its numbers and booleans as text."""
    parser = OverrideParser(CommonTokenStream(OverrideLexer(InputStream(override))))
    found = _QuotingVisitor(functions).visit(parser.override())  # type: ignore[no-untyped-call]
    assert isinstance(found, Override)
    return found


# The classes have the names of Hydra's own: under another one, Hydra would refuse to register its own beside them.


class FileConfigSource(file_config_source.FileConfigSource):
    """`file://FOLDER`. As in every group, a user's file does not take the place of an option of ours."""

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group == "engine" and name in registry.PACKAGED:
            return False
        found: bool = super().is_config(config_path)
        return found

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
    """`structured://`, the schemas, and an option of the group `engine` for each engine that is registered."""

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group == "engine" and not name.endswith("_schema"):
            # Those of other distributions are looked for only where one is asked for: that takes a tenth of a second.
            self._offer_engines([name] if name in registry.PACKAGED else registry.names())
        if _model_of(config_path) is not None:
            return True
        found: bool = super().is_config(config_path)
        return found

    def load_config(self, config_path: str) -> ConfigResult:
        if (named := _model_of(config_path)) is None:
            return super().load_config(config_path)
        config = OmegaConf.merge(hydra_schema(ModelConfig), named)
        assert isinstance(config, DictConfig)
        place = f"{self.scheme()}://{self.path}"
        return ConfigResult(config=config, path=place, provider="wattcount", header={"package": "model"})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        group = config_path.strip("/")
        if group == "engine":
            self._offer_engines(registry.names())
        names = super().list(config_path, results_filter)
        return [name for name in names if group not in GROUPS or not name.endswith("_schema")]

    def _offer_engines(self, names: Iterable[str]) -> None:
        for name in names:
            option = {"defaults": ["engine_schema", "_self_"], "name": name}
            self.store.store(group="engine", name=name, node=option, provider="wattcount")


def _model_of(config_path: str) -> dict[str, Any] | None:
    """What `model=VALUE` stands for where the value is a hub id or a folder; None: it is another option."""
    group, _, value = config_path.removesuffix(".yaml").partition("/")
    return model_named(value) if group == "model" else None


def _result(source: ConfigSource, config_path: str, text: str, name: str) -> ConfigResult:
    try:
        header = ConfigSource._get_header_dict(text[:512])
    except ValueError:
        raise NotStartedError(
            f"{name}: a line that begins with # @ must be: # @package PACKAGE, as in # @package _global_"
        ) from None
    config = OmegaConf.create(load_yaml(text, _described(config_path, header["package"]), name))
    return ConfigResult(config=config, path=source.full_path(), provider=source.provider, header=header)


def _described(config_path: str, package: str | None) -> str:
    """The key of what a file describes: its package, which is its group where its header names none."""
    group = config_path.rpartition("/")[0].replace("/", ".")
    where = package if package is not None else group
    return where.replace("_group_", group).removeprefix("_global_").strip(".")


def register_sources() -> None:
    """Makes Hydra use these sources; may be called more than once."""
    types = SourcesRegistry.instance().types
    for source in (FileConfigSource, ImportlibResourcesConfigSource, StructuredConfigSource):
        types[source.scheme()] = source


CONFIG_NAME = "config"
"""The file of `conf/` that composition starts with."""
VERSION_BASE = "1.3"
"""Version of Hydra whose behaviour is kept: the oldest that is allowed, without its warnings."""
SWEEPER_TARGET = "hydra_plugins.wattcount.PointSweeper"
"""The name that `sweep.sweeper` goes by in Hydra's config."""
_SCALAR_NODES: dict[Any, Any] = {str: StringNode, int: IntegerNode, float: FloatNode, bool: BooleanNode}
"""OmegaConf's typed node for each plain type of the schema."""


@contextlib.contextmanager
def initialized() -> Iterator[None]:
    """Hydra ready to compose, also within one of its own jobs, whose state it gets back."""
    where = conf_path()
    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        context: Any
        if where.startswith("pkg://"):
            context = initialize_config_module(where.removeprefix("pkg://"), version_base=VERSION_BASE)
        else:
            context = initialize_config_dir(where, version_base=VERSION_BASE)
        with context:
            yield
    finally:
        state.hydra = outer


def register() -> None:
    register_sources()
    store = ConfigStore.instance()
    for name, kind in kinds(RunConfig).items():
        for cls in kind.classes if name in GROUPS else ():
            option = next((scenario for scenario, of in SCENARIOS.items() if of is cls), name)
            store.store(group=name, name=f"{option}_schema", node=hydra_schema(cls), provider="wattcount")
    root = hydra_schema(RunConfig)
    root.records_dir = MISSING
    with flag_override(root, "struct", False):
        del root["seed"]
        root["seed"] = IntegerNode(None, is_optional=True)  # see `_seeded`
    store.store(name="run_schema", node=root, provider="wattcount")
    store.store(
        group="hydra/sweeper",
        name="wattcount",
        node={"_target_": SWEEPER_TARGET, "max_batch_size": None, "params": None, "cases": None},
        provider="wattcount",
    )
    OmegaConf.register_new_resolver("wattcount.home", _home, replace=True)


def hydra_schema(cls: type[Node]) -> DictConfig:
    """A group with its defaults as Hydra is to compose it: its keys are all there are, and their types are the schema's."""
    node = DictConfig({})
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        node[item.name] = _hydra_node(kinds(cls)[item.name], default)
    OmegaConf.set_struct(node, True)
    return node


def _hydra_node(kind: Kind, default: Any) -> Any:
    if kind.classes:
        # Of a scenario the option's own schema types the node; merged over another it would inherit foreign keys.
        return hydra_schema(kind.classes[0]) if len(kind.classes) == 1 else MISSING
    if kind.of is list:
        return ListConfig(plain(default), element_type=_item_type(kind))
    if kind.of is dict:
        # Its keys are not ours to know: `engine.args.NAME=VALUE` works without Hydra's `+`.
        return DictConfig(plain(default), element_type=_item_type(kind), flags={"struct": False})
    if isinstance(kind.of, type) and issubclass(kind.of, Enum):
        return EnumNode(kind.of, default, is_optional=kind.optional)
    return _SCALAR_NODES[kind.of](default, is_optional=kind.optional)


def _item_type(kind: Kind) -> Any:
    return kind.item.of if kind.item is not None else Any


def _home(subpath: str | None = None) -> str:
    home = paths.data_home()
    return str(home / subpath) if subpath else str(home)


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The dataclasses that a composed configuration stands for, validated."""
    run = from_json(container(cfg))
    validate(run)
    return run


def container(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """What Hydra composed as plain values; `resolve`: with what its interpolations stand for."""
    with plain_errors():
        values = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
    assert isinstance(values, dict)
    return _seeded({str(key): value for key, value in values.items() if key not in ("hydra", "experiment")})


def _seeded(values: dict[str, Any]) -> dict[str, Any]:
    """The values with a seed, where none was given: the cohort's; that of the schema where there is no cohort, or one that is not known."""
    if values.get("seed") is None:
        values.pop("seed", None)
        if isinstance(name := values.get("cohort"), str) and name in (known := cohorts()):
            values["seed"] = known[name].seed
    return values


def concealed_config(cfg: DictConfig) -> DictConfig:
    """A copy in which every text that holds a password or a token is masked, and URIs are known to `masking.reveal`."""
    copied = copy.deepcopy(cfg)
    with flag_override(copied, ["readonly", "struct"], [False, False]):
        _conceal_node(copied)
    return copied


def _conceal_node(node: DictConfig | ListConfig) -> None:
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            _conceal_node(child)
        elif isinstance(child, ValueNode) and isinstance(text := child._value(), str) and has_secret(text):
            child._set_value(concealed_argument(text))


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> RunConfig:
    """The point that `python -m wattcount OVERRIDES` would run, validated; `auto` is left as it is.

    `config_dir` is a folder with the user's own groups, as `--config-dir`. Raises `NotStartedError`
    with one line that names the key.
    """
    return from_hydra(compose_hydra(overrides, config_dir))


def compose_hydra(overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """As `compose`, but what Hydra made of it, not yet checked for sense."""
    overrides = [keep_text(override) for override in overrides]
    if config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{os.path.abspath(config_dir)}]")  # noqa: PTH100
    with plain_errors(), initialized():
        return hydra_compose(CONFIG_NAME, overrides)


def options(group: str, config_dir: str | None = None) -> list[str]:
    """The options of a group, sorted."""
    with initialized():
        names = set(GlobalHydra.instance().config_loader().get_group_options(group))
    if config_dir is not None:
        names |= {file.stem for file in (Path(config_dir) / group).glob("*.yaml")}
    return sorted(names)


def entangled(search_path: Sequence[str]) -> bool:
    """Whether what one group's option brings may depend on the option of another group.

    `search_path`: URLs as Hydra has them. It may where a defaults list names an option by an interpolation, or where
    an option of a group other than `experiment` writes outside its group. Says yes where it cannot tell.
    """
    for url in search_path:
        scheme, _, place = url.partition("://")
        if scheme == "structured" or url in ("pkg://hydra.conf", "pkg://wattcount.conf"):
            continue  # neither has such a file
        if scheme != "file":
            return True
        if place != conf_path() and any(
            _entangles(file, Path(place)) for file in Path(place).rglob("*.yaml")
        ):
            return True
    return False


def _entangles(file: Path, folder: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    if "@package" in text and file.relative_to(folder).parts[0] != "experiment":
        return True
    return (
        "defaults" in text and re.search(r"^[^#\n]*(?:-|defaults:)[^\n]*\$\{", text, re.MULTILINE) is not None
    )


LAUNCHERS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Options that a package of their own brings, by the extra of ours that asks for it."""

LISTED = {"model": "wattcount models"}
"""Groups of more options than a line can name, by the command that lists them."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises what Hydra raises inside as `NotStartedError`, with the original as its cause."""
    try:
        yield
    except NotStartedError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise NotStartedError(explain(error)) from error
    except Exception as error:
        # The basic YAML mistakes of users' own groups, and Hydra's few plain ValueErrors.
        if type(error).__module__.startswith("yaml") or isinstance(error, ValueError):
            raise NotStartedError(_one_line(str(error))) from error
        raise


def explain(error: BaseException) -> str:
    """One line for a person, without the name of an exception class."""
    if isinstance(error, OverrideParseException):
        return _override_syntax(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    inner = _omegaconf_cause(error)
    file = re.match(r"In '(?P<file>[^']+)': \w+ raised while composing config", str(error))
    if inner is not None:
        if file and file["file"].startswith("experiment/") and _key(inner).split(".")[0] == "experiment":
            return f"{file['file']}.yaml: its first line must be: # @package _global_"
        line = _omegaconf(inner)
        if line is not None:
            return f"{file['file']}.yaml: {line}" if file else line
    text = _one_line(str(error)) or (_one_line(str(inner)) if inner is not None else "")
    match = re.match(r"Ambiguous value for argument '(?P<override>.*?)'; 1\.", text)
    if match:
        return f"'{match['override']}': several values; add -m to run each of them, or write KEY=[A,B] for a list"
    match = re.match(r"Could not override '(?P<group>[^']+)'\.;? ?No match in the defaults list", text)
    if match:
        return f"{match['group']}: no such group; there are: {', '.join(GROUPS)}"
    match = re.match(r"Could not override '(?P<key>[^']+)'", text)
    if match:
        return f"{match['key']}: no such key"
    return text


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", "; ", text.strip())


def _omegaconf_cause(error: BaseException) -> OmegaConfBaseException | None:
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OmegaConfBaseException):
            return current
        current = current.__cause__ or current.__context__
    return None


def _override_syntax(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override!r}: not an override; write KEY=VALUE (see wattcount --help)"
    return f"{error.override!r}: cannot be read as KEY=VALUE; quote special characters, as in 'KEY=\"a,b\"'"


def _missing_option(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    if (first := missing.partition("/"))[0] in GROUPS:  # an option's name may hold a slash
        group, _, option = first
    options = list(error.options or ())
    if not group:
        return f"{missing}: no such configuration file"
    if group == "hydra/launcher" and option in LAUNCHERS:
        return f"{group}={option}: it is not installed: pip install 'wattcount[{LAUNCHERS[option]}]'"
    known = f"; there are: {', '.join(sorted(options))}" if options else ""
    if group in LISTED:
        known = f"; {LISTED[group]} lists them"
    named = re.match(r"In '(?P<file>[^']+/[^']+)'", str(error))
    where = f"{named['file']}.yaml: " if named else ""
    return f"{where}{group}={option}: no such option{did_you_mean(option, options) or known}"


def _key(error: OmegaConfBaseException) -> str:
    return error.full_key or (str(error.key) if error.key is not None else "")


def _of_groups(key: str, configuration: object) -> str:
    """`; did you mean 'scenario.window_s'?` where groups have a key that was given without its group; or nothing."""
    if not isinstance(configuration, DictConfig):
        return ""
    found: list[str] = []
    with contextlib.suppress(Exception):
        groups = {str(name): configuration._get_node(name) for name in configuration if name != "hydra"}
        found = [
            f"{name}.{key}"
            for name, group in groups.items()
            if isinstance(group, DictConfig) and key in group
        ]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _omegaconf(error: OmegaConfBaseException) -> str | None:
    key = _key(error)
    first = (error.msg or str(error)).strip().splitlines()[0] if (error.msg or str(error)) else ""
    if re.search(r"is not in struct|not in '\w+'", first):
        known: list[str] = []
        parent = error.parent_node
        if parent is not None:
            with contextlib.suppress(Exception):
                known = [str(name) for name in parent if name != "hydra"]
        prefix, _, last = key.rpartition(".")
        hint = (_of_groups(last, parent) if not prefix else "") or did_you_mean(last, known)
        if not hint and known:
            hint = f"; {prefix or 'the configuration'} has: {', '.join(sorted(known))}"
        return f"{key}: no such key{hint}"
    match = re.match(r"Value '(?P<value>.*)' of type '\w+' could not be converted to (?P<kind>\w+)", first)
    if match:
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(
            match["kind"], match["kind"]
        )
        return f"{key}: must be {kind}, not '{match['value']}'"
    match = re.match(r"Value '(?P<value>.*)' is not a valid bool", first)
    if match:
        return f"{key}: must be true or false, not '{match['value']}'"
    match = re.match(r"Invalid value '(?P<value>.*)', expected one of \[(?P<allowed>.*)\]", first)
    if match:
        allowed = [name.strip() for name in match["allowed"].split(",")]
        return (
            f"{key}: '{match['value']}' is not one of {', '.join(allowed)}"
            f"{did_you_mean(match['value'], allowed)}"
        )
    if re.match(r"field '\w+' is not Optional", first):
        return f"{key}: must not be null"
    if first:
        return f"{key}: {first}" if key else first
    return None


register()
