import dataclasses
from pathlib import Path

import pytest

from metainf_operator.leader import LeaseTimes
from metainf_operator.settings import LogFormat, LogLevel, OperatorSettings, SettingsError, settings_from


def test_the_defaults_hold_without_flags_and_variables() -> None:
    assert settings_from([], {}) == OperatorSettings()
    assert OperatorSettings().lease_times == LeaseTimes()


@pytest.mark.parametrize(
    ("flags", "variables", "field", "expected"),
    [
        pytest.param(["--workers", "8"], {}, "workers", 8, id="a flag"),
        pytest.param([], {"METAINF_WORKERS": "8"}, "workers", 8, id="a variable"),
        pytest.param(["--workers=8"], {"METAINF_WORKERS": "2"}, "workers", 8, id="a flag wins over its variable"),
        pytest.param(["--namespaces", "a, b,,a"], {}, "namespaces", ("a", "b"), id="names, trimmed and once each"),
        pytest.param([], {"METAINF_NAMESPACES": ""}, "namespaces", (), id="no names: the cluster"),
        pytest.param(["--hub", "False"], {}, "hub", False, id="a boolean"),
        pytest.param([], {"METAINF_HUB": "0"}, "hub", False, id="a boolean as a digit"),
        pytest.param(["--pools-file", "/etc/pools.yaml"], {}, "pools_file", Path("/etc/pools.yaml"), id="a path"),
        pytest.param([], {"METAINF_PREDICTOR_ARTIFACT": ""}, "predictor_artifact", None, id="an empty path is none"),
        pytest.param(["--resync-s", "1.5"], {}, "resync_s", 1.5, id="a number"),
        pytest.param(["--log-level", "DEBUG"], {}, "log_level", LogLevel.DEBUG, id="a level in capitals"),
        pytest.param(["--log-format", "plain"], {}, "log_format", LogFormat.PLAIN, id="a format"),
        pytest.param([], {"METAINF_OPENCOST_URL": " "}, "opencost_url", None, id="a blank address is none"),
        pytest.param(
            [], {"METAINF_METRICS_PORT": "tcp://10.0.0.7:9090"}, "metrics_port", 9090, id="a service link is not ours"
        ),
    ],
)
def test_reads_a_setting(flags: list[str], variables: dict[str, str], field: str, expected: object) -> None:
    assert getattr(settings_from(flags, variables), field) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "many"], r"--workers \(METAINF_WORKERS\): it takes a whole number, not 'many'"),
        (["--workers", "0"], "it takes 1 or more, not 0"),
        (["--resync-s", "nan"], "it takes 1 or more"),
        (["--resync-s", "inf"], "it takes 1 or more"),
        (["--hub", "perhaps"], "true or false"),
        (["--log-level", "loud"], "one of debug, info, warning, error"),
        (["--namespaces", "Team_A"], "names of namespaces"),
        (["--health-port", "70000"], "there is no port 70000"),
        (["--metrics-port", "-1"], "it takes 0 or more"),
        (["--max-concurrent-switches", "0"], "it takes 1 or more"),
        (["--observe-interval-s", "-1"], "it takes 0 or more"),
        (["--observe-window-s", "59"], "it takes 60 or more, not 59"),
        (["--observe-window-s", "3601"], "it takes 3600 or less, not 3601"),
        (
            ["--observe-interval-s", "2", "--observe-window-s", "241"],
            r"it takes 120 intervals of 2 s or less, which is 240, not 241: raise --observe-interval-s",
        ),
        (["--observe-interval-s", "0", "--observe-window-s", "3601"], "it takes 3600 or less"),
        (["--lease-name", ""], "a Lease needs a name"),
        (["--node-access", "false"], r"name a file by --pools-file"),
        (["--lease-renew-deadline-s", "20"], "shorter than the lease duration"),
        (["--metrics-port", "tcp://10.0.0.7:9090"], "a whole number"),
    ],
)
def test_refuses_what_cannot_be_and_says_what_to_write(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from(flags, {})


@pytest.mark.parametrize("flags", [["--work", "3"], ["--unknown", "x"], ["stray"]])
def test_refuses_flags_that_it_does_not_know(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings_from(flags, {})
    assert "unrecognized" in capsys.readouterr().err


def test_a_window_of_an_hour_at_the_default_interval_is_the_longest() -> None:
    assert settings_from(["--observe-window-s", "3600"], {}).observe_window_s == 3600.0


@pytest.mark.parametrize(("interval_s", "says"), [("30", ""), ("0", "--observe-interval-s")])
def test_says_by_which_setting_nothing_is_watched(interval_s: str, says: str) -> None:
    found = settings_from(["--observe-interval-s", interval_s], {}).unwatched
    assert says in found
    assert bool(found) is (interval_s == "0")


def test_help_shows_every_setting_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        settings_from(["--help"], {})
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(OperatorSettings):
        assert f"[METAINF_{field.name.upper()}]" in shown


@pytest.mark.parametrize(
    ("vendor", "image"),
    [
        ("NVIDIA", "vllm/vllm-openai:v0.32.0"),
        ("amd", "vllm/vllm-openai-rocm:v0.32.0"),
        ("CPU", "public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v0.32.0"),
        ("INTEL", None),
        ("unheard of", None),
    ],
)
def test_each_vendor_has_its_image_or_none_is_assumed(vendor: str, image: str | None) -> None:
    assert OperatorSettings().image_for(vendor, "0.32.0") == image


def test_an_image_without_a_version_in_it_is_taken_as_it_is() -> None:
    settings = settings_from(["--image-nvidia", "registry.example/vllm@sha256:abc"], {})
    assert settings.image_for("NVIDIA", "0.32.0") == "registry.example/vllm@sha256:abc"
