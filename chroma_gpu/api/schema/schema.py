"""Schema: which indexes a collection keeps, by metadata key and by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chroma_gpu.api.schema import serialized
from chroma_gpu.api.schema.cmek import Cmek
from chroma_gpu.api.schema.index_configs import (
    DOCUMENT_KEY,
    EMBEDDING_KEY,
    FtsIndexConfig,
    IndexConfig,
    SparseVectorIndexConfig,
    StringInvertedIndexConfig,
    VectorIndexConfig,
    key_name,
)
from chroma_gpu.api.schema.value_types import SLOTS, ValueTypes, slot_of
from chroma_gpu.api.search.conditions import Key


@dataclass(init=False)
class Schema:
    """Which indexes a collection keeps.

    defaults  for every metadata key of which ``keys`` says nothing
    keys      what differs for one key; ``#document`` is the document, ``#embedding`` the embedding
    cmek      the name of an encryption key, kept with the schema
    A new one has every filter on metadata, full-text search over documents and the vector index, and no sparse index.
    """

    defaults: ValueTypes
    keys: dict[str, ValueTypes]
    cmek: Cmek | None = None

    def __init__(self) -> None:
        document, embedding = ValueTypes(), ValueTypes()
        self.defaults, self.keys, self.cmek = ValueTypes(), {DOCUMENT_KEY: document, EMBEDDING_KEY: embedding}, None
        for slot in SLOTS:
            slot.put(self.defaults, slot.by_default, slot.config())
        for config, enabled in ((FtsIndexConfig(), True), (StringInvertedIndexConfig(), False)):
            slot_of(config).put(document, enabled, config)
        vector = VectorIndexConfig(source_key=DOCUMENT_KEY)
        slot_of(vector).put(embedding, True, vector)

    def create_index(self, config: IndexConfig | None = None, key: str | Key | None = None) -> Schema:
        """Turn an index on: for one key, or for all of them. The vector index is set up for all, a sparse one for one key.

        Returns this schema. Raises ValueError.
        """
        name = key_name(key)
        if config is None and name is None:
            raise ValueError("Cannot enable all index types globally. Must specify either config or key.")
        if name == EMBEDDING_KEY:
            raise ValueError(
                f"Cannot create index on special key '{name}'. This key is managed automatically by the system. Invoke "
                "create_index(VectorIndexConfig(...)) without specifying a key to configure the vector index globally."
            )
        _check_key(name, config, "create")
        if isinstance(config, VectorIndexConfig):
            if name is not None:
                raise ValueError(
                    "Vector index cannot be enabled on specific keys. Use create_index(config=VectorIndexConfig(...)) without "
                    "specifying a key to configure the vector index globally."
                )
            self._set_vector_index(config)
            return self
        if isinstance(config, FtsIndexConfig) and name != DOCUMENT_KEY:
            raise ValueError(
                "FTS index can only be enabled on #document key. Use create_index(config=FtsIndexConfig(), key='#document')"
            )
        if isinstance(config, SparseVectorIndexConfig):
            self._check_sparse(config, name)
        return self._set(config, name, True)

    def delete_index(self, config: IndexConfig | None = None, key: str | Key | None = None) -> Schema:
        """Turn an index off: for one key, or for all of them. Filters that would need it are refused from then on.

        Returns this schema. Raises ValueError.
        """
        name = key_name(key)
        if config is None and name is None:
            raise ValueError("Cannot disable all indexes. Must specify either config or key.")
        if name == EMBEDDING_KEY:
            raise ValueError("Cannot modify #embedding. Currently not supported")
        _check_key(name, config, "delete")
        if isinstance(config, VectorIndexConfig):
            raise ValueError("Deleting vector index is not currently supported.")
        if isinstance(config, SparseVectorIndexConfig):
            raise ValueError("Deleting sparse vector index is not currently supported.")
        if isinstance(config, FtsIndexConfig) and name != DOCUMENT_KEY:
            raise ValueError("Deleting FTS index is only supported on #document key.")
        return self._set(config, name, False)

    def set_cmek(self, cmek: Cmek | None) -> Schema:
        """Name an encryption key, or none. Returns this schema."""
        self.cmek = cmek
        return self

    def serialize_to_json(self) -> dict[str, Any]:
        """As JSON values. An embedding function is its name and configuration. Warns of a distance that it does not support."""
        written = {
            "defaults": serialized.written(self.defaults),
            "keys": {key: serialized.written(types) for key, types in self.keys.items()},
        }
        return written if self.cmek is None else {**written, "cmek": self.cmek.to_dict()}

    @classmethod
    def deserialize_from_json(cls, json_data: dict[str, Any]) -> Schema:
        """What ``serialize_to_json`` gave. Warns of an embedding function that is not known here; it is None then. Raises ValueError."""
        expect = serialized.json_object
        made, given = cls.__new__(cls), expect("schema", json_data)
        made.defaults = serialized.read(expect("defaults", given.get("defaults", {})))
        made.keys = {key: serialized.read(expect(key, types)) for key, types in expect("keys", given.get("keys", {})).items()}
        cmek = given.get("cmek")
        made.cmek = None if cmek is None else Cmek.from_dict({**expect("cmek", cmek)})
        return made

    def _set(self, config: IndexConfig | None, key: str | None, enabled: bool) -> Schema:
        if config is None:
            verb = "enable" if enabled else "disable"
            raise ValueError(f"Cannot {verb} all index types for key '{key}'. Please specify a specific index configuration.")
        slot = slot_of(config)
        slot.put(self.defaults if key is None else self.keys.setdefault(key, ValueTypes()), enabled, config)
        return self

    def _set_vector_index(self, config: VectorIndexConfig) -> None:
        """By default and for the embedding, which keep their being off and on; what is embedded stays the document."""
        slot = slot_of(config)
        slot.put(self.defaults, slot.get(self.defaults).enabled, config)
        before = slot.get(self.keys[EMBEDDING_KEY])
        own = VectorIndexConfig(
            space=config.space,
            embedding_function=config.embedding_function,
            source_key=before.config.source_key,
            hnsw=config.hnsw,
            spann=config.spann,
        )
        slot.put(self.keys[EMBEDDING_KEY], before.enabled, own)

    def _check_sparse(self, config: SparseVectorIndexConfig, key: str | None) -> None:
        if key is None:
            raise ValueError(
                "Sparse vector index must be created on a specific key. "
                "Please specify a key using: create_index(config=SparseVectorIndexConfig(...), key='your_key')"
            )
        slot = slot_of(config)
        for other, types in self.keys.items():
            if other != key and getattr(slot.get(types), "enabled", False):
                raise ValueError(
                    f"Cannot enable sparse vector index on key '{key}'. A sparse vector index is already enabled on key "
                    f"'{other}'. Only one sparse vector index is allowed per collection."
                )
        if config.source_key is not None and config.embedding_function is None:
            raise ValueError(
                "If source_key is provided then embedding_function must also be provided since there is no default embedding "
                f"function. Config: {config}"
            )


def _check_key(key: str | None, config: IndexConfig | None, verb: str) -> None:
    """Raises ValueError for a reserved key."""
    if key == DOCUMENT_KEY and not isinstance(config, FtsIndexConfig):
        raise ValueError(
            f"Cannot {verb} index on special key '{key}' with this config. Only FtsIndexConfig is allowed for #document."
        )
    if key is not None and key.startswith("#") and key != DOCUMENT_KEY:
        raise ValueError("key cannot begin with '#'. Keys starting with '#' are reserved for system use.")
