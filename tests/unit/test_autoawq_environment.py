"""AutoAWQ's environment is kept, and made anew once the packages that it shares are gone."""

from __future__ import annotations

from pathlib import Path

from ggufkit.awq.autoawq import is_whole


def test_an_environment_is_whole_while_what_it_shares_is_there(tmp_path: Path) -> None:
    home, host = tmp_path / "autoawq", tmp_path / "host"
    packages = home / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    assert not is_whole(home)
    (home / "ready").write_text("autoawq")
    assert is_whole(home)
    (packages / "ggufkit-host.pth").write_text(f"{host}\n")
    assert not is_whole(home)
    host.mkdir()
    assert is_whole(home)
