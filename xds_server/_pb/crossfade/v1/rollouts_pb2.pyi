import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERB_UNSPECIFIED: _ClassVar[Verb]
    START: _ClassVar[Verb]
    ADVANCE: _ClassVar[Verb]
    PROMOTE: _ClassVar[Verb]
    ABORT: _ClassVar[Verb]
    PAUSE: _ClassVar[Verb]
    RESUME: _ClassVar[Verb]
    RETRY: _ClassVar[Verb]
    APPROVE: _ClassVar[Verb]
    ROLLBACK: _ClassVar[Verb]
    FREEZE: _ClassVar[Verb]
    UNFREEZE: _ClassVar[Verb]
VERB_UNSPECIFIED: Verb
START: Verb
ADVANCE: Verb
PROMOTE: Verb
ABORT: Verb
PAUSE: Verb
RESUME: Verb
RETRY: Verb
APPROVE: Verb
ROLLBACK: Verb
FREEZE: Verb
UNFREEZE: Verb

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("rollouts", "policy_errors")
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    POLICY_ERRORS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    policy_errors: _containers.RepeatedCompositeFieldContainer[PolicyError]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., policy_errors: _Optional[_Iterable[_Union[PolicyError, _Mapping]]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("name", "verb", "reason", "idempotency_key", "to", "dry_run", "actor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    verb: Verb
    reason: str
    idempotency_key: str
    to: str
    dry_run: bool
    actor: str
    def __init__(self, name: _Optional[str] = ..., verb: _Optional[_Union[Verb, str]] = ..., reason: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., to: _Optional[str] = ..., dry_run: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("name", "last")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    name: str
    last: int
    def __init__(self, name: _Optional[str] = ..., last: _Optional[int] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("history",)
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    history: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, history: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class ProxiesRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class ProxiesResponse(_message.Message):
    __slots__ = ("proxies", "groups")
    PROXIES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    proxies: _containers.RepeatedCompositeFieldContainer[Proxy]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    def __init__(self, proxies: _Optional[_Iterable[_Union[Proxy, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("name", "phase", "generation", "stable", "variants", "step", "weights", "gates", "winner", "freezes", "rollback_to", "lease", "proxies", "policy", "policy_errors", "because")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    FREEZES_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_TO_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PROXIES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_ERRORS_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    phase: str
    generation: int
    stable: Stable
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    step: Step
    weights: _containers.ScalarMap[str, int]
    gates: _containers.RepeatedCompositeFieldContainer[Gate]
    winner: str
    freezes: _containers.RepeatedCompositeFieldContainer[Freeze]
    rollback_to: _containers.RepeatedScalarFieldContainer[str]
    lease: Lease
    proxies: Delivery
    policy: Policy
    policy_errors: _containers.RepeatedScalarFieldContainer[str]
    because: str
    def __init__(self, name: _Optional[str] = ..., phase: _Optional[str] = ..., generation: _Optional[int] = ..., stable: _Optional[_Union[Stable, _Mapping]] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., weights: _Optional[_Mapping[str, int]] = ..., gates: _Optional[_Iterable[_Union[Gate, _Mapping]]] = ..., winner: _Optional[str] = ..., freezes: _Optional[_Iterable[_Union[Freeze, _Mapping]]] = ..., rollback_to: _Optional[_Iterable[str]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., proxies: _Optional[_Union[Delivery, _Mapping]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., policy_errors: _Optional[_Iterable[str]] = ..., because: _Optional[str] = ...) -> None: ...

class Stable(_message.Message):
    __slots__ = ("version", "identity")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    version: str
    identity: str
    def __init__(self, version: _Optional[str] = ..., identity: _Optional[str] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("name", "version", "identity", "share", "shadow_share", "ready", "pods", "capacity_share", "out")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SHADOW_SHARE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PODS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_SHARE_FIELD_NUMBER: _ClassVar[int]
    OUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    identity: str
    share: float
    shadow_share: float
    ready: int
    pods: int
    capacity_share: float
    out: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., identity: _Optional[str] = ..., share: _Optional[float] = ..., shadow_share: _Optional[float] = ..., ready: _Optional[int] = ..., pods: _Optional[int] = ..., capacity_share: _Optional[float] = ..., out: _Optional[str] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("index", "of", "kind", "label", "since", "waiting_for")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    index: int
    of: int
    kind: str
    label: str
    since: _timestamp_pb2.Timestamp
    waiting_for: _containers.RepeatedCompositeFieldContainer[Waiting]
    def __init__(self, index: _Optional[int] = ..., of: _Optional[int] = ..., kind: _Optional[str] = ..., label: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waiting_for: _Optional[_Iterable[_Union[Waiting, _Mapping]]] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("kind", "have", "need", "what", "variant")
    KIND_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    have: float
    need: float
    what: str
    variant: str
    def __init__(self, kind: _Optional[str] = ..., have: _Optional[float] = ..., need: _Optional[float] = ..., what: _Optional[str] = ..., variant: _Optional[str] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("name", "variant", "role", "verdict", "evidence", "needed", "evidence_pass", "needed_pass", "estimate", "interval", "samples", "unit", "reading_age_s", "because")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_PASS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_PASS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    READING_AGE_S_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    variant: str
    role: str
    verdict: str
    evidence: float
    needed: float
    evidence_pass: float
    needed_pass: float
    estimate: Estimate
    interval: Interval
    samples: Samples
    unit: str
    reading_age_s: float
    because: str
    def __init__(self, name: _Optional[str] = ..., variant: _Optional[str] = ..., role: _Optional[str] = ..., verdict: _Optional[str] = ..., evidence: _Optional[float] = ..., needed: _Optional[float] = ..., evidence_pass: _Optional[float] = ..., needed_pass: _Optional[float] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ..., samples: _Optional[_Union[Samples, _Mapping]] = ..., unit: _Optional[str] = ..., reading_age_s: _Optional[float] = ..., because: _Optional[str] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("stable", "candidate")
    STABLE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    stable: float
    candidate: float
    def __init__(self, stable: _Optional[float] = ..., candidate: _Optional[float] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("lower", "upper")
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    lower: float
    upper: float
    def __init__(self, lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...

class Samples(_message.Message):
    __slots__ = ("stable", "candidate")
    STABLE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    stable: int
    candidate: int
    def __init__(self, stable: _Optional[int] = ..., candidate: _Optional[int] = ...) -> None: ...

class Freeze(_message.Message):
    __slots__ = ("source", "words")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    source: str
    words: str
    def __init__(self, source: _Optional[str] = ..., words: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("ttl_s", "held")
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ttl_s: float
    held: bool
    def __init__(self, ttl_s: _Optional[float] = ..., held: _Optional[bool] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("selected", "acked", "rejected", "words")
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    selected: int
    acked: int
    rejected: int
    words: str
    def __init__(self, selected: _Optional[int] = ..., acked: _Optional[int] = ..., rejected: _Optional[int] = ..., words: _Optional[str] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("file", "source", "commit")
    FILE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    file: str
    source: str
    commit: str
    def __init__(self, file: _Optional[str] = ..., source: _Optional[str] = ..., commit: _Optional[str] = ...) -> None: ...

class PolicyError(_message.Message):
    __slots__ = ("file", "line", "column", "path", "message", "expected", "hint")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    column: int
    path: str
    message: str
    expected: str
    hint: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., column: _Optional[int] = ..., path: _Optional[str] = ..., message: _Optional[str] = ..., expected: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("at", "rollout", "generation", "publication", "decision", "reason", "facts", "step", "share", "shares", "stable", "candidate", "actor", "because", "dry_run")
    class SharesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    AT_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PUBLICATION_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    rollout: str
    generation: int
    publication: int
    decision: str
    reason: str
    facts: _struct_pb2.Struct
    step: str
    share: float
    shares: _containers.ScalarMap[str, float]
    stable: str
    candidate: str
    actor: str
    because: str
    dry_run: bool
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rollout: _Optional[str] = ..., generation: _Optional[int] = ..., publication: _Optional[int] = ..., decision: _Optional[str] = ..., reason: _Optional[str] = ..., facts: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., step: _Optional[str] = ..., share: _Optional[float] = ..., shares: _Optional[_Mapping[str, float]] = ..., stable: _Optional[str] = ..., candidate: _Optional[str] = ..., actor: _Optional[str] = ..., because: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class Proxy(_message.Message):
    __slots__ = ("node", "cluster", "version", "peer", "group", "variant", "service", "leased", "connected_since", "sync", "types", "refused", "times")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    node: str
    cluster: str
    version: str
    peer: str
    group: str
    variant: str
    service: str
    leased: bool
    connected_since: _timestamp_pb2.Timestamp
    sync: str
    types: _containers.RepeatedCompositeFieldContainer[ProxyType]
    refused: str
    times: int
    def __init__(self, node: _Optional[str] = ..., cluster: _Optional[str] = ..., version: _Optional[str] = ..., peer: _Optional[str] = ..., group: _Optional[str] = ..., variant: _Optional[str] = ..., service: _Optional[str] = ..., leased: _Optional[bool] = ..., connected_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sync: _Optional[str] = ..., types: _Optional[_Iterable[_Union[ProxyType, _Mapping]]] = ..., refused: _Optional[str] = ..., times: _Optional[int] = ...) -> None: ...

class ProxyType(_message.Message):
    __slots__ = ("type", "sync", "sent", "acked", "acked_age_s", "words")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    ACKED_AGE_S_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    type: str
    sync: str
    sent: str
    acked: str
    acked_age_s: float
    words: str
    def __init__(self, type: _Optional[str] = ..., sync: _Optional[str] = ..., sent: _Optional[str] = ..., acked: _Optional[str] = ..., acked_age_s: _Optional[float] = ..., words: _Optional[str] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("name", "select", "listeners")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SELECT_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    select: Select
    listeners: _containers.RepeatedCompositeFieldContainer[Listener]
    def __init__(self, name: _Optional[str] = ..., select: _Optional[_Union[Select, _Mapping]] = ..., listeners: _Optional[_Iterable[_Union[Listener, _Mapping]]] = ...) -> None: ...

class Select(_message.Message):
    __slots__ = ("cluster", "node_id", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    node_id: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, cluster: _Optional[str] = ..., node_id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Listener(_message.Message):
    __slots__ = ("name", "address", "port")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    port: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
