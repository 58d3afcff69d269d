"""Whatever commits follow each other: what a commit does not touch, or breaks, stays as it was, and what is in force is always free of faults;
and nothing that would be good beside it is held back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec.loader import load
from xds_server.runtime.documents import Documents

PROXIES = """\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec: {select: {cluster: edge}, listeners: [{name: http, address: 0.0.0.0, port: 8080}]}
"""
ROLLOUT = """\
apiVersion: crossfade/v1
kind: Rollout
metadata: {name: NAME}
spec:
  traffic: {proxies: edge, listener: http, match: [{host: HOST.example.com}]}
  variants: {stable: {version: VERSION, endpoints: {static: ["127.0.0.1:9001"]}}}
"""
FILES = ("a.yaml", "b.yaml", "c.yaml")
GROUPS = (PROXIES, PROXIES.replace("8080", "8081"), PROXIES.replace("http", "other"), "spec: {", None)


TEXTS = {
    **dict.fromkeys(
        FILES,
        st.builds(
            lambda name, host, version, key: (
                ROLLOUT.replace("NAME", name).replace("HOST", host).replace("VERSION", version).replace("stable", key)
            ),
            st.sampled_from("ab"),
            st.sampled_from("xy"),
            st.sampled_from(("v1", "v2")),
            st.sampled_from(("stable", "stable", "stable", "stabel")),
        )
        | st.none(),
    ),
    "proxies.yaml": st.sampled_from(GROUPS),
}


@st.composite
def histories(draw):
    """Commits that change one or two files each: with few names and hosts, so that they clash; some broken, some gone."""
    files = {"proxies.yaml": PROXIES}
    history = []
    for _ in range(draw(st.integers(2, 6))):
        for file in draw(st.sets(st.sampled_from(sorted(TEXTS)), min_size=1, max_size=2)):
            files[file] = draw(TEXTS[file])
        history.append({file: text.encode() for file, text in files.items() if text is not None})
    return history


@settings(max_examples=150, deadline=None)
@given(histories())
def test_what_a_commit_does_not_touch_or_breaks_stays_as_it_was(history):
    documents = Documents()
    for number, commit in enumerate(history):
        good, before = documents.good, documents.loaded
        after = documents.take(commit, str(number))
        assert load(documents.good).errors == ()
        assert load(documents.good) == after
        assert set(documents.commits) == {policy.name for policy in after.rollouts}
        now = {policy.name: policy for policy in after.rollouts}
        for policy in before.rollouts:
            file = before.files["Rollout", policy.name]
            if commit.get(file) == good[file] or b"stabel" in commit.get(file, b""):
                assert now[policy.name] == policy
        if documents.good != commit:
            assert documents.errors
        for file in commit:
            if documents.good.get(file) != commit[file]:
                assert load({**documents.good, file: commit[file]}).errors


@settings(max_examples=50, deadline=None)
@given(histories())
def test_a_restart_between_commits_changes_nothing(history):
    through, restarted = Documents(), Documents()
    for number, commit in enumerate(history):
        through.take(commit, str(number))
        again = Documents()
        again.remember(restarted.to_bytes())
        restarted = again
        restarted.take(commit, str(number))
        assert (restarted.good, restarted.commits, restarted.errors) == (through.good, through.commits, through.errors)
        assert restarted.loaded == through.loaded
