"""Downloads without a network, and the settings that say where the hub and its cache are."""

import time

import pytest
from hub_server import COMMIT, get, start

from common.errors import UserError
from common.hub import fetch


@pytest.mark.parametrize("address", ["hf-mirror.com", "http://[::1", "http://127.0.0.1:99999", "ftp://x", "http://"])
def test_an_endpoint_that_is_no_address_is_refused(tmp_path, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UserError, match="is no address: give one such as https://huggingface.co"):
        get("config.json", tmp_path)


def test_without_a_network_the_cache_serves_and_what_it_lacks_is_refused_at_once(hub, tmp_path):
    hub.content["train.zip"] = b"large"
    get("train.zip", tmp_path)
    hub.server.shutdown()
    hub.server.server_close()
    assert get("train.zip", tmp_path) == b"large"
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"cannot get test\.zip from http://127\.0\.0\.1.*data_dir"):
        get("test.zip", tmp_path)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "it is not in the cache {cache}, and HF_HUB_OFFLINE forbids a download"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "(dataset owner/set): [Errno 111] Connection refused"),
    ],
    ids=["forbidden", "nothing listens"],
)
def test_offline_the_cache_serves_and_what_it_lacks_is_one_line_within_seconds(hub, tmp_path, setting, reason):
    hub.content["train.zip"] = b"large"
    script = (
        "from common.hub import fetch\n"
        "from common.errors import UserError\n"
        "for name in ['train.zip', 'test.zip']:\n"
        "    try: print(fetch('owner/set', name, repo_type='dataset'))\n"
        "    except UserError as error: print(error)\n"
    )

    def lines(**settings: str) -> list[str]:
        run = start(script, HF_HOME=str(tmp_path), **settings)
        out, problems = run.communicate(timeout=15)
        assert (run.returncode, problems) == (0, "")
        return out.splitlines()

    online = lines()
    cache = tmp_path / "hub"
    assert online[0] == str(cache / "datasets--owner--set" / "snapshots" / COMMIT / "train.zip")
    offline = lines(**setting)
    assert offline[0] == online[0]
    assert offline[1].startswith("cannot get test.zip from ") and reason.format(cache=cache) in offline[1]
    assert len(offline) == 2 and hub.sent == ["train.zip"]


def test_a_setting_made_while_the_program_runs_is_honoured(hub, tmp_path, monkeypatch):
    hub.content["train.zip"] = b"large"
    for place in ("one", "two"):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / place))
        assert fetch("owner/set", "train.zip", "dataset").is_relative_to(tmp_path / place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        fetch("owner/set", "test.zip", "dataset")


def test_the_hubs_client_is_imported_only_for_a_download():
    script = "import sys, common.hub, gpt2_jittor.checkpoint.locate; sys.exit('huggingface_hub' in sys.modules)"
    run = start(script)
    assert run.communicate(timeout=60)[1] == "" and run.returncode == 0
