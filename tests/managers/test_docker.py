# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is the docker manager's own: its definition, images as artifacts, foreign containers, and what is refused."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, MissingLibrary, NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._worker.artifact import Tools
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import Wanted, ensure
from ansible_collections.queueops.fleet.plugins.module_utils._worker.quarantine import quarantine
from ansible_collections.queueops.fleet.plugins.module_utils._worker.versions import VersionStore

from tests.managers.bench import INSTANCES, WORKER
from tests.managers.benches import DockerBench, open_docker
from tests.unit.conftest import wait_for
from tests.unit.worker.test_worker_supervisor import ansible

NONE = "sha256:" + "0" * 64


@pytest.fixture
def host() -> Iterator[DockerBench]:
    made = DockerBench()
    try:
        made.open()
        yield made
    finally:
        made.close()


def images(host: DockerBench) -> set[str]:
    return {tag for image in host.engine.images.list() for tag in image.tags}


def container(host: DockerBench, number: int = 0) -> Any:
    return host.engine.containers.get(host.workers()[number].name)


@pytest.mark.parametrize(
    ("change", "option", "words"),
    [
        ({"HostConfig": {"RestartPolicy": {"Name": "always"}}}, "worker.definition", "comes back"),
        ({"HostConfig": {}}, "worker.definition", "stays away"),
        ({"HostConfig": {"RestartPolicy": {"Name": "on-failure"}, "AutoRemove": True}}, "worker.definition", "AutoRemove"),
        ({"StopSignal": "SIGWHAT"}, "worker.definition", "SIGWHAT"),
        ({"StopSignal": "SIGKILL"}, "worker.unit", "signal 9"),
        ({"StopTimeout": 5}, "worker.drain_timeout", "StopTimeout"),
        ({"Labels": {}}, "worker.unit", "queueops.unit"),
    ],
)
def test_definition_that_would_not_work_is_refused(host: DockerBench, change: dict[str, Any], option: str, words: str) -> None:
    host.define(**change)
    address, checksum = host.artifact("1.0", WORKER)
    before = images(host)
    with pytest.raises(Refused, match=words) as refused:
        ensure(host.worker, Wanted("active", "1.0", address, checksum), False)
    assert refused.value.option == option
    assert not host.root.exists()
    assert images(host) == before
    assert host.engine.api.containers(all=True, filters={"label": f"queueops.unit={host.label}"}) == []


def test_definition_that_is_not_there_or_is_no_json(host: DockerBench) -> None:
    definition = Path(host.worker["definition"])
    definition.write_text("{")
    with pytest.raises(Refused, match="cannot be read"):
        host.go("active", "1.0")
    definition.unlink()
    with pytest.raises(NotFound) as missing:
        host.go("active", "1.0")
    assert missing.value.option == "worker.definition"
    for wrong in (None, "container.json"):
        with pytest.raises(Refused) as refused:
            host.go("active", "1.0", definition=wrong)
        assert refused.value.option == "worker.definition"
    assert not host.root.exists()


def test_no_engine_and_no_library(host: DockerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"none\.sock"):
        host.open_manager(server="unix:///none.sock").validate()
    (host.folder / "file.sock").touch()
    with pytest.raises(Unavailable, match="does not answer"):
        host.open_manager(server=f"unix://{host.folder}/file.sock").validate()
    with pytest.raises(Refused) as refused:
        host.open_manager(server="tcp://127.0.0.1:2375").validate()
    assert refused.value.option == "worker.server"

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        # Not our own file of that name.
        if name == "docker" and rest[3] == 0:
            raise ImportError("No module named 'docker'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingLibrary, match="Docker SDK for Python"):
        host.open_manager().validate()


def test_image_from_a_tar_with_a_checksum(host: DockerBench) -> None:
    image = host.build("saved", WORKER)
    path = host.folder / "saved.tar"
    path.write_bytes(b"".join(host.engine.images.get(image).save()))
    host.engine.images.remove(f"{host.label}:saved", force=True)
    checksum = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    before = images(host)
    for check_mode in (True, False):
        with pytest.raises(Refused) as refused:
            ensure(host.worker, Wanted("active", "1.0", f"image:{path}", NONE), check_mode)
        assert refused.value.option == "checksum"
    assert images(host) == before
    assert ensure(host.worker, Wanted("active", "1.0", f"image:{path}", checksum), True).unpacked
    assert images(host) == before
    ensure(host.worker, Wanted("active", "1.0", f"image:{path}", checksum), False)
    assert host.running() == ["1.0"] * INSTANCES
    assert container(host).image.id == image
    assert f"queueops.local/{host.label}:1.0" in images(host)


def test_image_that_is_another_is_refused(host: DockerBench) -> None:
    address, checksum = host.artifact("1.0", WORKER)
    before = images(host)
    for check_mode in (True, False):
        with pytest.raises(FleetError):
            ensure(host.worker, Wanted("active", "1.0", address, NONE), check_mode)
    assert images(host) == before
    host.go("active", "1.0")
    with pytest.raises(Refused) as refused:
        ensure(host.worker, Wanted("active", "1.0", address, NONE), False)
    assert refused.value.option == "checksum"
    assert checksum in refused.value.message


def test_version_that_is_no_image_cannot_be_started(host: DockerBench) -> None:
    (host.folder / "code").mkdir()
    (host.folder / "code" / "run").touch()
    listing = f"f {hashlib.sha256(b'').hexdigest()}  ./run\n"
    checksum = "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
    for state, manager in (("active", host.worker), ("present", host.worker)):
        with pytest.raises(Refused, match="no container image") as refused:
            ensure(manager, Wanted(state, "1.0", str(host.folder / "code"), checksum), False)
        assert refused.value.option == "artifact"
    assert not host.root.exists()
    # Nor can an image be run by another manager.
    before = images(host)
    other = dict(host.worker, manager="supervisor", server=None)
    with pytest.raises(Refused, match="a container image, which supervisor cannot run"):
        ensure(other, Wanted("present", "1.0", *host.artifact("1.0", WORKER)), False)
    assert images(host) - before == {f"{host.label}:1.0"}
    # One that is there already, as prepared by a release.
    VersionStore(str(host.root)).prepare("2.0", str(host.folder / "code"), checksum)
    with pytest.raises(Refused, match="no container image"):
        ensure(host.worker, Wanted("active", "2.0"), False)
    assert host.running() == []


def test_image_that_was_removed_is_named(host: DockerBench) -> None:
    host.go("active", "1.0")
    host.go("stopped")
    for one in host.engine.api.containers(all=True, filters={"label": f"queueops.unit={host.label}"}):
        host.engine.api.remove_container(one["Id"])
    host.engine.images.remove(host.artifact("1.0", WORKER)[1], force=True)
    with pytest.raises(NotFound, match=r"of version 1\.0 is not on this host any more"):
        host.go("active", "1.0")


def test_what_a_container_is_made_of(host: DockerBench) -> None:
    """The definition's own, the version's image, what tells the worker who it is, and the check before its entrypoint."""
    script = 'echo "$QUEUEOPS_VERSION $QUEUEOPS_INSTANCE $MAILER $*" >>"$2/said"\n' + WORKER.replace("$1\n", "$2\n")
    recipe = f'ENTRYPOINT ["/bin/sh", "/app/worker.sh", "image"]\nCMD ["{host.folder}"]\n'
    host._images["1.0"] = host.build("1.0", script, recipe)
    definition = json.loads(Path(host.worker["definition"]).read_text())
    host.define(Env=["MAILER=yes"], HostConfig=dict(definition["HostConfig"], RestartPolicy={"Name": "unless-stopped"}))
    host.go("active", "1.0")
    wait_for(lambda: (host.folder / "said").exists() and len((host.folder / "said").read_text().splitlines()) == 2, what="both workers")
    said = sorted((host.folder / "said").read_text().splitlines())
    assert said == [f"1.0 1 yes image {host.folder}", f"1.0 2 yes image {host.folder}"]
    assert [one.name for one in host.workers()] == [f"{host.label}-1.0-1", f"{host.label}-1.0-2"]
    # An entrypoint of the definition leaves the image's command out, as in Docker.
    host.define(Entrypoint=["/bin/sh", "/app/worker.sh", "definition", str(host.folder)])
    assert host.open_manager().reload() is True
    host.go("stopped")
    host.go("active", "1.0")
    assert host.open_manager().reload() is False
    wait_for(lambda: f"1.0 2 yes definition {host.folder}" in _said(host) or f"1.0 2  definition {host.folder}" in _said(host), what="it")


def _said(host: DockerBench) -> list[str]:
    return (host.folder / "said").read_text().splitlines()


def test_stopped_worker_stays_to_be_studied_and_does_not_come_back(host: DockerBench) -> None:
    host.go("active", "1.0")
    host.go("active", "2.0")
    old = host.engine.containers.get(f"{host.label}-1.0-1")
    assert old.status == "exited"
    # A restart of the engine starts what has a policy to be restarted.
    assert old.attrs["HostConfig"]["RestartPolicy"]["Name"] == "no"
    host.go("active", "3.0", keep=1)
    host.go("active", "4.0", keep=1)
    left = {one["Names"][0] for one in host.engine.api.containers(all=True, filters={"label": f"queueops.unit={host.label}"})}
    assert left == {f"/{host.label}-{version}-{number}" for version in ("3.0", "4.0") for number in (1, 2)}
    assert {tag for tag in images(host) if tag.startswith("queueops.local/" + host.label)} == {
        f"queueops.local/{host.label}:3.0",
        f"queueops.local/{host.label}:4.0",
    }


def test_worker_that_keeps_falling_over_is_stopped_for_good(host: DockerBench) -> None:
    host.define(HostConfig={"RestartPolicy": {"Name": "unless-stopped"}, "NetworkMode": "none"})
    with pytest.raises(FleetError):
        host.go("active", "1.0", script="exit 3\n", start_timeout=3, health={"hold": 3})
    wait_for(lambda: container(host).attrs["RestartCount"] > 0, what="a restart")
    host.go("stopped")
    count = container(host).attrs["RestartCount"]
    assert host.running() == []
    assert container(host).attrs["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert count == container(host).attrs["RestartCount"]


def test_foreign_container_with_the_label_is_an_extra_worker(host: DockerBench) -> None:
    image = host.artifact("1.0", WORKER)[1]
    volumes = [f"{host.folder}:{host.folder}"]
    made = host.engine.containers.run(image, detach=True, labels={"queueops.unit": host.label}, volumes=volumes, network_mode="none")
    assert [(one.state, one.extra) for one in host.workers()] == [("stopped", False), ("stopped", False), ("running", True)]
    # It cannot be kept from starting, so that no version can be quarantined.
    with pytest.raises(Refused, match="without the check"):
        quarantine(host.worker, "1.0", "bad", None, check_mode=False)
    host.go("active", "1.0")
    made.reload()
    assert made.status == "exited"
    assert host.running() == ["1.0"] * INSTANCES


def test_image_without_a_shell_can_do_without_the_check(host: DockerBench) -> None:
    host.define(Labels={"queueops.unit": host.label, "queueops.guard": "none"})
    host.go("active", "1.0")
    assert container(host).attrs["Path"] == "/bin/sh"
    assert container(host).attrs["Args"][0] == "/app/worker.sh"
    with pytest.raises(Refused, match=r"container\.json"):
        quarantine(host.worker, "1.0", "bad", None, check_mode=True)


def test_unhealthy_container_is_not_running(host: DockerBench) -> None:
    host.define(Healthcheck={"Test": ["CMD", "/bin/false"], "Interval": 10**9, "Timeout": 10**9, "Retries": 1})
    with pytest.raises(FleetError, match="is starting"):
        host.go("active", "1.0", start_timeout=3)
    host.define(Healthcheck={"Test": ["CMD", "/bin/true"], "Interval": 10**9, "Timeout": 10**9, "Retries": 1})
    host.go("stopped")
    host.go("active", "1.0")
    assert {one.state for one in host.workers()} == {"running"}


def test_images_go_only_when_nothing_has_them(host: DockerBench) -> None:
    host.go("present", "1.0")
    store = VersionStore(str(host.root), tools=Tools(name=host.label))
    store.drop("1.0")
    assert f"queueops.local/{host.label}:1.0" not in images(host)
    # The tag that it was prepared from is another's.
    assert f"{host.label}:1.0" in images(host)


def test_the_modules(host: DockerBench) -> None:
    address, checksum = host.artifact("1.0", WORKER)
    arguments = {"worker": host.worker, "version": "1.0", "artifact": address, "checksum": checksum, "state": "active"}
    planned, plan = ansible("worker_version", arguments, "--check", "--diff")
    assert (planned["changed"], planned["current"]) == (True, "1.0")
    assert not host.root.exists()
    done, diff = ansible("worker_version", arguments, "--diff")
    assert (done["changed"], diff) == (True, plan)
    again, _diff = ansible("worker_version", arguments)
    assert again["changed"] is False
    bad = {"worker": host.worker, "version": "2.0", "state": "quarantined", "reason": "it is bad"}
    planned, plan = ansible("worker_version", bad, "--check", "--diff")
    done, diff = ansible("worker_version", bad, "--diff")
    assert (planned["changed"], done["changed"], plan) == (True, True, diff)
    assert done["quarantined"]["why"] == "it is bad"
    found, _diff = ansible("worker_version_info", {"worker": host.worker})
    assert [one["version"] for one in found["quarantined"]] == ["2.0"]
    assert [(one["version"], one["kind"], one["live"]) for one in found["versions"]] == [("1.0", "image", True)]
    done, _diff = ansible("worker_version", {"worker": host.worker, "version": "2.0", "state": "unquarantined"})
    assert (done["changed"], done["quarantined"]) == (True, None)


def test_the_engine_is_needed() -> None:
    assert open_docker().ping() is True
